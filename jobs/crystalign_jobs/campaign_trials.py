"""From the file of a campaign to its trials, checked before the first of them starts; this imports no torch."""

from __future__ import annotations

import importlib.util
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from crystalign.encoders import ENCODERS
from crystalign.errors import ConfigError
from crystalign.finetuning.network_config import FusionConfig, HeadConfig
from crystalign.finetuning.plan import plan
from crystalign.finetuning.recipe import Recipe
from crystalign.finetuning.trial_config import CONSTANTS, SCRATCH, TrialConfig
from crystalign.model_config import ModalitySpec
from crystalign.shards.dataset import Dataset
from crystalign_jobs.campaign import ALL, Campaign, CampaignTask, FusionName, Start
from crystalign_jobs.campaign_search import sampled
from crystalign_jobs.settings import nearest

COMPOSITION_ONLY = "composition-only"


class Cell(NamedTuple):
    """A row of the table."""

    task: str
    """Name of the task."""
    initialisation: str
    """Name of the initialisation."""
    modalities: str
    """What is read, e.g. `crystal+xrd`; empty of a constant."""
    fusion: str
    """Where they meet; empty of one modality."""
    n_labels: int | None
    """Training labels; None is all."""

    @property
    def size(self) -> float:
        """Training labels; infinite for all."""
        return float("inf") if self.n_labels is None else float(self.n_labels)

    @property
    def label(self) -> str:
        """For people."""
        count = "" if self.n_labels is None else f"{self.n_labels} labels"
        return " · ".join(part for part in (*self[:4], count) if part)


class Entry(NamedTuple):
    """A trial and where it belongs."""

    cell: Cell
    """Its row."""
    config: TrialConfig
    """Its settings."""

    @property
    def title(self) -> str:
        """For people."""
        return (
            self.cell.label
            if self.config.constant
            else f"{self.cell.label} · lr {self.config.lr:g} · seed {self.config.seed}"
        )


def expand(campaign: Campaign) -> list[Entry]:
    """All trials that are known beforehand, each once: constants first, then seed by seed.

    Of a search these are the samples with the first seed where they are random, and none where each follows from the
    ones before.

    Raises:
        ConfigError: no task or initialisation, or a combination that contradicts itself; the message names both.
    """
    found: dict[str, Entry] = {}
    for seed in campaign.seeds if campaign.search is None else campaign.seeds[:1]:
        for cell, base in cells(campaign):
            if base.constant:
                found.setdefault(base.id, Entry(cell, base))
            elif campaign.search is None:
                for lr in campaign.learning_rates:
                    config = base.model_copy(update={"lr": lr, "seed": seed})
                    found.setdefault(config.id, Entry(cell, config))
            elif campaign.search.kind == "random":
                for config in sampled(campaign.search, base.model_copy(update={"seed": seed})):
                    found.setdefault(config.id, Entry(cell, config))
    return sorted(found.values(), key=lambda entry: not entry.config.constant)


def cells(campaign: Campaign) -> Iterator[tuple[Cell, TrialConfig]]:
    """Every row of the table, with its settings at the default learning rate and seed 0.

    Raises:
        ConfigError: as `expand`.
    """
    starts = resolved(campaign)
    if not campaign.tasks:
        raise ConfigError("tasks: name at least one, such as `tasks: {gap: {target: band_gap}}`")
    lacking = absent(campaign)
    if len(lacking) == len(campaign.tasks):
        raise ConfigError(f"tasks: {campaign.data} holds none of them: {next(iter(lacking.values()))}")
    for task_name, task in campaign.tasks.items():
        if task_name in lacking:
            continue
        for count in task.n_labels or campaign.n_labels:
            n = None if count == ALL else count
            for name, start in starts.items():
                for modalities, fusion in _ways(campaign, task, start):
                    several = fusion if len(modalities) > 1 else ""
                    cell = Cell(task_name, name, "+".join(modalities), several, n)
                    yield cell, _config(campaign, task, start, cell)


def absent(campaign: Campaign) -> dict[str, str]:
    """Tasks that are left out because the dataset lacks their target, and why; none where that is refused."""
    if campaign.missing_targets == "refuse":
        return {}
    dataset = Dataset.open(campaign.data)
    found = {}
    for name, task in campaign.tasks.items():
        try:
            task.columns(dataset)
        except ConfigError as error:
            found[name] = str(error)
    return found


def resolved(campaign: Campaign) -> dict[str, Start]:
    """Every initialisation in full.

    Raises:
        ConfigError: there is none, or the baseline is none of them.
    """
    values = campaign.initialisations
    if not values:
        raise ConfigError(
            "initialisations: name at least one, such as `initialisations: {mean: mean, scratch: scratch, "
            "pre-trained: runs/pretrain/model}`"
        )
    if campaign.baseline not in values and campaign.baseline != SCRATCH:
        raise ConfigError(f"baseline: {campaign.baseline!r} is no initialisation; there are {', '.join(values)}")
    starts = {name: _start(value) for name, value in values.items()}
    models = [start.initialisation for start in starts.values() if start.initialisation not in {SCRATCH, *CONSTANTS}]
    for name, value in values.items():
        if value == SCRATCH and models:
            starts[name] = Start(like=models[0])
    return starts


def _start(value: str | Start) -> Start:
    if isinstance(value, Start):
        return value
    if value in {SCRATCH, *CONSTANTS}:
        return Start(initialisation=value)
    encoder = "crabnet" if value == COMPOSITION_ONLY else value
    if encoder in ENCODERS:
        modality = ENCODERS[encoder].modality
        return Start(encoders={modality: ModalitySpec(encoder=encoder)}, modalities=(modality,))
    return Start(initialisation=value)


