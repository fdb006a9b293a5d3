"""The tree of a compiled filter: comparisons joined by AND, OR and NOT.

A predicate is evaluated in two independent ways: over the prepared columns of a segment, which gives a bitmap of all
rows in milliseconds, and as a pyarrow expression over the plain columns, which checks the rows of a result again.
Both follow Kleene's three-valued logic.
"""

from __future__ import annotations

import abc
import functools
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from crystalign.index.filter_fields import ELEMENT_COLUMNS, element_bits

COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "=": operator.eq,
    "!=": operator.ne,
}
MATCHES: dict[str, Callable[[Any, str], Any]] = {
    "contains": pc.match_substring,
    "starts": pc.starts_with,
    "ends": pc.ends_with,
    "regex": pc.match_substring_regex,
}


class Columns(Protocol):
    """Columns over which predicates are evaluated. Each method returns (n,) booleans, null where undecided."""

    def compare(self, column: str, sign: str, value: float | str | pa.Scalar[Any]) -> pa.BooleanArray:
        """Compare a column of numbers or of text with a value."""

    def match(self, column: str, how: str, pattern: str) -> pa.BooleanArray:
        """Compare a column of text with a pattern; `how` is a key of `MATCHES`."""

    def known(self, column: str) -> pa.BooleanArray:
        """Which rows have a value."""

    def has_elements(self, mode: str, numbers: Sequence[int]) -> pa.BooleanArray:
        """Which rows contain `ALL` or `ANY` of these elements, or `ONLY` these."""

    def constant(self, value: bool | None) -> pa.BooleanArray:
        """The same value in all rows."""


class Predicate(abc.ABC):
    """A condition on a row, true, false or undecided."""

    def __and__(self, other: Predicate) -> Predicate:
        return _Joined("and", self, other)

    def __or__(self, other: Predicate) -> Predicate:
        return _Joined("or", self, other)

    def __invert__(self) -> Predicate:
        return _Not(self)

    @abc.abstractmethod
    def expression(self) -> pc.Expression:
        """The predicate as an expression over the plain columns of a table."""

    @abc.abstractmethod
    def evaluate(self, columns: Columns) -> pa.BooleanArray:
        """(n,) whether each row satisfies the predicate; null where it is undecided."""


@dataclass(frozen=True, slots=True)
class _Joined(Predicate):
    how: Literal["and", "or"]
    left: Predicate
    right: Predicate

    def expression(self) -> pc.Expression:
        sign = operator.and_ if self.how == "and" else operator.or_
        joined: pc.Expression = sign(self.left.expression(), self.right.expression())
        return joined

    def evaluate(self, columns: Columns) -> pa.BooleanArray:
        kernel: Any = pc.and_kleene if self.how == "and" else pc.or_kleene
        return kernel(self.left.evaluate(columns), self.right.evaluate(columns))


@dataclass(frozen=True, slots=True)
class _Not(Predicate):
    inner: Predicate

    def expression(self) -> pc.Expression:
        return ~self.inner.expression()

    def evaluate(self, columns: Columns) -> pa.BooleanArray:
        return pc.invert(self.inner.evaluate(columns))


@dataclass(frozen=True, slots=True)
class Compare(Predicate):
    """`column sign value`."""

    column: str
    """Name of the column."""
    sign: str
    """Key of `COMPARISONS`."""
    value: float | str | pa.Scalar[Any]
    """The constant."""

    def expression(self) -> pc.Expression:
        """See `Predicate`."""
        compared: pc.Expression = COMPARISONS[self.sign](pc.field(self.column), pc.scalar(self.value))
        return compared

    def evaluate(self, columns: Columns) -> pa.BooleanArray:
        """See `Predicate`."""
        return columns.compare(self.column, self.sign, self.value)


@dataclass(frozen=True, slots=True)
class Match(Predicate):
    """A column of text contains, starts with, ends with or matches a pattern."""

    column: str
    """Name of the column."""
    how: str
    """Key of `MATCHES`."""
    pattern: str
    """Substring or regular expression."""

    def expression(self) -> pc.Expression:
        """See `Predicate`."""
        matched: pc.Expression = MATCHES[self.how](pc.field(self.column), self.pattern)
        return matched

    def evaluate(self, columns: Columns) -> pa.BooleanArray:
        """See `Predicate`."""
        return columns.match(self.column, self.how, self.pattern)


@dataclass(frozen=True, slots=True)
class Known(Predicate):
    """A column has a value; its negation: it has none."""

    column: str
    """Name of the column."""

    def expression(self) -> pc.Expression:
        """See `Predicate`."""
        return pc.field(self.column).is_valid()

    def evaluate(self, columns: Columns) -> pa.BooleanArray:
        """See `Predicate`."""
        return columns.known(self.column)


@dataclass(frozen=True, slots=True)
class HasElements(Predicate):
    """The material contains all or any of some elements, or no others."""

    mode: Literal["ALL", "ANY", "ONLY"]
    """`ONLY`: the elements of the material are among these, and it need not contain all of them."""
    numbers: tuple[int, ...]
    """Atomic numbers."""

    def expression(self) -> pc.Expression:
        """See `Predicate`."""
        words = element_bits(self.numbers)
        masks = [pc.scalar(pa.scalar(word, pa.uint64())) for word in words]
        columns = [pc.field(name) for name in ELEMENT_COLUMNS]
        shared = [pc.bit_wise_and(column, mask) for column, mask in zip(columns, masks, strict=True)]
        if self.mode == "ANY":
            zero = pc.scalar(pa.scalar(0, pa.uint64()))
            return functools.reduce(operator.or_, [s != zero for s, word in zip(shared, words, strict=True) if word])
        required = columns if self.mode == "ONLY" else masks
        tests = zip(shared, required, words, strict=True)
        return functools.reduce(operator.and_, [s == w for s, w, word in tests if word or self.mode == "ONLY"])

    def evaluate(self, columns: Columns) -> pa.BooleanArray:
        """See `Predicate`."""
        return columns.has_elements(self.mode, self.numbers)


@dataclass(frozen=True, slots=True)
class Constant(Predicate):
    """The same value for every row; None is undecided."""

    value: bool | None
    """The value."""

    def expression(self) -> pc.Expression:
        """See `Predicate`."""
        return pc.scalar(pa.scalar(self.value, pa.bool_()))

    def evaluate(self, columns: Columns) -> pa.BooleanArray:
        """See `Predicate`."""
        return columns.constant(self.value)
