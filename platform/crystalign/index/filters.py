"""OPTIMADE filters, compiled to pyarrow expressions over the columns of a segment.

`elements HAS ALL "Li","O" AND NOT elements HAS "Co" AND _crystalign_energy_above_hull<0.05`

The grammar is OPTIMADE 1.2 (https://specification.optimade.org, "Filtering"). A property that is
unknown satisfies no comparison, negated ones included: the logic has three values (Kleene's), which
is Arrow's. What a segment knows of the elements is a bitmap of two 64-bit columns, bit Z for the
element of atomic number Z, so that every `HAS` is one or two bitwise operations.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from crystalign.config import Config
from crystalign.crystal import SYMBOLS, reduced_formula
from crystalign.errors import QueryError
from crystalign.properties import PropertySpec

ELEMENT_COLUMNS = ("elements_low", "elements_high")
"""uint64 columns: bit Z of the first for Z < 64, bit Z − 64 of the second for the others."""
MAX_FILTER_LENGTH = 2000
MAX_FILTER_DEPTH = 32
PREFIX = "_crystalign_"

_WORD = 64
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "=": operator.eq,
    "!=": operator.ne,
}
_MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "=": "=", "!=": "!="}


class Field(Config):
    """One name that a filter may use."""

    name: str
    """As filters write it."""
    column: str
    """The column of a segment that holds it."""
    type: Literal["float", "integer", "string", "elements"]
    label: str
    """For people, unit included."""
    unit: str = ""


Fields = dict[str, Field]
"""Every accepted name; several names may mean one column."""

_STANDARD = (
    Field(name="id", column="id", type="string", label="Id"),
    Field(name="elements", column="elements_low", type="elements", label="Elements"),
    Field(name="nelements", column="nelements", type="integer", label="Number of elements"),
    Field(name="nsites", column="n_sites", type="integer", label="Sites in the cell"),
    Field(name="chemical_formula_reduced", column="formula", type="string", label="Reduced formula"),
    Field(name="space_group_it_number", column="spacegroup_number", type="integer", label="Space group number"),
    Field(name=f"{PREFIX}chemsys", column="chemsys", type="string", label="Chemical system"),
    Field(name=f"{PREFIX}prototype", column="prototype", type="string", label="Prototype"),
    Field(name=f"{PREFIX}source", column="source", type="string", label="Source"),
    Field(name=f"{PREFIX}licence", column="licence", type="string", label="Licence"),
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
        if len(specs) == 1:
            unit = specs[0].quantity.unit
            fields[name] = Field(name=name, column=specs[0].column, type="float", label=specs[0].label, unit=unit)
    return fields


def _names(properties: Sequence[PropertySpec]) -> dict[str, list[PropertySpec]]:
    names: dict[str, list[PropertySpec]] = {}
    for spec in properties:
        short = [spec.model_copy(update=dict.fromkeys(("method", "source", "vintage")[n:], "")) for n in range(4)]
        for name in dict.fromkeys(PREFIX + s.column for s in short):
            names.setdefault(name, []).append(spec)
    return names


def element_bits(atomic_numbers: Iterable[int]) -> tuple[int, int]:
    """The presence bitmap of a set of elements, as its two 64-bit words."""
    bits = functools.reduce(operator.or_, (1 << z for z in atomic_numbers), 0)
    return bits & (2**_WORD - 1), bits >> _WORD


def parse_filter(text: str, fields: Fields) -> pc.Expression:
    """The filter as a pyarrow expression over a segment's columns; null where it cannot be decided.

    Raises:
        QueryError: not OPTIMADE, an unknown field, an element or a type that does not fit.
    """
    if len(text) > MAX_FILTER_LENGTH:
        message = f"the filter has {len(text)} characters; the limit is {MAX_FILTER_LENGTH}"
        raise QueryError(message, reason="filter-too-long")
    if max(_depths(text), default=0) > MAX_FILTER_DEPTH:
        message = f"the filter nests more than {MAX_FILTER_DEPTH} parentheses"
        raise QueryError(message, reason="filter-too-deep")
    tree = _parse(text)
    if not tree.children:
        message = "the filter is empty; leave it out instead"
        raise QueryError(message, reason="bad-filter")
    return _compile(tree.children[0], fields)


def _depths(text: str) -> Iterable[int]:
    depth = 0
    for character in text:
        depth += (character == "(") - (character == ")")
        yield depth


@functools.cache
def _grammar() -> Any:
    from optimade.filterparser import LarkParser

    return LarkParser(version=(1, 2, 0)).lark


def _parse(text: str) -> Any:
    from lark.exceptions import LarkError, UnexpectedInput

    try:
        return _grammar().parse(text)
    except UnexpectedInput as error:
        column = getattr(error, "column", -1)
        context = error.get_context(text).rstrip() if isinstance(column, int) and column > 0 else text
        message = f"not an OPTIMADE filter (its strings stand in double quotes):\n{context}"
        raise QueryError(message, reason="bad-filter") from error
    except LarkError as error:
        message = f"not an OPTIMADE filter: {text!r}"
        raise QueryError(message, reason="bad-filter") from error


# --- the tree, from its root to its leaves -------------------------------------------------------------------------


def _compile(node: Any, fields: Fields) -> pc.Expression:
    """One node of the grammar: or-lists, and-lists, negations and comparisons."""
    if node.data == "expression":
        return functools.reduce(operator.or_, (_compile(child, fields) for child in node.children))
    if node.data == "expression_clause":
        return functools.reduce(operator.and_, (_compile(child, fields) for child in node.children))
    if node.data == "expression_phrase":
        inner = _compile(node.children[-1], fields)
        return ~inner if len(node.children) > 1 else inner
    assert node.data == "comparison", node.data
    comparison = node.children[0]
    if comparison.data == "constant_first_comparison":
        constant, sign, value = comparison.children
        if getattr(value, "data", "") != "non_string_value" or value.children[0].data != "property":
            message = "a comparison needs a field on one of its sides"
            raise QueryError(message, reason="bad-filter")
        return _compare(_field(value.children[0], fields), _MIRRORED[str(sign)], _value(constant))
    prop, right = comparison.children
    return _RIGHT_SIDES[right.data](_field(prop, fields), right.children)


def _field(node: Any, fields: Fields) -> Field:
    name = ".".join(str(part) for part in node.children)
    if name not in fields:
        near = sorted(n for n in fields if n.startswith(name)) if name != PREFIX else []
        hint = f"Did you mean one of {', '.join(near)}?" if near else f"The fields are {', '.join(sorted(fields))}."
        message = f"no field {name!r} to filter by. {hint}"
        raise QueryError(message, reason="unknown-field")
    return fields[name]


def _value(node: Any) -> float | str:
    """A constant of the filter; a field on the right-hand side is not supported."""
    leaf = node.children[0]
    if leaf.data == "number":
        return float(leaf.children[0])
    if leaf.data == "string":
        return str(leaf.children[0])[1:-1].replace('\\"', '"').replace("\\\\", "\\")
    message = "a field can be compared to a number or a string only"
    raise QueryError(message, reason="bad-filter")


def _compare(field: Field, sign: str, value: float | str) -> pc.Expression:
    wants_text = field.type == "string"
    if field.type == "elements" or wants_text != isinstance(value, str):
        wanted = {"elements": "HAS and LENGTH", "string": 'comparisons to a "string"'}
        message = f"{field.name} takes {wanted.get(field.type, 'comparisons to a number')}, not {sign} {value!r}"
        raise QueryError(message, reason="bad-filter")
    if field.column == "formula" and isinstance(value, str):
        value = _formula(value)
    expression: pc.Expression = _COMPARE[sign](pc.field(field.column), pc.scalar(value))
    return expression


def _formula(text: str) -> str:
    """`TiO2` in OPTIMADE's order of elements, `O2Ti`: people write formulas in either."""
    from pymatgen.core import Composition

    try:
        amounts = {SYMBOLS.index(element.symbol): x for element, x in Composition(text, strict=True).items()}
    except Exception as error:  # pymatgen raises whatever its parser met
        message = f'{text!r} is not a chemical formula; write for instance "Fe2O3"'
        raise QueryError(message, reason="bad-formula") from error
    return reduced_formula(amounts)


