"""A row of a table: descriptors of composition and structure, or another network's embedding."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from crystalign.modalities.vector import MAX_WIDTH, VectorModality, VectorSettings
from crystalign.physics.descriptors import WIDTH


class TabularModality(VectorModality["TabularModality.Settings"]):
    """Numbers that describe a material; by default those of `crystalign.physics.descriptors`."""

    name: ClassVar[str] = "tabular"
    label: ClassVar[str] = "Descriptors"
    derived_by: ClassVar[str | None] = "crystalign.derivation:tabular_of"

    class Settings(VectorSettings):
        """How a row becomes a tensor."""

        width: int = Field(default=WIDTH, ge=1, le=MAX_WIDTH)
        """Its length W; another length is refused."""
        squash: bool = True
        """Whether each number passes asinh, which keeps small ones and bends large ones to their logarithm."""
