"""Base of the modalities that are vectors of fixed length."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from crystalign.config import Config
from crystalign.crystal import Crystal
from crystalign.errors import InputError
from crystalign.modalities.modality import Cells, Features, Inputs, Modality, TableColumns

if TYPE_CHECKING:
    import pyarrow as pa

    from crystalign.material import Material

MAX_WIDTH = 65_536
"""Largest length of a vector."""


@dataclass(frozen=True, slots=True, eq=False)
class Vector:
    """Vector of numbers in a fixed order.

    Raises:
        InputError: the shape is not (W,), a number is infinite, or all are NaN.
    """

    values: NDArray[np.float32]
    """(W,); NaN for an unknown number."""

    def __post_init__(self) -> None:
        """Check shape and values."""
        with np.errstate(over="ignore"):
            values = np.asarray(self.values, np.float64).astype(np.float32)
        if values.ndim != 1 or not 1 <= len(values) <= MAX_WIDTH:
            message = f"the vector has shape {values.shape}; expected (W,) with 1 <= W <= {MAX_WIDTH:,}"
            raise InputError(message, reason="bad-shape")
        if np.isinf(values).any():
            message = f"number {int(np.isinf(values).argmax())} is infinite in single precision; NaN means not known"
            raise InputError(message, reason="infinite")
        if np.isnan(values).all():
            message = f"all {len(values)} numbers are NaN; leave the vector out where nothing is known"
            raise InputError(message, reason="nan")
        object.__setattr__(self, "values", values)


class VectorColumns(TableColumns):
    """Column of a vector in a table."""

    values: str
    """Column of W numbers; NaN for an unknown one."""

    @property
    def names(self) -> tuple[str, ...]:
        """Name of the column."""
        return (self.values,)

    def read(self, cells: Cells, crystal: Crystal) -> Vector:  # noqa: ARG002 (the protocol)
        """Read the vector of one row.

        Raises:
            InputError: the cell is not a vector.
        """
        return Vector(cells[self.values])


class VectorSettings(Config):
    """Settings of the conversion to tensors."""

    width: int = Field(ge=1, le=MAX_WIDTH)
    """Length W of the vector; another length is refused."""
    squash: bool = False
    """Whether to apply asinh to each number, which is linear for small and logarithmic for large numbers."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Probability of masking each number in training, so that the model uses all numbers and does not identify a
    material by a few of them."""


S = TypeVar("S", bound=VectorSettings)


class VectorModality(Modality[Vector], Generic[S]):
    """A batch holds `values` (n, W) float32, zero where not known, and `mask` (n, W) float32, 1 where known."""

    columns: ClassVar[type[TableColumns] | None] = VectorColumns

    settings: S

    @classmethod
    def column_type(cls) -> pa.StructType:
        """Arrow type: a list of numbers."""
        import pyarrow as pa

        return pa.struct([("width", pa.int32()), ("values", pa.list_(pa.float32()))])

    @classmethod
    def to_column(cls, value: Vector) -> Mapping[str, Any]:
        """Store the numbers unchanged."""
        return {"width": len(value.values), "values": value.values}

    @classmethod
    def from_column(cls, scalar: pa.StructScalar) -> Vector:
        """Read the numbers unchanged."""
        return Vector(scalar["values"].values.to_numpy(zero_copy_only=False))

    def featurise(self, value: Vector, *, rng: np.random.Generator | None = None) -> Features:
        """Return the known numbers; with `rng`, a random subset of at least one.

        Raises:
            InputError: the vector has another length.
        """
        if len(value.values) != self.settings.width:
            message = (
                f"a {self.name} vector of {len(value.values)} numbers, expected {self.settings.width}: set `width`"
            )
            raise InputError(message, reason="bad-width")
        mask = np.isfinite(value.values)
        if rng is not None and self.settings.dropout > 0:
            keep = rng.random(len(mask)) >= self.settings.dropout
            keep[rng.choice(np.flatnonzero(mask))] = True
            mask &= keep
        values = np.where(mask, value.values, np.float32(0.0))
        return {"values": np.arcsinh(values) if self.settings.squash else values, "mask": mask.astype(np.float32)}

    def collate(self, samples: Sequence[Features]) -> Inputs:
        """Stack the vectors."""
        import torch

        return {name: torch.from_numpy(np.stack([s[name] for s in samples])) for name in ("values", "mask")}

    def empty_sample(self) -> Features:
        """Return zeros."""
        return self.featurise(Vector(np.zeros(self.settings.width, np.float32)))

    @classmethod
    def equivalence(cls, material: Material) -> str:
        """Return a hash of the numbers rounded to four decimals as key."""
        vector: Vector | None = material.value(cls.name)
        if vector is None:
            return material.id
        # an irrational offset keeps exact values away from rounding boundaries; NaN becomes a special number
        numbers = np.nan_to_num(vector.values.astype(np.float64), nan=-1e9)
        return hashlib.blake2b(np.floor(numbers / 1e-4 + 0.31831).tobytes(), digest_size=16).hexdigest()
