"""What a user sees while the trials of a campaign run: a bar, and a line for each trial that ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ray.tune import Callback

from crystalign import storage
from crystalign.finetuning.trial_config import TrialConfig, TrialResult
from crystalign_jobs.campaign_run import note_death, read_result
from crystalign_jobs.campaign_trials import Entry
from crystalign_jobs.progress import Meter


class Display(Callback):  # type: ignore[misc]
    """Listens to Tune in the driver's process."""

    def __init__(self, meter: Meter, trials: str, entry_of: Callable[[TrialConfig], Entry]) -> None:
        """Show nothing yet.

        Args:
            meter: the bar.
            trials: URI of the folder of trials.
            entry_of: where a trial belongs.
        """
        self._meter, self._trials, self._entry_of = meter, trials, entry_of
        self._deaths: dict[str, int] = {}
        self._began: dict[str, float] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune writes pickles of itself, and nobody reads them."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:  # noqa: ARG002
        """Note when."""
        self._began.setdefault(trial.trial_id, time.monotonic())

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any  # noqa: ARG002
    ) -> None:  # fmt: skip
        """Show where one of them stands."""
        if "epoch" in result:
            config = _config(trial)
            self._meter.advance(0, note=f"{self._entry_of(config).title} · epoch {result['epoch']:.0f}")

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:  # noqa: ARG002
        """A line for a trial that ended."""
        config = _config(trial)
        result = read_result(storage.join(self._trials, config.id))
        failed = (trial.last_result or {}).get("failed")
        if result is None and failed is None:
            return  # it was interrupted
        told = f"failed: {failed}" if result is None or failed else summary(result)
        seconds = time.monotonic() - self._began.get(trial.trial_id, time.monotonic())
        self._tell(config, f"{told}  {seconds:.0f} s")

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:  # noqa: ARG002
        """Its process died, and it is started again."""
        self._deaths[trial.trial_id] = self._deaths.get(trial.trial_id, 0) + 1
        config = _config(trial)
        print(f"  {self._entry_of(config).title}: its process died, it goes on in another", flush=True)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:  # noqa: ARG002
        """Its process died too often."""
        config = _config(trial)
        told = note_death(self._trials, config, self._deaths.get(trial.trial_id, 0) + 1)
        self._tell(config, f"failed: {told}")

    def _tell(self, config: TrialConfig, told: str) -> None:
        print(f"  {self._entry_of(config).title:<60} {told}", flush=True)
        self._meter.advance(1)


def summary(result: TrialResult) -> str:
    """The errors of a trial, for people."""
    parts = []
    for found in result.metrics.values():
        if "mae" in found:
            parts.append(f"MAE {found['mae']:.4g} ({found.get('scaled_mae', float('nan')):.2f} of the mean's)")
        else:
            parts.append(f"ROC AUC {found.get('roc_auc', float('nan')):.3f}")
    epochs = f"  {result.epochs} epochs ({result.ended})" if result.epochs else ""
    return f"{', '.join(parts)}{epochs}"


def _config(trial: Any) -> TrialConfig:
    return TrialConfig.model_validate_json(trial.config["trial"])
