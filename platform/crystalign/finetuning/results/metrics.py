"""Errors of predictions and of baselines that only use the training labels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crystalign.finetuning.data.splits import TrainSet

Array = NDArray[np.float64]


def constants(train: TrainSet) -> dict[str, Array]:
    """Return `mean` and `median` of the training labels, (T,) in the unit of the property.

    For classification these are the base rate and the majority class.

    Raises:
        TypeError: the argument is not a `TrainSet`.
    """
    if not isinstance(train, TrainSet):
        raise TypeError(f"baselines are fitted to the training part alone, not to {type(train).__name__}")
    values = train.values
    return {"mean": np.nanmean(values, axis=0), "median": np.nanmedian(values, axis=0)}


def regression_metrics(values: Array, predicted: Array, mean: float, median: float, *, log10: bool) -> dict[str, float]:
    """Metrics of a regression target, over the materials with a label.

    `mae`, `rmse` in its unit; `mae_of_mean`, `mae_of_median`: MAE of the mean and median baselines;
    `scaled_mae` = mae / mae_of_mean (Costa et al.: above 1 it is worse than predicting the mean) and
    `scaled_by_median`; for targets that are learnt as log₁₀, `mae_log10` too.

    Args:
        values: (n,) labels; NaN where not known.
        predicted: (n,).
        mean: of the training labels.
        median: of the training labels.
        log10: whether to give the error of the logarithms.
    """
    is_labelled = np.isfinite(values)
    y, z = values[is_labelled], predicted[is_labelled]
    metrics = {
        "n": float(len(y)),
        "mae": float(np.abs(y - z).mean()),
        "rmse": float(np.sqrt(np.square(y - z).mean())),
        "mae_of_mean": float(np.abs(y - mean).mean()),
        "mae_of_median": float(np.abs(y - median).mean()),
    }
    metrics["scaled_mae"] = _ratio(metrics["mae"], metrics["mae_of_mean"])
    metrics["scaled_by_median"] = _ratio(metrics["mae"], metrics["mae_of_median"])
    if log10:
        metrics["mae_log10"] = float(np.abs(np.log10(y) - np.log10(np.maximum(z, 1e-12))).mean())
    return metrics


def classification_metrics(values: Array, probabilities: Array, rate: float) -> dict[str, float]:
    """Metrics of a classification target, over the materials with a label.

    `roc_auc` (0.5 if all scores are equal, NaN if there is only one class), `accuracy` and
    `balanced_accuracy` at a probability of 0.5, `log_loss`, and the baselines `accuracy_of_majority` (majority class)
    and `log_loss_of_rate` (base rate of the training labels).

    Args:
        values: (n,) 0 or 1; NaN where not known.
        probabilities: (n,) of class 1.
        rate: share of class 1 among the training labels.
    """
    is_labelled = np.isfinite(values)
    y, p = values[is_labelled] > 0.5, probabilities[is_labelled]
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
    """P(score of a positive > score of a negative) + ½ P(equal), from ranks (Mann and Whitney); NaN for one class."""
    from scipy.stats import rankdata

    n, m = int(positive.sum()), int((~positive).sum())
    if n == 0 or m == 0:
        return float("nan")
    return float((rankdata(scores)[positive].sum() - n * (n + 1) / 2) / (n * m))


def log_losses(positive: NDArray[np.bool_], probabilities: Array) -> Array:
    """Log losses (n,), −ln p of the true class; probabilities are clipped at 10⁻⁶."""
    p = np.clip(probabilities, 1e-6, 1.0 - 1e-6)
    return np.asarray(-np.log(np.where(positive, p, 1.0 - p)))


def _ratio(error: float, of: float) -> float:
    return error / of if of > 0 else float("nan")
