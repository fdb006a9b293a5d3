"""Reciprocal rank fusion."""

from __future__ import annotations

import numpy as np
import pytest

from crystalign.index.fusion import reciprocal_rank_fusion


def test_the_formula_by_hand() -> None:
    fused = reciprocal_rank_fusion([0.9, 0.1, 0.5], [3.0, 7.0, 5.0], k=60)
    assert fused == pytest.approx([1 / 61 + 1 / 63, 1 / 63 + 1 / 61, 2 / 62], rel=1e-15)


def test_only_the_order_of_a_score_counts() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 50))
    assert np.array_equal(reciprocal_rank_fusion(a, b), reciprocal_rank_fusion(np.exp(3 * a), 1e-6 * b - 9))


def test_what_a_score_does_not_know_gains_nothing_by_it() -> None:
    fused = reciprocal_rank_fusion([0.9, 0.8, 0.7], [-np.inf, 0.2, 0.1])
    assert fused == pytest.approx([1 / 61, 1 / 62 + 1 / 61, 1 / 63 + 1 / 62])


def test_agreement_beats_one_first_place() -> None:
    first = np.linspace(1, 0, 200)
    second = np.concatenate([[0.0], np.linspace(1, 0.1, 199)])  # the first candidate of one is the last of the other
    assert np.argmax(reciprocal_rank_fusion(first, second)) == 1
