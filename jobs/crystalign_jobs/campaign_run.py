"""The trials of a campaign that are not finished yet, by Ray Tune.

What is finished stands in the trials' own folders, as verified results. Tune's records are thrown away with a temporary
folder: going on after a crash is running what is missing.
"""

from __future__ import annotations

import logging
import os
import tempfile
import threading
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from crystalign import storage
from crystalign.errors import ConfigError, Error
from crystalign.finetuning.trial_config import TrialConfig, TrialResult
from crystalign_jobs.campaign_trials import Cell, Entry, cells
from crystalign_jobs.campaign_worker import Watch, Work, criterion, read_failure, run_one, write_failure
from crystalign_jobs.progress import Meter
from crystalign_jobs.signals import asked_to_stop

if TYPE_CHECKING:
    from crystalign_jobs.campaign_search import Study
    from crystalign_jobs.tune import Tune

TRIALS = "trials"
WAITING_CPUS = 0.01
"""Logical CPUs of a trial that waits for its workers, which ask for theirs: Tune wants more than nothing."""
_SETTINGS = {
    "RAY_AIR_NEW_OUTPUT": "0",  # the older output can be silent
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # nobody reads Tune's own records
    "TUNE_FORCE_TRIAL_CLEANUP_S": "10",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # paths mean what they meant where the campaign was started
}
_CHATTER = ("ray.tune.tune", "ray.tune.execution.tune_controller", "ray.tune.analysis.experiment_analysis")
"""Loggers that tell of failed and interrupted trials what the display tells better."""


class Interrupted(Error):  # noqa: N818 (it is no mistake)
    """The campaign ended before its end because it was asked to."""

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.signum = signum


def run_uri(campaign: Tune) -> str:
    """Where a campaign writes."""
    return storage.join(campaign.out, campaign.name)


def trial_uri(run: str, config: TrialConfig) -> str:
    """Where a trial writes."""
    return storage.join(run, TRIALS, config.id)


def split_by_state(run: str, entries: Sequence[Entry]) -> tuple[dict[str, TrialResult], list[Entry]]:
    """The verified results of finished trials by id, and the other trials."""
    from crystalign.finetuning.trial import finished

    folders = {place.rstrip("/").rpartition("/")[2] for place in storage.list_folders(storage.join(run, TRIALS))}
    done: dict[str, TrialResult] = {}
    missing = []
    for entry in entries:
        result = finished(entry.config, trial_uri(run, entry.config)) if entry.config.id in folders else None
        if result is None:
            missing.append(entry)
        else:
            done[entry.config.id] = result
    return done, missing


def load_models(configs: Iterable[TrialConfig]) -> None:
    """Load every model that trials start from or are built like, once, before hundreds of trials fail by it.

    Raises:
        ModelError: one is broken, or of another version.
    """
    from crystalign.model import Model

    for uri in dict.fromkeys(config.origin for config in configs):
        if uri is not None:
            Model.from_pretrained(uri)


