"""Hypothetical rows of an index: every kind of search leaves them out unless the filter names the field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from crystalign.errors import QueryError
from crystalign.index.build import build_index
from crystalign.index.lexical import WordCounts
from crystalign.index.manifest import IndexManifest
from crystalign.index.search import Segment
from crystalign.material import HYPOTHETICAL

FIELD = "_crystalign_hypothetical"
N, FIRST = 900, 500
"""Rows, and the first row of the second and third file, of which the last rows are hypothetical."""


@pytest.fixture(scope="module")
def some(make):
    rows = make(N, 16, seed=7)
    marks = np.arange(N) >= FIRST
    return rows._replace(table=rows.table.append_column(HYPOTHETICAL, pa.array(marks))), marks


@pytest.fixture(scope="module")
def index(some, write, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("hypothetical")
    build_index(write(str(folder / "embeddings"), some[0]), str(folder / "index"), rows_per_segment=256)
    return str(folder / "index")


@pytest.fixture(scope="module")
def segment(index) -> Segment:
    return Segment.load(index, IndexManifest.read(index))


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        (None, "real"),
        ("nelements>=1", "real"),
        ("nelements>2", "real"),
        ("nperiodic_dimensions=3", "real"),
        (f"{FIELD} = FALSE", "real"),
        (f"{FIELD} != TRUE", "real"),
        (f"{FIELD} = TRUE", "made up"),
        (f"TRUE = {FIELD}", "made up"),
        (f"NOT {FIELD} = FALSE", "made up"),
        (f"{FIELD} IS KNOWN", "all"),
        (f"nelements>2 AND {FIELD} IS KNOWN", "all"),
        (f"{FIELD} = TRUE OR nelements>2", "either"),
    ],
)
def test_only_a_filter_that_names_the_field_finds_hypothetical_rows(text, asked, some, segment):
    rows, marks = some
    enough = np.array([len(e) > 2 for e in rows.elements]) if text and "nelements>2" in text else np.ones(N, bool)
    expected = {"real": ~marks & enough, "made up": marks & enough, "all": enough, "either": marks | enough}[asked]
    assert segment.count(text) == expected.sum()
    query = np.random.default_rng(1).normal(size=16)
    (found,) = segment.search(query[None], 40, text)
    pairs = rows.oracle(query.astype(np.float32), 40, expected)
    assert list(zip(found.ids, found.scores.tolist(), strict=True)) == pairs
    assert found.allowed == expected.sum()
    oxygen = np.array(["O" in e for e in rows.elements])
    assert segment.facets(text).elements.get("O", 0) == (expected & oxygen).sum()


def test_a_search_by_words_leaves_them_out_as_well(some):
    rows, marks = some
    counts = WordCounts.of(["salt"] * N)
    words = Segment(rows.table, rows.vectors, rows.properties, words=[(counts, N)])
    for text, wanted in ((None, ~marks), (f"{FIELD} = TRUE", marks)):
        found = words.search_words({"salt": 1.0}, np.ones(16), N, text)
        assert set(found.ids) == {name for name, kept in zip(rows.ids, wanted, strict=True) if kept}


def test_a_hypothetical_row_is_found_by_its_id(some, segment):
    name = some[0].ids[FIRST + 3]
    row = segment.row_of(name)
    assert row is not None
    assert segment.records(np.array([row]))[0][HYPOTHETICAL] is True


def test_the_rows_that_are_searched_are_checked_again(some, segment, monkeypatch):
    everything = segment.allowed(f"{FIELD} IS KNOWN")
    monkeypatch.setattr(segment, "allowed", lambda _: everything)
    with pytest.raises(AssertionError, match="does not satisfy"):
        segment.search(some[0].vectors[[FIRST + 1]], 1)


def test_segments_without_hypothetical_rows_have_no_column_but_know_the_field(index):
    manifest = IndexManifest.read(index)
    columns = [pq.read_schema(Path(index, entry.path)).names for entry in manifest.segments]
    assert [HYPOTHETICAL in names for names in columns] == [False, True, True, True]
    assert manifest.has_hypothetical
    assert FIELD in manifest.fields
    assert FIELD in [field.name for field in manifest.listed_fields]
    first = Segment.load(index, manifest, manifest.segments[:1])
    assert (first.count(), first.count(f"{FIELD} = TRUE"), first.count(f"{FIELD} IS KNOWN")) == (256, 0, 256)


def test_prepared_segments_on_disk_know_the_field_too(index, segment, tmp_path, monkeypatch):
    monkeypatch.setenv("CRYSTALIGN_INDEX_CACHE", str(tmp_path))
    for _ in range(2):
        cached = Segment.load(index, IndexManifest.read(index))
        assert cached.count() == segment.count() == FIRST
        assert cached.count(f"{FIELD} = TRUE") == N - FIRST


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f"{FIELD} > FALSE", "= TRUE or = FALSE"),
        (f"{FIELD} = 1", "= TRUE or = FALSE"),
        (f'{FIELD} = "TRUE"', "= TRUE or = FALSE"),
        (f'{FIELD} CONTAINS "T"', "text field"),
        (f"{FIELD} HAS TRUE", "not a list"),
        ("nsites = TRUE", "TRUE is a boolean"),
        ("elements LENGTH TRUE", "whole number"),
    ],
)
def test_a_boolean_is_compared_with_a_boolean_only(text, says, segment):
    with pytest.raises(QueryError, match=says):
        segment.count(text)


def test_an_index_without_them_is_as_before(make, write, tmp_path):
    rows = make(200, 8, seed=2)
    out = str(tmp_path / "index")
    manifest = build_index(write(str(tmp_path / "embeddings"), rows), out)
    assert not manifest.has_hypothetical
    with pytest.raises(QueryError, match="no field"):
        Segment.load(out, manifest).count(f"{FIELD} = FALSE")
    stored: dict[str, Any] = json.loads((tmp_path / "index" / "manifest.json").read_text())
    for name in ("has_hypothetical", "predictions"):  # as the release before wrote the manifest
        del stored[name]
    assert IndexManifest.from_mapping(stored, origin="before").version == manifest.version


def test_false_marks_are_no_marks(make, write, tmp_path):
    rows = make(60, 8, seed=3)
    marked = rows._replace(table=rows.table.append_column(HYPOTHETICAL, pa.array([None, False] * 30, pa.bool_())))
    made = [
        build_index(write(str(tmp_path / f"e{n}"), one), str(tmp_path / f"i{n}"))
        for n, one in enumerate((rows, marked))
    ]
    assert made[0].version == made[1].version
