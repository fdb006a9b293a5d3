"""The names that a filter may use, and what stands behind each in a segment."""

from __future__ import annotations

import difflib
import functools
import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from crystalign.config import Config
from crystalign.crystal import SYMBOLS
from crystalign.errors import QueryError
from crystalign.properties import PropertySpec

ELEMENT_COLUMNS = ("elements_low", "elements_high")
"""uint64 columns: bit Z of the first for Z < 64, bit Z − 64 of the second for the others."""
PREFIX = "_crystalign_"

_WORD = 64
_NEAR = 6


class Field(Config):
    """One name that a filter may use."""

    name: str
    """As filters write it."""
    column: str
    """The column of a segment that holds it; where `constant` is given, a name of its own."""
    type: Literal["float", "integer", "string", "elements"]
    label: str
    """For people, unit included."""
    unit: str = ""
    text: Literal["plain", "formula", "anonymous", "chemsys"] = "plain"
    """How the strings that it is compared with are written in one way only."""
    constant: int | None = None
    """Its value, where every row has the same."""


Fields = dict[str, Field]
"""Every accepted name; several names may mean one column."""

_FORMULA, _ANONYMOUS, _CHEMSYS = "chemical_formula_reduced", "chemical_formula_anonymous", f"{PREFIX}chemsys"
_STANDARD = (
    Field(name="id", column="id", type="string", label="Id"),
    Field(name="elements", column="elements_low", type="elements", label="Elements"),
    Field(name="nelements", column="nelements", type="integer", label="Number of elements"),
    Field(name="nsites", column="n_sites", type="integer", label="Sites in the cell"),
    Field(name=_FORMULA, column="formula", type="string", label="Reduced formula", text="formula"),
    Field(name=_ANONYMOUS, column="formula_anonymous", type="string", label="Anonymous formula", text="anonymous"),
    Field(name="nperiodic_dimensions", column="periodic", type="integer", label="Periodic dimensions", constant=3),
    Field(name="space_group_it_number", column="spacegroup_number", type="integer", label="Space group number"),
    Field(name=_CHEMSYS, column="chemsys", type="string", label="Chemical system", text="chemsys"),
    Field(name=f"{PREFIX}prototype", column="prototype", type="string", label="Prototype"),
    Field(name=f"{PREFIX}source", column="source", type="string", label="Source"),
    Field(name=f"{PREFIX}licence", column="licence", type="string", label="Licence"),
    Field(name=f"{PREFIX}remarks", column="remarks", type="string", label="Remarks on the structure"),
)


def listed_fields(properties: Sequence[PropertySpec]) -> list[Field]:
    """One field per column, under the shortest name that is unique: what an API lists."""
    shortest: dict[str, Field] = {}
    for field in make_fields(properties).values():
        known = shortest.get(field.column)
        if known is None or len(field.name) < len(known.name):
            shortest[field.column] = field
    return list(shortest.values())


def make_fields(properties: Sequence[PropertySpec]) -> Fields:
    """Every accepted name: OPTIMADE's own, and `_crystalign_` ones for the rest.

    A property answers to its column's full name and to each shorter one, quantity first
    (`band_gap`, `band_gap_pbe`, …), that no other property shares.
    """
    fields = {field.name: field for field in _STANDARD}
    for name, specs in _names(properties).items():
        if len(specs) == 1 and name not in fields:
            unit = specs[0].quantity.unit
            fields[name] = Field(name=name, column=specs[0].column, type="float", label=specs[0].label, unit=unit)
    return fields


def find_field(name: str, fields: Mapping[str, Field]) -> Field | None:
    """The field of that name; None for a name with another provider's prefix, whose value is unknown here.

    Raises:
        QueryError: the name is neither; the message names near ones.
    """
    if name in fields:
        return fields[name]
    if re.match(r"_[a-z0-9]+_", name) and not name.startswith(PREFIX):
        return None
    near = sorted(known for known in fields if known.startswith(name)) if name != PREFIX else []
    near = near or difflib.get_close_matches(name, fields, n=_NEAR, cutoff=0.7)
    hint = f"Did you mean {' or '.join(near)}?" if near else f"The fields are {', '.join(sorted(fields))}."
    message = f"no field {name!r} to filter by. {hint}"
    raise QueryError(message, reason="unknown-field")


def order_remark(field: Field, comparison: str, text: str) -> str:
    """What to know where a piece of a formula or a chemical system is looked for: the order that these are stored in.

    Args:
        field: that is compared.
        comparison: `CONTAINS`, `STARTS WITH` or `ENDS WITH`.
        text: the piece.
    """
    if field.text not in {"formula", "chemsys"} or not text:
        return ""
    stored = "O2Ti for TiO2" if field.text == "formula" else "O-Ti for Ti-O"
    found = re.findall(r"[A-Z][a-z]?", text)
    symbols = sorted({symbol for symbol in found if symbol in SYMBOLS[1:]})
    quoted = ",".join(f'"{symbol}"' for symbol in symbols[:_NEAR])
    instead = f"; to ask for elements, write elements HAS ALL {quoted}" if quoted else ""
    return (
        f"{field.name} {comparison} {text[:40]!r} is compared letter by letter, and the elements are stored "
        f"in alphabetical order, as in {stored}{instead}"
    )


def element_bits(atomic_numbers: Iterable[int]) -> tuple[int, int]:
    """The presence bitmap of a set of elements, as its two 64-bit words."""
    bits = functools.reduce(operator.or_, (1 << z for z in atomic_numbers), 0)
    return bits & (2**_WORD - 1), bits >> _WORD


def _names(properties: Sequence[PropertySpec]) -> dict[str, list[PropertySpec]]:
    names: dict[str, list[PropertySpec]] = {}
    for spec in properties:
        short = [spec.model_copy(update=dict.fromkeys(("method", "source", "vintage")[n:], "")) for n in range(4)]
        for name in dict.fromkeys(PREFIX + s.column for s in short):
            names.setdefault(name, []).append(spec)
    return names
