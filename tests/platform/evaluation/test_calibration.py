"""Probabilities fitted to outcomes: the fit is the optimum of its equation, and reliability is counted right."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from crystalign.errors import DatasetError
from crystalign.evaluation.calibration import FEWEST, Fit, Signal, fit, reliability


def drawn(n: int, seed: int = 0) -> tuple[list[dict[str, float]], np.ndarray]:
    """Samples of three signals: one that helps, one that does not matter, and one that misleads."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3)) * [2.0, 1.0, 0.5] + [3.0, 0.0, -1.0]
    outcomes = rng.random(n) < 1.0 / (1.0 + np.exp(-(1.2 * (x[:, 0] - 3.0) - 2.0 * (x[:, 2] + 1.0))))
    return [dict(zip(("good", "idle", "bad"), row, strict=True)) for row in x.tolist()], outcomes


def test_the_fit_is_the_minimum_of_the_penalised_loss_with_weights_of_at_least_zero():
    samples, outcomes = drawn(800)
    found = fit(samples, outcomes, ridge=2.0)
    x = torch.tensor([[sample[s.name] for s in found.signals] for sample in samples], dtype=torch.float64)
    z = (x - x.mean(0)) / x.std(0, unbiased=False)
    y = torch.tensor(outcomes, dtype=torch.float64)
    w = torch.tensor([s.weight for s in found.signals], dtype=torch.float64, requires_grad=True)
    b = torch.tensor(found.intercept, dtype=torch.float64, requires_grad=True)
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(b + z @ w, y, reduction="sum")
    slopes = torch.autograd.grad(entropy + w.square().sum(), (w, b))  # λ/2 = 1
    assert abs(slopes[1].item()) < 1e-3
    for signal, slope in zip(found.signals, slopes[0].tolist(), strict=True):
        assert slope == pytest.approx(0.0, abs=1e-3) if signal.weight > 0 else slope > -1e-3
    weights = {signal.name: signal.weight for signal in found.signals}
    assert weights["good"] > 1.0
    assert weights["bad"] == 0.0  # more of a signal never makes an answer less sure


def test_probabilities_of_new_samples_agree_with_their_outcomes():
    samples, outcomes = drawn(4000)
    found = fit([{"good": sample["good"]} for sample in samples], outcomes)
    others, happened = drawn(4000, seed=1)
    measured = reliability([found.probability(sample) for sample in others], happened)
    for one in measured.bins:
        assert abs(one.predicted - one.observed) < 4.0 * math.sqrt(0.25 / one.queries) + 0.02
    assert measured.brier < measured.brier_constant - 0.05


def test_probability_is_the_logistic_function_and_never_certain():
    found = Fit(signals=(Signal(name="s", mean=2.0, spread=4.0, weight=3.0),), intercept=-0.5, queries=98)
    assert found.probability({"s": 6.0}) == pytest.approx(1.0 / (1.0 + math.exp(-2.5)))
    assert found.probability({"s": 1e9}) == pytest.approx(0.99)
    assert found.probability({"s": -1e9}) == pytest.approx(0.01)


@pytest.mark.parametrize("values", [{}, {"t": 1.0}, {"s": math.nan}, {"s": math.inf}])
def test_without_its_signal_there_is_no_probability(values):
    found = Fit(signals=(Signal(name="s", mean=0.0, spread=1.0, weight=1.0),), intercept=0.0, queries=10)
    assert found.probability(values) is None


def test_a_signal_that_does_not_vary_is_left_out():
    samples, outcomes = drawn(200)
    found = fit([{**sample, "constant": 1.0} for sample in samples], outcomes)
    assert "constant" not in {signal.name for signal in found.signals}


@pytest.mark.parametrize("few", [0, FEWEST - 1])
def test_too_few_queries_of_one_outcome_are_refused(few):
    outcomes = [1] * few + [0] * 100
    with pytest.raises(DatasetError, match=f"{few} queries were answered and 100 were not"):
        fit([{"s": float(n)} for n in range(len(outcomes))], outcomes)


def test_separated_outcomes_get_finite_weights():
    found = fit([{"s": float(n)} for n in range(100)], [n >= 50 for n in range(100)])
    assert 1.0 < found.signals[0].weight < 100.0


def test_reliability_counts_bins_brier_score_and_auc_as_by_hand():
    rng = np.random.default_rng(3)
    p, y = np.round(rng.random(300), 1), rng.random(300) < 0.4
    measured = reliability(p, y, bins=5)
    pairs = [(float(a > b) + 0.5 * float(a == b)) for a, b in itertools.product(p[y], p[~y])]
    assert measured.auc == pytest.approx(sum(pairs) / len(pairs))
    assert measured.brier == pytest.approx(sum((a - b) ** 2 for a, b in zip(p, y, strict=True)) / 300)
    share = y.mean()
    assert measured.brier_constant == pytest.approx(sum((share - b) ** 2 for b in y) / 300)
    assert (measured.queries, measured.answered) == (300, int(y.sum()))
    assert sum(one.queries for one in measured.bins) == 300
    for one in measured.bins:
        inside = (p >= one.low) & ((p < one.high) | (one.high == 1.0))
        assert one.queries == inside.sum()
        assert one.observed == pytest.approx(y[inside].mean())
        assert one.predicted == pytest.approx(p[inside].mean())


def test_one_outcome_alone_has_no_auc():
    assert reliability([0.2, 0.7], [1, 1]).auc is None
