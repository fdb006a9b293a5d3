"""Phonon density of states."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from crystalign.crystal import Crystal
from crystalign.errors import SpectrumError
from crystalign.modalities.modality import Cells, TableColumns
from crystalign.modalities.spectrum import SpectrumModality, check_spectrum
from crystalign.physics.spectra import resample

if TYPE_CHECKING:
    import pyarrow as pa

GRID = np.linspace(0.0, 1000.0, 51)
"""(51,) cm⁻¹, the centres of the bins on disk; states of imaginary frequency lie below and are left out."""
EDGES = np.linspace(-10.0, 1010.0, 52)
"""(52,) cm⁻¹, the edges of the bins on disk."""
CM1 = {"cm-1": 1.0, "THz": 33.35641, "meV": 8.065544}
"""Wavenumbers (cm⁻¹) per unit of frequency or energy: 1/c and 1/(hc), CODATA 2018."""


@dataclass(frozen=True, slots=True, eq=False)
class PhononDensityOfStates:
    """Vibrational states per frequency, in any unit: published spectra are scaled to a maximum of 1.

    Raises:
        SpectrumError: values are NaN or mostly negative, frequencies do not ascend, shapes are wrong, or the window is
            empty.
    """

    frequencies: NDArray[np.float64]
    """(M,) cm⁻¹, ascending; imaginary frequencies as negative numbers."""
    densities: NDArray[np.float64]
    """(M,) states per frequency, in any unit. Dips below zero are clipped."""

    def __post_init__(self) -> None:
        """Clip interpolation artefacts and check the values."""
        frequencies, densities = np.asarray(self.frequencies, np.float64), np.asarray(self.densities, np.float64)
        check_spectrum(frequencies, densities[None], axis="frequencies", unit="states per frequency")
        object.__setattr__(self, "frequencies", frequencies)
        object.__setattr__(self, "densities", np.maximum(densities, 0.0))

    def standardised(self) -> PhononDensityOfStates:
        """Return the spectrum on `GRID` with a maximum of 1; idempotent.

        Raises:
            SpectrumError: no states between 0 and 1000 cm⁻¹.
        """
        on_grid = np.array_equal(self.frequencies, GRID)
        densities = self.densities if on_grid else resample(self.frequencies, self.densities, EDGES)
        highest = densities.max()
        if highest <= 0:
            raise SpectrumError(
                f"frequencies cover {self.frequencies[0]:.1f} … {self.frequencies[-1]:.1f} cm⁻¹ and hold no states "
                f"between {GRID[0]:g} and {GRID[-1]:g} cm⁻¹. Are they in THz or meV?",
                reason="window-not-covered",
            )
        return self if on_grid and highest == 1.0 else PhononDensityOfStates(GRID, densities / highest)


class PhononDosColumns(TableColumns):
    """Columns and unit of a phonon density of states in a table."""

    frequencies: str
    """Column of M frequencies."""
    densities: str
    """Column of M densities, in any unit."""
    unit: Literal["cm-1", "THz", "meV"] = "cm-1"
    """Unit of the frequencies."""

    @property
    def names(self) -> tuple[str, ...]:
        """Column names, densities first: a null density means that the row has no spectrum."""
        return (self.densities, self.frequencies)

    def read(self, cells: Cells, crystal: Crystal) -> PhononDensityOfStates:  # noqa: ARG002
        """Read the standardised spectrum of one row.

        Raises:
            SpectrumError: no usable spectrum.
        """
        frequencies = cells[self.frequencies].astype(np.float64) * CM1[self.unit]
        return PhononDensityOfStates(frequencies, cells[self.densities]).standardised()


class PhononDosModality(SpectrumModality[PhononDensityOfStates]):
    """A batch holds `dos` (n, points) float32: states per frequency from −10 to 1010 cm⁻¹, of maximum 1."""

    name: ClassVar[str] = "phonon_dos"
    label: ClassVar[str] = "Phonon density of states"
    columns: ClassVar[type[TableColumns] | None] = PhononDosColumns
    edges: ClassVar[NDArray[np.float64]] = EDGES

    class Settings(SpectrumModality.Settings):
        """Settings of the network's input."""

        points: int = Field(default=51, ge=2, le=4096)
        """Bins between −10 and 1010 cm⁻¹."""
        scale: Literal["linear", "sqrt", "log1p"] = "sqrt"
        """Function applied to the density; the root shows weak bands beside the strongest."""
        max_shift: float = Field(default=5.0, ge=0)
        """cm⁻¹; largest random shift of the frequencies in training."""
        max_width: float = Field(default=10.0, ge=0)
        """cm⁻¹; largest random Gaussian broadening in training."""

    settings: Settings

    @classmethod
    def column_type(cls) -> pa.StructType:
        """The standardised spectrum."""
        import pyarrow as pa

        return pa.struct([("densities", pa.list_(pa.float32()))])

    @classmethod
    def to_column(cls, value: PhononDensityOfStates) -> Mapping[str, Any]:
        """Store the standardised spectrum, whatever its original grid."""
        return {"densities": value.standardised().densities.astype(np.float32)}

    @classmethod
    def from_column(cls, scalar: pa.StructScalar) -> PhononDensityOfStates:
        """The standardised spectrum."""
        densities = scalar["densities"].values.to_numpy(zero_copy_only=False)
        return PhononDensityOfStates(GRID, densities.astype(np.float64))

    def curve(self, value: PhononDensityOfStates) -> NDArray[np.float64]:
        """(51,) states per frequency.

        Raises:
            SpectrumError: no states in the window.
        """
        return value.standardised().densities
