"""Expand the settings of a campaign into trials, and check them before the first trial starts.

Importing this does not import torch.
"""

from __future__ import annotations

import importlib.util
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from crystalign.encoders import ENCODERS
from crystalign.errors import ConfigError
from crystalign.finetuning.fitting.recipe import Recipe
from crystalign.finetuning.network.config import FusionConfig, HeadConfig
from crystalign.finetuning.trials.config import CONSTANTS, SCRATCH, TrialConfig
from crystalign.finetuning.trials.plan import plan
from crystalign.model_config import ModalitySpec
from crystalign.shards.dataset import Dataset
from crystalign_jobs.campaign.config import ALL, Campaign, CampaignTask, FusionName, Start
from crystalign_jobs.campaign.search_space import sampled
from crystalign_jobs.settings import nearest

COMPOSITION_ONLY = "composition-only"


class Cell(NamedTuple):
    """A row of the table."""

    task: str
    """Name of the task."""
    initialisation: str
    """Name of the initialisation."""
    modalities: str
    """Input modalities, e.g. `crystal+xrd`; empty for a constant."""
    fusion: str
    """How they are combined; empty for a single modality."""
    n_labels: int | None
    """Training labels; None is all."""

    @property
    def size(self) -> float:
        """Training labels; infinite for all."""
        return float("inf") if self.n_labels is None else float(self.n_labels)

    @property
    def label(self) -> str:
        """Text for tables and messages."""
        count = "" if self.n_labels is None else f"{self.n_labels} labels"
        return " · ".join(part for part in (*self[:4], count) if part)


class Entry(NamedTuple):
    """A trial and its row of the table."""

    cell: Cell
    """Its row."""
    config: TrialConfig
    """Its settings."""

    @property
    def title(self) -> str:
        """Text for tables and messages."""
        return (
            self.cell.label
            if self.config.constant
            else f"{self.cell.label} · lr {self.config.lr:g} · seed {self.config.seed}"
        )


def expand(campaign: Campaign) -> list[Entry]:
    """All trials that can be listed in advance, without duplicates: constants first, then seed by seed.

    For a random search these are the samples with the first seed. For a search by Optuna only the constants can be
    listed, because each sample depends on the earlier results.

    Raises:
        ConfigError: there is no task or initialisation, or the two do not fit together; the message names both.
    """
    entry_by_id: dict[str, Entry] = {}
    for seed in campaign.seeds if campaign.search is None else campaign.seeds[:1]:
        for cell, base in cells(campaign):
            if base.constant:
                entry_by_id.setdefault(base.id, Entry(cell, base))
            elif campaign.search is None:
                for lr in campaign.learning_rates:
                    config = base.model_copy(update={"lr": lr, "seed": seed})
                    entry_by_id.setdefault(config.id, Entry(cell, config))
            elif campaign.search.kind == "random":
                for config in sampled(campaign.search, base.model_copy(update={"seed": seed})):
                    entry_by_id.setdefault(config.id, Entry(cell, config))
    return sorted(entry_by_id.values(), key=lambda entry: not entry.config.constant)


def cells(campaign: Campaign) -> Iterator[tuple[Cell, TrialConfig]]:
    """Every row of the table, with its settings at the default learning rate and seed 0.

    Raises:
        ConfigError: as `expand`.
    """
    starts = resolved(campaign)
    if not campaign.tasks:
        raise ConfigError("tasks: name at least one, such as `tasks: {gap: {target: band_gap}}`")
    missing = absent(campaign)
    if len(missing) == len(campaign.tasks):
        raise ConfigError(f"tasks: {campaign.data} holds none of them: {next(iter(missing.values()))}")
    for task_name, task in campaign.tasks.items():
        if task_name in missing:
            continue
        for count in task.n_labels or campaign.n_labels:
            n = None if count == ALL else count
            for name, start in starts.items():
                for modalities, fusion in _ways(campaign, task, start):
                    used_fusion = fusion if len(modalities) > 1 else ""
                    cell = Cell(task_name, name, "+".join(modalities), used_fusion, n)
                    yield cell, _config(campaign, task, start, cell)


def absent(campaign: Campaign) -> dict[str, str]:
    """Tasks that are skipped because the dataset lacks their target, with the reason.

    Empty with `missing_targets: error`, where a missing target raises an error later.
    """
    if campaign.missing_targets == "error":
        return {}
    dataset = Dataset.open(campaign.data)
    reasons = {}
    for name, task in campaign.tasks.items():
        try:
            task.columns(dataset)
        except ConfigError as error:
            reasons[name] = str(error)
    return reasons


