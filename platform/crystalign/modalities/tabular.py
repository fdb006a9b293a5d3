"""Tabular descriptors of composition and structure, or the embedding of another network."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from crystalign.modalities.vector import MAX_WIDTH, VectorModality, VectorSettings
from crystalign.physics.descriptors import WIDTH


class TabularModality(VectorModality["TabularModality.Settings"]):
    """Vector of descriptors of a material; by default those of `crystalign.physics.descriptors`."""

    name: ClassVar[str] = "tabular"
    label: ClassVar[str] = "Descriptors"
    derived_by: ClassVar[str | None] = "crystalign.derivation:tabular_of"

    class Settings(VectorSettings):
        """Settings of the conversion to tensors."""

        width: int = Field(default=WIDTH, ge=1, le=MAX_WIDTH)
        """Length W of the vector; another length is refused."""
        squash: bool = True
        """Whether to apply asinh to each number, which is linear for small and logarithmic for large numbers."""
