"""Electronic density of states, on one grid for all materials.

Every spectrum is put on the same window and grid, because the end points of a calculation's own grid are a fingerprint
of the material. Energies outside a calculation's range are unknown, not zero. The network is given them as unknown
(`beyond`), with the ends moved to a few common energies. The zero is the valence-band maximum where there is a gap and
the Fermi level otherwise, the unit is states/eV/atom, and spin channels are kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from crystalign.config import Config
from crystalign.crystal import Crystal
from crystalign.errors import SpectrumError
from crystalign.modalities.modality import Cells, TableColumns
from crystalign.modalities.query import Clue, Numbers, Plot, PlottedCurve, QueryField, QueryFile, QuerySpec, array_of
from crystalign.modalities.spectrum import SpectrumModality, check_spectrum
from crystalign.physics.spectra import resample, valence_band_maximum

if TYPE_CHECKING:
    import pyarrow as pa

MAX_BYTES = 1_000_000_000
"""Largest size of a decompressed file in bytes; a `vasprun.xml` with projections is large."""
BIN_WIDTH = 0.05
EDGES = np.round(np.linspace(-10.0, 10.0, 401), 10)
"""(401,) bin edges on disk, eV relative to the zero."""
GRID = 0.5 * (EDGES[1:] + EDGES[:-1])
"""(400,) bin centres on disk, eV relative to the zero."""
NEEDED = (-3.0, 2.0)
"""Energy range that a spectrum must cover, eV relative to the zero."""
RUNGS = ((-10.0, -7.0, -5.0, -2.5), (1.5, 4.0, 6.0, 10.0))
"""Allowed ends of the range that a network is given, eV relative to the zero, outermost first. With these few,
the ends of 232 published spectra identify 1.3 % of them; with the exact ones, 8.6 %."""
Zero = Literal["fermi", "vbm"]


@dataclass(frozen=True, slots=True, eq=False)
class DensityOfStates:
    """Electronic states per energy.

    Raises:
        SpectrumError: values are NaN or mostly negative, energies do not ascend, shapes are wrong, or the window is
            empty.
    """

    energies: NDArray[np.float64]
    """(M,) eV from the zero, ascending."""
    densities: NDArray[np.float64]
    """(S, M) states/eV of `n_atoms` atoms; S is 1 (both spins) or 2 (up, down). Dips below zero are clipped."""
    n_atoms: int
    """Atoms that the densities belong to; 1 where they are per atom."""
    efermi: float | None = None
    """Fermi level on the absolute scale of the calculation, eV; for information only, never used as zero."""
    zero: Zero = "fermi"
    """What the energies are counted from."""
    gap: float | None = None
    """Band gap of a standardised spectrum, eV (0 for a metal); None before standardisation."""
    notices: tuple[str, ...] = ()
    """What a reader left out, converted or assumed, for the user to check."""
    covered: tuple[float, float] | None = None
    """Known range of a standardised spectrum, eV from the zero; None before, and if the dataset does not record it."""

    def __post_init__(self) -> None:
        """Normalise shapes, clip resampling artefacts and check the values."""
        energies = np.asarray(self.energies, np.float64)
        densities = np.atleast_2d(np.asarray(self.densities, np.float64))
        check_spectrum(energies, densities, axis="energies", unit="states/eV", channels=2)
        if self.n_atoms < 1 or (self.efermi is not None and not np.isfinite(self.efermi)):
            message = f"n_atoms = {self.n_atoms}, efermi = {self.efermi}: not usable numbers"
            raise SpectrumError(message, reason="bad-number")
        object.__setattr__(self, "energies", energies)
        object.__setattr__(self, "densities", np.maximum(densities, 0.0))

    def standardised(self) -> DensityOfStates:
        """Return the spectrum on `GRID`, per atom, zero at the valence-band maximum or the Fermi level; idempotent.

        Raises:
            SpectrumError: the source does not cover the required part of the window.
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
        covered = (max(float(energies[0]), float(EDGES[0])), min(float(energies[-1]), float(EDGES[-1])))
        on_grid = resample(energies, per_atom, EDGES)
        return DensityOfStates(GRID, on_grid, 1, self.efermi, kind, gap, self.notices, covered)


