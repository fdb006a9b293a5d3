"""Composition: the elements of a material and their fractions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from crystalign.config import Config
from crystalign.crystal import MAX_ATOMIC_NUMBER, Crystal, pretty_formula
from crystalign.errors import InputError
from crystalign.formula import read_formula
from crystalign.modalities.modality import Features, Inputs, Modality
from crystalign.modalities.query import QueryExample, QueryField, QuerySpec

if TYPE_CHECKING:
    import pyarrow as pa

    from crystalign.material import Material


@dataclass(frozen=True, slots=True, eq=False)
class Composition:
    """Atomic fractions by element, in order of atomic number.

    Raises:
        InputError: an element is unknown, a fraction is not positive, or there is no element.
    """

    atomic_numbers: NDArray[np.uint8]
    """(M,) atomic numbers, 1 to 118, ascending and distinct."""
    fractions: NDArray[np.float64]
    """(M,) atomic fractions, summing to 1."""
    notices: tuple[str, ...] = ()
    """How an ambiguous formula was read."""

    def __post_init__(self) -> None:
        """Sort, normalise and check the fractions."""
        z, x = np.array(self.atomic_numbers), np.array(self.fractions, np.float64)
        if z.ndim != 1 or z.shape != x.shape or len(z) == 0 or len(np.unique(z)) != len(z):
            message = f"{z.tolist()} with fractions {x.tolist()} is not a list of different elements"
            raise InputError(message, reason="bad-composition")
        if not np.isfinite(x).all() or x.min() <= 0 or z.min() < 1 or z.max() > MAX_ATOMIC_NUMBER:
            message = (
                f"elements {z.tolist()} with fractions {x.tolist()}; expected 1 to {MAX_ATOMIC_NUMBER} and above 0"
            )
            raise InputError(message, reason="bad-composition")
        order = np.argsort(z)
        object.__setattr__(self, "atomic_numbers", z[order].astype(np.uint8))
        object.__setattr__(self, "fractions", x[order] / x.sum())

    @classmethod
    def of(cls, crystal: Crystal) -> Composition:
        """Return the composition of a crystal, mixed sites weighted by occupancy."""
        amounts = {z: x for z, x in crystal.composition.items() if x > 0}
        return cls(np.array(list(amounts), np.uint8), np.array(list(amounts.values())))


def parse_formula(formula: str) -> Composition:
    """`Fe2O3`, `Ca(OH)2`, `Li0.5CoO2`, `CuSO4·5H2O` → fractions; `crystalign.formula` describes the accepted formulas.

    Raises:
        InputError: the text is not a chemical formula, is ambiguous, or names an unknown element.
    """
    read = read_formula(formula)
    numbers, amounts = np.array(list(read.amounts)), np.array([float(x) for x in read.amounts.values()])
    return Composition(numbers, amounts, tuple(read.notes))


def _example(row: Mapping[str, Any]) -> QueryExample:
    formula = pretty_formula(row["formula"])
    return QueryExample(f"Crystals like {formula}", {"formula": formula})


_Formula = Annotated[str, Field(max_length=500)]
QUERY = QuerySpec(
    label="formula",
    fields=(
        QueryField(
            "formula",
            _Formula,
            "A chemical formula: a query by composition.",
            "A chemical formula, such as Fe2O3, CuSO4·5H2O or Li0.5CoO2; what has two readings is refused.",
        ),
        QueryField("composition", _Formula, "The same."),
    ),
    read=parse_formula,
    understand="crystalign.text_query.formula_part:understand_formula",
    held_out="crystalign.evaluation.held_out_queries:Formulas",
    example=_example,
)


class CompositionModality(Modality[Composition]):
    """A batch holds atomic numbers `z` (n, M) int64 and fractions `fraction` (n, M) float32, padded with zeros."""

    name: ClassVar[str] = "composition"
    label: ClassVar[str] = "Composition"
    derived_by: ClassVar[str | None] = "crystalign.derivation:composition_of"
    query: ClassVar[QuerySpec | None] = QUERY
    encodes_volume: ClassVar[bool] = False

    class Settings(Config):
        """No settings."""

    @classmethod
    def column_type(cls) -> pa.StructType:
        """Arrow type: elements and fractions."""
        import pyarrow as pa

        return pa.struct([("atomic_numbers", pa.list_(pa.uint8())), ("fractions", pa.list_(pa.float64()))])

    @classmethod
    def to_column(cls, value: Composition) -> Mapping[str, Any]:
        """Store elements and fractions unchanged."""
        return {"atomic_numbers": value.atomic_numbers, "fractions": value.fractions}

    @classmethod
    def from_column(cls, scalar: pa.StructScalar) -> Composition:
        """Read elements and fractions unchanged."""
        return Composition(
            scalar["atomic_numbers"].values.to_numpy(zero_copy_only=False),
            scalar["fractions"].values.to_numpy(zero_copy_only=False),
        )

    def featurise(self, value: Composition, *, rng: np.random.Generator | None = None) -> Features:  # noqa: ARG002 (the protocol)
        """Return elements and fractions; `rng` has no effect."""
        return {"z": value.atomic_numbers.astype(np.int64), "fraction": value.fractions.astype(np.float32)}

    def collate(self, samples: Sequence[Features]) -> Inputs:
        """Pad to the composition with most elements."""
        import torch

        width = max(len(s["z"]) for s in samples)
        z = np.zeros((len(samples), width), np.int64)
        fraction = np.zeros((len(samples), width), np.float32)
        for row, sample in enumerate(samples):
            z[row, : len(sample["z"])] = sample["z"]
            fraction[row, : len(sample["z"])] = sample["fraction"]
        return {"z": torch.from_numpy(z), "fraction": torch.from_numpy(fraction)}

    def empty_sample(self) -> Features:
        """Return pure copper."""
        return self.featurise(Composition(np.array([29]), np.array([1.0])))

    @classmethod
    def equivalence(cls, material: Material) -> str:
        """Return the reduced formula as key, because polymorphs share a composition."""
        return material.crystal.formula
