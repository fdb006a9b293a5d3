"""Paired tests and means over seeds are those of the textbooks."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from crystalign.errors import ConfigError
from crystalign.finetuning.results.comparison import paired_difference, spread
from crystalign.finetuning.results.metrics import classification_metrics, regression_metrics, roc_auc


def test_the_spread_is_that_of_a_run():
    found = spread([1.0, 2.0, 4.0])
    assert found.mean == pytest.approx(7 / 3)
    assert found.std == pytest.approx(np.std([1, 2, 4], ddof=1))
    assert str(found) == "2.333 ± 1.5"
    assert str(spread([0.5])) == "0.5"
    with pytest.raises(ConfigError, match="no run"):
        spread([])


def test_seeds_are_compared_by_t():
    a, b = [0.90, 0.95, 0.85], [1.0, 1.02, 0.99]
    found = paired_difference(a, b)
    oracle = stats.ttest_rel(a, b)
    assert found.test == "t"
    assert found.p == pytest.approx(oracle.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(oracle.confidence_interval()))
    assert found.relative == pytest.approx(np.mean(a) / np.mean(b) - 1)
    assert found.low < found.mean < found.high < 0


def test_materials_are_compared_by_signed_ranks():
    rng = np.random.default_rng(0)
    b = rng.exponential(size=60)
    a = b + 0.1 * rng.normal(size=60) - 0.05
    found = paired_difference(a, b)
    assert (found.test, found.n) == ("wilcoxon", 60)
    assert found.p == pytest.approx(stats.wilcoxon(a, b).pvalue)
    assert paired_difference(a, b, test="t").p == pytest.approx(stats.ttest_rel(a, b).pvalue)


def test_nothing_to_compare():
    assert paired_difference([1.0, 2.0], [1.0, 2.0]).p == 1.0
    one = paired_difference([1.0], [2.0])
    assert (one.mean, one.relative, one.low) == (-1.0, -0.5, -np.inf)
    assert np.isnan(one.p)
    assert paired_difference([1.0, 2.0], [2.0, 3.0]).p == 0.0
    for wrong in (([1.0], [1.0, 2.0]), ([], [])):
        with pytest.raises(ConfigError, match="no pairs"):
            paired_difference(*wrong)


def test_errors_stand_beside_those_of_the_constants():
    values, predicted = np.array([1.0, 10.0, np.nan]), np.array([10.0, 10.0, 5.0])
    found = regression_metrics(values, predicted, 4.0, 2.0, log10=True)
    assert found == pytest.approx(
        {
            "n": 2, "mae": 4.5, "rmse": np.sqrt(81 / 2), "mae_of_mean": 4.5, "mae_of_median": 4.5, "scaled_mae": 1.0,
            "scaled_by_median": 1.0, "mae_log10": 0.5,
        }
    )  # fmt: skip


def test_the_area_under_the_curve_counts_pairs():
    rng = np.random.default_rng(0)
    positive, scores = rng.random(50) > 0.6, rng.integers(0, 5, 50).astype(float)
    above = scores[positive][:, None] - scores[~positive]
    assert roc_auc(positive, scores) == pytest.approx(((above > 0) + 0.5 * (above == 0)).mean())
    assert np.isnan(roc_auc(np.ones(3, bool), np.arange(3.0)))
    found = classification_metrics(np.array([1.0, 1.0, 0.0, np.nan]), np.array([0.9, 0.2, 0.1, 0.5]), 0.7)
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["balanced_accuracy"] == pytest.approx(0.75)
    assert found["accuracy_of_majority"] == pytest.approx(2 / 3)
    assert found["log_loss"] == pytest.approx(-np.log([0.9, 0.2, 0.9]).mean())
