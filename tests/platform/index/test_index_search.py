from __future__ import annotations

import numpy as np
import pytest

from crystalign.errors import QueryError
from crystalign.index.search import merge


def unit(rng, dimension=32):
    query = rng.normal(size=dimension).astype(np.float32)
    return query / np.linalg.norm(query)


def pairs(found):
    return list(zip(found.ids, found.scores.tolist(), strict=True))


@pytest.mark.parametrize("k", [1, 10, 100, 1000])
def test_search_finds_what_a_full_sort_finds(rows, k):
    segment, rng = rows.segment(), np.random.default_rng(1)
    everything = np.ones(len(rows.ids), bool)
    queries = np.stack([unit(rng) for _ in range(5)])
    for query, found in zip(queries, segment.search(queries, k), strict=True):
        assert pairs(found) == rows.oracle(query, k, everything)
        assert found.allowed == len(rows.ids)


@pytest.mark.parametrize("percent", [100, 10, 1, 0.1])
def test_filtered_search_finds_what_a_full_sort_of_the_allowed_rows_finds(rows, percent):
    known = sorted(value for value in rows.hull if value is not None)
    bound = known[max(0, round(len(known) * percent / 100) - 1)]
    text = f"_crystalign_energy_above_hull<={bound!r}"
    mask = np.array([value is not None and value <= bound for value in rows.hull])
    segment, rng = rows.segment(), np.random.default_rng(2)
    assert mask.sum() == max(1, round(len(known) * percent / 100))
    for _ in range(5):
        query = unit(rng)
        found = segment.search(query[None], 20, text)[0]
        assert found.allowed == mask.sum()
        assert len(found.ids) == min(20, mask.sum())
        assert pairs(found) == rows.oracle(query, 20, mask)


def test_more_than_the_filter_allows_returns_all_it_allows(rows):
    mask = np.array([{"Li", "O"} <= e and "Co" not in e for e in rows.elements])
    assert 0 < mask.sum() < 200
    query = unit(np.random.default_rng(3))
    text = 'elements HAS ALL "Li","O" AND NOT elements HAS "Co"'
    found = rows.segment().search(query[None], 1000, text)[0]
    assert found.allowed == mask.sum() == len(found.ids)
    assert pairs(found) == rows.oracle(query, 1000, mask)


def test_a_filter_that_allows_nothing_finds_nothing(rows):
    found = rows.segment().search(unit(np.random.default_rng(3))[None], 10, "nsites>1000")[0]
    assert (found.ids, found.allowed) == ([], 0)


@pytest.mark.parametrize("k", [1, 7, 70, 700])
def test_ties_are_ordered_by_id_even_where_they_straddle_the_last_place(make, k):
    rows = make(2000, distinct=3, seed=4)
    everything = np.ones(2000, bool)
    query = unit(np.random.default_rng(5))
    *expected, behind = rows.oracle(query, k + 1, everything)
    assert expected[-1][1] == behind[1], "the last place ties with the one behind it"
    assert pairs(rows.segment().search(query[None], k)[0]) == expected


@pytest.mark.parametrize("shards", [1, 2, 3, 7])
@pytest.mark.parametrize("distinct", [None, 3])
def test_the_answer_does_not_depend_on_how_rows_are_spread_over_shards(make, shards, distinct):
    rows = make(1500, distinct=distinct, seed=6)
    query = unit(np.random.default_rng(7))
    parts = [rows.segment(np.arange(1500)[number::shards]) for number in range(shards)]
    text = 'elements HAS "O"'
    answers = [part.search(query[None], 50, text)[0] for part in parts]
    merged = merge(answers, 50)
    mask = np.array(["O" in e for e in rows.elements])
    assert pairs(merged) == rows.oracle(query, 50, mask)
    assert merged.allowed == mask.sum()
    back = [answers[s].ids[p] for s, p in zip(merged.source.tolist(), merged.rows.tolist(), strict=True)]
    assert back == merged.ids


def test_a_long_query_ranks_like_its_direction(rows):
    query = unit(np.random.default_rng(8))
    segment = rows.segment()
    assert segment.search(4 * query[None], 20)[0].ids == segment.search(query[None], 20)[0].ids


def test_stored_vectors_and_rows_come_back(rows):
    segment = rows.segment()
    row = segment.row_of("m-17")
    assert row == rows.ids.index("m-17")
    assert np.array_equal(segment.vectors(np.array([row]))[0], rows.vectors[row])
    assert segment.records(np.array([row]))[0]["id"] == "m-17"
    assert segment.row_of("nowhere") is None


@pytest.mark.parametrize("broken", [np.full((1, 32), np.nan), np.zeros((1, 31)), np.zeros(32)])
def test_a_query_that_is_no_vector_of_the_index_is_refused(rows, broken):
    with pytest.raises(QueryError, match="expected finite"):
        rows.segment().search(broken, 10)


def test_a_library_that_ignored_the_filter_would_be_caught(rows, monkeypatch):
    segment = rows.segment()
    real = segment.store.candidates
    monkeypatch.setattr(segment.store, "candidates", lambda asks: real([ask._replace(allowed=None) for ask in asks]))
    with pytest.raises(AssertionError, match="forbids"):
        segment.search(unit(np.random.default_rng(9))[None], 10, "_crystalign_energy_above_hull<0.01")
