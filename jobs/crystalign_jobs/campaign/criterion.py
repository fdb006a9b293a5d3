"""The validation score by which settings are selected."""

from __future__ import annotations

from crystalign.finetuning.trials.config import TrialResult


def criterion(result: TrialResult) -> float:
    """The score by which settings are selected, on the validation part and averaged over targets; smaller is better.

    For regression it is the MAE divided by the MAE of the mean baseline, for classification the log loss.
    """
    name = "scaled_mae" if result.config.task.kind == "regression" else "log_loss"
    values = [metrics.get(name, metrics.get("mae", float("inf"))) for metrics in result.validation.values()]
    return sum(values) / len(values) if values else float("inf")
