"""Added rows of an approximate index are exact, whatever the rest of it misses."""

from __future__ import annotations

import numpy as np
import pytest

from crystalign.index.build import build_index
from crystalign.index.index import Index
from crystalign.index.live import add, remove
from crystalign.index.manifest import IndexManifest
from crystalign.index.recall import RecallPoint
from crystalign.index.search import DECIMALS, Search, Segment
from live_index import part_of

N, FIRST, K = 905, 603, 10  # the added rows begin within a byte of a bitmap
HURRIED = RecallPoint(modality="crystal", k=1000, selectivity=0.0, effort=1, recall=1.0, error=0.0, queries=1)
"""A measurement by which a search visits as few rows as possible."""


@pytest.fixture(scope="module", params=[None, 4], ids=["all different", "many equal"])
def place(request, make, write, tmp_path_factory):
    """An approximate index to which a third of its rows were added; some were removed."""
    rows = make(N, 16, seed=9, distinct=request.param)
    folder = tmp_path_factory.mktemp("mixed")
    uri = str(folder / "index")
    build_index(write(str(folder / "first"), part_of(rows, range(FIRST))), uri, rows_per_segment=201, kind="ivf-fp16")
    add(uri, write(str(folder / "more"), part_of(rows, range(FIRST, N))), rows_per_segment=77)
    remove(uri, ids=[*rows.ids[:40], *rows.ids[FIRST : FIRST + 40]])
    return rows, uri


def scores_of(rows, query, places):
    exact = np.round((rows.vectors[places].astype(np.float64) * query.astype(np.float64)).sum(1), DECIMALS) + 0.0
    pairs = zip([rows.ids[i] for i in places], exact.tolist(), strict=True)
    return sorted(pairs, key=lambda pair: (-pair[1], pair[0]))


@pytest.mark.parametrize("text", [None, 'elements HAS "O"'])
def test_no_added_row_is_missed_by_a_hurried_search(place, text):
    rows, uri = place
    manifest = IndexManifest.read(uri).model_copy(update={"recall": (HURRIED,)})
    segment, rng, missed = Segment.load(uri, manifest), np.random.default_rng(3), 0
    every = [i for i in [*range(40, FIRST), *range(FIRST + 40, N)] if text is None or "O" in rows.elements[i]]
    added = [i for i in every if i >= FIRST]
    for _ in range(20):
        query = rng.normal(size=16).astype(np.float32)
        query /= np.linalg.norm(query)
        found = segment.search_many([Search(query, K, text, ("crystal",))])[0]
        pairs = list(zip(found.ids, found.scores.tolist(), strict=True))
        worst = pairs[-1]
        due = [p for p in scores_of(rows, query, added) if (-p[1], p[0]) <= (-worst[1], worst[0])]
        assert [pair for pair in due if pair not in pairs] == []
        missed += pairs != scores_of(rows, query, every)[:K]
        exact = segment.search_many([Search(query, K, text)])[0]
        assert list(zip(exact.ids, exact.scores.tolist(), strict=True)) == scores_of(rows, query, every)[:K]
    if len(np.unique(rows.vectors, axis=0)) == N:
        assert missed, "the search is hurried: it misses rows of the approximate part"


def test_the_effort_is_shared_among_the_rows_that_were_measured(place):
    _, uri = place
    manifest = IndexManifest.read(uri)
    assert manifest.measured_rows == FIRST
    point = HURRIED.model_copy(update={"effort": 300})
    manifest = manifest.model_copy(update={"recall": (point,)})
    query = np.ones(16, np.float32) / 4
    for entries, effort in ((manifest.segments, 300), (manifest.segments[:2], 200), (manifest.segments[2:], 100)):
        segment = Segment.load(uri, manifest, list(entries))
        assert segment.plan(Search(query, K, None, ("crystal",))).effort == effort
    only_added = Segment.load(uri, manifest, list(manifest.segments[3:]))
    assert only_added.store.is_exact
    assert only_added.plan(Search(query, K, None, ("crystal",))).effort is None


def test_an_opened_index_has_as_many_materials_as_are_searched(place):
    _, uri = place
    assert len(Index.open(uri)) == N - 80 == IndexManifest.read(uri).rows
