"""The hash of a row's content: by what the row says, not by where it stands."""

from __future__ import annotations

import pyarrow as pa
import pytest

from crystalign.index.embeddings import contents

ROWS = [
    {"id": "a", "n": 1, "x": 0.5, "crystal": {"numbers": [1, 2], "lattice": [[1.0, 0.0], [0.0, 1.0]]}, "text": "salt"},
    {"id": "b", "n": None, "x": 0.5, "crystal": None, "text": None},
    {"id": "c", "n": 2, "x": None, "crystal": {"numbers": [], "lattice": [[], [2.0, None]]}, "text": ""},
    {"id": "d", "n": 2, "x": 0.0, "crystal": {"numbers": None, "lattice": [[1.0, 2.0]]}, "text": "salt"},
]
CRYSTAL = pa.struct({"numbers": pa.list_(pa.int16()), "lattice": pa.list_(pa.list_(pa.float64()))})
SCHEMA = pa.schema({"id": pa.string(), "n": pa.int64(), "x": pa.float64(), "crystal": CRYSTAL, "text": pa.string()})
NAMES = ["id", "n", "x", "crystal", "text", "absent"]


def hashes(rows):
    return contents(pa.Table.from_pylist(rows, SCHEMA), NAMES).to_pylist()


def test_it_does_not_depend_on_place_chunks_or_order_of_the_columns():
    table, own = pa.Table.from_pylist(ROWS, SCHEMA), hashes(ROWS)
    assert len(set(own)) == len(ROWS)
    assert hashes(ROWS[::-1]) == own[::-1]
    assert contents(table.slice(1, 2), NAMES).to_pylist() == own[1:3]
    assert contents(pa.concat_tables([table.slice(0, 3), table.slice(3)]), NAMES[::-1]).to_pylist() == own
    assert contents(table.slice(0, 0), NAMES).to_pylist() == []


@pytest.mark.parametrize(
    "change",
    [
        {"id": "e"},
        {"n": 3},
        {"n": None},
        {"x": 0.5000000000000001},
        {"text": None},
        {"text": ""},
        {"crystal": None},
        {"crystal": {"numbers": [1], "lattice": [[1.0, 0.0], [0.0, 1.0]]}},
        {"crystal": {"numbers": [1, 2], "lattice": [[1.0, 0.0, 0.0], [1.0]]}},
        {"crystal": {"numbers": [1, 2], "lattice": [[1.0, 0.0], [0.0, None]]}},
        {"crystal": {"numbers": [1, 2], "lattice": None}},
        {"crystal": {"numbers": [1, 2], "lattice": [None, [1.0, 0.0], [0.0, 1.0]]}},
    ],
)
def test_every_change_of_a_value_changes_it(change):
    assert hashes([{**ROWS[0], **change}])[0] != hashes(ROWS)[0]


def test_the_hash_of_a_row_does_not_depend_on_missing_numbers_in_another():
    own = hashes(ROWS)
    assert [hashes([row])[0] for row in ROWS] == own
    assert hashes([ROWS[0], ROWS[2]]) == [own[0], own[2]]


def test_the_mark_of_a_hypothetical_row_counts_and_its_absence_is_as_before():
    table, own = pa.Table.from_pylist(ROWS, SCHEMA), hashes(ROWS)
    marked = contents(table.append_column("hypothetical", pa.array([True, False, None, True])), NAMES).to_pylist()
    assert [a == b for a, b in zip(marked, own, strict=True)] == [False, True, True, False]
