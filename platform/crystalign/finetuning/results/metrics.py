"""Errors of predictions, beside those of knowing nothing but the training labels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crystalign.finetuning.data.splits import TrainSet

Array = NDArray[np.float64]


def constants(train: TrainSet) -> dict[str, Array]:
    """`mean` and `median` of the training labels, (T,) in the unit of the property; of a classification its rate and
    the more frequent class.

    Raises:
        TypeError: anything but a `TrainSet`.
    """
    if not isinstance(train, TrainSet):
        raise TypeError(f"baselines are fitted to the training part alone, not to {type(train).__name__}")
    values = train.values
    return {"mean": np.nanmean(values, axis=0), "median": np.nanmedian(values, axis=0)}


def regression_metrics(values: Array, predicted: Array, mean: float, median: float, *, log10: bool) -> dict[str, float]:
    """Of one target, over the materials that have it.

    `mae`, `rmse` in its unit; `mae_of_mean`, `mae_of_median`: of the constants that the training labels give;
    `scaled_mae` = mae / mae_of_mean (Costa et al.: above 1 it is worse than predicting the mean) and
    `scaled_by_median`; for targets that are learnt as log₁₀, `mae_log10` too.

    Args:
        values: (n,) labels; NaN where not known.
        predicted: (n,).
        mean: of the training labels.
        median: of the training labels.
        log10: whether to give the error of the logarithms.
    """
    known = np.isfinite(values)
    y, z = values[known], predicted[known]
    found = {
        "n": float(len(y)),
        "mae": float(np.abs(y - z).mean()),
        "rmse": float(np.sqrt(np.square(y - z).mean())),
        "mae_of_mean": float(np.abs(y - mean).mean()),
        "mae_of_median": float(np.abs(y - median).mean()),
    }
    found["scaled_mae"] = _ratio(found["mae"], found["mae_of_mean"])
    found["scaled_by_median"] = _ratio(found["mae"], found["mae_of_median"])
    if log10:
        found["mae_log10"] = float(np.abs(np.log10(y) - np.log10(np.maximum(z, 1e-12))).mean())
    return found


def classification_metrics(values: Array, probabilities: Array, rate: float) -> dict[str, float]:
    """Of one target, over the materials that have it.

    `roc_auc` (0.5 where all answers are alike, NaN where the test holds one class), `accuracy` and
    `balanced_accuracy` at a probability of 0.5, `log_loss`, and beside them `accuracy_of_majority` and
    `log_loss_of_rate`, of who knows the share of the training labels alone.

    Args:
        values: (n,) 0 or 1; NaN where not known.
        probabilities: (n,) of class 1.
        rate: share of class 1 among the training labels.
    """
    known = np.isfinite(values)
    y, p = values[known] > 0.5, probabilities[known]
    hits = (p > 0.5) == y
    recalls = [float(hits[y == side].mean()) for side in (True, False) if (y == side).any()]
    return {
        "n": float(len(y)),
        "roc_auc": roc_auc(y, p),
        "accuracy": float(hits.mean()),
        "balanced_accuracy": float(np.mean(recalls)),
        "log_loss": float(log_losses(y, p).mean()),
        "accuracy_of_majority": float((y == (rate > 0.5)).mean()),
        "log_loss_of_rate": float(log_losses(y, np.full(len(y), rate)).mean()),
    }


def roc_auc(positive: NDArray[np.bool_], scores: Array) -> float:
    """P(score of a positive > score of a negative) + ½ P(equal), from ranks (Mann and Whitney); NaN of one class."""
    from scipy.stats import rankdata

    n, m = int(positive.sum()), int((~positive).sum())
    if n == 0 or m == 0:
        return float("nan")
    return float((rankdata(scores)[positive].sum() - n * (n + 1) / 2) / (n * m))


def log_losses(positive: NDArray[np.bool_], probabilities: Array) -> Array:
    """(n,) −ln p of the true class; probabilities stop at 10⁻⁶."""
    p = np.clip(probabilities, 1e-6, 1.0 - 1e-6)
    return np.asarray(-np.log(np.where(positive, p, 1.0 - p)))


def _ratio(error: float, of: float) -> float:
    return error / of if of > 0 else float("nan")
