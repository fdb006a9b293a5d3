"""Reads OPTIMADE filters and turns them into predicates on the columns of a segment.

`elements HAS ALL "Li","O" AND NOT elements HAS "Co" AND _crystalign_energy_above_hull<0.05`

A filter is either compiled completely or refused. Nulls follow Kleene's three-valued logic, as in Arrow: a property
that is unknown satisfies no comparison, not even a negated one. The elements of a material are stored as a bitmap of
two 64-bit columns, with bit Z for atomic number Z, so every `HAS` takes one or two bitwise operations.
"""

from __future__ import annotations

import functools
import math
import operator
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from crystalign.crystal import SYMBOLS
from crystalign.errors import InputError, QueryError
from crystalign.formula import read_formula
from crystalign.index.filter_fields import (
    ELEMENT_COLUMNS,
    Field,
    Fields,
    element_bits,
    find_field,
    joined_keywords,
    listed_fields,
    make_fields,
    order_remark,
)
from crystalign.index.filter_grammar import MAX_FILTER_DEPTH, MAX_FILTER_LENGTH, parse, unquote
from crystalign.index.predicates import COMPARISONS, Compare, Constant, HasElements, Known, Match, Predicate
from crystalign.material import HYPOTHETICAL

__all__ = [
    "ELEMENT_COLUMNS",
    "MAX_FILTER_DEPTH",
    "MAX_FILTER_LENGTH",
    "Field",
    "Fields",
    "Filter",
    "compile_filter",
    "element_bits",
    "listed_fields",
    "make_fields",
    "parse_filter",
]

LARGEST_INTEGER = 2**53
"""Integers beyond this are not represented exactly in double precision."""

MAX_WARNINGS = 8
"""Largest number of warnings for one filter; the rest is counted in a last one."""
MAX_COST = 60.0
"""Largest estimated cost of a filter, in milliseconds per 100,000 rows on a common processor."""

_COST = {"number": 0.2, "elements": 0.3, "=": 0.5, "<": 1.0, "starts": 0.8, "ends": 0.8, "contains": 3.0}
_COST |= {"regex": 8.5, "ratio": 8.0}
_MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "=": "=", "!=": "!="}
_WORD = 2**31
_MAX_ORDERS, _MAX_AMOUNTS, _LONG_TEXTS = 120, 6, 4
_SPELT = {"contains": "CONTAINS", "starts": "STARTS WITH", "ends": "ENDS WITH"}


class Filter(NamedTuple):
    """A compiled filter."""

    predicate: Predicate
    """The condition; undecided for rows where a value is unknown."""
    warnings: tuple[str, ...]
    """Warnings for the user: unknown names, and how values were interpreted."""
    columns: frozenset[str] = frozenset()
    """Columns of the fields that it names."""

    @property
    def expression(self) -> pc.Expression:
        """The condition as an expression over the plain columns of a segment; null where it cannot be decided."""
        return self.predicate.expression()


def parse_filter(text: str, fields: Fields) -> pc.Expression:
    """The expression of `compile_filter`."""
    return compile_filter(text, fields).expression


def compile_filter(text: str, fields: Fields) -> Filter:
    """Compile a filter to a predicate over the columns of a segment.

    Raises:
        QueryError: the text is not an OPTIMADE filter, a field or an element is unknown, a number is out of range, or
            a value has the wrong type.
    """
    compiler = _Compiler(fields)
    predicate = compiler.compile(parse(text))
    warnings = list(dict.fromkeys(compiler.warnings))
    if len(warnings) > MAX_WARNINGS:
        warnings[MAX_WARNINGS:] = [f"and {len(warnings) - MAX_WARNINGS} more of the kind"]
    return Filter(predicate, tuple(warnings), frozenset(compiler.columns))


def searched_rows(text: str, fields: Fields) -> Predicate:
    """The condition that a search with this filter applies: hypothetical rows are left out unless it names them.

    Raises:
        QueryError: the filter cannot be read.
    """
    compiled = compile_filter(text, fields)
    marked = any(field.column == HYPOTHETICAL for field in fields.values())
    if HYPOTHETICAL in compiled.columns or not marked:
        return compiled.predicate
    return compiled.predicate & Compare(HYPOTHETICAL, "=", pa.scalar(False))


