"""`Material`: a crystal and whatever else is known about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from crystalign.crystal import Crystal
from crystalign.properties import PropertySpec


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a row comes from, and what may be done with it."""

    source: str
    """Database or calculation, e.g. `materials_project`."""
    licence: str
    """SPDX identifier, e.g. `CC-BY-4.0`; it follows the row into models, indexes and exports."""
    vintage: str = ""
    """Release or date of the source; labels train only with geometry of the same vintage."""
    reference: str = ""
    """Where to look the entry up: file name, URL or DOI."""


@dataclass(frozen=True, slots=True)
class Material:
    """One row of a dataset."""

    id: str
    """Unique in its dataset."""
    crystal: Crystal
    """The structure, the hub of every alignment."""
    provenance: Provenance
    """Source, licence and vintage."""
    modalities: Mapping[str, Any] = field(default_factory=dict)
    """Modality name → its value; what is not known is not there. The crystal is not repeated here."""
    properties: Mapping[PropertySpec, float] = field(default_factory=dict)
    """Scalar properties, each under (quantity, method, source, vintage)."""
    spacegroup_number: int | None = None
    """1 to 230 at `crystalign.physics.symmetry.SYMPREC`; None where it has not been determined."""
    prototype: str | None = None
    """Anonymous formula, space group and Wyckoff letters, e.g. `AB:225:a.b`."""
    structure_group: str | None = None
    """The id that stands for all materials of its dataset with the same structure; None where nobody has compared."""
    remarks: tuple[str, ...] = ()
    """What a user of the structure should know of it, e.g. that hydrogen has no sites."""

    @property
    def structure(self) -> str:
        """Key of the structure: equal for materials that were found to be the same crystal."""
        return self.id if self.structure_group is None else self.structure_group

    def value(self, modality: str) -> Any | None:
        """The value of a modality, the crystal included; None if it is not known."""
        return self.crystal if modality == "crystal" else self.modalities.get(modality)
