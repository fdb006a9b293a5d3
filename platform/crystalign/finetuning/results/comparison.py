"""Comparison of methods: mean and spread over seeds, and paired tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from crystalign.errors import ConfigError

FEW = 10
"""Smallest number of pairs for the signed-rank test; with five pairs p cannot fall below 0.06."""


class Spread(NamedTuple):
    """Mean and standard deviation of n runs."""

    mean: float
    """Mean over the runs."""
    std: float
    """Sample standard deviation (n − 1); NaN for a single run."""
    n: int
    """Number of runs."""

    def __str__(self) -> str:
        """`0.123 ± 0.004`."""
        return f"{self.mean:.4g}" if self.n < 2 else f"{self.mean:.4g} ± {self.std:.2g}"


class PairedDifference(NamedTuple):
    """Statistics of the differences a − b over pairs."""

    mean: float
    """Mean difference."""
    low: float
    """Lower end of the 95 % interval of the mean (Student's t); infinite for a single pair."""
    high: float
    """Upper end of that interval."""
    relative: float
    """Relative difference mean(a) / mean(b) − 1; −0.1 means 10 % less."""
    p: float
    """Two-sided p-value; 1 if all differences are zero, NaN for a single pair."""
    test: Literal["t", "wilcoxon"]
    """Name of the test."""
    n: int
    """Number of pairs."""


def spread(values: Sequence[float]) -> Spread:
    """Mean and standard deviation over seeds.

    Raises:
        ConfigError: no values.
    """
    if not len(values):
        raise ConfigError("there is no run to average")
    array = np.asarray(values, np.float64)
    return Spread(float(array.mean()), float(array.std(ddof=1)) if len(array) > 1 else float("nan"), len(array))


def paired_difference(
    a: ArrayLike, b: ArrayLike, *, test: Literal["auto", "t", "wilcoxon"] = "auto"
) -> PairedDifference:
    """Compare paired errors of two methods, with the same seed or on the same material.

    `auto` uses the paired t-test for fewer than 10 pairs, typically seeds: means of many errors are nearly normal, and
    the signed-rank test of five pairs cannot give p < 0.06. For 10 or more pairs, typically materials, it uses
    Wilcoxon's signed-rank test, because errors of single materials have heavy tails. Materials with the same formula
    are not
    independent: average them first.

    Args:
        a: (n,) errors.
        b: (n,) errors of the baseline, in the same order.
        test: name of the test, or `auto`.

    Raises:
        ConfigError: a and b have different lengths, or are empty.
    """
    from scipy import stats

    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if x.shape != y.shape or x.ndim != 1 or not len(x):
        raise ConfigError(f"{x.shape} and {y.shape} values are no pairs; expected (n,) of each, n ≥ 1")
    difference, n = x - y, len(x)
    chosen: Literal["t", "wilcoxon"] = test if test != "auto" else ("t" if n < FEW else "wilcoxon")
    mean, relative = float(difference.mean()), float(x.mean() / y.mean() - 1.0) if y.mean() else float("nan")
    if n < 2:
        return PairedDifference(mean, -np.inf, np.inf, relative, float("nan"), chosen, n)
    error = float(difference.std(ddof=1)) / np.sqrt(n)
    half = float(stats.t.ppf(0.975, n - 1)) * error
    if not difference.any():
        p = 1.0
    elif chosen == "wilcoxon":
        p = float(stats.wilcoxon(difference).pvalue)
    else:
        p = float(2.0 * stats.t.sf(abs(mean) / error, n - 1)) if error > 0 else 0.0
    return PairedDifference(mean, mean - half, mean + half, relative, p, chosen, n)
