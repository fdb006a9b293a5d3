"""Crystal structure as a graph of atoms and periodic edges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from crystalign.config import Config
from crystalign.crystal import MAX_ATOMIC_NUMBER, Crystal, Occupancy
from crystalign.errors import CrystalError
from crystalign.modalities.modality import Features, Inputs, Modality, check_arrays
from crystalign.modalities.query import QueryField, QueryFile, QuerySpec
from crystalign.physics.complete_graph import complete_graph
from crystalign.physics.neighbour_list import neighbours
from crystalign.physics.reciprocal import reciprocal_spectra

if TYPE_CHECKING:
    import pyarrow as pa


_GRAPH = {"x", "edge_index", "edge_length", "edge_vector", "pair_index", "pair_sums"}
"""Features whose length depends on the crystal."""
_SPECIES = ("species_site", "species_z", "species_weight")
"""Features of crystals with mixed or partly empty sites."""
_INDICES = ("edge_index", "species_site", "pair_index")
_ELEMENTS = ("x", "species_z")

QUERY = QuerySpec(
    label="structure",
    fields=(
        QueryField("cif", str, "The text of a CIF.", "File with a structure: CIF or POSCAR."),
        QueryField("poscar", str, "The text of a VASP POSCAR."),
    ),
    files=QueryFile(parse=None, hint="CIF, POSCAR", marks=("_cell_length_a", "_atom_site")),
    held_out="crystalign.evaluation.held_out_queries:OtherCalculations",
)


class CrystalModality(Modality[Crystal]):
    """A structure as atoms, edges to the nearest periodic images, and a cell.

    A batch holds, for n crystals with A atoms and E edges in all (names as in PyTorch Geometric):

    - `x` (A,) int64: atomic numbers, of the most abundant species where a site is mixed
    - `edge_index` (2, E) int64: sender and receiver of each edge
    - `edge_length` (E,) and `edge_vector` (E, 3) float32: Å, the vector from receiver to sender; of each receiver the
      nearest first
    - `batch` (A,) int64: the crystal each atom belongs to
    - `lattice` (n, 3, 3) float32: Å, rows are vectors; `volume` (n,) float32: Å³; `n_atoms` (n,) int64
    - only if a site is mixed or partly empty: `species_site`, `species_z` (S,) int64 and
      `species_weight` (S,) float32, every species of every atom with its occupancy
    - only with `lattice_sums_up_to`: `pair_index` (2, P) int64, sender and receiver, and `pair_sums` (P, 3) float32,
      the Coulomb (1/Å), r⁻⁶ (1/Å⁶) and exp(−αr) sums over all images, as in `complete_graph`
    - only with `reciprocal_bins`: `reciprocal` (n, 2, bins) float32, the square roots of `reciprocal_spectra`
    """

    name: ClassVar[str] = "crystal"
    label: ClassVar[str] = "Crystal structure"
    query: ClassVar[QuerySpec | None] = QUERY

    class Settings(Config):
        """Settings of the graph."""

        cutoff: float = 8.0
        """Å; longest edge, except for a site without any neighbour within this distance."""
        k: int = 12
        """Nearest neighbours per site; a shell of equal distances is kept whole, so there may be more."""
        max_sites: int = 1000
        """Largest number of sites; the default is the limit of ingestion."""
        reciprocal_bins: Literal[0] | Annotated[int, Field(ge=2, le=4096)] = 0
        """Points of the reciprocal-space spectra; 0 for no spectra."""
        reciprocal_range: tuple[float, float] = (0.4, 5.4)
        """Å⁻¹; Q of the first and the last point of the spectra."""
        lattice_sums_up_to: int = Field(default=0, ge=0)
        """Largest number of sites N for which the lattice sums of all pairs, up to N², are computed; larger cells are
        then refused. 0 for no lattice sums."""
        lattice_sums_alpha: float = Field(default=3.0, gt=0)
        """1/Å; decay of the exponential potential."""
        dtype: Literal["float32", "float64"] = "float32"
        """Precision of lengths, vectors, weights and spectra; use float64 for an encoder converted by `double()`."""

    settings: Settings

    @classmethod
    def column_type(cls) -> pa.StructType:
        """Arrow type: lattice (9, rows), fractional coordinates (3N), atomic numbers (N), occupancies if mixed."""
        import pyarrow as pa

        species = pa.struct([("z", pa.uint8()), ("fraction", pa.float64())])
        return pa.struct(
            [
                ("lattice", pa.list_(pa.float64())),
                ("frac_coords", pa.list_(pa.float64())),
                ("atomic_numbers", pa.list_(pa.uint8())),
                ("occupancies", pa.list_(pa.list_(species))),
            ]
        )

    @classmethod
    def to_column(cls, value: Crystal) -> Mapping[str, Any]:
        """Convert to flat arrays."""
        occupancies = None
        if value.occupancies is not None:
            occupancies = [[{"z": z, "fraction": x} for z, x in site] for site in value.occupancies]
        return {
            "lattice": value.lattice.ravel(),
            "frac_coords": value.frac_coords.ravel(),
            "atomic_numbers": value.atomic_numbers,
            "occupancies": occupancies,
        }

    @classmethod
    def from_column(cls, scalar: pa.StructScalar) -> Crystal:
        """Read the crystal back exactly."""
        lattice, frac, numbers = (
            scalar[name].values.to_numpy(zero_copy_only=False) for name in ("lattice", "frac_coords", "atomic_numbers")
        )
        sites = scalar["occupancies"].as_py()
        occupancies: tuple[Occupancy, ...] | None = None
        if sites is not None:
            occupancies = tuple(tuple((s["z"], s["fraction"]) for s in site) for site in sites)
        return Crystal(lattice.reshape(3, 3), frac.reshape(-1, 3), numbers, occupancies)

    def fits(self, table: pa.Table) -> NDArray[np.bool_]:
        """Whether cells have at most `max_sites` sites, and at most `lattice_sums_up_to` if that is set."""
        limit = min(self.settings.max_sites, self.settings.lattice_sums_up_to or self.settings.max_sites)
        return np.asarray(table.column("n_sites").to_numpy() <= limit)

    def featurise(self, value: Crystal, *, rng: np.random.Generator | None = None) -> Features:  # noqa: ARG002 (the protocol)
        """Build the graph of one crystal; it is exact, so `rng` has no effect.

        Raises:
            CrystalError: there are more sites than `max_sites` or `lattice_sums_up_to`, or, with the latter,
                coincident sites.
        """
        if len(value) > self.settings.max_sites:
            message = f"{value.formula} has {len(value)} sites; at most {self.settings.max_sites} are encoded"
            raise CrystalError(message, reason="too-many-sites")
        real = np.dtype(self.settings.dtype)
        edges = neighbours(value, cutoff=self.settings.cutoff, k=self.settings.k)
        features: Features = {
            "x": value.atomic_numbers.astype(np.int64),
            "edge_index": np.stack([edges.senders, edges.receivers]),
            "edge_length": edges.distances.astype(real),
            "edge_vector": edges.vectors.astype(real),
            "lattice": value.lattice.astype(real),
            "volume": np.array(value.volume, real),
        }
        if self.settings.lattice_sums_up_to:
            features |= self._pairs(value)
        if self.settings.reciprocal_bins:
            grid = np.linspace(*self.settings.reciprocal_range, self.settings.reciprocal_bins)
            features["reciprocal"] = np.sqrt(reciprocal_spectra(value, grid)).astype(real)
        if value.occupancies is not None:
            species = [(i, z, x) for i, site in enumerate(value.occupancies) for z, x in site]
            features["species_site"] = np.array([s[0] for s in species], np.int64)
            features["species_z"] = np.array([s[1] for s in species], np.int64)
            features["species_weight"] = np.array([s[2] for s in species], real)
        return features

    def _pairs(self, value: Crystal) -> Features:
        limit = self.settings.lattice_sums_up_to
        if len(value) > limit:
            message = f"{value.formula} has {len(value)} sites; the lattice sums of all N² pairs are given for at most"
            raise CrystalError(f"{message} {limit}, `lattice_sums_up_to`", reason="too-many-sites")
        graph = complete_graph(value, alpha=self.settings.lattice_sums_alpha)
        return {
            "pair_index": np.stack([graph.senders, graph.receivers]),
            "pair_sums": graph.sums.astype(self.settings.dtype),
        }

    def collate(self, samples: Sequence[Features]) -> Inputs:
        """Join n crystals into one graph with n unconnected parts."""
        sizes = np.array([len(s["x"]) for s in samples])
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        joined: Features = {
            "x": np.concatenate([s["x"] for s in samples]),
            "edge_index": np.concatenate([s["edge_index"] + o for s, o in zip(samples, starts, strict=True)], axis=1),
            "edge_length": np.concatenate([s["edge_length"] for s in samples]),
            "edge_vector": np.concatenate([s["edge_vector"] for s in samples]),
            "batch": np.repeat(np.arange(len(samples)), sizes),
            "lattice": np.stack([s["lattice"] for s in samples]),
            "volume": np.stack([s["volume"] for s in samples]),
            "n_atoms": sizes.astype(np.int64),
        }
        if self.settings.lattice_sums_up_to:
            pairs = [s["pair_index"] + o for s, o in zip(samples, starts, strict=True)]
            joined["pair_index"] = np.concatenate(pairs, axis=1)
            joined["pair_sums"] = np.concatenate([s["pair_sums"] for s in samples])
        if self.settings.reciprocal_bins:
            joined["reciprocal"] = np.stack([s["reciprocal"] for s in samples])
        if any("species_z" in s for s in samples):
            full = [_species(s) for s in samples]
            joined["species_site"] = np.concatenate([f[0] + o for f, o in zip(full, starts, strict=True)])
            joined["species_z"] = np.concatenate([f[1] for f in full])
            joined["species_weight"] = np.concatenate([f[2] for f in full])
        return _tensors(joined)

    def empty_sample(self) -> Features:
        """Return primitive fcc copper."""
        a = 3.61
        half = np.array([[0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]]) * a
        return self.featurise(Crystal(half, np.zeros((1, 3)), np.array([29])))

    def check_features(self, features: Features) -> None:
        """Refuse features that are not a valid crystal graph.

        Raises:
            ValueError: names or types are wrong, indices are out of range, or lengths do not agree.
        """
        mixed = {name: array for name, array in features.items() if name in _SPECIES}
        if not all(np.isfinite(array).all() for array in mixed.values()):
            raise ValueError("a feature of mixed sites is not finite")
        plain = {name: array for name, array in features.items() if name not in mixed}
        check_arrays(plain, self.empty_sample(), variable=_GRAPH)
        _check_graph(features)


def _check_graph(features: Features) -> None:
    """Check that indices refer to atoms, atoms are elements, and related arrays have equal lengths."""
    atoms = len(features["x"])
    for name, low, high in [(n, 0, atoms) for n in _INDICES] + [(n, 1, MAX_ATOMIC_NUMBER + 1) for n in _ELEMENTS]:
        array = features.get(name)
        if array is None:
            continue
        if array.dtype != np.int64 or (array.size and not low <= array.min() <= array.max() < high):
            raise ValueError(f"feature {name!r} points outside the crystal")
    edges = len(features["edge_length"])
    shapes: dict[str, tuple[int, ...]] = {"edge_index": (2, edges), "edge_vector": (edges, 3)}
    if "pair_sums" in features:
        pairs = len(features["pair_sums"])
        shapes |= {"pair_index": (2, pairs), "pair_sums": (pairs, 3)}
    if species := [name for name in _SPECIES if name in features]:
        shapes |= dict.fromkeys(_SPECIES, (len(features[species[0]]),))
    if atoms == 0 or any(name not in features or features[name].shape != shape for name, shape in shapes.items()):
        raise ValueError("parts of the graph have different lengths")


def _species(sample: Features) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return site, atomic number and weight of every species; an ordered site has one species of weight 1."""
    if "species_z" in sample:
        return sample["species_site"], sample["species_z"], sample["species_weight"]
    n = len(sample["x"])
    return np.arange(n), sample["x"], np.ones(n, sample["edge_length"].dtype)


def _tensors(arrays: Features) -> Inputs:
    import torch

    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