def parse_dos(
    source: Path | bytes, *, name: str = "", n_atoms: int | None = None, zero: Zero | None = None
) -> DensityOfStates:
    """Read a density of states from a `vasprun.xml`, a DOSCAR, or columns of text.

    Columns are energy (eV) and states/eV, or energy, spin up and spin down (down may be mirrored, as it is plotted); a
    further column may be their integral, which is recognised by its values. A header may say `n_atoms = 8`, `zero =
    vbm` and `efermi = 5.2`; where an `efermi` is stated the energies are absolute and it is subtracted, unless the
    header says that they are counted from a zero already. The `notices` of the result say how the columns and the zero
    were read.

    Args:
        source: the file, or its bytes.
        name: the file's name, where `source` is bytes; its ending tells the format.
        n_atoms: atoms that the densities belong to; without it, and without a header that says so,
            they are taken per atom.
        zero: what the energies are counted from, `fermi` unless the file says otherwise.

    Raises:
        SpectrumError: the values are not a density of states.
        FileFormatError: the file has none of these formats.
    """
    from crystalign.readers.compression import decompress, without_suffix

    data = source if isinstance(source, bytes) else source.read_bytes()
    file_name = name or (source.name if isinstance(source, Path) else "")
    data = decompress(data, limit=MAX_BYTES, name=file_name or "the file")
    if (
        without_suffix(file_name).lower().endswith(".xml")
        or data.lstrip()[:5] == b"<?xml"
        or b"<modeling" in data[:4096]
    ):
        from crystalign.readers.dos.vasprun_dos import read_vasprun_dos

        run = read_vasprun_dos(data)
        return DensityOfStates(run.energies - run.efermi, run.densities, run.n_atoms, run.efermi, notices=run.notices)
    from crystalign.readers.dos.dos_text import read_text_dos

    text = read_text_dos(data)
    kind = zero or text.zero or "fermi"
    if kind not in ("fermi", "vbm"):
        raise SpectrumError(f"zero = {kind!r}; energies are counted from fermi or vbm", reason="bad-header")
    atoms = n_atoms if n_atoms is not None else text.n_atoms
    notices = text.notices
    if atoms is None:
        notices = (*notices, "densities were read per atom; if they are of the cell, add `# n_atoms = ...` to the file")
    relative = text.relative or kind == "vbm"
    if zero is not None and zero != (text.zero or "fermi"):
        notices = (*notices, f"energies are counted from {zero}, as you said")
    energies = text.energies - (0.0 if relative else text.efermi or 0.0)
    zero_of: Zero = "vbm" if kind == "vbm" else "fermi"
    return DensityOfStates(
        energies, text.densities, 1 if atoms is None else atoms, text.efermi, zero_of, notices=notices
    )


class DosQuery(Config):
    """Density of states as a query."""

    energies: Numbers
    """eV, ascending."""
    densities: Numbers | Annotated[list[Numbers], Field(max_length=2)]
    """states/eV, one value per energy; or two such lists, spin up and down (both positive)."""
    n_atoms: int = Field(default=1, ge=1, le=100_000)
    """Atoms that the densities belong to; 1 if they are per atom."""
    zero: Literal["fermi", "vbm"] = "fermi"
    """What the energies are counted from."""

    def value(self) -> DensityOfStates:
        """Convert to a `DensityOfStates`.

        Raises:
            QueryError: the lists have different lengths.
            SpectrumError: the numbers are not a density of states.
        """
        densities = array_of(self.densities, "densities")
        return DensityOfStates(array_of(self.energies, "energies"), densities, self.n_atoms, zero=self.zero)


def _draw(value: DensityOfStates, wavelength: str) -> PlottedCurve:  # noqa: ARG001 (the protocol)
    """Return the spectrum as given to the encoder: on the common grid, spins summed, per atom."""
    standard = value.standardised()
    zero = "E_VBM" if standard.zero == "vbm" else "E_F"
    return PlottedCurve(standard.energies, standard.densities.sum(axis=0), f"E − {zero} (eV)", "DOS (states/eV/atom)")


QUERY = QuerySpec(
    label="DOS",
    fields=(
        QueryField(
            "dos",
            DosQuery,
            "A density of states.",
            "File with a density of states: two or three columns, or vasprun.xml.",
        ),
    ),
    read=DosQuery.value,
    files=QueryFile(
        parse="crystalign.modalities.dos:parse_dos",
        hint="DOS (.csv, .dat, vasprun.xml)",
        suffixes=(".dos", ".tdos"),
        name_pattern=r"^(?:.*/)?doscar\b|\.xml$",
        marks=("<modeling",),
        clues=(Clue(r"(?<![a-z])[lpt]?dos(?![a-z])|states */ *ev", 30), Clue(r"(?<![a-z])energ", 10)),
        structure_kinds=("vasprun",),
        negative_x=True,
    ),
    plot=Plot("Density of states", _draw, zero_axis="Energy (eV)"),
)


