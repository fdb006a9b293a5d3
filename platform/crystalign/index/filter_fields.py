"""The field names that a filter may use, and the column of a segment that each refers to."""

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
from crystalign.material import HYPOTHETICAL
from crystalign.properties import PredictedProperty, PropertySpec

ELEMENT_COLUMNS = ("elements_low", "elements_high")
"""uint64 columns of the element bitmap: bit Z of the first for Z < 64, bit Z − 64 of the second for Z ≥ 64."""
PREFIX = "_crystalign_"

_WORD = 64
_NEAR = 6


class Field(Config):
    """One name that a filter may use."""

    name: str
    """The name in filters."""
    column: str
    """The column of a segment that holds the values; a name of its own if `constant` is given."""
    type: Literal["float", "integer", "string", "boolean", "elements", "keywords"]
    """Type of the values."""
    label: str
    """Label for people, with the unit."""
    unit: str = ""
    """Unit of the values."""
    text: Literal["plain", "formula", "anonymous", "chemsys"] = "plain"
    """How strings are normalised before they are compared."""
    part: Literal["value", "probability", "lower", "upper", "out_of_domain"] = "value"
    """For a prediction: what the number is. Only a value is a value of the quantity that the name states."""
    constant: int | None = None
    """The value, if it is the same in every row."""


Fields = dict[str, Field]
"""Accepted name → field; several names may refer to one column."""

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


KEYWORDS, DENSITY = f"{PREFIX}keywords", f"{PREFIX}density"
_OF_TEXT = (
    Field(name=KEYWORDS, column="keywords", type="keywords", label="Classes, structure types, names, dimensionality"),
    Field(name=DENSITY, column="density", type="float", label="Density (g/cm³)", unit="g/cm³"),
)
"""Fields of an index whose dataset has captions with facts."""
_OF_HYPOTHETICAL = Field(
    name=f"{PREFIX}{HYPOTHETICAL}",
    column=HYPOTHETICAL,
    type="boolean",
    label="Hypothetical, neither measured nor relaxed",
)
"""Field of an index with hypothetical rows."""


def listed_fields(properties: Sequence[PropertySpec], *, has_facts: bool = False) -> list[Field]:
    """`shortest_names` of the fields of an index with these properties."""
    return shortest_names(make_fields(properties, has_facts=has_facts))


def shortest_names(fields: Fields) -> list[Field]:
    """One field per column, under its shortest unique name, as listed by the API."""
    shortest: dict[str, Field] = {}
    for field in fields.values():
        previous = shortest.get(field.column)
        if previous is None or len(field.name) < len(previous.name):
            shortest[field.column] = field
    return list(shortest.values())


def make_fields(
    properties: Sequence[PropertySpec],
    *,
    has_facts: bool = False,
    has_hypothetical: bool = False,
    predictions: Sequence[PredictedProperty] = (),
) -> Fields:
    """All accepted names: those of OPTIMADE, and names with the prefix `_crystalign_` for the rest.

    A property can be named by its column's full name or by any shorter form (`band_gap`, `band_gap_pbe`, …) that is
    unique among the properties.

    Args:
        properties: property columns of the index.
        has_facts: whether the index has the columns that follow from captions with facts: keywords and density.
        has_hypothetical: whether rows of the index are hypothetical.
        predictions: predicted properties of the index.
    """
    more = [*(_OF_TEXT if has_facts else ()), *([_OF_HYPOTHETICAL] if has_hypothetical else [])]
    fields = {field.name: field for field in (*_STANDARD, *more)}
    for name, specs in _names(properties).items():
        if len(specs) == 1 and name not in fields:
            unit = specs[0].quantity.unit
            fields[name] = Field(name=name, column=specs[0].column, type="float", label=specs[0].label, unit=unit)
    return fields | _predicted_fields(predictions)


def _predicted_fields(predictions: Sequence[PredictedProperty]) -> Fields:
    """Four fields of each prediction, with short names as for properties: `_crystalign_predicted_band_gap_lower`."""
    by_target = {spec.target: spec for spec in predictions}
    labels = {"lower": "lower end", "upper": "upper end", "out_of_domain": "out-of-domain score"}
    fields: Fields = {}
    for name, targets in _names(list(by_target)).items():
        if len(targets) != 1:
            continue
        spec = by_target[targets[0]]
        for part, suffix in spec.suffixes.items():
            label = f"Predicted: {spec.label}" + (f", {labels[part]}" if part in labels else "")
            fields[f"{PREFIX}predicted_{name.removeprefix(PREFIX)}{suffix}"] = Field(
                name=f"{PREFIX}predicted_{name.removeprefix(PREFIX)}{suffix}",
                column=spec.columns[part],
                type="float",
                label=label,
                unit="" if part == "out_of_domain" else spec.unit,
                part="probability" if part == "value" and spec.classes else part,
            )
    return fields


def find_field(name: str, fields: Mapping[str, Field]) -> Field | None:
    """The field of a name; None for a name with another provider's prefix, whose value is unknown here.

    Raises:
        QueryError: there is no such field; the message suggests similar names.
    """
    if name in fields:
        return fields[name]
    if re.match(r"_[a-z0-9]+_", name) and not name.startswith(PREFIX):
        return None
    near = sorted(other for other in fields if other.startswith(name)) if name != PREFIX else []
    near = near or difflib.get_close_matches(name, fields, n=_NEAR, cutoff=0.7)
    hint = f"Did you mean {' or '.join(near)}?" if near else f"The fields are {', '.join(sorted(fields))}."
    raise QueryError(f"no field {name!r} to filter by. {hint}", reason="unknown-field")


def order_remark(field: Field, comparison: str, text: str) -> str:
    """A warning for substring searches in formulas and chemical systems: elements are stored alphabetically.

    Args:
        field: the field that is compared.
        comparison: `CONTAINS`, `STARTS WITH` or `ENDS WITH`.
        text: the substring.

    Returns:
        The warning; empty for other fields.
    """
    if field.text not in {"formula", "chemsys"} or not text:
        return ""
    stored = "O2Ti for TiO2" if field.text == "formula" else "O-Ti for Ti-O"
    candidates = re.findall(r"[A-Z][a-z]?", text)
    symbols = sorted({symbol for symbol in candidates if symbol in SYMBOLS[1:]})
    quoted = ",".join(f'"{symbol}"' for symbol in symbols[:_NEAR])
    instead = f"; to ask for elements, write elements HAS ALL {quoted}" if quoted else ""
    return (
        f"{field.name} {comparison} {text[:40]!r} is compared letter by letter, and the elements are stored "
        f"in alphabetical order, as in {stored}{instead}"
    )


def joined_keywords(keywords: Iterable[str]) -> str:
    """The keywords of a row as one string: `;class:oxide;type:rutile;`. Semicolons within a keyword become commas."""
    return "".join(f";{keyword.replace(';', ',')}" for keyword in keywords) + ";"


def element_bits(atomic_numbers: Iterable[int]) -> tuple[int, int]:
    """The bitmap of a set of elements as two 64-bit words; bit Z stands for atomic number Z."""
    bits = functools.reduce(operator.or_, (1 << z for z in atomic_numbers), 0)
    return bits & (2**_WORD - 1), bits >> _WORD


def _names(properties: Sequence[PropertySpec]) -> dict[str, list[PropertySpec]]:
    names: dict[str, list[PropertySpec]] = {}
    for spec in properties:
        short = [spec.model_copy(update=dict.fromkeys(("method", "source", "vintage")[n:], "")) for n in range(4)]
        for name in dict.fromkeys(PREFIX + s.column for s in short):
            names.setdefault(name, []).append(spec)
    return names
