"""`Material`: a crystal with its other modalities, properties and provenance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from crystalign.crystal import Crystal
from crystalign.properties import PropertySpec

HYPOTHETICAL = "hypothetical"
"""Column of `Provenance.hypothetical`; a file without hypothetical rows has no such column."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """The origin of a row, and its licence."""

    source: str
    """Database or calculation, e.g. `materials_project`."""
    licence: str
    """SPDX identifier, e.g. `CC-BY-4.0`; models, indexes and exports list the licences of their rows."""
    vintage: str = ""
    """Release or date of the source; labels are trained only with structures of the same vintage."""
    reference: str = ""
    """Reference to the entry: file name, URL or DOI."""
    hypothetical: bool = False
    """Whether a program made the crystal up: it was neither measured nor relaxed. Searches leave it out by default."""


@dataclass(frozen=True, slots=True)
class Material:
    """One row of a dataset."""

    id: str
    """Id, unique in the dataset."""
    crystal: Crystal
    """The crystal structure; every material has one."""
    provenance: Provenance
    """Source, licence and vintage."""
    modalities: Mapping[str, Any] = field(default_factory=dict)
    """Modality → value, for the modalities that are known, without the crystal."""
    properties: Mapping[PropertySpec, float] = field(default_factory=dict)
    """Scalar properties, each under (quantity, method, source, vintage)."""
    spacegroup_number: int | None = None
    """Space group, 1 to 230, at the tolerance `crystalign.physics.symmetry.SYMPREC`; None if not determined."""
    prototype: str | None = None
    """Anonymous formula, space group and Wyckoff letters, e.g. `AB:225:a.b`."""
    structure_group: str | None = None
    """Id that represents all materials of the dataset with the same structure; None if they were not compared."""
    remarks: tuple[str, ...] = ()
    """Remarks for users of the structure, e.g. that the positions of hydrogen are missing."""

    @property
    def structure(self) -> str:
        """Key of the structure; equal for materials with the same structure, if they were compared."""
        return self.id if self.structure_group is None else self.structure_group

    def value(self, modality: str) -> Any | None:
        """The value of a modality, the crystal included; None if it is not known."""
        return self.crystal if modality == "crystal" else self.modalities.get(modality)