class _Compiler:
    """Compiles the tree of one filter to a predicate."""

    def __init__(self, fields: Fields) -> None:
        self.fields = fields
        self.warnings: list[str] = []
        self.columns: set[str] = set()
        self.cost = 0.0

    def compile(self, node: Any) -> Predicate:
        """Compile a node of the grammar: a disjunction, conjunction, negation or comparison."""
        kinds: dict[str, Callable[[Sequence[Any]], Predicate]] = {
            "expression": lambda parts: _join(operator.or_, [self.compile(part) for part in parts]),
            "clause": lambda parts: _join(operator.and_, [self.compile(part) for part in parts]),
            "negation": self.negation,
            "compare": self.compare,
            "constant_first": self.constant_first,
            "known": self.known,
            "contains": functools.partial(self.fuzzy, "contains"),
            "starts": functools.partial(self.fuzzy, "starts"),
            "ends": functools.partial(self.fuzzy, "ends"),
            "has": self.has,
            "length": self.length,
            "zipped": self.zipped,
        }
        return kinds[str(node.data)](node.children)

    def negation(self, children: Sequence[Any]) -> Predicate:
        (inner,) = children
        return ~self.compile(inner)

    def field(self, node: Any) -> Field | None:
        """The field that a property names; None if it belongs to another provider."""
        name = ".".join(str(part) for part in node.children)
        field = find_field(name, self.fields)
        if field is None:
            self.warnings.append(f"{name} is not known here: comparisons with it are neither true nor false")
        else:
            self.columns.add(field.column)
        return field

    def spend(self, kind: str, times: int = 1) -> None:
        """Add the cost of comparisons of one kind.

        Raises:
            QueryError: the filter is too expensive.
        """
        self.cost += times * _COST[kind]
        if self.cost > MAX_COST:
            raise QueryError(
                "the filter has too many comparisons of text; use fewer, or split it into several searches",
                reason="filter-too-costly",
            )

    # --- comparisons ------------------------------------------------------------------------------------------------

    def compare(self, children: Sequence[Any]) -> Predicate:
        prop, sign, value = children
        return self.comparison(prop, str(sign), value)

    def constant_first(self, children: Sequence[Any]) -> Predicate:
        constant, sign, value = children
        (inner,) = value.children
        if inner.data != "property":
            raise _refuse("a comparison needs a field on one side")
        return self.comparison(inner, _MIRRORED[str(sign)], constant)

    def comparison(self, prop: Any, sign: str, node: Any) -> Predicate:
        field, value = self.field(prop), _constant(node)
        if field is None:
            return Constant(None)
        boolean = field.type == "boolean" and isinstance(value, bool) and sign in {"=", "!="}
        if isinstance(value, bool) and field.type != "boolean":
            raise _refuse(f"{str(value).upper()} is a boolean, and {field.name} holds none")
        if not boolean and (
            field.type in {"elements", "keywords", "boolean"} or (field.type == "string") != isinstance(value, str)
        ):
            accepted = {"elements": "HAS and LENGTH", "keywords": "HAS", "string": 'comparisons to a "string"'}
            accepted |= {"boolean": "= TRUE or = FALSE"}
            raise _refuse(
                f"{field.name} takes {accepted.get(field.type, 'comparisons to a number')}, not {sign} {value!r}"
            )
        if isinstance(value, str):
            return self.text_comparison(field, sign, value)
        if field.type == "integer" and abs(value) >= LARGEST_INTEGER:
            raise _refuse(f"{value:g} is out of range for {field.name}; compare it with a smaller number")
        if field.constant is not None:
            return Constant(COMPARISONS[sign](field.constant, value))
        self.spend("number")
        if boolean:
            return Compare(field.column, sign, pa.scalar(value))
        whole = field.type == "integer" and value == int(value) and abs(value) < _WORD
        scalar = pa.scalar(int(value), pa.int32()) if whole else value  # avoids converting the column
        return Compare(field.column, sign, scalar)

    def text_comparison(self, field: Field, sign: str, value: str) -> Predicate:
        if field.text == "anonymous":
            if sign not in {"=", "!="}:
                raise _refuse(f"{field.name} can only be compared with = and !=, not with {sign}")
            patterns = _anonymous_patterns(_counts(value))
            self.spend("regex", len(patterns))
            same = _join(operator.and_, [Match("formula", "regex", pattern) for pattern in patterns])
            return same if sign == "=" else ~same
        if sign in {"=", "!="}:
            if field.text == "formula":
                value = self.formula(value)
            if field.text == "chemsys":
                value = "-".join(sorted({SYMBOLS[_atomic_number(symbol)] for symbol in value.split("-")}))
        self.spend("=" if sign in {"=", "!="} else "<")
        return Compare(field.column, sign, value)

    def formula(self, text: str) -> str:
        """The reduced formula in OPTIMADE's order of elements: `TiO2` → `O2Ti`."""
        try:
            read = read_formula(text)
        except InputError as error:
            raise QueryError(f'{error} In a filter write for instance "Fe2O3"', reason=error.reason) from error
        if any(x.denominator != 1 for x in read.amounts.values()):
            self.spend("ratio")
        self.warnings += [f"{text}: {note}" for note in read.notes]
        return read.reduced

    def known(self, children: Sequence[Any]) -> Predicate:
        prop, state = children
        is_known = str(state) == "KNOWN"
        field = self.field(prop)
        if field is None or field.constant is not None:
            return Constant(is_known is (field is not None))
        known = Known("formula" if field.text == "anonymous" else field.column)
        return known if is_known else ~known

    def fuzzy(self, kind: str, children: Sequence[Any]) -> Predicate:
        prop, *_, node = children  # WITH may stand between them
        field, text = self.field(prop), _constant(node)
        if field is None:
            return Constant(None)
        if field.type != "string" or not isinstance(text, str):
            raise _refuse(f"{_SPELT[kind]} compares a text field with a string, not {field.name} with {text!r}")
        if field.text == "anonymous":
            raise _refuse(f"{field.name} can only be compared with = and !=, not with {_SPELT[kind]}")
        self.spend(kind, _LONG_TEXTS if field.column == "remarks" else 1)
        if stored := order_remark(field, _SPELT[kind], text):
            self.warnings.append(stored)
        return Match(field.column, kind, text)

    # --- lists ------------------------------------------------------------------------------------------------------

    def has(self, children: Sequence[Any]) -> Predicate:
        """`HAS`, `HAS ALL`, `HAS ANY` and `HAS ONLY` on the bitmap of elements; all but the last on keywords."""
        prop, *rest = children
        field = self.field(prop)
        mode: Any = "ALL" if hasattr(rest[0], "data") else str(rest[0])
        entries = rest if hasattr(rest[0], "data") else rest[1:]
        if field is None:
            return Constant(None)
        if field.type not in {"elements", "keywords"}:
            raise _refuse(f"HAS applies to lists; {field.name} is not a list")
        if any(len(entry.children) != 1 for entry in entries):
            raise _refuse("comparison signs inside HAS are not supported")
        if field.type == "keywords":
            return self.has_keywords(field, mode, [_constant(entry.children[0]) for entry in entries])
        self.spend("elements")
        return HasElements(mode, tuple(_atomic_number(_constant(entry.children[0])) for entry in entries))

    def has_keywords(self, field: Field, mode: str, values: Sequence[float | str]) -> Predicate:
        """Whether a row has all of some keywords, or any of them."""
        if mode == "ONLY":
            raise _refuse(f"HAS ONLY is not supported for {field.name}; use HAS, HAS ALL or HAS ANY")
        self.spend("contains", len(values))
        tests = [Match(field.column, "contains", joined_keywords([str(value)])) for value in values]
        return _join(operator.or_ if mode == "ANY" else operator.and_, tests)

    def length(self, children: Sequence[Any]) -> Predicate:
        prop, *signs, node = children
        field, count = self.field(prop), _constant(node)
        if isinstance(count, (str, bool)) or count != int(count) or abs(count) >= LARGEST_INTEGER:
            shown = repr(count) if isinstance(count, (str, bool)) else f"{count:g}"
            raise _refuse(f"LENGTH compares with a whole number below {LARGEST_INTEGER}, not with {shown}")
        if field is None:
            return Constant(None)
        if field.type != "elements":
            raise _refuse(f"LENGTH applies to lists; {field.name} is not a list")
        self.spend("number")
        sign = str(signs[0]) if signs else "="
        return Compare("nelements", sign, int(count))

    def zipped(self, children: Sequence[Any]) -> Predicate:
        fields = [self.field(node) for node in children if getattr(node, "data", "") == "property"]
        if all(field is None for field in fields):
            return Constant(None)
        names = ", ".join(field.name for field in fields if field is not None)
        raise _refuse(f"correlated lists ({names}:…) are not supported")


