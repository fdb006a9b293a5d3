"""Electron density on a voxel grid, in e/Å³."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crystalign.config import Config
from crystalign.crystal import Crystal
from crystalign.errors import DensityError, InputError
from crystalign.modalities.modality import Cells, Features, Inputs, Modality, TableColumns
from crystalign.physics.settings import best_setting, proper_rotations
from crystalign.physics.symmetry import standard_axes
from crystalign.physics.voxels import (
    coefficients_at,
    fourier_resample,
    grid_of,
    old_waves,
    random_placement,
    spectrum_of,
)

if TYPE_CHECKING:
    import pyarrow as pa


POINTS = 32
"""Points along each axis, on disk and in the network."""
MAX_POINTS = 1024
"""Largest number of points along one axis of a user's grid."""


@dataclass(frozen=True, slots=True, eq=False)
class ChargeDensity:
    """Electron density on a grid in fractional coordinates, the first point at the origin.

    Raises:
        DensityError: the shape is wrong, a value is NaN, or there is no charge.
    """

    rho: NDArray[np.float64]
    """(nx, ny, nz) e/Å³."""
    lattice: NDArray[np.float64]
    """(3, 3) Å, rows are vectors; the axes of `rho` run along them."""
    pseudo: bool = False
    """Whether it is a pseudo-density, which does not integrate to the number of electrons."""

    def __post_init__(self) -> None:
        """Check shapes and values."""
        rho, lattice = np.asarray(self.rho, np.float64), np.asarray(self.lattice, np.float64)
        if rho.ndim != 3 or min(rho.shape) < 2 or max(rho.shape) > MAX_POINTS:
            message = f"the grid is {rho.shape}; expected three axes of 2 to {MAX_POINTS} points"
            raise DensityError(message, reason="bad-shape")
        if lattice.shape != (3, 3) or not np.isfinite(lattice).all() or abs(np.linalg.det(lattice)) < 1e-3:
            message = f"lattice {lattice.tolist()} is not (3, 3), not finite or spans no volume"
            raise DensityError(message, reason="bad-lattice")
        if not np.isfinite(rho).all():
            message = f"{int((~np.isfinite(rho)).sum())} values of the density are not finite numbers"
            raise DensityError(message, reason="nan")
        if rho.mean() <= 0:
            message = f"the mean density is {rho.mean():.3g} e/Å³; it must be positive"
            raise DensityError(message, reason="no-charge")
        object.__setattr__(self, "rho", rho)
        object.__setattr__(self, "lattice", lattice)

    @classmethod
    def from_grid(
        cls,
        values: ArrayLike,
        lattice: ArrayLike,
        *,
        convention: Literal["rho", "rho_times_volume"],
        pseudo: bool = False,
    ) -> Self:
        """Make a density from either convention: ρ in e/Å³, or CHGCAR's ρ · V_cell in electrons.

        Args:
            values: (nx, ny, nz).
            lattice: (3, 3) Å, rows are vectors.
            convention: meaning of `values`.
            pseudo: whether it is a pseudo-density.
        """
        cell = np.asarray(lattice, np.float64)
        rho = np.asarray(values, np.float64)
        if convention == "rho_times_volume":
            rho = rho / abs(np.linalg.det(cell))
        return cls(rho, cell, pseudo)

    def standardised(self, crystal: Crystal) -> ChargeDensity:
        """Return the density in the primitive standard cell of its crystal, on 32³ points.

        A supercell, other lattice vectors, another origin or another orientation of the same crystal give the same
        voxels within the resolution of the source's grid, in every space group. The origin is an atom of the rarest
        element; among equivalent atoms and axes the density decides (`best_setting`). Fourier components that the
        primitive translations forbid are dropped; they are noise unless the density has a larger period than the
        atoms.
         The new a lies along x, b in the plane of x and y.

        Args:
            crystal: the atoms, in this density's cell.

        Raises:
            CrystalError: no symmetry can be found.
        """
        axes, spectrum = standard_axes(crystal), spectrum_of(self.rho)
        inverse = old_waves(axes.linear)
        turns = proper_rotations(axes.lattice)
        turn, origin = best_setting(turns, axes.origins, lambda waves: coefficients_at(spectrum, waves @ inverse))
        linear = axes.linear @ turn.T
        rows = linear.T @ self.lattice
        lattice: NDArray[np.float64] = np.linalg.cholesky(rows @ rows.T).astype(np.float64)
        return ChargeDensity(grid_of(spectrum, linear, POINTS, axes.linear @ origin), lattice, self.pseudo)

    @property
    def n_electrons(self) -> float:
        """∫ρ dV over the cell: mean(ρ) · V."""
        return float(self.rho.mean() * abs(np.linalg.det(self.lattice)))


