"""Columns prepared for filters: a new filter is evaluated over millions of rows in milliseconds.

- A column of text is a sorted list of its distinct values and, for each row, the position of its value in that list.
  Comparisons and prefixes become ranges of positions; other patterns are matched once per distinct value.
- The elements are one bitmap of all rows per element.
- Columns of numbers are compared as they are.

The same structures count rows by value without a search, and find the row of an id by bisection.
"""

from __future__ import annotations

import bisect
import functools
import operator
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from crystalign.crystal import SYMBOLS
from crystalign.index.filter_fields import ELEMENT_COLUMNS
from crystalign.index.predicates import COMPARISONS, MATCHES

_COMPARE: dict[str, Any] = {
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
    "=": pc.equal,
    "!=": pc.not_equal,
}
_WORD = 64
assert _COMPARE.keys() == COMPARISONS.keys()


class TextColumn(NamedTuple):
    """A column of text."""

    values: pa.StringArray
    """(u,) the distinct values, in ascending order of their UTF-8 bytes."""
    codes: NDArray[np.int32]
    """(n,) position of the value of each row in `values`; −1 for a row without a value."""

    @classmethod
    def of(cls, column: pa.Array[Any]) -> Self:
        """Prepare a column of strings."""
        encoded = column.cast(pa.string()).dictionary_encode()
        order = pc.array_sort_indices(encoded.dictionary)
        ranks = np.empty(len(order) + 1, np.int32)
        ranks[order.to_numpy()] = np.arange(len(order), dtype=np.int32)
        ranks[-1] = -1
        indices = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        return cls(encoded.dictionary.take(order), ranks[indices])

    def position(self, text: str, *, after: bool = False) -> int:
        """Number of distinct values less than a text; with `after`, also those equal to it."""
        search: Any = bisect.bisect_right if after else bisect.bisect_left
        return int(search(self.values, text, key=operator.methodcaller("as_py")))

    def prefixed(self, text: str) -> tuple[int, int]:
        """The positions of the values that start with a text: first, and last plus one."""
        return self.position(text), bisect.bisect_right(self.values, text, key=lambda v: v.as_py()[: len(text)])


