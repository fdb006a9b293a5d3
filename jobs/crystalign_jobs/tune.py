"""`crystalign tune`: run a fine-tuning campaign, and write a table with error bars and the best models.

<out>/<name>/
├── config.yaml        every setting
├── trials/<id>/       one folder per trial, `result.json` last
├── results.parquet    one row per trial
├── results.md         the table
├── results.html       table and figure, self-contained
├── figure.png         the figure
└── best/<task>/       the best model of each task, for `crystalign predict` and `crystalign serve`
"""

from __future__ import annotations

from crystalign.errors import Error
from crystalign_jobs.campaign.config import Tune
from crystalign_jobs.campaign.grid import check, expand
from crystalign_jobs.campaign.store import Interrupted, run_uri, stored_settings

__all__ = ["Tune", "main", "stored_settings"]


def main(config: Tune) -> None:
    """Run the campaign and print its tables."""
    from crystalign_jobs.campaign.report import show
    from crystalign_jobs.campaign.run import tune

    run = run_uri(config)
    rows = check(config)
    entries = expand(config)
    sampled = f", and up to {config.search.samples} samples of each" if config.search is not None else ""
    print(f"{rows} rows, {len(entries)} trials{sampled}, on {config.data}\nwriting to {run}/")
    print("├─ config.yaml      every setting\n├─ trials/<id>/     one folder per trial")
    print("├─ results.md       the table; also .parquet, .html and figure.png")
    print("└─ best/<task>/     the best model of each task")
    if config.dry_run:
        for entry in entries:
            print(f"  {entry.config.id}  {entry.cell.label}  lr {entry.config.lr:g}  seed {entry.config.seed}")
        return
    try:
        report = tune(config)
    except Interrupted as stop:
        print(stop)
        raise SystemExit(128 + stop.signum) from None
    show(report)
    if not report.trials:
        raise Error(f"no trial finished; see {run}/results.md for the reasons")
    for task, uri in report.best.items():
        print(f"best model of {task}: {uri}")
    for uri in list(report.best.values())[:1]:
        print(f"next: crystalign predict --model {uri} FILE.cif   or crystalign serve --predictors {run}/best")
