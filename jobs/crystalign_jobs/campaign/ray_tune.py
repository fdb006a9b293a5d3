"""Search algorithm, scheduler and stopper for Ray Tune: which trial runs next, which ends early, and when all stop.

Tune never kills a trial to end it early. A stop file in the trial's folder asks the trial to end after its epoch: it
tests its best epoch and writes its result like any other trial. Population-based training is not supported, because it
copies checkpoints between trials, and the result of a trial here depends on its settings alone.
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
from crystalign.finetuning.fitting.recipe import Recipe
from crystalign.finetuning.trials.config import TrialConfig
from crystalign_jobs.campaign.store import STOP

if TYPE_CHECKING:
    from crystalign_jobs.campaign.config import Stopping
    from crystalign_jobs.campaign.search_space import Study

METRIC, TIME = "kept_score", "epoch"


def group(config: TrialConfig) -> str:
    """Id of the group of trials that compete with this one: they differ in nothing but the learning rate."""
    return config.model_copy(update={"lr": 1.0}).id


class Queue(Searcher):  # type: ignore[misc]
    """Suggests the given trials in order, then samples of the Optuna studies, one per cell in turn."""

    def __init__(self, configs: Sequence[TrialConfig], studies: Sequence[Study] = (), samples: int = 0) -> None:
        """Queue the trials.

        Args:
            configs: trials that are listed in advance.
            studies: one per cell.
            samples: how many samples each study draws in total.
        """
        super().__init__()
        self._waiting, self._samples = deque(configs), samples
        self._studies = list(studies)
        self._running: dict[str, tuple[TrialConfig, Study | None]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Empty: Tune pickles its search algorithm, but no code reads the pickles."""
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
            unfinished = [candidate for candidate in self._studies if candidate.asked < self._samples]
            if not unfinished:
                return Searcher.FINISHED
            study = min(unfinished, key=lambda candidate: candidate.asked)
            config = study.ask()
        self._running[trial_id] = (config, study)
        return {"id": config.id, "trial": config.model_dump_json(), "group": group(config)}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Report the result to the study that drew the trial."""
        config, study = self._running.pop(trial_id)
        if study is not None:
            value = None if error or result is None else result.get("value")
            study.tell(config, value if value is not None and math.isfinite(value) else None)

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the folders of the trials hold the state of a campaign."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing."""


class PerGroup(FIFOScheduler):  # type: ignore[misc]
    """One scheduler per group of competing trials; a stop file asks a trial to end."""

    def __init__(self, make: Callable[[Recipe], TrialScheduler], trials: str) -> None:
        """Start without groups.

        Args:
            make: recipe of a group → scheduler that minimises `kept_score` over `epoch`.
            trials: URI of the folder of trials.
        """
        super().__init__()
        self._make, self._trials = make, trials
        self._groups: dict[str, TrialScheduler] = {}
        self._stopped: set[str] = set()

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Add the trial to the scheduler of its group."""
        name = trial.config["group"]
        if name not in self._groups:
            self._groups[name] = self._make(TrialConfig.model_validate_json(trial.config["trial"]).recipe)
        self._groups[name].on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Write a stop file if the scheduler of the group stops the trial; Tune itself always lets it continue."""
        name = trial.config["id"]
        if TIME in result and METRIC in result and name not in self._stopped:
            verdict = self._groups[trial.config["group"]].on_trial_result(tune_controller, trial, result)
            if verdict == TrialScheduler.STOP:
                self._stopped.add(name)
                content = json.dumps({"epoch": result[TIME], METRIC: result[METRIC]}).encode()
                storage.write_bytes(storage.join(self._trials, name, STOP), content)
        return str(TrialScheduler.CONTINUE)


def per_group(stopping: Stopping, trials: str) -> PerGroup:
    """The scheduler for the settings `stop_early` of a campaign."""

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
    """Stops all trials after Ctrl-C or SIGTERM."""

    def __init__(self, asked: list[int]) -> None:
        """Watch a list of signals.

        Args:
            asked: the signals that arrived, as `asked_to_stop` collects them.
        """
        self._asked = asked

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:  # noqa: ARG002 (Tune's)
        """Never stop a single trial."""
        return False

    def stop_all(self) -> bool:
        """Whether a signal arrived."""
        return bool(self._asked)
