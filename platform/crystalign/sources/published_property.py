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
    only_size: bool = False
    """Whether the sign has no meaning: that of a total moment follows from the choice of axis."""

    def spec(self, method: str, source: str, vintage: str) -> PropertySpec:
        """The property column that it becomes."""
        return PropertySpec(quantity=self.quantity, method=method, source=source, vintage=vintage)

    def value(self, published: float, sites: int) -> float:
        """The value in the unit of the quantity, from the published one and the number of sites of the cell."""
        value = abs(published) if self.only_size else published
        return value / sites if self.per_cell else value