def _value_comparison(field: Field, children: Sequence[Any]) -> pc.Expression:
    return _compare(field, str(children[0]), _value(children[1]))


def _known(field: Field, children: Sequence[Any]) -> pc.Expression:
    column = pc.field(field.column)
    return column.is_valid() if str(children[-1]) == "KNOWN" else column.is_null()


def _fuzzy(field: Field, children: Sequence[Any]) -> pc.Expression:
    text = _value(children[-1])
    if field.type != "string" or not isinstance(text, str):
        message = f"{children[0]} compares a text field with a string, not {field.name} with {text!r}"
        raise QueryError(message, reason="bad-filter")
    match = {"CONTAINS": pc.match_substring, "STARTS": pc.starts_with, "ENDS": pc.ends_with}[str(children[0])]
    return match(pc.field(field.column), text)


def _has(field: Field, children: Sequence[Any]) -> pc.Expression:
    """`HAS`, `HAS ALL`, `HAS ANY` and `HAS ONLY` on the bitmap of elements."""
    if field.type != "elements":
        message = f"HAS asks a list; {field.name} is not one"
        raise QueryError(message, reason="bad-filter")
    signs = [str(child) for child in children[:-1]]  # HAS, then ALL, ANY, ONLY or nothing
    values = children[-1].children if children[-1].data == "value_list" else children[-1:]
    mode = signs[-1]
    if mode not in {"HAS", "ALL", "ANY", "ONLY"} or not all(hasattr(v, "children") for v in values):
        message = "comparison signs inside HAS are not supported"
        raise QueryError(message, reason="bad-filter")
    words = element_bits(_atomic_number(_value(v)) for v in values)
    masks = [pa.scalar(word, pa.uint64()) for word in words]
    columns = [pc.field(name) for name in ELEMENT_COLUMNS]
    shared = [pc.bit_wise_and(c, pc.scalar(m)) for c, m in zip(columns, masks, strict=True)]
    zero = pc.scalar(pa.scalar(0, pa.uint64()))
    if mode == "ANY":
        return (shared[0] != zero) | (shared[1] != zero)
    wanted = columns if mode == "ONLY" else [pc.scalar(m) for m in masks]
    return (shared[0] == wanted[0]) & (shared[1] == wanted[1])


