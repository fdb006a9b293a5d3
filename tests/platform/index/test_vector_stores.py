"""Every kind of vector store, against a full sort of all scores, on random sequences of searches."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crystalign.index import exact_fp16, ivf
from crystalign.index.exact_fp16 import ExactFp16, scan
from crystalign.index.search import Search, Segment
from crystalign.index.vector_store import EXTRA, VECTOR_STORES, Allowed, Ask

FILTERS = {
    None: lambda e, hull, n: True,
    'elements HAS "O"': lambda e, hull, n: "O" in e,
    'elements HAS "O" AND NOT elements HAS ANY "Li","Fe"': lambda e, hull, n: "O" in e and not {"Li", "Fe"} & e,
    "_crystalign_energy_above_hull<0.5": lambda e, hull, n: hull is not None and hull < 0.5,
    "_crystalign_energy_above_hull<0.01": lambda e, hull, n: hull is not None and hull < 0.01,
    "nelements>=1": lambda e, hull, n: True,
    "nsites>1000": lambda e, hull, n: False,
}
QUICK = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
searches = st.lists(
    st.tuples(st.integers(0, 2**32 - 1), st.sampled_from([1, 3, 10, 90]), st.sampled_from(list(FILTERS))),
    min_size=1,
    max_size=6,
)


def pairs(found):
    return list(zip(found.ids, found.scores.tolist(), strict=True))


@pytest.fixture(scope="module", autouse=True)
def small_steps():
    """Blocks and slices so small that a few thousand rows have many of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact_fp16, "BLOCK", 128)
        patch.setattr(exact_fp16, "_SLICE", 512)
        patch.setattr(exact_fp16, "_threads", lambda: 2)
        patch.setattr(ivf, "_ROWS_AT_ONCE", 512)
        yield


def stored(kind, vectors):
    """The files of a kind for vectors in two segments."""
    store = VECTOR_STORES[kind]
    trained = store.train(vectors[np.random.default_rng(1).permutation(len(vectors))], len(vectors))
    return trained, [store.encode(part, trained) for part in (vectors[:1100], vectors[1100:])]


@functools.cache
def case(make, kind, distinct, removed):
    rows = make(2500, distinct=distinct, seed=11)
    gone = np.random.default_rng(12).random(2500) < 0.2 if removed else np.zeros(2500, bool)
    bits = np.packbits(gone, bitorder="little") if removed else None
    trained, saved = stored(kind, rows.vectors)
    return (
        rows,
        gone,
        Segment(rows.table, rows.vectors, rows.properties, kind=kind, trained=trained, saved=saved, removed=bits),
    )


@pytest.mark.parametrize("removed", [False, True])
@pytest.mark.parametrize("distinct", [None, 5])
@pytest.mark.parametrize("kind", list(VECTOR_STORES))
def test_searches_without_a_measured_recall_find_what_a_full_sort_finds(make, kind, distinct, removed):
    rows, gone, segment = case(make, kind, distinct, removed)
    sites = rows.table["n_sites"].to_pylist()

    @QUICK
    @given(searches)
    def check(wanted):
        asked = [Search(np.random.default_rng(seed).normal(size=32), k, text) for seed, k, text in wanted]
        for search, found in zip(asked, segment.search_many(asked), strict=True):
            allows = FILTERS[search.filter_text]
            mask = ~gone & [allows(e, h, n) for e, h, n in zip(rows.elements, rows.hull, sites, strict=True)]
            assert found.allowed == mask.sum() == segment.count(search.filter_text)
            assert pairs(found) == rows.oracle(search.query.astype(np.float32), search.k, mask)

    check()


APPROXIMATE = [kind for kind in VECTOR_STORES if not VECTOR_STORES[kind].is_exact]


@pytest.mark.parametrize("kind", APPROXIMATE)
def test_an_effort_of_all_rows_finds_what_a_full_sort_finds(make, kind):
    """Every list is visited, and enough candidates get exact scores, so that only the order of the codes matters."""
    rows, _, segment = case(make, kind, None, False)
    queries = np.random.default_rng(3).normal(size=(20, 32)).astype(np.float32)
    everything = np.ones(2500, bool)
    for query in queries:
        found = segment.answer([Ask(query, 10 + EXTRA, None, 2500)], [10])[0]
        exact = rows.oracle(query, 10, everything)
        assert len(set(found.ids) & {name for name, _ in exact}) >= 9
        scores = dict(rows.oracle(query, 2500, everything))
        assert [scores[name] for name in found.ids] == found.scores.tolist(), "scores are exact, whatever was found"


@pytest.mark.parametrize("kind", APPROXIMATE)
def test_approximate_searches_obey_the_filter_and_score_exactly(make, kind):
    rows, gone, segment = case(make, kind, None, True)
    mask = ~gone & [hull is not None and hull < 0.7 for hull in rows.hull]
    allowed = segment.allowed("_crystalign_energy_above_hull<0.7")
    rng = np.random.default_rng(4)
    for effort in (1, 50, 400, 1700):
        query = rng.normal(size=32).astype(np.float32)
        found = segment.answer([Ask(query, 20 + EXTRA, allowed, effort)], [20])[0]
        assert mask[found.rows].all()
        assert len(found.ids) == len(set(found.ids)) == 20
        scores = dict(rows.oracle(query, 2500, mask))
        assert [scores[name] for name in found.ids] == found.scores.tolist()
        assert found.allowed == mask.sum()


