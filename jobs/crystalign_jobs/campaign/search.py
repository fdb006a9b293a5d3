"""Campaigns that sample their settings: earlier samples, Optuna studies, and the best sample of each cell."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from crystalign import storage
from crystalign.finetuning.trials.config import TrialConfig, TrialResult
from crystalign_jobs.campaign.config import Campaign
from crystalign_jobs.campaign.criterion import criterion
from crystalign_jobs.campaign.grid import Cell, Entry, cells
from crystalign_jobs.campaign.search_space import Study
from crystalign_jobs.campaign.store import TRIALS, read_result


def samples(campaign: Campaign, run: str) -> dict[str, tuple[Entry, TrialResult]]:
    """Id → trial and result of each finished sample of an Optuna search in earlier runs, with any seed."""
    from crystalign.finetuning.trials.trial import finished

    search = campaign.search
    if search is None or search.kind != "optuna":
        return {}
    cell_of_basis = {search.basis(base): cell for cell, base in cells(campaign)}
    finished_samples = {}
    for folder in sorted(folder.rstrip("/") for folder in storage.list_folders(storage.join(run, TRIALS))):
        result = read_result(folder)
        if result is None or result.config.constant or result.config.seed not in campaign.seeds:
            continue
        cell = cell_of_basis.get(search.basis(result.config.model_copy(update={"seed": 0})))
        verified = None if cell is None else finished(result.config, folder)
        if cell is not None and verified is not None:
            finished_samples[verified.id] = (Entry(cell, verified.config), verified)
    return finished_samples


def studies(campaign: Campaign, earlier: Iterable[tuple[Entry, TrialResult]]) -> list[tuple[Cell, Study]]:
    """A study for each cell of an Optuna search, including the samples of earlier runs."""
    search = campaign.search
    if search is None or search.kind != "optuna":
        return []
    study_of_cell = {
        cell: Study(search, base.model_copy(update={"seed": campaign.seeds[0]}))
        for cell, base in cells(campaign)
        if not base.constant
    }
    for (cell, config), result in earlier:
        if config.seed == campaign.seeds[0]:
            study_of_cell[cell].remember(config, criterion(result))
    return list(study_of_cell.items())


def best_of_search(entries: Sequence[Entry], results: dict[str, TrialResult], seeds: Sequence[int]) -> list[Entry]:
    """The trials that repeat the best sample of each cell with the other seeds."""
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