# --- leaves ---------------------------------------------------------------------------------------------------------


def _join(sign: Callable[[Any, Any], Any], parts: Sequence[Predicate]) -> Predicate:
    """Combine all parts with an operator, as a balanced tree."""
    while len(parts) > 1:
        pairs = [parts[i : i + 2] for i in range(0, len(parts), 2)]
        parts = [functools.reduce(sign, pair) for pair in pairs]
    return parts[0]


def _refuse(message: str) -> QueryError:
    return QueryError(message, reason="bad-filter")


def _constant(node: Any) -> float | str | bool:
    """A constant of the filter; a field on the right-hand side is not supported."""
    leaf = node
    while leaf.data == "value":
        (leaf,) = leaf.children
    if leaf.data == "property":
        name = ".".join(str(part) for part in leaf.children)
        raise _refuse(f"a field can be compared to a number or a string only, not to the field {name}")
    (token,) = leaf.children
    if leaf.data == "string":
        return unquote(str(token))
    if leaf.data == "bool":
        return str(token) == "TRUE"
    assert leaf.data == "number", leaf.data
    return _number(str(token))


def _number(token: str) -> float:
    value = float(token)
    if not math.isfinite(value) or (value == 0 and re.match(r"[^eE]*[1-9]", token)):
        short = token if len(token) < 30 else token[:30] + "…"
        raise _refuse(f"{short} is too {'large' if value else 'small'} for a number in double precision")
    return value