class DosColumns(TableColumns):
    """Columns and convention of a density of states in a table."""

    energies: str
    """Column of M energies, eV."""
    densities: str
    """Column of M densities of the whole cell, states/eV."""
    zero: Literal["fermi"] = "fermi"
    """What the energies are relative to."""
    spin: Literal["sum", "half"] = "sum"
    """`sum`: both spin channels are included. `half`: one channel, which is doubled (exact if spins are paired)."""

    @property
    def names(self) -> tuple[str, ...]:
        """Column names, densities first: a null density means that the row has no spectrum."""
        return (self.densities, self.energies)

    def read(self, cells: Cells, crystal: Crystal) -> DensityOfStates:
        """Read the standardised spectrum of one row.

        Raises:
            SpectrumError: no usable spectrum.
        """
        factor = 2.0 if self.spin == "half" else 1.0
        densities = cells[self.densities].astype(np.float64) * factor
        return DensityOfStates(cells[self.energies].astype(np.float64), densities, len(crystal)).standardised()


class DosModality(SpectrumModality[DensityOfStates]):
    """A batch holds `dos` (n, points) float32: spin-summed states/eV/atom from −10 to 10 eV, on the scale set.

    A network that reads more points than the 400 bins on disk (601 in MultiMat, 2,001 in MatBind)
    gets them by `points`: the cumulative number of states is interpolated, which conserves states but adds no detail
    below 0.05 eV. Both published works count energies from E_F. Here the zero of a crystal with a gap is its
    valence-band maximum, because the position of E_F in a gap depends on the DFT code.
    """

    name: ClassVar[str] = "dos"
    label: ClassVar[str] = "Density of states"
    query: ClassVar[QuerySpec | None] = QUERY
    columns: ClassVar[type[TableColumns] | None] = DosColumns
    edges: ClassVar[NDArray[np.float64]] = EDGES
    rungs: ClassVar[tuple[tuple[float, ...], tuple[float, ...]]] = RUNGS

    class Settings(SpectrumModality.Settings):
        """Settings of the network's input."""

        points: int = Field(default=400, ge=2, le=4096)
        """Bins between −10 and 10 eV."""
        scale: Literal["linear", "sqrt", "log1p"] = "log1p"
        """Function applied to states/eV/atom."""
        max_shift: float = Field(default=0.1, ge=0)
        """eV; largest random shift of the zero in training, since band edges differ between codes."""
        max_width: float = Field(default=0.15, ge=0)
        """eV; largest random Gaussian broadening in training."""

    settings: Settings

    @classmethod
    def column_type(cls) -> pa.StructType:
        """Arrow type: the standardised spectrum, spin channels one after the other."""
        import pyarrow as pa

        return pa.struct(
            [
                ("densities", pa.list_(pa.float32())),
                ("n_spins", pa.int8()),
                ("zero", pa.string()),
                ("gap", pa.float64()),
                ("efermi", pa.float64()),
                ("low", pa.float64()),
                ("high", pa.float64()),
            ]
        )

    @classmethod
    def to_column(cls, value: DensityOfStates) -> Mapping[str, Any]:
        """Store the standardised spectrum, whatever its original grid."""
        standard = value.standardised()
        return {
            "densities": standard.densities.astype(np.float32).ravel(),
            "n_spins": len(standard.densities),
            "zero": standard.zero,
            "gap": standard.gap,
            "efermi": standard.efermi,
            "low": None if standard.covered is None else standard.covered[0],
            "high": None if standard.covered is None else standard.covered[1],
        }

    @classmethod
    def from_column(cls, scalar: pa.StructScalar) -> DensityOfStates:
        """Read the standardised spectrum."""
        flat = scalar["densities"].values.to_numpy(zero_copy_only=False)
        densities = flat.astype(np.float64).reshape(scalar["n_spins"].as_py(), -1)
        zero, gap, efermi = (scalar[name].as_py() for name in ("zero", "gap", "efermi"))
        recorded = scalar.type.get_field_index("low") >= 0 and scalar["low"].is_valid
        covered = (scalar["low"].as_py(), scalar["high"].as_py()) if recorded else None
        return DensityOfStates(GRID, densities, 1, efermi, zero, gap, covered=covered)

    def curve(self, value: DensityOfStates) -> NDArray[np.float64]:
        """(400,) spin-summed states/eV/atom.

        Raises:
            SpectrumError: the spectrum does not cover the window.
        """
        total: NDArray[np.float64] = value.standardised().densities.sum(axis=0)
        return total

    def covered(self, value: DensityOfStates) -> tuple[float, float]:
        """Return the energy range of the calculation, or the whole window if it is not recorded."""
        return value.standardised().covered or super().covered(value)
