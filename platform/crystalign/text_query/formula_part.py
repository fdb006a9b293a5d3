"""`understand_formula`: the condition of a query by formula."""

from __future__ import annotations

from collections.abc import Collection

from crystalign.crystal import pretty_formula
from crystalign.errors import InputError
from crystalign.formula import read_formula
from crystalign.index.filter_fields import Fields
from crystalign.text_query.chips import Chip, Understanding


def understand_formula(text: str, fields: Fields, *, ignore: Collection[str] = ()) -> Understanding:  # noqa: ARG001
    """Crystals of this formula first, then the others.

    Args:
        text: a formula; a text that is none is not interpreted.
        fields: the fields of the index; all indexes have the formula.
        ignore: `text`, if the person removed the chip.
    """
    if text in ignore:
        return Understanding(text, (), "")
    try:
        reduced = read_formula(text).reduced
    except InputError:
        return Understanding(text, (), "")
    condition = f'chemical_formula_reduced="{reduced}"'
    chip = Chip(text, "formula", f"formula {pretty_formula(reduced)}", condition, strict=False)
    return Understanding(text, (chip,), "")
