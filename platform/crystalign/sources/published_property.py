"""A property as a database publishes it: under which name, and whether its value is that of a cell or of an atom."""

from __future__ import annotations

from typing import NamedTuple

from crystalign.properties import PropertySpec, Quantity


class PublishedProperty(NamedTuple):
    """A field of an entry, or a column of a table."""

    name: str
    """Name of the field or column."""
    quantity: Quantity
    """What it is here."""
    per_cell: bool = False
    """Whether the published value is that of a cell; the quantity is per atom."""

    def spec(self, method: str, source: str, vintage: str) -> PropertySpec:
        """The property column that it becomes."""
        return PropertySpec(quantity=self.quantity, method=method, source=source, vintage=vintage)

    def value(self, published: float, sites: int) -> float:
        """The value in the unit of the quantity, from the published one and the number of sites of the cell."""
        return published / sites if self.per_cell else published
