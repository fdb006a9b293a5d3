"""Retrieval numbers against brute force, and against what they must be by construction."""

from __future__ import annotations

import numpy as np
import pytest

from crystalign.crystal import Crystal
from crystalign.evaluation.report import Report, View, evaluate_pairs, to_markdown
from crystalign.evaluation.retrieval import recalls, retrieve, score_by_embedding
from crystalign.evaluation.shortcuts import shortcut_scores


def unit(rng: np.random.Generator, n: int, d: int = 8) -> np.ndarray:
    z = rng.normal(size=(n, d)).astype(np.float32)
    return z / np.linalg.norm(z, axis=1, keepdims=True)


def distinct(n: int) -> np.ndarray:
    return np.arange(n, dtype=np.int64)


def test_ranks_equal_a_full_sort() -> None:
    rng = np.random.default_rng(0)
    a, b = unit(rng, 300), unit(rng, 300)
    outcome = retrieve(score_by_embedding(a, b), [distinct(300)], distinct(300), chunk=37)
    order = np.argsort(-(a @ b.T), axis=1)
    expected = 1 + np.array([int(np.flatnonzero(order[i] == i)[0]) for i in range(300)])
    assert np.array_equal(outcome.ranks, expected)


def test_random_embeddings_score_at_chance() -> None:
    rng = np.random.default_rng(1)
    outcome = retrieve(score_by_embedding(unit(rng, 2000), unit(rng, 2000)), [distinct(2000)], distinct(2000))
    for found in recalls(outcome):
        assert found.chance == pytest.approx(found.k / 2000)
        assert found.low <= found.chance <= found.high


def test_a_constant_embedding_scores_exactly_chance_and_never_by_luck_of_the_order() -> None:
    same = np.ones((50, 4), dtype=np.float32) / 2
    outcome = retrieve(score_by_embedding(same, same), [distinct(50)], distinct(50))
    assert [r.value for r in recalls(outcome)] == pytest.approx([r.chance for r in recalls(outcome)])


def test_equivalent_candidates_are_neither_misses_nor_rivals() -> None:
    z = np.eye(4, dtype=np.float32)[[0, 0, 1, 2]]  # rows 0 and 1 cannot be told apart
    keys = np.array([7, 7, 8, 9])
    aware = retrieve(score_by_embedding(z, z), [keys], distinct(4))
    blind = retrieve(score_by_embedding(z, z), [distinct(4)], distinct(4))
    assert aware.hits(1).tolist() == [1, 1, 1, 1]
    assert blind.hits(1).tolist() == [0.5, 0.5, 1, 1]
    assert aware.pool.tolist() == [3, 3, 4, 4]


def test_candidates_are_equivalent_if_any_of_their_keys_is_equal() -> None:
    z = np.eye(4, dtype=np.float32)[[0, 0, 0, 1]]
    keys = np.array([[1, 10], [2, 10], [1, 30], [4, 40]])  # 0 and 2 by the modality, 0 and 1 by the structure
    found = retrieve(score_by_embedding(z, z), [keys], distinct(4))
    assert found.pool.tolist() == [2, 3, 3, 4]
    assert found.hits(1).tolist() == [1, 0.5, 0.5, 1]


def test_inside_a_class_only_its_members_compete() -> None:
    rng = np.random.default_rng(2)
    a = unit(rng, 60)
    classes = np.repeat(np.arange(20), 3)
    classes[0] = 99  # alone: asks nothing
    outcome = retrieve(score_by_embedding(a, unit(rng, 60)), [distinct(60)], distinct(60), within=classes)
    assert len(outcome.pool) == 59
    assert set(outcome.pool.tolist()) == {2.0, 3.0}


def test_a_k_that_reaches_the_pool_is_not_printed() -> None:
    z = np.eye(10, dtype=np.float32)
    found = recalls(retrieve(score_by_embedding(z, z), [distinct(10)], distinct(10)))
    assert [r.k for r in found] == [1, 5]


