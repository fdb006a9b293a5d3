"""The electronic density of states, on one grid for all materials.

Every spectrum is put on the same window and grid, because the end points of a calculation's own
grid are a fingerprint of the material. The zero is the valence-band maximum where there is a gap
and the Fermi level otherwise, the unit is states/eV/atom, and spin channels are kept.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from crystalign.config import Config
from crystalign.errors import SpectrumError
from crystalign.modalities.modality import Features, Inputs, Modality
from crystalign.physics.spectra import broaden, resample, valence_band_maximum

if TYPE_CHECKING:
    import pyarrow as pa

    from crystalign.material import Material

BIN_WIDTH = 0.05
EDGES = np.round(np.linspace(-10.0, 10.0, 401), 10)
"""(401,) eV from the zero: the edges of the bins on disk."""
GRID = 0.5 * (EDGES[1:] + EDGES[:-1])
"""(400,) eV from the zero: the centres of the bins on disk."""
NEEDED = (-3.0, 2.0)
"""eV from the zero; a spectrum that does not cover this is refused, beyond its ends it counts as zero."""
MAX_POINTS = 100_000
Zero = Literal["fermi", "vbm"]


@dataclass(frozen=True, slots=True, eq=False)
class DensityOfStates:
    """Electronic states per energy.

    Raises:
        SpectrumError: NaN, energies that do not ascend, wrong shapes, mostly negative, nothing in the window.
    """

    energies: NDArray[np.float64]
    """(M,) eV from the zero, ascending."""
    densities: NDArray[np.float64]
    """(S, M) states/eV of `n_atoms` atoms; S is 1 (both spins) or 2 (up, down). Dips below zero are clipped."""
    n_atoms: int
    """Atoms that the densities belong to; 1 where they are per atom."""
    efermi: float | None = None
    """The Fermi level on the absolute scale of its calculation, eV; kept, never used as the zero of anything."""
    zero: Zero = "fermi"
    """What the energies are counted from."""
    gap: float | None = None
    """eV, of a standardised spectrum (0 for a metal); None before."""

    def __post_init__(self) -> None:
        """Normalise shapes, clip resampling artefacts, refuse nonsense."""
        energies = np.asarray(self.energies, np.float64)
        densities = np.atleast_2d(np.asarray(self.densities, np.float64))
        _check(energies, densities, self.n_atoms, self.efermi)
        object.__setattr__(self, "energies", energies)
        object.__setattr__(self, "densities", np.maximum(densities, 0.0))

    def standardised(self) -> DensityOfStates:
        """On `GRID`, per atom, zero at the valence-band maximum or the Fermi level; idempotent.

        Raises:
            SpectrumError: the source does not cover the middle of the window.
        """
        if self.gap is not None:
            return self
        per_atom = self.densities / self.n_atoms
        zero, gap = valence_band_maximum(self.energies, per_atom.sum(axis=0))
        origin = 0.0 if self.zero == "vbm" else zero
        energies = self.energies - origin
        if energies[0] > NEEDED[0] or energies[-1] < NEEDED[1]:
            raise SpectrumError(
                f"energies cover {energies[0]:.2f} … {energies[-1]:.2f} eV from the zero; at least {NEEDED[0]} … "
                f"{NEEDED[1]} eV are needed. Are they relative to the Fermi level?",
                reason="window-not-covered",
            )
        kind: Zero = "vbm" if gap > 0 or self.zero == "vbm" else "fermi"
        return DensityOfStates(GRID, resample(energies, per_atom, EDGES), 1, self.efermi, kind, gap)


def _check(energies: NDArray[np.float64], densities: NDArray[np.float64], n_atoms: int, efermi: float | None) -> None:
    """What makes a density of states unreadable."""
    m = len(energies) if energies.ndim == 1 else 0
    if not 2 <= m <= MAX_POINTS or densities.ndim != 2 or densities.shape[1] != m or len(densities) not in (1, 2):
        raise SpectrumError(
            f"energies {energies.shape} and densities {densities.shape}; expected (M,) and (M,) or (2, M) with "
            f"2 <= M <= {MAX_POINTS}",
            reason="bad-shape",
        )
    if not np.isfinite(energies).all() or not np.isfinite(densities).all():
        bad = int((~np.isfinite(densities)).sum() + (~np.isfinite(energies)).sum())
        raise SpectrumError(f"{bad} values of the spectrum are not finite numbers; remove those rows", reason="nan")
    if not (np.diff(energies) > 0).all():
        where = int(np.argmin(np.diff(energies)))
        raise SpectrumError(
            f"energies must ascend; rows {where + 1} and {where + 2} are {energies[where]} and {energies[where + 1]}",
            reason="non-monotonic",
        )
    if n_atoms < 1 or (efermi is not None and not np.isfinite(efermi)):
        raise SpectrumError(f"n_atoms = {n_atoms}, efermi = {efermi}: not usable numbers", reason="bad-number")
    positive, negative = np.maximum(densities, 0).sum(), np.maximum(-densities, 0).sum()
    if positive <= 0 or negative > 0.2 * positive:
        raise SpectrumError(
            "the density of states is zero or largely negative; give states/eV, spin-down as positive numbers",
            reason="negative-dos",
        )


def parse_dos(
    source: Path | bytes, *, name: str = "", n_atoms: int | None = None, zero: Zero | None = None
) -> DensityOfStates:
    """A density of states from a `vasprun.xml`, or from two or three columns of text.

    Columns are energy (eV) and states/eV, or energy, spin up and spin down (down may be mirrored,
    as it is plotted). A header may say `n_atoms = 8`, `zero = vbm` and `efermi = 5.2`; where an
    `efermi` is stated the energies are absolute and it is subtracted.

    Args:
        source: the file, or its bytes.
        name: the file's name, where `source` is bytes; its ending tells the format.
        n_atoms: atoms that the densities belong to; without it, and without a header that says so,
            they are taken per atom.
        zero: what the energies are counted from, `fermi` unless the file says otherwise.

    Raises:
        SpectrumError: values that are no density of states.
        FileFormatError: not such a file.
    """
    from crystalign.sources.patterns import read_columns

    data = source if isinstance(source, bytes) else source.read_bytes()
    known = (name or (source.name if isinstance(source, Path) else "")).lower()
    if known.endswith(".xml") or data.lstrip()[:5] == b"<?xml":
        return _parse_vasprun(data)
    columns, header = read_columns(data)
    stated = {
        m[1].lower(): m[2] for m in re.finditer(r"\b(n_atoms|zero|efermi)\s*[=:]\s*([-+.\w]+)", header, re.IGNORECASE)
    }
    kind = zero or stated.get("zero", "fermi").lower()
    try:
        atoms = n_atoms if n_atoms is not None else int(stated.get("n_atoms", 1))
        efermi = float(stated["efermi"]) if "efermi" in stated else None
    except ValueError as error:
        raise SpectrumError(f"the header is unclear: {stated}; write n_atoms = 8", reason="bad-header") from error
    if kind not in ("fermi", "vbm"):
        raise SpectrumError(f"zero = {kind!r}; energies are counted from fermi or vbm", reason="bad-header")
    densities = columns[:, 1:3].T.copy()
    if len(densities) == 2 and densities[1].max() <= 0:
        densities[1] *= -1.0
    energies = columns[:, 0] - (efermi or 0.0)
    return DensityOfStates(energies, densities, atoms, efermi, "vbm" if kind == "vbm" else "fermi")


def _parse_vasprun(data: bytes) -> DensityOfStates:
    """The total density of states of a VASP run, from its Fermi level."""
    import warnings

    from pymatgen.electronic_structure.core import Spin
    from pymatgen.io.vasp.outputs import Vasprun

    try:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pymatgen warns of runs that did not converge
            path = Path(folder) / "vasprun.xml"
            path.write_bytes(data)
            run = Vasprun(str(path), parse_potcar_file=False, parse_eigen=False)
            total, efermi, n_atoms = run.tdos, float(run.efermi), len(run.final_structure)
        spins = [np.asarray(total.densities[s], np.float64) for s in (Spin.up, Spin.down) if s in total.densities]
    except Exception as error:  # pymatgen raises whatever its parser met
        message = f"no density of states in this vasprun.xml: {type(error).__name__}: {str(error)[:200]}"
        raise SpectrumError(message, reason="unreadable-vasprun") from error
    return DensityOfStates(np.asarray(total.energies, np.float64) - efermi, np.stack(spins), n_atoms, efermi)


class DosModality(Modality[DensityOfStates]):
    """A batch holds `dos` (n, 400) float32: spin-summed states/eV/atom at `GRID`, on the scale of the settings."""

    name: ClassVar[str] = "dos"
    label: ClassVar[str] = "Density of states"

    class Settings(Config):
        """How a spectrum becomes a vector."""

        scale: Literal["linear", "sqrt", "log1p"] = "log1p"
        """Function applied to states/eV/atom."""
        max_shift: float = 0.1
        """eV; in training the zero moves by up to this, as band edges of other codes do."""
        max_width: float = 0.15
        """eV; in training the spectrum is broadened by a Gaussian of up to this."""

    settings: Settings

    @classmethod
    def column_type(cls) -> pa.StructType:
        """The standardised spectrum, spin channels one after the other."""
        import pyarrow as pa

        return pa.struct(
            [
                ("densities", pa.list_(pa.float32())),
                ("n_spins", pa.int8()),
                ("zero", pa.string()),
                ("gap", pa.float64()),
                ("efermi", pa.float64()),
            ]
        )

    @classmethod
    def to_column(cls, value: DensityOfStates) -> Mapping[str, Any]:
        """Standardised, whatever its grid was."""
        standard = value.standardised()
        return {
            "densities": standard.densities.astype(np.float32).ravel(),
            "n_spins": len(standard.densities),
            "zero": standard.zero,
            "gap": standard.gap,
            "efermi": standard.efermi,
        }

    @classmethod
    def from_column(cls, scalar: pa.StructScalar) -> DensityOfStates:
        """The standardised spectrum."""
        flat = scalar["densities"].values.to_numpy(zero_copy_only=False)
        densities = flat.astype(np.float64).reshape(scalar["n_spins"].as_py(), -1)
        zero, gap, efermi = (scalar[name].as_py() for name in ("zero", "gap", "efermi"))
        return DensityOfStates(GRID, densities, 1, efermi, zero, gap)

    def featurise(self, value: DensityOfStates, *, rng: np.random.Generator | None = None) -> Features:
        """One curve; with `rng` slightly shifted and broadened.

        Raises:
            SpectrumError: the spectrum does not cover the window.
        """
        curve = value.standardised().densities.sum(axis=0)
        if rng is not None:
            shift = rng.uniform(-1, 1) * self.settings.max_shift
            curve = np.interp(GRID + shift, GRID, curve)
            curve = broaden(curve, BIN_WIDTH, rng.uniform(0, 1) * self.settings.max_width)
        if self.settings.scale == "log1p":
            curve = np.log1p(curve)
        elif self.settings.scale == "sqrt":
            curve = np.sqrt(curve)
        return {"dos": curve.astype(np.float32)}

    def collate(self, samples: Sequence[Features]) -> Inputs:
        """Stack the curves."""
        import torch

        return {"dos": torch.from_numpy(np.stack([s["dos"] for s in samples]))}

    def stand_in(self) -> Features:
        """A flat band."""
        return {"dos": np.full(len(GRID), 0.5, np.float32)}

    @classmethod
    def equivalence(cls, material: Material) -> str:
        """Every material has its own."""
        return material.id
