"""`Crystal`: one immutable periodic structure, the common type of all modules.

Convention, stated here once: the **rows** of `lattice` are the lattice vectors a, b, c in Å, so
Cartesian positions are `frac_coords @ lattice`. Fractional coordinates are wrapped to [0, 1).
"""

from __future__ import annotations

import functools
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from crystalign.errors import CrystalError
from crystalign.periodic import pairs_within
from crystalign.ratios import whole_ratio

if TYPE_CHECKING:
    import ase
    from pymatgen.core import Structure
    from torch_geometric.data import Data

MAX_ATOMIC_NUMBER = 118
_PERIODIC_TABLE = """
X H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr
Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu
Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr
Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og
"""
SYMBOLS = tuple(_PERIODIC_TABLE.split())
"""Element symbols by atomic number; index 0 is unused."""

Occupancy = tuple[tuple[int, float], ...]
"""Occupancy of one site: (atomic number, fraction) pairs whose fractions sum to at most 1."""


@dataclass(frozen=True, slots=True, eq=False)
class Crystal:
    """A periodic structure.

    Raises:
        CrystalError: an array has the wrong shape or holds NaN, the cell has no volume, or an element is unknown.
    """

    lattice: NDArray[np.float64]
    """(3, 3), Å; the rows are the lattice vectors."""
    frac_coords: NDArray[np.float64]
    """(N, 3), in units of the lattice vectors, wrapped to [0, 1)."""
    atomic_numbers: NDArray[np.uint8]
    """(N,) atomic numbers, 1 to 118; the most abundant species on a site of mixed occupancy."""
    occupancies: tuple[Occupancy, ...] | None = None
    """Species of each site if any site is mixed or partly empty; None for an ordered crystal."""

    def __post_init__(self) -> None:
        """Convert types, wrap positions, freeze the arrays and check them."""
        lattice = np.array(self.lattice, dtype=np.float64)
        frac = np.array(self.frac_coords, dtype=np.float64)
        numbers = np.array(self.atomic_numbers)
        if lattice.shape != (3, 3):
            message = f"lattice has shape {lattice.shape}, expected (3, 3) with rows as vectors in Å"
            raise CrystalError(message, reason="bad-lattice")
        if not np.isfinite(lattice).all() or abs(np.linalg.det(lattice)) < 1e-3:
            message = f"lattice {lattice.round(4).tolist()} is not finite or spans no volume"
            raise CrystalError(message, reason="bad-lattice")
        if numbers.ndim != 1 or len(numbers) == 0 or frac.shape != (len(numbers), 3):
            message = f"{frac.shape} coordinates for {numbers.shape} atoms; expected (N, 3) and (N,) with N >= 1"
            raise CrystalError(message, reason="bad-sites")
        if not np.isfinite(frac).all():
            message = "a fractional coordinate is not a finite number"
            raise CrystalError(message, reason="bad-sites")
        if not np.issubdtype(numbers.dtype, np.integer) or numbers.min() < 1 or numbers.max() > MAX_ATOMIC_NUMBER:
            message = f"atomic numbers {sorted(set(numbers.tolist()))[:5]} outside 1..{MAX_ATOMIC_NUMBER}"
            raise CrystalError(message, reason="unknown-element")
        frac -= np.floor(frac)
        frac[frac >= 1.0] = 0.0  # floor(-1e-17) wraps to exactly 1.0
        if self.occupancies is not None and len(self.occupancies) != len(numbers):
            message = f"{len(self.occupancies)} occupancies for {len(numbers)} sites"
            raise CrystalError(message, reason="bad-sites")
        for name, array in (("lattice", lattice), ("frac_coords", frac), ("atomic_numbers", numbers.astype(np.uint8))):
            array.flags.writeable = False
            object.__setattr__(self, name, array)

    # --- what it is -------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """The number of sites N."""
        return len(self.atomic_numbers)

    def __repr__(self) -> str:
        """Formula, size and cell, short enough for a log line."""
        return f"Crystal({self.formula}, {len(self)} sites, {self.volume:.1f} Å³)"

    @property
    def volume(self) -> float:
        """Cell volume, Å³."""
        return float(abs(np.linalg.det(self.lattice)))

    @property
    def cart_coords(self) -> NDArray[np.float64]:
        """(N, 3) positions in Å."""
        return self.frac_coords @ self.lattice

    @property
    def is_ordered(self) -> bool:
        """Whether every site holds exactly one atom."""
        return self.occupancies is None

    @property
    def composition(self) -> dict[int, float]:
        """Atoms per cell by atomic number, mixed occupancies weighted."""
        counts: Counter[int] = Counter()
        if self.occupancies is None:
            counts.update(int(z) for z in self.atomic_numbers)
            return dict(sorted(counts.items()))
        amounts: dict[int, float] = {}
        for site in self.occupancies:
            for z, fraction in site:
                amounts[z] = amounts.get(z, 0.0) + fraction
        return dict(sorted(amounts.items()))

    @property
    def formula(self) -> str:
        """Reduced formula with symbols in alphabetical order (OPTIMADE's `chemical_formula_reduced`)."""
        return reduced_formula(self.composition)

    @property
    def chemsys(self) -> str:
        """Elements in alphabetical order, joined by dashes."""
        return "-".join(sorted(SYMBOLS[z] for z in self.composition))

    def check(
        self, *, max_sites: int = 1000, min_distance: float = 0.5, max_volume: float = 100_000.0, max_skew: float = 30.0
    ) -> Crystal:
        """Check size, cell shape and interatomic distances; return the crystal itself.

        Args:
            max_sites: largest number of sites.
            min_distance: Å; two sites closer than this, periodic images included, overlap unless their occupancies sum
                to at most one.
            max_volume: Å³; a larger cell is mostly vacuum, yet costs as much memory and time as a filled one.
            max_skew: largest ratio of a lattice vector's length to the spacing of the planes that it crosses; a more
                skewed cell can be replaced by a reduced one.

        Raises:
            CrystalError: too many sites, too large a cell, or overlapping atoms.
        """
        if len(self) > max_sites:
            message = f"{len(self)} sites; the limit is {max_sites}. Use a smaller cell, or raise the limit"
            raise CrystalError(message, reason="too-many-sites")
        if self.volume > max_volume:
            message = f"a cell of {self.volume:.0f} Å³; the limit is {max_volume:.0f} Å³. Use a cell with less vacuum"
            raise CrystalError(message, reason="too-large")
        heights = self.volume / np.linalg.norm(np.cross(self.lattice[[1, 2, 0]], self.lattice[[2, 0, 1]]), axis=1)
        skew = float((np.linalg.norm(self.lattice, axis=1) / heights).max())
        if skew > max_skew:
            message = f"a lattice vector is {skew:.0f} times as long as the cell is high along it; use a reduced cell"
            raise CrystalError(message, reason="bad-lattice")
        closest = self._closest_occupied(min_distance)
        if closest < min_distance:
            message = f"two sites of {self.formula} are {closest:.3f} Å apart; below {min_distance} Å atoms overlap"
            raise CrystalError(message, reason="overlapping-atoms")
        return self

    def _closest_occupied(self, cutoff: float) -> float:
        """Shortest distance between two sites that can be occupied at the same time, Å.

        Two sites whose occupancies sum to at most one are alternative positions of one atom.
        """
        pairs = pairs_within(self.lattice, self.cart_coords, cutoff)
        if self.occupancies is None or not len(pairs.distances):
            return float(pairs.distances.min()) if len(pairs.distances) else math.inf
        share = np.array([sum(x for _, x in site) for site in self.occupancies])
        both = share[pairs.senders] + share[pairs.receivers] > 1.0 + 0.05
        return float(pairs.distances[both].min()) if both.any() else math.inf

    def closest_distance(self, cutoff: float) -> float:
        """Shortest distance between two sites, periodic images included, Å; infinity beyond `cutoff`."""
        distances = pairs_within(self.lattice, self.cart_coords, cutoff).distances
        return float(distances.min()) if len(distances) else math.inf

    # --- from and to other libraries --------------------------------------------------------------------------------

    @classmethod
    def from_pymatgen(cls, structure: Structure) -> Crystal:
        """Convert a pymatgen structure; oxidation states are dropped, mixed occupancies kept."""
        species = [[(_atomic_number(s), float(x)) for s, x in site.species.items()] for site in structure]
        mixed = any(len(site) != 1 or abs(site[0][1] - 1.0) > 1e-6 for site in species)
        numbers = [max(site, key=lambda pair: (pair[1], -pair[0]))[0] for site in species]
        occupancies = tuple(tuple(sorted(site)) for site in species) if mixed else None
        return cls(np.asarray(structure.lattice.matrix), structure.frac_coords, np.array(numbers, int), occupancies)

    def to_pymatgen(self) -> Structure:
        """Convert to a pymatgen structure, mixed occupancies included."""
        from pymatgen.core import Lattice, Structure

        species: list[Any] = [SYMBOLS[z] for z in self.atomic_numbers]
        if self.occupancies is not None:
            species = [{SYMBOLS[z]: x for z, x in site} for site in self.occupancies]
        return Structure(Lattice(self.lattice), species, self.frac_coords)

    @classmethod
    def from_ase(cls, atoms: ase.Atoms) -> Crystal:
        """Convert an ASE `Atoms` object; all three directions must be periodic."""
        if not all(atoms.pbc):
            message = f"atoms.pbc is {atoms.pbc.tolist()}; a crystal repeats along all three vectors"
            raise CrystalError(message, reason="not-periodic")
        return cls(atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers.astype(int))

    def to_ase(self) -> ase.Atoms:
        """Convert to ASE `Atoms`; the crystal must be ordered.

        Raises:
            CrystalError: a site has mixed occupancy, which ASE cannot represent.
        """
        import ase

        if not self.is_ordered:
            message = f"{self.formula} has mixed occupancies, which ASE cannot hold"
            raise CrystalError(message, reason="disordered")
        return ase.Atoms(numbers=self.atomic_numbers, scaled_positions=self.frac_coords, cell=self.lattice, pbc=True)

    def to_pyg(self, cutoff: float | None = None, *, dtype: Literal["float32", "float64"] = "float32") -> Data:
        """Convert to a `torch_geometric.data.Data`.

        It holds, for N sites:

        - `z` (N,) int64: atomic numbers, of the most abundant species where a site is mixed
        - `pos` (N, 3): Å, Cartesian
        - `cell` (1, 3, 3): Å, rows are the lattice vectors; `pbc` (1, 3) bool, all true
        - only with `cutoff`, for E edges sorted by receiver, then length: `edge_index` (2, E) int64, the sender
          above the receiver; `edge_shift` (E, 3) int64, the lattice translation of the sender; `edge_vec` (E, 3),
          Å, `pos[sender] + edge_shift @ cell - pos[receiver]`; `edge_weight` (E,), Å, its length. Every periodic
          image is an edge of its own, and a site is a neighbour of its own images
        - only if a site is mixed or partly empty, for S species: `species_index` (S,) int64, the site;
          `species_z` (S,) int64; `species_weight` (S,), the occupancy

        A `Batch` of several stacks `cell` to (n, 3, 3). Mixed and ordered crystals do not fit in one `Batch`.

        Args:
            cutoff: Å; with it, the edges of all neighbours up to this far.
            dtype: of lengths and occupancies. In float64 `from_pyg` gives the same crystal to a few 1e-15.
        """
        import torch
        from torch_geometric.data import Data

        real = np.dtype(dtype)
        arrays: dict[str, NDArray[Any]] = {
            "z": self.atomic_numbers.astype(np.int64),
            "pos": self.cart_coords.astype(real),
            "cell": self.lattice[None].astype(real),
            "pbc": np.ones((1, 3), bool),
        }
        if cutoff is not None:
            pairs = pairs_within(self.lattice, self.cart_coords, cutoff)
            arrays |= {
                "edge_index": np.stack([pairs.senders, pairs.receivers]),
                "edge_shift": pairs.images,
                "edge_vec": pairs.vectors.astype(real),
                "edge_weight": pairs.distances.astype(real),
            }
        if self.occupancies is not None:
            species = [(i, z, x) for i, site in enumerate(self.occupancies) for z, x in site]
            arrays["species_index"] = np.array([s[0] for s in species], np.int64)
            arrays["species_z"] = np.array([s[1] for s in species], np.int64)
            arrays["species_weight"] = np.array([s[2] for s in species], real)
        return Data(**{name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()})

    @classmethod
    def from_pyg(cls, data: Data) -> Crystal:
        """Convert a `torch_geometric.data.Data` with `z`, `pos` (Å) and `cell` (Å, rows are vectors), as in `to_pyg`.

        Edges are ignored because they follow from the crystal.

        Raises:
            CrystalError: no cell, or one that does not repeat along all three vectors (reason `not-periodic`); no
                `z` or `pos`; several crystals in one `Batch`; or what `Crystal` refuses.
        """
        missing = [name for name in ("z", "pos", "cell") if data.get(name) is None]
        if missing:
            reason = "not-periodic" if missing == ["cell"] else "bad-sites"
            raise CrystalError(f"the Data has no {', '.join(missing)}; a crystal needs z, pos and cell", reason=reason)
        if data.cell.numel() != 9:
            raise CrystalError(
                f"a cell of shape {tuple(data.cell.shape)} is not one crystal's; take each of batch.to_data_list()",
                reason="bad-lattice",
            )
        pbc = data.get("pbc")
        if pbc is not None and not bool(np.all(np.asarray(pbc))):
            raise CrystalError(
                f"pbc is {np.asarray(pbc).ravel().tolist()}; a crystal repeats along all three vectors",
                reason="not-periodic",
            )
        lattice = data.cell.detach().cpu().numpy().reshape(3, 3).astype(np.float64)
        if not np.isfinite(lattice).all() or abs(np.linalg.det(lattice)) < 1e-3:
            raise CrystalError(f"cell {lattice.tolist()} is not finite or spans no volume", reason="bad-lattice")
        frac = data.pos.detach().cpu().numpy().astype(np.float64) @ np.linalg.inv(lattice)
        z = data.z.detach().cpu().numpy()
        if data.get("species_index") is None:
            return cls(lattice, frac, z)
        sites: list[list[tuple[int, float]]] = [[] for _ in z]
        columns = (data[name].tolist() for name in ("species_index", "species_z", "species_weight"))
        for site, number, fraction in zip(*columns, strict=True):
            sites[site].append((number, fraction))
        return cls(lattice, frac, z, tuple(tuple(site) for site in sites))

    def to_cif(self) -> str:
        """Write as CIF in space group P 1."""
        return str(self.to_pymatgen().to(fmt="cif"))

    def to_poscar(self) -> str:
        """Write as VASP POSCAR."""
        return str(self.to_pymatgen().to(fmt="poscar"))