def test_intervals_are_wider_when_formulas_succeed_together() -> None:
    rng = np.random.default_rng(3)
    formulas = np.repeat(np.arange(40), 25)
    good = np.repeat(rng.random(40) < 0.5, 25)
    a, b = unit(rng, 1000, 64), unit(rng, 1000, 64)
    b[good] = a[good]
    scores = score_by_embedding(a, b)
    grouped = recalls(retrieve(scores, [distinct(1000)], formulas), ks=(1,))[0]
    alone = recalls(retrieve(scores, [distinct(1000)], distinct(1000)), ks=(1,))[0]
    assert grouped.high - grouped.low > 3 * (alone.high - alone.low)


def crystals() -> list[Crystal]:
    rocksalt = [[0, 0, 0], [0.5, 0.5, 0.5]]
    primitive = np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]) / 2
    return [
        Crystal(primitive * a, rocksalt, z)
        for a, z in ((5.64, [11, 17]), (5.0, [11, 17]), (4.21, [12, 8]), (6.29, [19, 17]), (5.4, [12, 16]))
    ]


def test_the_composition_shortcut_knows_the_formula_and_nothing_else() -> None:
    outcome = retrieve(shortcut_scores("composition", crystals()), [distinct(5)], distinct(5))
    assert outcome.hits(1).tolist() == [0.5, 0.5, 1, 1, 1]


def test_the_volume_shortcut_tells_polymorphs_apart() -> None:
    outcome = retrieve(shortcut_scores("volume", crystals()), [distinct(5)], distinct(5))
    assert outcome.hits(1).tolist() == [1] * 5


def test_the_volume_of_a_partly_empty_crystal_is_per_atom() -> None:
    lattice = 2.5 * (np.ones((3, 3)) - np.eye(3))
    full = Crystal(lattice, np.array([[0, 0, 0], [0.5] * 3]), np.array([26, 8]))
    half = Crystal(lattice, full.frac_coords, full.atomic_numbers, (((26, 0.5),), ((8, 1.0),)))
    same = Crystal(lattice * (4 / 3) ** (1 / 3), full.frac_coords, full.atomic_numbers)  # as much space for each atom
    scores = shortcut_scores("volume", [full, half, same])(np.arange(3))
    assert scores[1, 2] == pytest.approx(0.0, abs=1e-3)
    assert scores[0, 1] < -1.0


def test_report_names_trained_and_emergent_links_and_skips_missing_modalities() -> None:
    rng = np.random.default_rng(4)
    pool = crystals() * 10
    everything, half = np.ones(50, bool), np.arange(50) % 2 == 0
    z = unit(rng, 50)
    views = [
        View("crystal", everything, z, distinct(50)),
        View("xrd", half, z, distinct(50)),
        View("text", everything, unit(rng, 50), distinct(50)),
        View("text-masked", everything, unit(rng, 50), distinct(50)),
    ]
    trained = {frozenset(("crystal", "xrd")), frozenset(("crystal", "text"))}
    pairs = {(p.query, p.target): p for p in evaluate_pairs(views, pool, distinct(50), trained)}
    assert ("text", "text-masked") not in pairs
    assert pairs["crystal", "xrd"].trained
    assert pairs["crystal", "text-masked"].trained
    assert not pairs["xrd", "text"].trained
    assert pairs["xrd", "crystal"].queries == 25
    assert pairs["xrd", "crystal"].recalls[0].value == 1.0
    table = to_markdown(Report({"pool": "test"}, list(pairs.values())))
    assert (
        "| xrd → crystal | trained | 25 | 25 | 100.0 [86.3, 100.0] |" in table
    )  # 0.025^(1/25): 25 of 25 is not certainty


@pytest.mark.parametrize("keys", [np.zeros(0, np.int64), np.zeros((0, 2), np.int64)])
def test_no_rows_are_no_queries(keys):
    found = retrieve(score_by_embedding(np.zeros((0, 8)), np.zeros((0, 8))), [keys], np.zeros(0, np.int64))
    assert len(found.pool) == 0
    assert recalls(found) == []
