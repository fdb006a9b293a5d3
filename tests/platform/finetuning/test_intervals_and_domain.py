"""Intervals cover what they promise, and strangers are told from neighbours."""

from __future__ import annotations

import numpy as np
import pytest

from crystalign.errors import ConfigError
from crystalign.finetuning.data.splits import make_split
from crystalign.finetuning.network.config import LEVELS
from crystalign.finetuning.prediction.domain import Domain
from crystalign.finetuning.prediction.intervals import calibrate, coverage, interval
from crystalign.shards.splits import SplitRule


def draw(rng, n: int, spread: bool = False):
    """Predictions, labels and spreads: errors are exponential, and in proportion to the spread."""
    s = rng.uniform(0.2, 3.0, (n, 2)) if spread else np.ones((n, 2))
    predicted = rng.normal(size=(n, 2))
    sign = rng.choice([-1, 1], (n, 2))
    return predicted, predicted + sign * s * rng.exponential([1.0, 5.0], (n, 2)), s


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("spread", [False, True])
def test_they_cover_what_they_promise(level, spread):
    rng, covered = np.random.default_rng(0), []
    for _ in range(60):
        predicted, wanted, s = draw(rng, 99, spread)
        found = calibrate(predicted, wanted, s if spread else None)
        new, truth, t = draw(rng, 200, spread)
        covered.append(coverage(*interval(found, new, t if spread else None, level=level), truth))
    assert np.mean(covered, axis=0) == pytest.approx([level, level], abs=0.02)


def test_what_decided_nothing_calibrates(energies):
    """Of 100 epochs of equal worth the validation part prefers the one whose errors on it happen to be small."""
    formulas = np.unique(energies.groups["formula"], return_inverse=True)[1]
    covered: dict[str, list[float]] = {"validation": [], "calibration": []}
    for number in range(200):
        rng = np.random.default_rng(number)
        split = make_split(energies, SplitRule(train=0.6, validation=0.2, salt=str(number))).limited(60)
        errors = rng.normal(size=(100, formulas.max() + 1))[:, formulas] + 0.5 * rng.normal(size=(100, len(energies)))
        epoch = np.abs(errors[:, split.validation.rows]).mean(axis=1).argmin()
        for part in split.held_out:
            found = calibrate(np.zeros((len(part), 1)), errors[epoch, part.rows, None])
            ends = interval(found, np.zeros((len(split.test), 1)))
            covered[part.name].append(float(coverage(*ends, errors[epoch, split.test.rows, None])[0]))
    assert np.mean(covered["calibration"]) == pytest.approx(0.9, abs=0.03)
    assert np.mean(covered["validation"]) < 0.7


def test_of_99_materials_the_90th_error_is_the_radius():
    errors = np.arange(1.0, 100.0)[:, None]
    found = calibrate(np.zeros((99, 1)), np.random.default_rng(0).permutation(errors))
    assert found.radii["0.9"] == (90.0,)
    assert found.radii["0.5"] == (50.0,)
    lower, upper = interval(found, np.array([[2.0]]))
    assert (lower.item(), upper.item()) == (-88.0, 92.0)


def test_materials_on_which_members_disagree_get_wider_intervals():
    predicted, wanted, s = draw(np.random.default_rng(1), 200, spread=True)
    found = calibrate(predicted, wanted, s)
    lower, upper = interval(found, np.zeros((2, 2)), np.array([[0.1, 0.1], [3.0, 3.0]]))
    width = upper - lower
    assert (width[1] > 1.5 * width[0]).all()
    with pytest.raises(ConfigError, match="ensemble's spread"):
        interval(found, np.zeros((2, 2)))


def test_too_few_materials_for_a_level_give_infinite_intervals():
    found = calibrate(np.zeros((8, 1)), np.ones((8, 1)))
    assert set(found.radii) == {"0.5", "0.8"}
    assert np.isinf(interval(found, np.zeros((1, 1)))[1])
    assert np.isfinite(interval(found, np.zeros((1, 1)), level=0.8)[1])
    assert np.isnan(interval(None, np.zeros((1, 1)))[0])
    with pytest.raises(ConfigError, match=r"there are 0\.5, 0\.8"):
        interval(found, np.zeros((1, 1)), level=0.7)
    with pytest.raises(ConfigError, match="at least one"):
        calibrate(np.zeros((8, 1)), np.full((8, 1), np.nan))


def test_a_target_with_few_labels_takes_no_level_from_another():
    wanted = np.array([[1.0, 3.0]] * 8 + [[1.0, np.nan]] * 22)
    found = calibrate(np.zeros((30, 2)), wanted)
    assert found.n == (30, 8)
    assert found.radii["0.9"] == (1.0, None)
    assert found.radii["0.8"] == (1.0, 3.0)
    assert interval(found, np.zeros((1, 2)))[1].tolist() == [[1.0, np.inf]]


def test_unknown_labels_count_nowhere():
    wanted = np.array([[1.0, np.nan]] * 20 + [[np.nan, 3.0]] * 20)
    found = calibrate(np.zeros((40, 2)), wanted)
    assert found.radii["0.9"] == (1.0, 3.0)
    lower, upper = -np.ones((40, 2)), np.ones((40, 2))
    assert coverage(lower, upper, wanted).tolist() == [1.0, 0.0]


def test_strangers_are_farther_than_what_was_learnt_from():
    rng = np.random.default_rng(0)
    train, validation, near = (rng.normal(size=(n, 8)).astype(np.float32) for n in (400, 200, 200))
    domain = Domain.fit(train, validation)
    assert (domain.score(validation) > 1).mean() == pytest.approx(0.05, abs=0.01)
    assert (domain.score(near) > 1).mean() < 0.15
    assert (domain.score(near + 6.0) > 1.5).all()
    assert domain.score(train[:1])[0] < 1.0
    assert Domain.fit(train[:2], validation).score(near[:3]).shape == (3,)
    assert domain.score(near[:0]).shape == (0,)


def test_of_many_training_materials_some_are_kept():
    train = np.arange(10_000, dtype=np.float32)[:, None]
    domain = Domain.fit(train, train[:100])
    assert len(domain.reference) == 4096
    assert (domain.reference[0], domain.reference[-1]) == (0.0, 9999.0)
