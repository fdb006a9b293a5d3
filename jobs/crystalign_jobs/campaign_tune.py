"""What Ray Tune is told: which trial comes next, which one ends early, and when all end.

Tune decides and never kills for it. A trial that is to end early finds a file in its folder after its epoch, tests its
best epoch and writes its result like any other; so nothing is left of it but that. Population-based training is not
offered: it copies checkpoints between trials, and a trial here is a function of its settings.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ray.tune import Stopper
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler
from ray.tune.search import Searcher

from crystalign import storage
from crystalign.finetuning.recipe import Recipe
from crystalign.finetuning.trial_config import TrialConfig
from crystalign_jobs.campaign_worker import STOP

if TYPE_CHECKING:
    from crystalign_jobs.campaign import Stopping
    from crystalign_jobs.campaign_search import Study

METRIC, TIME = "kept_score", "epoch"


def group(config: TrialConfig) -> str:
    """Of the trials that compete, an id: those that differ in their learning rate alone."""
    return config.model_copy(update={"lr": 1.0}).id


class Queue(Searcher):  # type: ignore[misc]
    """Trials in order; then, of Optuna's studies, one sample after the other, cell by cell in turn."""

    def __init__(self, configs: Sequence[TrialConfig], studies: Sequence[Study] = (), samples: int = 0) -> None:
        """What is to run.

        Args:
            configs: known beforehand.
            studies: one per cell.
            samples: of each study.
        """
        super().__init__()
        self._waiting, self._samples = deque(configs), samples
        self._studies = list(studies)
        self._running: dict[str, tuple[TrialConfig, Study | None]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune writes pickles of itself, and nobody reads them."""
        return {}

    @property
    def total(self) -> int:
        """How many trials there will be."""
        return len(self._waiting) + sum(max(0, self._samples - study.asked) for study in self._studies)

    def suggest(self, trial_id: str) -> Any:
        """The next trial."""
        study = None
        if self._waiting:
            config = self._waiting.popleft()
        else:
            open_ones = [one for one in self._studies if one.asked < self._samples]
            if not open_ones:
                return Searcher.FINISHED
            study = min(open_ones, key=lambda one: one.asked)
            config = study.ask()
        self._running[trial_id] = (config, study)
        return {"id": config.id, "trial": config.model_dump_json(), "group": group(config)}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell the study."""
        config, study = self._running.pop(trial_id)
        if study is not None:
            value = None if error or result is None else result.get("value")
            study.tell(config, value if value is not None and math.isfinite(value) else None)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the truth about a campaign is in the folders of its trials."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing."""


class PerGroup(FIFOScheduler):  # type: ignore[misc]
    """A scheduler of its own for each group of trials; whom it stops is told so by a file."""

    def __init__(self, make: Callable[[Recipe], TrialScheduler], trials: str) -> None:
        """Without groups yet.

        Args:
            make: a scheduler that minimises `kept_score` over `epoch`, from the recipe that a group shares.
            trials: URI of the folder of trials.
        """
        super().__init__()
        self._make, self._trials = make, trials
        self._groups: dict[str, TrialScheduler] = {}
        self._stopped: set[str] = set()

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Introduce it to its group."""
        name = trial.config["group"]
        if name not in self._groups:
            self._groups[name] = self._make(TrialConfig.model_validate_json(trial.config["trial"]).recipe)
        self._groups[name].on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Ask its group; Tune itself never stops or pauses it."""
        name = trial.config["id"]
        if TIME in result and METRIC in result and name not in self._stopped:
            verdict = self._groups[trial.config["group"]].on_trial_result(tune_controller, trial, result)
            if verdict == TrialScheduler.STOP:
                self._stopped.add(name)
                told = json.dumps({"epoch": result[TIME], METRIC: result[METRIC]}).encode()
                storage.write_bytes(storage.join(self._trials, name, STOP), told)
        return str(TrialScheduler.CONTINUE)


def per_group(stopping: Stopping, trials: str) -> PerGroup:
    """The scheduler that a campaign asks for."""

    def make(recipe: Recipe) -> TrialScheduler:
        grace = stopping.grace_epochs or max(1, math.ceil(2 * recipe.warmup_epochs), recipe.max_epochs // 4)
        common = {"time_attr": TIME, "metric": METRIC, "mode": "min", "grace_period": min(grace, recipe.max_epochs)}
        if stopping.rule == "asha":
            return ASHAScheduler(
                **common,
                max_t=recipe.max_epochs,
                reduction_factor=stopping.reduction,
                stop_last_trials=False,  # the recipe ends them
            )
        return MedianStoppingRule(
            **common,
            min_samples_required=stopping.min_others,
            min_time_slice=math.inf,  # it never pauses
        )

    return PerGroup(make, trials)


class WhenAsked(Stopper):  # type: ignore[misc]
    """Ends everything once somebody asked for it."""

    def __init__(self, asked: list[int]) -> None:
        """Nobody has yet.

        Args:
            asked: gets what asked.
        """
        self._asked = asked

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:  # noqa: ARG002 (Tune's)
        """No single trial ends."""
        return False

    def stop_all(self) -> bool:
        """Whether somebody asked."""
        return bool(self._asked)
