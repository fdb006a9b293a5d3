"""Evaluate a filter in both ways that the index has, which must agree."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from crystalign.index.columns import FilterColumns, bitmap
from crystalign.index.filter_fields import ELEMENT_COLUMNS
from crystalign.index.filters import Fields, compile_filter
from crystalign.index.search import evaluate


def selected(table: pa.Table, text: str, fields: Fields) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """(n,) the rows that satisfy a filter, by the prepared columns; checked against the plain ones."""
    predicate = compile_filter(text, fields).predicate
    plain = evaluate(table, predicate.expression())
    bits, n = bitmap(predicate.evaluate(_prepared(table)))
    mask = np.unpackbits(bits, bitorder="little").astype(bool)
    assert not mask[len(table) :].any(), "bits after the last row"
    assert mask[: len(table)].tolist() == plain.tolist(), text
    assert n == plain.sum()
    return plain


_PREPARED: dict[int, tuple[pa.Table, FilterColumns]] = {}


def _prepared(table: pa.Table) -> FilterColumns:
    """The prepared columns of a table, which may lack those that its filters do not name."""
    if id(table) not in _PREPARED:
        whole = table
        if "id" not in table.column_names:
            whole = whole.append_column("id", pa.array([str(n) for n in range(len(table))]))
        for name in set(ELEMENT_COLUMNS) - set(table.column_names):
            whole = whole.append_column(name, pa.array([0] * len(table), pa.uint64()))
        _PREPARED[id(table)] = table, FilterColumns.of(whole)
    return _PREPARED[id(table)][1]
