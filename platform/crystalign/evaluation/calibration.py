r"""Fit probabilities to the outcomes of queries, and measure how well they agree with the outcomes of others.

The fit is logistic regression with non-negative weights,

    min_{w ≥ 0, b}  Σ_i ln(1 + exp(−y_i (b + w·z_i))) + λ ‖w‖² / 2,    y_i = ±1,

where z are the signals, each with mean 0 and standard deviation 1 over the fitted queries. The loss is convex, so there
is one solution. No probability falls when a signal rises.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from crystalign.config import Config
from crystalign.errors import DatasetError

RIDGE = 1.0
"""λ of the fit. Without it, weights would grow without bound if the signals separate the outcomes."""
MOST = 500.0
"""Largest log odds that are used; exp overflows for larger ones."""
BINS = 10
"""Number of equal bins of probability in a table of reliability."""
FEWEST = 20
"""Fewest queries of either outcome from which probabilities can be fitted."""


class Signal(Config):
    """One signal of an answer and its weight."""

    name: str
    """Name of the signal."""
    mean: float
    """Mean over the fitted queries."""
    spread: float = Field(gt=0)
    """Standard deviation over the fitted queries."""
    weight: float = Field(ge=0)
    """How much one standard deviation of the signal adds to the log odds. It is never negative: an answer cannot become
    less sure when the signal rises."""

    def term(self, value: float) -> float:
        """What a value of the signal adds to the log odds."""
        return self.weight * (value - self.mean) / self.spread


class Bin(Config):
    """The queries whose probability lies in a range."""

    low: float
    """Lower end of the range."""
    high: float
    """Upper end of the range."""
    queries: int
    """Number of queries."""
    predicted: float
    """Mean of their probabilities."""
    observed: float
    """Share of them that was answered."""


class Reliability(Config):
    """How well probabilities agree with outcomes, on queries that were not fitted."""

    queries: int = Field(ge=1)
    """Number of queries."""
    answered: int = Field(ge=0)
    """Number of queries that were answered."""
    brier: float
    """Mean squared difference of probability and outcome; 0 is perfect."""
    brier_constant: float
    """The same if every probability were the share of answered queries: what a useful probability must beat."""
    auc: float | None
    """Probability that an answered query is given a higher probability than one that is not; None if all have the
    same outcome."""
    bins: tuple[Bin, ...]
    """Bins that hold queries, from low to high probability."""


class Fit(Config):
    """A probability as a function of signals."""

    signals: tuple[Signal, ...]
    """Signals and their weights."""
    intercept: float
    """b of the equation."""
    queries: int = Field(ge=1)
    """Number of queries to which the numbers were fitted."""

    def probability(self, values: Mapping[str, float]) -> float | None:
        """P = 1 / (1 + exp(−(b + Σ_s w_s (x_s − m_s) / d_s))); None if one of the signals is not known.

        A finite number of queries proves no certainty, so P is kept between 1 / (n + 2) and (n + 1) / (n + 2), the
        rule of succession for n fitted queries.

        Args:
            values: signal → x_s.
        """
        if not all(math.isfinite(values.get(signal.name, math.nan)) for signal in self.signals):
            return None
        logit = self.intercept + sum(signal.term(values[signal.name]) for signal in self.signals)
        likely = 1.0 / (1.0 + math.exp(-min(max(logit, -MOST), MOST)))
        least = 1.0 / (self.queries + 2)
        return min(max(likely, least), 1.0 - least)


def fit(samples: Sequence[Mapping[str, float]], outcomes: ArrayLike, *, ridge: float = RIDGE) -> Fit:
    """Fit the probability of the outcome 1 to the signals.

    Args:
        samples: for each query, signal → value; all have the same signals.
        outcomes: (n,) 0 or 1.
        ridge: λ.

    Returns:
        Signals with their weights; signals that do not vary are left out.

    Raises:
        DatasetError: there are fewer than `FEWEST` queries of one outcome.
    """
    from scipy.optimize import minimize

    y = np.asarray(outcomes, np.float64)
    counts = int(y.sum()), int(len(y) - y.sum())
    if min(counts) < FEWEST:
        raise DatasetError(
            f"{counts[0]} queries were answered and {counts[1]} were not; at least {FEWEST} of either are needed to "
            "fit probabilities: ask more queries, or use a larger index"
        )
    names = [n for n in samples[0] if len({sample[n] for sample in samples}) > 1]
    x = np.array([[sample[name] for name in names] for sample in samples])  # (n, S)
    mean, spread = x.mean(axis=0), x.std(axis=0)
    z = (x - mean) / spread

    def loss(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        intercept, w = parameters[0], parameters[1:]
        logit = intercept + z @ w
        value = np.logaddexp(0.0, np.where(y > 0, -logit, logit)).sum() + 0.5 * ridge * w @ w
        residual = 1.0 / (1.0 + np.exp(-np.clip(logit, -MOST, MOST))) - y
        return float(value), np.concatenate([[residual.sum()], residual @ z + ridge * w])

    bounds = [(None, None)] + [(0.0, None)] * len(names)
    start = np.zeros(len(names) + 1)
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-12, "gtol": 1e-9})
    terms = zip(names, mean.tolist(), spread.tolist(), found.x[1:].tolist(), strict=True)
    signals = tuple(Signal(name=n, mean=m, spread=d, weight=max(w, 0.0)) for n, m, d, w in terms)
    return Fit(signals=signals, intercept=float(found.x[0]), queries=len(y))


def reliability(probabilities: ArrayLike, outcomes: ArrayLike, *, bins: int = BINS) -> Reliability:
    """Compare probabilities with outcomes.

    Args:
        probabilities: (n,) 0 to 1.
        outcomes: (n,) 0 or 1.
        bins: number of equal ranges of probability.
    """
    p, y = np.asarray(probabilities, np.float64), np.asarray(outcomes, np.float64)
    place = np.minimum((p * bins).astype(int), bins - 1)
    filled = [
        Bin(
            low=number / bins,
            high=(number + 1) / bins,
            queries=int((place == number).sum()),
            predicted=float(p[place == number].mean()),
            observed=float(y[place == number].mean()),
        )
        for number in np.unique(place).tolist()
    ]
    return Reliability(
        queries=len(p),
        answered=int(y.sum()),
        brier=float(np.square(p - y).mean()),
        brier_constant=float(y.mean() * (1.0 - y.mean())),
        auc=_auc(p, y),
        bins=tuple(filled),
    )


def _auc(p: NDArray[np.float64], y: NDArray[np.float64]) -> float | None:
    """The Mann–Whitney statistic U / (n₁ n₀), ties counted half."""
    from scipy.stats import rankdata

    positive = int(y.sum())
    negative = len(y) - positive
    if not positive or not negative:
        return None
    ranks = rankdata(p)
    return float((ranks[y > 0].sum() - positive * (positive + 1) / 2) / (positive * negative))