def run_trials(
    campaign: Tune,
    entries: Sequence[Entry],
    *,
    studies: Sequence[tuple[Cell, Study]] = (),
    watch: Watch | None = None,
) -> list[Entry]:
    """Run trials to their ends, a few at a time; those that fail say so in their folders.

    Args:
        campaign: how.
        entries: which; none of them is finished.
        studies: cells whose next samples are asked for, each with its study.
        watch: called in the trial's process after each epoch.

    Returns:
        What ran: `entries`, and the samples.

    Raises:
        ConfigError: not one trial fits into the cluster.
        Interrupted: Ctrl-C or SIGTERM arrived; what is finished stays.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    from crystalign_jobs.campaign_display import Display
    from crystalign_jobs.campaign_tune import Queue

    run, at_once = run_uri(campaign), concurrent_trials(campaign)
    samples = campaign.search.samples if campaign.search is not None else 0
    queue = Queue([entry.config for entry in entries], [study for _, study in studies], samples)
    if not queue.total:
        return []
    known = {entry.config.id: entry for entry in entries}
    places = {study.search.basis(study.base): cell for cell, study in studies}

    def entry_of(config: TrialConfig) -> Entry:
        if config.id not in known:
            assert campaign.search is not None
            known[config.id] = Entry(places[campaign.search.basis(config)], config)
        return known[config.id]

    with Meter(f"tune {campaign.name}", total=queue.total, unit="trials") as meter, asked_to_stop() as asked:
        display = Display(meter, storage.join(run, TRIALS), entry_of)
        raised = _in_a_thread(campaign, queue, display, asked, at_once, watch)
    if asked:
        raise Interrupted(f"stopped; finished trials stay, and crystalign tune --resume {run} goes on", asked[0])
    if raised is not None:
        raise raised
    return list(known.values())


def concurrent_trials(campaign: Tune) -> int:
    """How many trials run at the same time, by the cores and, if they use them, the GPUs of their processes.

    Raises:
        ConfigError: not one fits, or not as many as are asked for.
    """
    import ray

    from crystalign_jobs.session import alive_nodes

    available = ray.cluster_resources()
    alone = alive_nodes() == 1
    cores = min(available.get("CPU", 0.0), float(os.cpu_count() or 1)) if alone else available.get("CPU", 0.0) - 1
    cpus, share = campaign.workers * campaign.cpus, campaign.workers * campaign.gpus
    waiting = WAITING_CPUS if campaign.workers > 1 else 0.0
    room = min(int(cores // cpus), int(available.get("CPU", 0.0) // (cpus + waiting)))
    if share:
        room = min(room, int(available.get("GPU", 0.0) // share + 1e-9))
    if room < (campaign.concurrent or 1):
        wanted, gpus = campaign.concurrent or 1, available.get("GPU", 0.0)
        raise ConfigError(
            f"concurrent: {wanted} trials × ({cpus} CPUs, {share:g} GPUs) do not fit into {cores:g} cores and {gpus:g} "
            f"GPUs, which hold {room}; lower concurrent, workers, cpus or gpus, or use a larger cluster"
        )
    return campaign.concurrent or room


def _in_a_thread(
    campaign: Tune, queue: Any, display: Any, asked: list[int], at_once: int, watch: Watch | None
) -> Exception | None:
    """Tune in a thread of its own, for it would take Ctrl-C for itself; what it raised."""
    raised: list[Exception] = []

    for name in _CHATTER:
        logging.getLogger(name).setLevel(logging.CRITICAL)

    def work() -> None:
        try:
            with tempfile.TemporaryDirectory(prefix="crystalign-tune-") as folder:
                _tuner(campaign, queue, display, asked, at_once, watch, folder).fit()
        except Exception as error:  # noqa: BLE001 (told by the caller, in the main thread)
            raised.append(error)

    thread = threading.Thread(target=work, daemon=True, name="tune")
    thread.start()
    told = False
    while thread.is_alive():
        thread.join(0.2)
        if asked and not told:
            print("stopping; once more to stop at once", flush=True)
            told = True
        if len(asked) > 1:
            raise KeyboardInterrupt
    return raised[0] if raised else None


def _tuner(
    campaign: Tune, queue: Any, display: Any, asked: list[int], at_once: int, watch: Watch | None, folder: str
) -> Any:
    from ray import tune

    from crystalign_jobs.campaign_tune import WhenAsked, per_group
    from crystalign_jobs.session import alive_nodes

    trials = storage.join(run_uri(campaign), TRIALS)
    work = Work(
        trials=trials,
        workers=campaign.workers,
        cpus=campaign.cpus,
        gpu=campaign.gpus > 0,
        processes=-(-at_once * campaign.workers // alive_nodes()),
        competing=campaign.stop_early is not None,
        max_failures=campaign.max_failures,
        watch=watch,
    )
    resources = {"cpu": float(campaign.cpus)} | ({"gpu": campaign.gpus} if campaign.gpus else {})
    if campaign.workers > 1:
        resources = {"cpu": WAITING_CPUS}
    stopping = campaign.stop_early
    return tune.Tuner(
        tune.with_resources(tune.with_parameters(run_one, work=work), resources),
        tune_config=tune.TuneConfig(
            search_alg=queue,
            scheduler=None if stopping is None else per_group(stopping, trials),
            num_samples=queue.total,
            max_concurrent_trials=at_once,
            reuse_actors=True,  # features are made once per process
            trial_name_creator=_name,
            trial_dirname_creator=_name,
        ),
        run_config=tune.RunConfig(
            name="campaign",
            storage_path=folder,
            failure_config=tune.FailureConfig(max_failures=campaign.max_failures),
            callbacks=[display],
            stop=WhenAsked(asked),
            verbose=0,
        ),
    )


def _name(trial: Any) -> str:
    return str(trial.config["id"])


# --- a search ---------------------------------------------------------------------------------------------------------


def samples(campaign: Tune, run: str) -> dict[str, tuple[Entry, TrialResult]]:
    """What a search by Optuna has sampled and finished in earlier runs of the campaign, with any seed, by id."""
    from crystalign.finetuning.trial import finished

    search = campaign.search
    if search is None or search.kind != "optuna":
        return {}
    places = {search.basis(base): cell for cell, base in cells(campaign)}
    found = {}
    for folder in sorted(place.rstrip("/") for place in storage.list_folders(storage.join(run, TRIALS))):
        result = read_result(folder)
        if result is None or result.config.constant or result.config.seed not in campaign.seeds:
            continue
        cell = places.get(search.basis(result.config.model_copy(update={"seed": 0})))
        verified = None if cell is None else finished(result.config, folder)
        if cell is not None and verified is not None:
            found[verified.id] = (Entry(cell, verified.config), verified)
    return found


def studies(campaign: Tune, earlier: Iterable[tuple[Entry, TrialResult]]) -> list[tuple[Cell, Study]]:
    """A study for each cell of a search by Optuna, with what earlier runs of the campaign have sampled."""
    from crystalign_jobs.campaign_search import Study

    search = campaign.search
    if search is None or search.kind != "optuna":
        return []
    found = {
        cell: Study(search, base.model_copy(update={"seed": campaign.seeds[0]}))
        for cell, base in cells(campaign)
        if not base.constant
    }
    for (cell, config), result in earlier:
        if config.seed == campaign.seeds[0]:
            found[cell].remember(config, criterion(result))
    return list(found.items())


def best_of_search(entries: Sequence[Entry], results: dict[str, TrialResult], seeds: Sequence[int]) -> list[Entry]:
    """The best sample of each cell with the other seeds."""
    best: dict[Cell, tuple[float, TrialConfig]] = {}
    for cell, config in entries:
        if config.id not in results or config.constant or config.seed != seeds[0]:
            continue
        value = criterion(results[config.id])
        if cell not in best or value < best[cell][0]:
            best[cell] = (value, config)
    return [
        Entry(cell, config.model_copy(update={"seed": seed}))
        for seed in seeds[1:]
        for cell, (_, config) in best.items()
    ]


# --- what there is ----------------------------------------------------------------------------------------------------


def read_result(folder: str) -> TrialResult | None:
    """The result in a trial's folder, not verified again; None if there is none."""
    place = storage.join(folder, "result.json")
    if not storage.exists(place):
        return None
    try:
        return TrialResult.model_validate_json(storage.read_bytes(place))
    except ValueError:
        return None


def failures_of(run: str, entries: Iterable[Entry]) -> dict[str, str]:
    """Id → why a trial has no result."""
    unknown = "it did not run to its end; run the campaign again"
    return {entry.config.id: read_failure(trial_uri(run, entry.config)) or unknown for entry in entries}


def note_death(trials: str, config: TrialConfig, failures: int) -> str:
    """Write down that a trial's process died again and again."""
    told = f"its process died {failures} times; perhaps it needs more memory than there is: lower concurrent"
    write_failure(storage.join(trials, config.id), config, told)
    return told
