"""What vectors of fixed length share, whatever their numbers mean."""

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
"""Numbers of a vector."""


@dataclass(frozen=True, slots=True, eq=False)
class Vector:
    """Numbers in a fixed order.

    Raises:
        InputError: not (W,), infinite, or nothing known.
    """

    values: NDArray[np.float32]
    """(W,); NaN where a number is not known."""

    def __post_init__(self) -> None:
        """Refuse what is no vector."""
        with np.errstate(over="ignore"):
            values = np.asarray(self.values, np.float64).astype(np.float32)
        if values.ndim != 1 or not 1 <= len(values) <= MAX_WIDTH:
            message = f"an array of shape {values.shape}; expected (W,) with 1 <= W <= {MAX_WIDTH:,}"
            raise InputError(message, reason="bad-shape")
        if np.isinf(values).any():
            message = f"number {int(np.isinf(values).argmax())} is infinite in single precision; NaN means not known"
            raise InputError(message, reason="infinite")
        if np.isnan(values).all():
            message = f"all {len(values)} numbers are NaN; leave the vector out where nothing is known"
            raise InputError(message, reason="nan")
        object.__setattr__(self, "values", values)


class VectorColumns(TableColumns):
    """Where a vector is in a table."""

    values: str
    """Column of W numbers; NaN where one is not known."""

    @property
    def names(self) -> tuple[str, ...]:
        """The column."""
        return (self.values,)

    def read(self, cells: Cells, crystal: Crystal) -> Vector:  # noqa: ARG002 (the protocol)
        """As it is.

        Raises:
            InputError: not a vector.
        """
        return Vector(cells[self.values])


class VectorSettings(Config):
    """How a vector becomes a tensor."""

    width: int = Field(ge=1, le=MAX_WIDTH)
    """Its length W; another length is refused."""
    squash: bool = False
    """Whether each number passes asinh, which keeps small ones and bends large ones to their logarithm."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Probability with which training hides each number, so that a few of them do not tell one material from all others
    and every number is learned from."""


S = TypeVar("S", bound=VectorSettings)


class VectorModality(Modality[Vector], Generic[S]):
    """A batch holds `values` (n, W) float32, zero where not known, and `mask` (n, W) float32, 1 where known."""

    columns: ClassVar[type[TableColumns] | None] = VectorColumns

    settings: S

    @classmethod
    def column_type(cls) -> pa.StructType:
        """The numbers, and how many."""
        import pyarrow as pa

        return pa.struct([("width", pa.int32()), ("values", pa.list_(pa.float32()))])

    @classmethod
    def to_column(cls, value: Vector) -> Mapping[str, Any]:
        """As they are."""
        return {"width": len(value.values), "values": value.values}

    @classmethod
    def from_column(cls, scalar: pa.StructScalar) -> Vector:
        """As they were."""
        return Vector(scalar["values"].values.to_numpy(zero_copy_only=False))

    def featurise(self, value: Vector, *, rng: np.random.Generator | None = None) -> Features:
        """The known numbers; with `rng`, some of them, at least one.

        Raises:
            InputError: a vector of another length.
        """
        if len(value.values) != self.settings.width:
            message = (
                f"a {self.name} vector of {len(value.values)} numbers, expected {self.settings.width}: set `width`"
            )
            raise InputError(message, reason="bad-width")
        known = np.isfinite(value.values)
        if rng is not None and self.settings.dropout > 0:
            keep = rng.random(len(known)) >= self.settings.dropout
            keep[rng.choice(np.flatnonzero(known))] = True
            known &= keep
        values = np.where(known, value.values, np.float32(0.0))
        return {"values": np.arcsinh(values) if self.settings.squash else values, "mask": known.astype(np.float32)}

    def collate(self, samples: Sequence[Features]) -> Inputs:
        """Stack the vectors."""
        import torch

        return {name: torch.from_numpy(np.stack([s[name] for s in samples])) for name in ("values", "mask")}

    def empty_sample(self) -> Features:
        """Zeros."""
        return self.featurise(Vector(np.zeros(self.settings.width, np.float32)))

    @classmethod
    def equivalence(cls, material: Material) -> str:
        """The numbers to four digits after the point."""
        vector: Vector | None = material.value(cls.name)
        if vector is None:
            return material.id
        # an irrational offset keeps exact values away from the edges of rounding; NaN becomes a number of its own
        known = np.nan_to_num(vector.values.astype(np.float64), nan=-1e9)
        return hashlib.blake2b(np.floor(known / 1e-4 + 0.31831).tobytes(), digest_size=16).hexdigest()
