from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from pymatgen.symmetry.groups import SpaceGroup

from crystalign.index.columns import FilterColumns, TextColumn
from crystalign.index.facets import CRYSTAL_SYSTEMS, add_facets
from crystalign.index.search import Segment

TEXTS = ["b", None, "a", "ä", "", "b", "ab", "zz", None, "日本", "a\U0001f600"]


def test_a_column_of_text_is_sorted_by_bytes_and_gives_back_its_rows():
    column = TextColumn.of(pa.array(TEXTS))
    values = column.values.to_pylist()
    assert values == sorted({text for text in TEXTS if text is not None}, key=str.encode)
    assert [values[code] if code >= 0 else None for code in column.codes] == TEXTS


@pytest.mark.parametrize("prefix", ["", "a", "ab", "b", "z", "zz", "zzz", "ä", "日", "q"])
def test_the_values_with_a_prefix_are_a_range(prefix):
    column = TextColumn.of(pa.array(TEXTS))
    first, end = column.prefixed(prefix)
    inside = [text for text in column.values.to_pylist() if text.startswith(prefix)]
    assert column.values.to_pylist()[first:end] == inside


def test_every_id_is_found_and_no_other(rows):
    segment = rows.segment()
    assert [segment.row_of(name) for name in rows.ids] == list(range(len(rows.ids)))
    assert [segment.row_of(name) for name in ("", "m", "m-", "m-3000", "z", "m-1 ", "ä")] == [None] * 7


def test_a_removed_row_is_neither_found_nor_counted(rows):
    bits = np.zeros(375, np.uint8)
    bits[2] = 1 << 3  # row 19
    segment = Segment(rows.table, rows.vectors, rows.properties, removed=bits)
    assert segment.row_of(rows.ids[19]) is None
    assert segment.row_of(rows.ids[18]) == 18
    assert segment.count() == len(rows.ids) - 1
    assert segment.count(f'id="{rows.ids[19]}"') == 0
    found = segment.search(rows.vectors[19:20].astype(np.float32), 3000)[0]
    assert rows.ids[19] not in found.ids
    assert len(found.ids) == 2999


@pytest.mark.parametrize("text", [None, 'elements HAS "O"', "nsites<5", "nsites>1000"])
def test_facets_count_what_python_counts(rows, text):
    segment = rows.segment()
    bits = segment.allowed(text).bits
    kept = np.flatnonzero(np.unpackbits(bits, bitorder="little", count=len(rows.ids)))
    facets = segment.facets(text)
    assert facets.elements == Counter(symbol for i in kept for symbol in rows.elements[i])
    assert facets.n_elements == Counter(len(rows.elements[i]) for i in kept)
    groups = [rows.table["spacegroup_number"][int(i)].as_py() for i in kept]
    assert facets.crystal_systems.get("cubic", 0) == sum(group == 225 for group in groups)
    assert sum(facets.crystal_systems.values()) == sum(group is not None for group in groups)
    assert facets.sources == ({"mp": len(kept)} if len(kept) else {})
    assert segment.count(text) == len(kept)


def test_facets_of_shards_add_up_to_those_of_the_whole(rows):
    parts = [rows.segment(np.arange(3000)[n::3]).facets("nsites>=10") for n in range(3)]
    assert add_facets(parts) == rows.segment().facets("nsites>=10")


@pytest.mark.parametrize("number", range(1, 231))
def test_crystal_systems_follow_from_space_group_numbers(rows, number):
    group = rows.table.set_column(
        rows.table.column_names.index("spacegroup_number"), "spacegroup_number", pa.array([number] * 3000, pa.int16())
    )
    columns = FilterColumns.of(group.slice(0, 1).combine_chunks())
    from crystalign.index.facets import count_facets

    systems = count_facets(columns, np.array([1], np.uint8)).crystal_systems
    assert systems == {SpaceGroup.from_int_number(number).crystal_system: 1}
    assert set(systems) <= set(CRYSTAL_SYSTEMS)