def _ways(campaign: Campaign, task: CampaignTask, start: Start) -> Iterator[tuple[tuple[str, ...], FusionName]]:
    """What an initialisation reads, and how it is fused; of one modality all fusions are the same."""
    if start.constant:
        yield (), "early"
        return
    subsets = start.modalities or task.modalities or campaign.modalities or ("+".join(start.encoders) or "crystal",)
    for subset in subsets:
        modalities = tuple(part.strip() for part in subset.split("+"))
        for fusion in campaign.fusion if len(modalities) > 1 else campaign.fusion[:1]:
            yield modalities, fusion


def _config(campaign: Campaign, task: CampaignTask, start: Start, cell: Cell) -> TrialConfig:
    values = {
        "data": campaign.data,
        "task": task.task,
        "split": task.split or campaign.split,
        "n_labels": cell.n_labels,
        "initialisation": start.initialisation,
        "require": campaign.require,
        "shuffle_labels": campaign.shuffle_labels,
    }
    if not start.constant:
        modalities = tuple(cell.modalities.split("+"))
        values |= {
            "like": start.like,
            "encoders": {name: spec for name, spec in start.encoders.items() if name in modalities},
            "modalities": modalities,
            "vectors": start.vectors,
            "fusion": _fusion(campaign.fusion_options, cell.fusion),
            "head": start.head or task.head or campaign.head,
            "recipe": start.recipe or campaign.recipe,
        }
    return TrialConfig.from_mapping(values, origin=_origin(cell))


def _fusion(options: FusionConfig, name: str) -> FusionConfig:
    kind, _, stacked = (name or "early").partition("-")
    return FusionConfig.model_validate(
        options.model_dump() | {"kind": kind, "weights": "stacked" if stacked else options.weights}
    )


def _origin(cell: Cell) -> str:
    return f"tasks.{cell.task} with initialisations.{cell.initialisation}"


def check(campaign: Campaign) -> int:
    """Refuse a campaign that cannot work, in its first second.

    Returns:
        The number of cells.

    Raises:
        ConfigError: the message names task, initialisation and field, and what would be valid.
        DatasetError: there is no dataset.
    """
    if campaign.search is not None and campaign.search.kind == "optuna" and not importlib.util.find_spec("optuna"):
        raise ConfigError("search: optuna is not installed; pip install 'crystalign[optuna]', or set kind: random")
    folders = [safe_name(name) for name in campaign.tasks]
    if len(set(folders)) < len(folders):
        raise ConfigError(f"tasks: {', '.join(campaign.tasks)} would share a folder; name them apart")
    kinds: dict[str, list[tuple[Cell, TrialConfig]]] = defaultdict(list)
    same_as: dict[str, Cell] = {}
    for cell, config in cells(campaign):
        if config.id in same_as:
            raise ConfigError(f"{_origin(cell)} is the same as {_origin(same_as[config.id])}; leave one out")
        same_as[config.id] = cell
        alike = {"n_labels": None, "recipe": Recipe(), "fusion": FusionConfig(), "head": HeadConfig()}
        kinds[config.model_copy(update=alike).id].append((cell, config))
    extremes = []
    for found in kinds.values():
        fewest = min(found, key=lambda pair: pair[0].size)  # among these a target may have no label
        most = max(found, key=lambda pair: pair[0].n_labels or 0)  # and there may not be as many as these
        extremes += [fewest] if fewest is most else [fewest, most]
    for cell, config in extremes:
        try:
            plan(config)
        except ConfigError as error:
            hint = nearest(_given(campaign, cell), (*ENCODERS, COMPOSITION_ONLY, SCRATCH, *CONSTANTS))
            unknown = config.pretrained and str(error).startswith("initialisation: no pre-trained")
            raise ConfigError(f"{_origin(cell)}: {error}{hint if unknown else ''}") from error
    return len(same_as)


def _given(campaign: Campaign, cell: Cell) -> str:
    """What was written for an initialisation, if it is a word."""
    value = campaign.initialisations[cell.initialisation]
    return value if isinstance(value, str) else ""


def safe_name(name: str) -> str:
    """A name as that of a folder."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", name).strip("-.") or "task"


GROWING = ("tasks", "initialisations", "modalities", "fusion", "n_labels", "learning_rates", "seeds")
"""Fields of which a campaign that goes on may name more."""
FREE = ("out", "name", "baseline", "ensemble", "note")
"""Fields that decide no trial."""


def refuse_contradiction(known: Campaign, asked: Campaign, place: str) -> None:
    """See to it that a campaign that goes on asks for all that it asked for before, and perhaps for more.

    Raises:
        ConfigError: a setting differs, or something is no longer asked for.
    """
    different = []
    for field in Campaign.model_fields:
        before, now = getattr(known, field), getattr(asked, field)
        if field in FREE or before == now:
            continue
        if field in GROWING and _holds(now, before):
            continue
        if field == "search" and before and now and now == before.model_copy(update={"samples": now.samples}):
            continue
        different.append(field)
    if "initialisations" not in different:  # `scratch` alone may mean another network beside other models
        then, now = resolved(known), resolved(asked)
        different += [
            f"initialisations.{name}, which would be built like {now[name].like or 'the default crystal encoder'} "
            f"(say so: `{name}: {{like: …}}`, or `{{encoders: …}}`)"
            for name in then
            if now[name] != then[name]
        ]
    if different:
        raise ConfigError(
            f"{place} was started with other settings: {', '.join(different)}. A campaign may grow (more of "
            f"{', '.join(GROWING)}), but what it asked for stays; choose another --name for another one"
        )


def _holds(now: object, before: object) -> bool:
    if isinstance(now, dict) and isinstance(before, dict):
        return all(name in now and now[name] == value for name, value in before.items())
    assert isinstance(now, tuple)
    assert isinstance(before, tuple)
    return set(before) <= set(now)