def reduced_formula(composition: Mapping[int, float]) -> str:
    """`{26: 4, 8: 6}` → `Fe2O3`; alphabetical symbols, whole numbers without a common divisor.

    The formula depends on the composition only, not on the cell. Mixed sites give the same string as an ordered
    crystal: `{29: 0.75, 79: 0.25}` → `AuCu3`, and `{26: 0.945, 8: 1.0}` → `Fe189O200`.
    `crystalign.ratios.whole_ratio` converts fractions to whole numbers and documents the tolerance.
    """
    total = sum(composition.values())
    amounts = {SYMBOLS[z]: x for z, x in composition.items() if x > 1e-6 * total}
    symbols = sorted(amounts)
    whole = whole_ratio([int(x) if isinstance(x, np.integer) else x for x in (amounts[s] for s in symbols)])
    return "".join(f"{s}{n if n != 1 else ''}" for s, n in zip(symbols, whole, strict=True))


@functools.lru_cache(maxsize=65_536)
def pretty_formula(formula: str) -> str:
    """Format a formula as chemists write it, for display only: `ClNa` → `NaCl`, `La7Mn10O30Sr3` → `Sr0.3La0.7MnO3`.

    Elements are ordered by electronegativity. Amounts become decimals where the formula shows that elements share a
    site in tenths or finer; otherwise they stay whole.
    """
    from pymatgen.core import Composition

    composition = Composition(formula)
    counts = [int(x) for x in composition.values() if x == int(x)]
    scale = next((d for d in (1000, 500, 250, 200, 125, 100, 50, 25, 20, 10) if _is_scale(d, counts)), None)
    if scale is None or len(counts) < len(composition):
        return str(composition.reduced_formula)
    return re.sub(r"(?<=[A-Za-z])1(?= |$)", "", (composition / scale).formula).replace(" ", "")


def _is_scale(scale: int, counts: list[int]) -> bool:
    """Whether these counts are those of a formula with mixed sites, multiplied by `scale` to remove decimals."""
    shared = [n for n in counts if n % scale]
    sites = [n for n in counts if n % scale == 0]
    if not shared or not sites:
        return False
    full = len(shared) > 1 and len(sites) > 1 and sum(shared) % scale == 0
    return scale >= 100 or full or (scale >= 20 and len(shared) == 1 and len(sites) > 2)


def _atomic_number(species: Any) -> int:
    symbol = getattr(species, "symbol", str(species))
    symbol = {"D": "H", "T": "H"}.get(symbol, symbol)
    if symbol not in SYMBOLS[1:]:
        message = f"{symbol!r} is not an element"
        raise CrystalError(message, reason="unknown-element")
    return SYMBOLS.index(symbol)