@pytest.mark.parametrize("kind", APPROXIMATE)
def test_more_effort_visits_more_lists_and_finds_more(make, kind):
    rows, _, segment = case(make, kind, None, False)
    queries, everything = np.random.default_rng(5).normal(size=(60, 32)).astype(np.float32), np.ones(2500, bool)
    truth = [{name for name, _ in rows.oracle(query, 10, everything)} for query in queries]
    recalls = []
    for effort in (75, 300, 1200, 2500):
        found = segment.answer([Ask(query, 10 + EXTRA, None, effort) for query in queries], [10] * 60)
        recalls.append(np.mean([len(true & set(one.ids)) / 10 for true, one in zip(truth, found, strict=True)]))
    assert (np.diff(recalls) > 0).all(), recalls
    assert recalls[0] < 0.8
    assert recalls[-1] > 0.95


@pytest.mark.parametrize("n", [1, 7, 127, 128, 129, 1000])
@pytest.mark.parametrize("queries", [2, 5])
def test_a_shared_scan_returns_the_best_rows_of_each_query(make, n, queries):
    vectors, rng = make(n, seed=n).vectors, np.random.default_rng(n)
    mask = rng.random(n) < 0.5
    mask[0] = True
    allowed = Allowed(np.packbits(mask, bitorder="little"), int(mask.sum()))
    asks = [Ask(rng.normal(size=32).astype(np.float32), int(rng.integers(1, n + 1))) for _ in range(queries - 1)]
    asks.append(Ask(rng.normal(size=32).astype(np.float32), int(rng.integers(1, allowed.n + 1)), allowed))
    for ask, found in zip(asks, scan(vectors, asks), strict=True):
        exact = vectors.astype(np.float64) @ ask.query
        exact[~mask if ask.allowed else []] = -np.inf
        best = np.argsort(-exact)[: ask.fetch]
        assert found.rows.tolist() == best.tolist()
        assert np.allclose(found.scores, exact[best], atol=1e-5)
        assert (np.diff(found.scores) <= 0).all()


@pytest.mark.parametrize(("rows", "queries", "shared"), [(300, 1, True), (700, 9, True), (700, 1, False)])
def test_the_rows_behind_a_filter_are_read_once_for_all_its_queries(make, monkeypatch, rows, queries, shared):
    vectors, rng = make(3000, seed=6).vectors, np.random.default_rng(7)
    mask = np.zeros(3000, bool)
    mask[rng.permutation(3000)[:rows]] = True
    allowed = Allowed(np.packbits(mask, bitorder="little"), rows)
    asks = [Ask(rng.normal(size=32).astype(np.float32), 20 + n, allowed) for n in range(queries)]
    read, single = [], exact_fp16._single
    monkeypatch.setattr(exact_fp16, "_single", lambda v, r: read.append(len(r)) or single(v, r))
    for ask, found in zip(asks, ExactFp16(vectors).candidates(asks), strict=True):
        exact = np.where(mask, vectors.astype(np.float64) @ ask.query, -np.inf)
        assert found.rows.tolist() == np.argsort(-exact)[: ask.fetch].tolist()
    assert sum(read) == (rows if shared else 0)


def test_rounding_errors_of_all_ways_stay_within_the_margin(make):
    vectors = make(3000, 192, seed=2).vectors
    store, rng = ExactFp16(vectors), np.random.default_rng(3)
    everything = Allowed(np.full(375, 255, np.uint8), 3000)
    few = Allowed(np.packbits(np.arange(3000) < 300, bitorder="little"), 300)
    query = rng.normal(size=192).astype(np.float32)
    exact = vectors.astype(np.float64) @ query.astype(np.float64)
    asks = [Ask(query, 300), Ask(query, 300, everything), Ask(query, 300, few)]
    for found in (*store.candidates(asks), *store.candidates(asks[:1])):
        assert np.abs(found.scores - exact[found.rows]).max() <= store.margin(query) / 2


def test_a_store_reads_the_vectors_where_they_are(make, tmp_path):
    vectors = make(600, seed=4).vectors
    np.save(tmp_path / "vectors.npy", vectors)
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="c")
    query = np.random.default_rng(5).normal(size=32).astype(np.float32)
    one, other = (ExactFp16(v).candidates([Ask(query, 20)])[0] for v in (vectors, mapped))
    assert one.rows.tolist() == other.rows.tolist()
    vectors[one.rows[0]] = 0  # seen at once: the store holds no copy
    store = ExactFp16(mapped)
    mapped[one.rows[0]] = 0
    assert store.candidates([Ask(query, 20)])[0].rows[0] == one.rows[1]


def test_every_kind_is_a_class_with_the_methods_of_a_store():
    for kind in VECTOR_STORES:
        assert {"train", "encode", "load", "candidates", "is_exact"} <= set(dir(VECTOR_STORES[kind]))
