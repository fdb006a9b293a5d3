"""The terminal output of a running campaign: a progress bar, and a line for each finished trial."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ray.tune import Callback

from crystalign import storage
from crystalign.finetuning.trials.config import TrialConfig, TrialResult
from crystalign_jobs.campaign.grid import Entry
from crystalign_jobs.campaign.store import note_death, read_result
from crystalign_ray.progress import Meter


class TrialDisplay(Callback):  # type: ignore[misc]
    """A callback of Ray Tune, called in the driver process."""

    def __init__(self, meter: Meter, trials: str, entry_of: Callable[[TrialConfig], Entry]) -> None:
        """Store what the lines are made from.

        Args:
            meter: the progress bar.
            trials: URI of the folder of trials.
            entry_of: the row of the table that a trial belongs to.
        """
        self._meter, self._trials, self._entry_of = meter, trials, entry_of
        self._deaths: dict[str, int] = {}
        self._began: dict[str, float] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Empty: Tune pickles its callbacks, but no code reads the pickles."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:  # noqa: ARG002
        """Record the start time."""
        self._began.setdefault(trial.trial_id, time.monotonic())

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any  # noqa: ARG002
    ) -> None:  # fmt: skip
        """Show the epoch of a trial."""
        if "epoch" in result:
            config = _config(trial)
            self._meter.advance(0, note=f"{self._entry_of(config).title} · epoch {result['epoch']:.0f}")

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:  # noqa: ARG002
        """Print a line for a trial that ended."""
        config = _config(trial)
        result = read_result(storage.join(self._trials, config.id))
        failed = (trial.last_result or {}).get("failed")
        if result is None and failed is None:
            return  # it was interrupted
        outcome = f"failed: {failed}" if result is None or failed else summary(result)
        seconds = time.monotonic() - self._began.get(trial.trial_id, time.monotonic())
        self._print_line(config, f"{outcome}  {seconds:.0f} s")

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:  # noqa: ARG002
        """Report that the process of a trial died and is restarted."""
        self._deaths[trial.trial_id] = self._deaths.get(trial.trial_id, 0) + 1
        config = _config(trial)
        print(f"  {self._entry_of(config).title}: process died, restarting the trial", flush=True)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:  # noqa: ARG002
        """Report that the process of a trial died too often."""
        config = _config(trial)
        failure = note_death(self._trials, config, self._deaths.get(trial.trial_id, 0) + 1)
        self._print_line(config, f"failed: {failure}")

    def _print_line(self, config: TrialConfig, outcome: str) -> None:
        print(f"  {self._entry_of(config).title:<60} {outcome}", flush=True)
        self._meter.advance(1)


def summary(result: TrialResult) -> str:
    """The test errors of a trial in one line."""
    parts = []
    for metrics in result.metrics.values():
        if "mae" in metrics:
            parts.append(
                f"MAE {metrics['mae']:.4g} ({metrics.get('scaled_mae', float('nan')):.2f} of the mean baseline)"
            )
        else:
            parts.append(f"ROC AUC {metrics.get('roc_auc', float('nan')):.3f}")
    epochs = f"  {result.epochs} epochs ({result.ended})" if result.epochs else ""
    return f"{', '.join(parts)}{epochs}"


def _config(trial: Any) -> TrialConfig:
    return TrialConfig.model_validate_json(trial.config["trial"])