def _atomic_number(symbol: float | str) -> int:
    if symbol not in SYMBOLS[1:]:
        raise QueryError(f'{symbol!r} is not an element; write symbols such as "Li"', reason="unknown-element")
    return SYMBOLS.index(str(symbol))


def _counts(text: str) -> list[int]:
    """The reduced amounts of an anonymous formula, the largest first: `A2B` → [2, 1]."""
    pieces = re.findall(r"([A-Z][a-z]?)(\d*)", text)
    names = [name for name, _ in pieces]
    labels = [first + second for second in ("", *"abcde") for first in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"]
    counts = [int(digits or 1) for _, digits in pieces]
    whole = "".join(name + digits for name, digits in pieces) == text
    if not counts or not whole or names != labels[: len(names)] or min(counts) < 1 or max(counts) >= LARGEST_INTEGER:
        raise QueryError(
            f'{text!r} is not an anonymous formula; write the letters A, B, C … with counts, such as "A3B2"',
            reason="bad-formula",
        )
    divisor = math.gcd(*counts)
    return sorted((count // divisor for count in counts), reverse=True)


def _anonymous_patterns(counts: list[int]) -> list[str]:
    """Regular expressions that together match the formulas with these amounts, in any order of elements.

    Raises:
        QueryError: there are too many different amounts.
    """
    ways = math.factorial(len(counts))
    for times in Counter(counts).values():
        ways //= math.factorial(times)
    if ways <= _MAX_ORDERS:
        return [f"^(?:{'|'.join(_orders(Counter(counts)))})$"]
    if len(set(counts)) > _MAX_AMOUNTS:
        raise QueryError(
            f"an anonymous formula may have {_MAX_AMOUNTS} different amounts, not {len(set(counts))}",
            reason="bad-formula",
        )
    element = "[A-Z][a-z]?[0-9.]*"
    patterns = [f"^(?:{element}){{{len(counts)}}}$"]
    for count, times in Counter(counts).items():
        one = f"[A-Z][a-z]?{count if count > 1 else ''}(?:{element})*"
        patterns.append(f"^(?:{element})*(?:{one}){{{times}}}$")
    return patterns


def _orders(left: Counter[int]) -> list[str]:
    """Patterns of elements with these amounts, one for every order."""
    if not left.total():
        return [""]
    patterns = []
    for count in list(left):
        rest = left - Counter([count])
        patterns += [f"[A-Z][a-z]?{count if count > 1 else ''}{after}" for after in _orders(rest)]
    return patterns
