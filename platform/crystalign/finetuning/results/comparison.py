"""Whether one way is better than another: means with their spread over seeds, and paired tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from crystalign.errors import ConfigError

FEW = 10
"""Pairs below which the signed-rank test cannot become significant or hardly so: five have p ≥ 0.06."""


class Spread(NamedTuple):
    """Mean and scatter of n runs."""

    mean: float
    """Over the runs."""
    std: float
    """Standard deviation of a run (n − 1); NaN of a single one."""
    n: int
    """Runs."""

    def __str__(self) -> str:
        """`0.123 ± 0.004`."""
        return f"{self.mean:.4g}" if self.n < 2 else f"{self.mean:.4g} ± {self.std:.2g}"


class PairedDifference(NamedTuple):
    """a − b over pairs."""

    mean: float
    """Mean difference."""
    low: float
    """Lower end of its 95 % interval, by Student's t; infinite of a single pair."""
    high: float
    """Upper end."""
    relative: float
    """mean(a) / mean(b) − 1: −0.1 is 10 % less."""
    p: float
    """Two-sided; 1 where nothing differs, NaN of a single pair."""
    test: Literal["t", "wilcoxon"]
    """Which one."""
    n: int
    """Pairs."""


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
    """Compare errors that belong together: of two methods with the same seed, or on the same material.

    `auto` takes the paired t-test for fewer than 10 pairs, as seeds are: means of many errors are near enough to
    normal, and the signed-rank test of five pairs cannot fall below p = 0.06. For 10 and more, as materials are, it
    takes Wilcoxon's signed-rank test, because errors of single materials have heavy tails. Materials of one formula
    are no independent pairs: average them first.

    Args:
        a: (n,) errors.
        b: (n,) errors of the baseline, in the same order.
        test: which.

    Raises:
        ConfigError: not as many a as b, or none.
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
