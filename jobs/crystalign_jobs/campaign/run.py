"""Run a campaign: check the settings, run the missing trials, and write the report."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack

from crystalign.finetuning.trials.config import TrialConfig, TrialResult
from crystalign_jobs.campaign.config import Tune
from crystalign_jobs.campaign.grid import Entry, check, expand
from crystalign_jobs.campaign.report import report
from crystalign_jobs.campaign.results import CampaignReport
from crystalign_jobs.campaign.search import best_of_search, samples, studies
from crystalign_jobs.campaign.store import claim, failures_of, run_uri, split_by_state
from crystalign_jobs.campaign.work import Watch
from crystalign_ray.driver_lock import driving


def tune(config: Tune, *, watch: Watch | None = None) -> CampaignReport:
    """Run the missing trials of a campaign, and write its tables, its figure and its best models.

    Args:
        config: the settings of the campaign.
        watch: called in a trial's process after each epoch.

    Raises:
        ConfigError: the campaign cannot run, contradicts the settings in its folder, or another process is running it.
        DatasetError: there is no dataset.
        ModelError: a model to start from is broken.
        Interrupted: Ctrl-C or SIGTERM arrived; finished trials are kept.
    """
    check(config)
    run = run_uri(config)
    with driving(run):
        claim(config, run)
        entries, results = _run_missing(config, run, watch)
        failures = failures_of(run, (entry for entry in entries if entry.config.id not in results))
        return report(config, run, entries, results, failures)


def load_models(configs: Iterable[TrialConfig]) -> None:
    """Load each model that trials start from or are built like, so that a broken one is found before trials start.

    Raises:
        ModelError: a model is broken, or of an unsupported version.
    """
    from crystalign.model import Model

    for uri in dict.fromkeys(config.origin for config in configs):
        if uri is not None:
            Model.from_pretrained(uri)


def _run_missing(config: Tune, run: str, watch: Watch | None) -> tuple[list[Entry], dict[str, TrialResult]]:
    """Run the unfinished trials; return all trials, and the verified results by id."""
    from crystalign_jobs.campaign.executor import run_trials
    from crystalign_ray.session import session

    entries = expand(config)
    results, missing = split_by_state(run, entries)
    if results:
        print(f"{len(results)} of {len(entries)} trials are already finished")
    earlier_samples = samples(config, run)
    entries = _united(entries, [entry for entry, _ in earlier_samples.values()])
    results |= {name: result for name, (_, result) in earlier_samples.items()}
    open_studies = studies(config, earlier_samples.values())
    unfinished_cells = [study.base for _, study in open_studies if study.asked < study.search.samples]
    load_models([*(entry.config for entry in missing), *unfinished_cells])
    with ExitStack() as cluster:
        if missing or unfinished_cells:
            cluster.enter_context(session(config.address))
            trials_run = run_trials(config, missing, studies=open_studies, watch=watch)
            entries, results = _united(entries, trials_run), results | split_by_state(run, trials_run)[0]
        if config.search is not None:
            chosen = best_of_search(entries, results, config.seeds)
            finished, missing = split_by_state(run, [entry for entry in chosen if entry.config.id not in results])
            if missing:
                cluster.enter_context(session(config.address))
                run_trials(config.model_copy(update={"search": None}), missing, watch=watch)
            entries, results = _united(entries, chosen), results | finished | split_by_state(run, missing)[0]
    return entries, results


def _united(first: list[Entry], second: list[Entry]) -> list[Entry]:
    return list({entry.config.id: entry for entry in (*first, *second)}.values())
