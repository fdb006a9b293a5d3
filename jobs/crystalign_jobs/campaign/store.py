"""The folder of a campaign: settings, trials, results and failures.

A trial is finished when its folder holds a result that verifies.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterable, Sequence
from typing import Any

import yaml

from crystalign import storage
from crystalign.errors import ConfigError, Error
from crystalign.finetuning.fitting import fit_state
from crystalign.finetuning.trials.config import TrialConfig, TrialResult
from crystalign_jobs.campaign.config import Campaign
from crystalign_jobs.campaign.grid import Entry, refuse_contradiction
from crystalign_jobs.settings import stored

CONFIG = "config.yaml"
"""In a campaign's folder: its settings."""
TRIALS = "trials"
"""In a campaign's folder: one folder per trial."""
FAILURE = "failure.json"
"""In a trial's folder: why it failed."""
STOP = f"{fit_state.FOLDER}/{fit_state.STOP}"
"""In a trial's folder: a stop file asks the trial to end after its epoch. It lies beside the state of the fit, and is
deleted with it."""


class Interrupted(Error):  # noqa: N818 (it is no mistake)
    """The campaign was stopped by Ctrl-C or SIGTERM before all trials had finished."""

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.signum = signum


def run_uri(campaign: Campaign) -> str:
    """URI of the folder of a campaign."""
    return storage.join(campaign.out, campaign.name)


def trial_uri(run: str, config: TrialConfig) -> str:
    """URI of the folder of a trial."""
    return storage.join(run, TRIALS, config.id)


def split_by_state(run: str, entries: Sequence[Entry]) -> tuple[dict[str, TrialResult], list[Entry]]:
    """The verified results of finished trials by id, and the other trials."""
    from crystalign.finetuning.trials.trial import finished

    folders = {folder.rstrip("/").rpartition("/")[2] for folder in storage.list_folders(storage.join(run, TRIALS))}
    results: dict[str, TrialResult] = {}
    missing = []
    for entry in entries:
        result = finished(entry.config, trial_uri(run, entry.config)) if entry.config.id in folders else None
        if result is None:
            missing.append(entry)
        else:
            results[entry.config.id] = result
    return results, missing


def read_result(folder: str) -> TrialResult | None:
    """The result in a trial's folder, without verifying its files; None if there is none."""
    path = storage.join(folder, "result.json")
    if not storage.exists(path):
        return None
    try:
        return TrialResult.model_validate_json(storage.read_bytes(path))
    except ValueError:
        return None


def failures_of(run: str, entries: Iterable[Entry]) -> dict[str, str]:
    """Id → why a trial has no result."""
    unknown = "it did not finish; run the campaign again"
    return {entry.config.id: read_failure(trial_uri(run, entry.config)) or unknown for entry in entries}


def note_death(trials: str, config: TrialConfig, failures: int) -> str:
    """Record that the process of a trial died too often, and return the message."""
    message = f"its process died {failures} times, perhaps for lack of memory; lower concurrent"
    write_failure(storage.join(trials, config.id), config, message)
    return message


def reason(error: BaseException) -> str:
    """An exception in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def write_failure(folder: str, trial: TrialConfig, error: BaseException | str) -> None:
    """Record why a trial failed; the next run of the campaign repeats the trial."""
    message = error if isinstance(error, str) else reason(error)
    trace = "" if isinstance(error, str) else "".join(traceback.format_exception(error))
    content = {"id": trial.id, "reason": message, "traceback": trace}
    storage.write_bytes(storage.join(folder, FAILURE), (json.dumps(content, indent=2) + "\n").encode())


def read_failure(folder: str) -> str | None:
    """Why a trial failed; None if it has no failure file."""
    path = storage.join(folder, FAILURE)
    return str(json.loads(storage.read_bytes(path))["reason"]) if storage.exists(path) else None


def is_campaign(settings: Any) -> bool:
    """Whether the settings in a folder are a campaign's, not a pre-training run's."""
    return isinstance(settings, dict) and "initialisations" in settings


def stored_settings(run: str) -> dict[str, Any]:
    """The stored settings of a campaign, with `out` and `name` of its present location.

    Raises:
        ConfigError: there is no campaign.
    """
    missing = f"there is no campaign at {run} to resume; start one: crystalign tune campaign.yaml"
    return stored(run, CONFIG, missing=missing)


def claim(config: Campaign, run: str) -> None:
    """Store the settings of a campaign; they must contain those stored before.

    Raises:
        ConfigError: they do not, or the folder holds something else.
    """
    path = storage.join(run, CONFIG)
    settings = Campaign.model_validate(config.model_dump(include=set(Campaign.model_fields)))
    if storage.exists(path):
        values = yaml.safe_load(storage.read_bytes(path))
        if not is_campaign(values):
            raise ConfigError(f"{run} holds something other than a campaign; choose another --name")
        own = {name: value for name, value in values.items() if name in Campaign.model_fields}
        refuse_contradiction(Campaign.from_mapping(own, origin=path), settings, run)
    storage.write_bytes(path, settings.to_yaml().encode())