class FilterColumns:
    """The prepared columns of a segment of n rows; implements `predicates.Columns`."""

    def __init__(
        self, table: pa.Table, texts: Mapping[str, TextColumn], elements: NDArray[np.uint8], by_id: NDArray[np.int32]
    ) -> None:
        """Use columns that `of` prepared.

        Args:
            table: the plain columns.
            texts: the columns of text.
            elements: (119, ⌈n / 8⌉) bitmap of rows of each atomic number.
            by_id: (n,) the rows in ascending order of their ids.
        """
        self._table, self.texts, self.elements, self.by_id = table, texts, elements, by_id
        self._rows = len(table)
        self._validity = functools.lru_cache(None)(self._make_validity)

    @classmethod
    def of(cls, table: pa.Table) -> Self:
        """Prepare the columns of a table; takes seconds for a million rows."""
        texts = {
            field.name: TextColumn.of(whole(table[field.name]))
            for field in table.schema
            if pa.types.is_string(field.type) or pa.types.is_null(field.type)
        }
        low, high = (whole(table[name]).to_numpy(zero_copy_only=False) for name in ELEMENT_COLUMNS)
        elements = np.zeros((len(SYMBOLS), -(-len(table) // 8)), np.uint8)
        for z in range(1, len(SYMBOLS)):
            word, bit = (low, z) if z < _WORD else (high, z - _WORD)
            elements[z] = np.packbits((word & np.uint64(1 << bit)) != 0, bitorder="little")
        by_id = np.argsort(texts["id"].codes, kind="stable").astype(np.int32)
        return cls(table, texts, elements, by_id)

    def __len__(self) -> int:
        return self._rows

    # --- predicates -------------------------------------------------------------------------------------------------

    def compare(self, column: str, sign: str, value: Any) -> pa.BooleanArray:
        """(n,) `column sign value`; see `predicates.Columns`."""
        if column not in self.texts:
            compared: pa.BooleanArray = _COMPARE[sign](whole(self._table[column]), value)
            return compared
        text = self.texts[column]
        first, end = text.position(value), text.position(value, after=True)
        ranges = {
            "=": (first, end),
            "<": (0, first),
            "<=": (0, end),
            ">": (end, len(text.values)),
            ">=": (first, len(text.values)),
        }
        if sign == "!=":
            return pc.invert(self._between(column, first, end))
        return self._between(column, *ranges[sign])

    def match(self, column: str, how: str, pattern: str) -> pa.BooleanArray:
        """(n,) `column` matches a pattern; see `predicates.Columns`."""
        text = self.texts[column]
        if how == "starts":
            return self._between(column, *text.prefixed(pattern))
        matched = np.zeros(len(text.values) + 1, bool)  # the last one is for rows without a value
        matched[:-1] = MATCHES[how](text.values, pattern).to_numpy(zero_copy_only=False)
        return self._booleans(np.take(matched, text.codes, mode="wrap"), column)

    def known(self, column: str) -> pa.BooleanArray:
        """(n,) which rows have a value."""
        if column in self.texts:
            return self._booleans(self.texts[column].codes >= 0)
        return pc.is_valid(whole(self._table[column]))

    def has_elements(self, mode: str, numbers: Sequence[int]) -> pa.BooleanArray:
        """(n,) which rows contain `ALL` or `ANY` of these elements, or `ONLY` these."""
        if mode == "ONLY":
            others = sorted(set(range(len(SYMBOLS))) - set(numbers))
            return pc.invert(self._packed(np.bitwise_or.reduce(self.elements[others], axis=0)))
        chosen = self.elements[list(numbers)]
        return self._packed((np.bitwise_and if mode == "ALL" else np.bitwise_or).reduce(chosen, axis=0))

    def constant(self, value: bool | None) -> pa.BooleanArray:
        """(n,) the same value in all rows."""
        return pa.repeat(pa.scalar(value, pa.bool_()), self._rows)

    # --- counts and rows --------------------------------------------------------------------------------------------

    def count_elements(self, bits: NDArray[np.uint8]) -> dict[str, int]:
        """Symbol → number of rows of a bitmap that contain the element, for elements that occur."""
        counts = [int(np.bitwise_count(row & bits).sum()) for row in self.elements]
        return {SYMBOLS[z]: count for z, count in enumerate(counts) if count}

    def count_values(self, column: str, bits: NDArray[np.uint8]) -> dict[Any, int]:
        """Value → number of rows of a bitmap that have it, the most frequent first; rows without a value are left out.

        Args:
            column: a column of text or of integers.
            bits: bitmap of rows, as in `Allowed`.
        """
        mask = np.unpackbits(bits, bitorder="little", count=self._rows).view(bool)
        if column in self.texts:
            counts = np.bincount(self.texts[column].codes[mask] + 1, minlength=1)[1:]
            used = np.flatnonzero(counts)
            names: list[Any] = self.texts[column].values.take(pa.array(used)).to_pylist()
            pairs = zip(names, counts[used].tolist(), strict=True)
        else:
            found = pc.value_counts(whole(self._table[column]).filter(pa.array(mask)).drop_null())
            pairs = zip(found.field("values").to_pylist(), found.field("counts").to_pylist(), strict=True)
        return dict(sorted(pairs, key=lambda pair: (-pair[1], pair[0])))

    def rows_of(self, material_id: str) -> NDArray[np.int64]:
        """The rows of an id, ascending: one, none, or several if it was removed and added again."""
        ids, codes = self.texts["id"].values, self.texts["id"].codes
        place = self.texts["id"].position(material_id)
        if place >= len(ids) or ids[place].as_py() != material_id:
            return np.empty(0, np.int64)
        first, last = (
            cut(self.by_id, place, key=codes.__getitem__) for cut in (bisect.bisect_left, bisect.bisect_right)
        )
        return np.asarray(self.by_id[first:last], np.int64)

    # --- bitmaps ----------------------------------------------------------------------------------------------------

    def _between(self, column: str, first: int, end: int) -> pa.BooleanArray:
        """Rows whose code is at least `first` and less than `end`."""
        codes = self.texts[column].codes
        if end - first == 1:
            return self._booleans(codes == first, column)
        mask = codes >= first
        mask &= codes < end
        return self._booleans(mask, column)

    def _booleans(self, mask: NDArray[np.bool_], column: str | None = None) -> pa.BooleanArray:
        """A mask of all rows; null where a column of text has no value."""
        return self._packed(np.packbits(mask, bitorder="little"), None if column is None else self._validity(column))

    def _packed(self, bits: NDArray[np.uint8], validity: pa.Buffer | None = None) -> pa.BooleanArray:
        buffers = [validity, pa.py_buffer(bits)]
        packed: pa.BooleanArray = pa.Array.from_buffers(pa.bool_(), self._rows, buffers)
        return packed

    def _make_validity(self, column: str) -> pa.Buffer | None:
        known = self.texts[column].codes >= 0
        return None if known.all() else pa.py_buffer(np.packbits(known, bitorder="little"))


def bitmap(booleans: pa.BooleanArray) -> tuple[NDArray[np.uint8], int]:
    """(⌈n / 8⌉,) bitmap of the rows that are true, with zeros after the last row, and how many they are."""
    n = len(booleans)
    known = booleans.fill_null(False)
    assert known.offset == 0
    bits = np.frombuffer(known.buffers()[1], np.uint8, count=-(-n // 8)).copy()
    if n % 8:
        bits[-1] &= (1 << n % 8) - 1
    return bits, int(known.true_count)


def whole(column: pa.ChunkedArray[Any] | pa.Array[Any]) -> pa.Array[Any]:
    """The column as one array, without a copy if it has one chunk."""
    if not isinstance(column, pa.ChunkedArray):
        return column
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks or [pa.nulls(0, column.type)])
