"""`crystalign tune`: a fine-tuning campaign from one file to a table with error bars and the best models.

<out>/<name>/
├── config.yaml        every setting
├── trials/<id>/       one folder per trial, `result.json` last
├── results.parquet    one row per trial
├── results.md         the table
├── results.html       table and figure, self-contained
├── figure.png         the figure
└── best/<task>/       the best model of each task, as `crystalign predict` and the service load it
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Self

import yaml
from pydantic import Field, model_validator

from crystalign import storage
from crystalign.errors import ConfigError, Error
from crystalign_jobs.campaign import Campaign
from crystalign_jobs.campaign_status import is_campaign
from crystalign_jobs.campaign_trials import Entry, check, expand, refuse_contradiction
from crystalign_jobs.campaign_worker import Watch
from crystalign_jobs.ownership import driving
from crystalign_jobs.settings import stored

if TYPE_CHECKING:
    from crystalign.finetuning.trial_config import TrialResult
    from crystalign_jobs.campaign_report import CampaignReport

CONFIG = "config.yaml"


class Tune(Campaign):
    """Fine-tune to properties: what does pre-training buy, with how many labels, and which model is the best?

    The first word is a YAML file, or the preset `costa-fusion`. The file names tasks, initialisations, and what else is
    to be compared; every combination becomes a trial for each learning rate and seed:

      data: mp
      out: campaigns
      tasks:
        bulk modulus: {target: bulk_modulus_vrh, transform: log10, lower: 1}
      initialisations:
        mean: mean                     # or median: a constant
        composition only: composition-only
        cgcnn: cgcnn                   # any network of `crystalign encoders`
        scratch: scratch               # the network below with fresh weights
        pre-trained: runs/first/model
      n_labels: [100, 1000, all]
      search: {kind: random, samples: 12}   # or optuna: in place of learning_rates
      stop_early: {rule: asha}              # or median: among the learning rates of one cell and seed

    The same command again, or --resume, runs what is missing. A campaign may grow: name more and run it again.

    For example:

      crystalign tune campaign.yaml
      crystalign tune campaign.yaml --learning-rates 1e-3 1e-4 --seeds 0 1 2 3 4
      crystalign tune --resume campaigns/campaign
    """

    resume: bool = False
    """Go on with the campaign whose settings are stored; `--resume OUT/NAME` needs nothing else."""
    address: str | None = None
    """Ray cluster; default: RAY_ADDRESS, else this machine."""
    concurrent: int | None = Field(default=None, ge=1)
    """Trials at the same time; by default one per core, or as many as the GPUs hold."""
    workers: int = Field(default=1, ge=1)
    """Processes of each trial, by Ray Train, which share its batches and compute what one would: for fits that take too
    long. Where there are more trials than cores, one is faster."""
    cpus: int = Field(default=1, ge=1)
    """Cores of each process."""
    gpus: float = Field(default=0.0, ge=0)
    """GPUs of each process; with one process, 0.25 puts four trials on one."""
    max_failures: int = Field(default=2, ge=0)
    """How often a trial whose process died goes on in another. What raises an error is not tried again."""
    dry_run: bool = False
    """Check everything, say what would run, and end."""

    @model_validator(mode="after")
    def _whole_gpus(self) -> Self:
        if self.workers > 1 and self.gpus != int(self.gpus):
            raise ValueError(f"gpus: {self.workers} workers that compute together need whole GPUs, not {self.gpus:g}")
        return self


def main(config: Tune) -> None:
    """Run, and print what was found."""
    from crystalign_jobs.campaign_run import Interrupted, run_uri

    run = run_uri(config)
    rows = check(config)
    planned = expand(config)
    more = f", and up to {config.search.samples} samples of each" if config.search is not None else ""
    print(f"{rows} rows, {len(planned)} trials{more}, on {config.data}\nwriting to {run}/")
    print("├─ config.yaml      every setting\n├─ trials/<id>/     one folder per trial")
    print("├─ results.md       the table; also .parquet, .html and figure.png")
    print("└─ best/<task>/     the best model of each task")
    if config.dry_run:
        for entry in planned:
            print(f"  {entry.config.id}  {entry.cell.label}  lr {entry.config.lr:g}  seed {entry.config.seed}")
        return
    try:
        report = _run(config, None)
    except Interrupted as stop:
        print(stop)
        raise SystemExit(128 + stop.signum) from None
    report.show()
    if not report.trials:
        raise Error(f"no trial finished; {run}/results.md says why")
    for task, place in report.best.items():
        print(f"best model of {task}: {place}")
    for place in list(report.best.values())[:1]:
        print(f"next: crystalign predict --model {place} FILE.cif   or crystalign serve --predictors {run}/best")


def tune(config: Tune, *, watch: Watch | None = None) -> CampaignReport:
    """Run what is missing of a campaign, and write its tables, its figure and its best models.

    Args:
        config: what is compared.
        watch: called in a trial's process after each epoch.

    Raises:
        ConfigError: the campaign cannot work, contradicts what stands in its folder, or is driven by another process.
        DatasetError: there is no dataset.
        ModelError: a model to start from is broken.
        Interrupted: Ctrl-C or SIGTERM arrived; what is finished stays.
    """
    check(config)
    return _run(config, watch)


def _run(config: Tune, watch: Watch | None) -> CampaignReport:
    from crystalign_jobs.campaign_report import report
    from crystalign_jobs.campaign_run import failures_of, run_uri

    run = run_uri(config)
    with driving(run):
        claim(config, run)
        entries, results = _run_missing(config, run, watch)
        failures = failures_of(run, (entry for entry in entries if entry.config.id not in results))
        return report(config, run, entries, results, failures)


def _run_missing(config: Tune, run: str, watch: Watch | None) -> tuple[list[Entry], dict[str, TrialResult]]:
    """Run what is not finished; returns all trials that are known, and the verified results by id."""
    from crystalign_jobs.campaign_run import best_of_search, load_models, run_trials, samples, split_by_state, studies
    from crystalign_jobs.session import session

    entries = expand(config)
    results, missing = split_by_state(run, entries)
    if results:
        print(f"{len(results)} of {len(entries)} trials were finished before")
    earlier = samples(config, run)
    entries = _united(entries, [entry for entry, _ in earlier.values()])
    results |= {name: result for name, (_, result) in earlier.items()}
    asked = studies(config, earlier.values())
    unasked = [study.base for _, study in asked if study.asked < study.search.samples]
    load_models([*(entry.config for entry in missing), *unasked])
    with ExitStack() as cluster:
        if missing or unasked:
            cluster.enter_context(session(config.address))
            ran = run_trials(config, missing, studies=asked, watch=watch)
            entries, results = _united(entries, ran), results | split_by_state(run, ran)[0]
        if config.search is not None:
            chosen = best_of_search(entries, results, config.seeds)
            done, missing = split_by_state(run, [entry for entry in chosen if entry.config.id not in results])
            if missing:
                cluster.enter_context(session(config.address))
                run_trials(config.model_copy(update={"search": None}), missing, watch=watch)
            entries, results = _united(entries, chosen), results | done | split_by_state(run, missing)[0]
    return entries, results


def _united(first: list[Entry], second: list[Entry]) -> list[Entry]:
    return list({entry.config.id: entry for entry in (*first, *second)}.values())


def stored_settings(run: str) -> dict[str, Any]:
    """The settings that a campaign was started with, to go on with it where it lies now.

    Raises:
        ConfigError: there is no campaign.
    """
    missing = f"there is no campaign at {run} to resume; start one: crystalign tune campaign.yaml"
    return stored(run, CONFIG, missing=missing)


def claim(config: Tune, run: str) -> None:
    """Store the settings; what was stored before must be contained in them.

    Raises:
        ConfigError: it is not, or the folder holds something else.
    """
    place = storage.join(run, CONFIG)
    now = Campaign.model_validate(config.model_dump(include=set(Campaign.model_fields)))
    if storage.exists(place):
        values = yaml.safe_load(storage.read_bytes(place))
        if not is_campaign(values):
            raise ConfigError(f"{run} holds no campaign but something else; choose another --name")
        own = {name: value for name, value in values.items() if name in Campaign.model_fields}
        refuse_contradiction(Campaign.from_mapping(own, origin=place), now, run)
    storage.write_bytes(place, now.to_yaml().encode())