def resolved(campaign: Campaign) -> dict[str, Start]:
    """Every initialisation with all of its settings.

    Raises:
        ConfigError: there is none, or the baseline is not one of them.
    """
    values = campaign.initialisations
    if not values:
        raise ConfigError(
            "initialisations: name at least one, such as `initialisations: {mean: mean, scratch: scratch, "
            "pre-trained: runs/pretrain/model}`"
        )
    if campaign.baseline not in values and campaign.baseline != SCRATCH:
        raise ConfigError(f"baseline: {campaign.baseline!r} is not an initialisation; there are {', '.join(values)}")
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
    """Input modalities and fusion of each row of an initialisation; a single modality needs no fusion."""
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
    """Check a campaign before anything starts.

    Returns:
        The number of cells.

    Raises:
        ConfigError: it cannot run; the message names task, initialisation and field, and what would be valid.
        DatasetError: there is no dataset.
    """
    if campaign.search is not None and campaign.search.kind == "optuna" and not importlib.util.find_spec("optuna"):
        raise ConfigError("search: optuna is not installed; pip install 'crystalign[optuna]', or set kind: random")
    folders = [safe_name(name) for name in campaign.tasks]
    if len(set(folders)) < len(folders):
        raise ConfigError(
            f"tasks: {', '.join(campaign.tasks)} would be written to the same folder; give them different names"
        )
    variants: dict[str, list[tuple[Cell, TrialConfig]]] = defaultdict(list)
    same_as: dict[str, Cell] = {}
    for cell, config in cells(campaign):
        if config.id in same_as:
            raise ConfigError(f"{_origin(cell)} is the same as {_origin(same_as[config.id])}; leave one out")
        same_as[config.id] = cell
        defaults = {"n_labels": None, "recipe": Recipe(), "fusion": FusionConfig(), "head": HeadConfig()}
        variants[config.model_copy(update=defaults).id].append((cell, config))
    extremes = []
    for same_variant in variants.values():
        # The fewest labels may leave a target without a label, and the most may be more than there are.
        fewest = min(same_variant, key=lambda pair: pair[0].size)
        most = max(same_variant, key=lambda pair: pair[0].n_labels or 0)
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
    """The initialisation as written in the file, if it is a string."""
    value = campaign.initialisations[cell.initialisation]
    return value if isinstance(value, str) else ""


def safe_name(name: str) -> str:
    """The name with only characters that are safe in a folder name."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", name).strip("-.") or "task"


GROWING = ("tasks", "initialisations", "modalities", "fusion", "n_labels", "learning_rates", "seeds")
"""Fields to which a continued campaign may add entries."""
FREE = ("out", "name", "baseline", "ensemble", "note")
"""Fields that do not affect the trials."""


def refuse_contradiction(stored: Campaign, requested: Campaign, run: str) -> None:
    """Check that a continued campaign still contains all that it contained before; it may contain more.

    Raises:
        ConfigError: a setting differs, or something was removed.
    """
    changed = []
    for field in Campaign.model_fields:
        stored_value, requested_value = getattr(stored, field), getattr(requested, field)
        if field in FREE or stored_value == requested_value:
            continue
        if field in GROWING and _holds(requested_value, stored_value):
            continue
        if (
            field == "search"
            and stored_value
            and requested_value
            and requested_value == stored_value.model_copy(update={"samples": requested_value.samples})
        ):
            continue
        changed.append(field)
    if "initialisations" not in changed:  # what `scratch` means depends on the other models
        earlier, current = resolved(stored), resolved(requested)
        changed += [
            f"initialisations.{name}, which would be built like {current[name].like or 'the default crystal encoder'} "
            f"(state the network: `{name}: {{like: …}}`, or `{{encoders: …}}`)"
            for name in earlier
            if current[name] != earlier[name]
        ]
    if changed:
        raise ConfigError(
            f"{run} was started with other settings: {', '.join(changed)}. Entries may be added to "
            f"{', '.join(GROWING)}, but not removed or changed; choose another --name for a new campaign"
        )


def _holds(now: object, before: object) -> bool:
    if isinstance(now, dict) and isinstance(before, dict):
        return all(name in now and now[name] == value for name, value in before.items())
    assert isinstance(now, tuple)
    assert isinstance(before, tuple)
    return set(before) <= set(now)