class ChargeDensityColumns(TableColumns):
    """Columns and convention of a charge density in a table."""

    values: str
    """Column of nx·ny·nz values in C order."""
    shape: tuple[int, int, int]
    """(nx, ny, nz) along a, b, c."""
    convention: Literal["rho", "rho_times_volume"]
    """`rho`: electrons/Å³. `rho_times_volume`: CHGCAR's ρ·V."""
    pseudo: bool
    """Whether augmentation charges are missing, so that the density does not integrate to the number of electrons."""

    @property
    def names(self) -> tuple[str, ...]:
        """Name of the column."""
        return (self.values,)

    def read(self, cells: Cells, crystal: Crystal) -> ChargeDensity:
        """Read the density of one row in the standard cell.

        Raises:
            DensityError: no usable density.
            CrystalError: no symmetry can be found.
        """
        rho = cells[self.values].astype(np.float64)
        if rho.size != math.prod(self.shape):
            message = f"the charge density has {rho.size} values; expected {self.shape}"
            raise DensityError(message, reason="bad-grid")
        grid = rho.reshape(self.shape)
        density = ChargeDensity.from_grid(grid, crystal.lattice, convention=self.convention, pseudo=self.pseudo)
        return density.standardised(crystal)


def parse_chgcar(source: Path | bytes) -> tuple[Crystal, ChargeDensity]:
    """Parse the structure and the total density of a VASP CHGCAR.

    Raises:
        DensityError: the file is not a CHGCAR, or is truncated.
    """
    import warnings

    from pymatgen.io.vasp.outputs import Chgcar

    from crystalign.readers.structures.vasp import structure_of_chgcar

    # pymatgen reads only the grid: if the header names no elements, it assumes H, He, …
    try:
        crystal = structure_of_chgcar(source if isinstance(source, bytes) else source.read_bytes(), "CHGCAR")
    except InputError as error:
        raise DensityError(f"not a readable CHGCAR: {error}", reason="unreadable-chgcar") from error
    try:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pymatgen warns about its guesses
            path = Path(folder) / "CHGCAR"
            if isinstance(source, bytes):
                path.write_bytes(source)
            values = Chgcar.from_file(str(path if isinstance(source, bytes) else source)).data["total"]
    except Exception as error:  # pymatgen's parser may raise anything
        message = f"not a readable CHGCAR: {type(error).__name__}: {str(error)[:200]}"
        raise DensityError(message, reason="unreadable-chgcar") from error
    return crystal, ChargeDensity.from_grid(values, crystal.lattice, convention="rho_times_volume")


class ChargeDensityModality(Modality[ChargeDensity]):
    """A batch holds `rho` (n, 1, 32, 32, 32) float32, log(1 + ρ / mean ρ), and `lattice` (n, 3, 3) float32 in Å."""

    name: ClassVar[str] = "charge_density"
    label: ClassVar[str] = "Charge density"
    stored_since: ClassVar[int] = 3
    seen_since: ClassVar[int] = 2
    sibling: ClassVar[bool] = True
    columns: ClassVar[type[TableColumns] | None] = ChargeDensityColumns

    class Settings(Config):
        """Augmentation settings."""

        random_placement: bool = True
        """Augment in training: random origin, and axes changed by a random operation of the lattice's point group."""

    settings: Settings

    @classmethod
    def column_type(cls) -> pa.StructType:
        """ρ / `scale` as half precision bytes (C order, 32³), `scale` in e/Å³, the lattice."""
        import pyarrow as pa

        return pa.struct(
            [
                ("rho", pa.binary()),
                ("scale", pa.float64()),
                ("lattice", pa.list_(pa.float64())),
                ("pseudo", pa.bool_()),
            ]
        )

    @classmethod
    def to_column(cls, value: ChargeDensity) -> Mapping[str, Any]:
        """Resample to 32³ by Fourier interpolation and scale into the range of half precision."""
        rho = fourier_resample(value.rho, POINTS)
        scale = float(np.abs(rho).max())
        return {
            "rho": (rho / scale).astype("<f2").tobytes(),
            "scale": scale,
            "lattice": value.lattice.ravel(),
            "pseudo": value.pseudo,
        }

    @classmethod
    def from_column(cls, scalar: pa.StructScalar) -> ChargeDensity:
        """Read the density on 32³ points, with three significant digits."""
        half = np.frombuffer(scalar["rho"].as_py(), "<f2").reshape(POINTS, POINTS, POINTS)
        lattice = scalar["lattice"].values.to_numpy(zero_copy_only=False).reshape(3, 3)
        return ChargeDensity(half.astype(np.float64) * scalar["scale"].as_py(), lattice, scalar["pseudo"].as_py())

    def featurise(self, value: ChargeDensity, *, rng: np.random.Generator | None = None) -> Features:
        """Featurise one grid; with `rng`, from a random origin and along equivalent axes of the lattice."""
        rho, lattice = fourier_resample(value.rho, POINTS), value.lattice
        if rng is not None and self.settings.random_placement:
            rho, lattice = random_placement(rho, lattice, rng)
        scaled = np.log1p(np.maximum(rho, 0.0) / rho.mean())
        return {"rho": scaled.astype(np.float32)[None], "lattice": lattice.astype(np.float32)}

    def collate(self, samples: Sequence[Features]) -> Inputs:
        """Stack the grids."""
        import torch

        return {name: torch.from_numpy(np.stack([s[name] for s in samples])) for name in ("rho", "lattice")}

    def empty_sample(self) -> Features:
        """Return a uniform electron gas."""
        cube = ChargeDensity(np.ones((POINTS, POINTS, POINTS)), 4.0 * np.eye(3))
        return self.featurise(cube)
