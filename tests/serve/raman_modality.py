"""A Raman spectrum as a modality, as a package from elsewhere would bring it: `test_modality_seam` installs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from crystalign.config import Config
from crystalign.errors import FileFormatError
from crystalign.modalities.query import (
    Clue,
    Numbers,
    Plot,
    PlottedCurve,
    QueryExample,
    QueryField,
    QueryFile,
    QuerySpec,
    array_of,
)
from crystalign.modalities.spectrum import SpectrumModality, check_spectrum
from crystalign.physics.spectra import resample

if TYPE_CHECKING:
    import pyarrow as pa

EDGES = np.linspace(100.0, 1700.0, 65)
"""(65,) cm⁻¹."""
GRID = 0.5 * (EDGES[1:] + EDGES[:-1])


@dataclass(frozen=True, slots=True, eq=False)
class RamanSpectrum:
    """Scattered intensity against the shift.

    Raises:
        SpectrumError: no spectrum.
    """

    shifts: NDArray[np.float64]
    """(M,) cm⁻¹, ascending."""
    intensities: NDArray[np.float64]
    """(M,) in any unit."""
    notices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_spectrum(self.shifts, self.intensities[None], axis="shifts", unit="counts")


class RamanQuery(Config):
    """A Raman spectrum to look for."""

    shifts: Numbers
    """cm⁻¹, ascending."""
    intensities: Numbers
    """Any unit."""

    def value(self) -> RamanSpectrum:
        """As a spectrum."""
        return RamanSpectrum(array_of(self.shifts, "shifts"), array_of(self.intensities, "intensities"))


def parse_raman(data: bytes, *, name: str) -> RamanSpectrum:
    """Two columns; a line that begins with `#` is a comment.

    Raises:
        FileFormatError: no such table.
    """
    lines = [line.split() for line in data.decode().splitlines() if line.strip() and not line.startswith("#")]
    try:
        shifts, intensities = np.array(lines, dtype=np.float64).T
    except ValueError as error:
        raise FileFormatError(f"{name!r} is no table of two columns", reason="bad-raman") from error
    return RamanSpectrum(shifts, intensities, ("shifts were read in cm⁻¹",))


def _draw(value: RamanSpectrum, wavelength: str) -> PlottedCurve:
    return PlottedCurve(value.shifts, value.intensities / value.intensities.max(), "Raman shift (cm⁻¹)", "Intensity")


def _example(row: Mapping[str, Any]) -> QueryExample:
    shifts = np.arange(100.0, 1700.0, 5.0)
    peak = np.exp(-(((shifts - 520.0) / 10.0) ** 2)) + 0.01
    return QueryExample("A peak like silicon's", {"raman": {"shifts": shifts.tolist(), "intensities": peak.tolist()}})


class RamanModality(SpectrumModality[RamanSpectrum]):
    """A batch holds `dos` (n, points) float32."""

    name: ClassVar[str] = "raman"
    label: ClassVar[str] = "Raman spectrum"
    edges: ClassVar[NDArray[np.float64]] = EDGES
    query: ClassVar[QuerySpec | None] = QuerySpec(
        label="Raman",
        fields=(QueryField("raman", RamanQuery, "A Raman spectrum.", "File with a Raman spectrum: two columns."),),
        read=RamanQuery.value,
        files=QueryFile(
            parse="raman_modality:parse_raman", hint="Raman (.rmn)", suffixes=(".rmn",), clues=(Clue("raman", 50),)
        ),
        plot=Plot("Raman spectrum", _draw, relative=True),
        example=_example,
    )

    class Settings(SpectrumModality.Settings):
        """How a spectrum becomes a vector."""

        points: int = Field(default=64, ge=2, le=4096)
        """Bins of the window."""

    settings: Settings

    @classmethod
    def column_type(cls) -> pa.StructType:
        import pyarrow as pa

        return pa.struct([("intensities", pa.list_(pa.float32()))])

    @classmethod
    def to_column(cls, value: RamanSpectrum) -> Mapping[str, Any]:
        return {"intensities": resample(value.shifts, value.intensities, EDGES).astype(np.float32)}

    @classmethod
    def from_column(cls, scalar: pa.StructScalar) -> RamanSpectrum:
        return RamanSpectrum(GRID, scalar["intensities"].values.to_numpy(zero_copy_only=False).astype(np.float64))

    def curve(self, value: RamanSpectrum) -> NDArray[np.float64]:
        return resample(value.shifts, value.intensities / value.intensities.max(), EDGES)
