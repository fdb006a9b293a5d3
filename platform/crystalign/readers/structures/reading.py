"""Result of a structure reader: a crystal, remarks about it, and contradictions with its own file.

A structure enters a dataset only if it agrees with all statements of its file. A disagreement is an
`Objection`: the structure is refused, unless the user accepts that kind of objection by its reason
(`crystalign ingest --accept REASON`), and then the row carries it as a remark.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from crystalign.crystal import Crystal
from crystalign.errors import CrystalError

OBJECTIONS = {
    "composition-disagrees": "the sites and the stated formula differ by more than hydrogen",
    "formula-not-understood": "the stated formula cannot be read, so nothing compares the sites with it",
    "multiplicity-disagrees": "the operations make another number of images of a site than the file states",
    "z-disagrees": "the cell holds another number of formula units than stated",
    "volume-disagrees": "the cell has another volume than stated",
    "density-disagrees": "the cell has another density than stated",
    "symmetry-disagrees": "operations, names and numbers do not mean one space group in one setting",
    "setting-assumed": "only a space group number is stated, and other settings than the standard one fit the cell",
    "symmetry-missing": "no symmetry is stated, and nothing else shows that the cell is complete",
    "sites-without-coordinates": "a site other than hydrogen has no coordinates",
    "occupancy-above-one": "a site is occupied more than once",
}
"""Reason → meaning: all values that `--accept` takes."""


class Objection(NamedTuple):
    """A contradiction between a structure and its file."""

    reason: str
    """One of `OBJECTIONS`."""
    message: str
    """Message with both values and what to do."""


class Reading(NamedTuple):
    """One structure of a file."""

    crystal: Crystal
    remarks: tuple[str, ...] = ()
    """Remarks for the user, e.g. that hydrogen is missing."""
    objections: tuple[Objection, ...] = ()
    """Contradictions for which it should be refused."""

    def accepted(self, accept: Collection[str] = ()) -> Reading:
        """The reading without objections: those in `accept` become remarks.

        Raises:
            CrystalError: an objection is not accepted; the message lists all of them.
        """
        refused = [objection for objection in self.objections if objection.reason not in accept]
        if refused:
            raise CrystalError("; ".join(objection.message for objection in refused), reason=refused[0].reason)
        new_remarks = tuple(f"{objection.reason}: {objection.message}" for objection in self.objections)
        return Reading(self.crystal, (*self.remarks, *new_remarks))