def _atomic_number(symbol: float | str) -> int:
    if symbol not in SYMBOLS[1:]:
        message = f'{symbol!r} is not an element; write symbols such as "Li"'
        raise QueryError(message, reason="unknown-element")
    return SYMBOLS.index(str(symbol))


def _length(field: Field, children: Sequence[Any]) -> pc.Expression:
    if field.type != "elements":
        message = f"LENGTH asks a list; {field.name} is not one"
        raise QueryError(message, reason="bad-filter")
    sign = str(children[1]) if len(children) > 2 else "="  # LENGTH, a sign perhaps, the number
    count = int(children[-1].children[0])
    expression: pc.Expression = _COMPARE[sign](pc.field("nelements"), pc.scalar(count))
    return expression


def _zipped(field: Field, _children: Sequence[Any]) -> pc.Expression:
    message = f"correlated lists ({field.name}:…) are not supported"
    raise QueryError(message, reason="bad-filter")


_RIGHT_SIDES: dict[str, Callable[[Field, Sequence[Any]], pc.Expression]] = {
    "value_op_rhs": _value_comparison,
    "known_op_rhs": _known,
    "fuzzy_string_op_rhs": _fuzzy,
    "set_op_rhs": _has,
    "length_op_rhs": _length,
    "set_zip_op_rhs": _zipped,
}
