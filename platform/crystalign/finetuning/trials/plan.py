"""Check a trial before it starts: data, labels, split, and the pre-trained model.

This module does not import torch, so a campaign can quickly check all its trials before the first one starts.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from crystalign import storage
from crystalign.errors import ConfigError, StorageError
from crystalign.finetuning.data.splits import Split, make_split, refuse_seen
from crystalign.finetuning.data.task import Labels, Task, read_labels
from crystalign.finetuning.trials.config import SCRATCH, TrialConfig
from crystalign.modalities import make_modality, modality_class
from crystalign.model_config import ModalitySpec, ModelFile
from crystalign.properties import PropertySpec, Quantity
from crystalign.shards.dataset import Dataset


@dataclass(frozen=True, eq=False)
class Plan:
    """Checked inputs of a trial."""

    config: TrialConfig
    """Its settings."""
    dataset: Dataset
    """Dataset with the labels."""
    labels: Labels
    """All usable labels."""
    split: Split
    """Split of these labels; all parts except the test part are limited to `n_labels`."""
    specs: dict[str, ModalitySpec]
    """Modality → encoder; empty for a constant."""
    origin: ModelFile | None
    """Description of the model whose encoders are copied or rebuilt."""
    seen: dict[str, int]
    """Part → number of materials whose keys were used in pre-training."""

    @property
    def checksums(self) -> tuple[str, str, str]:
        """Checksums of the content behind the URIs of the settings: dataset, model and list of ids; empty if there is
        none.
        """
        return self.dataset.manifest.sha256, "" if self.origin is None else self.origin.identity, self.split.sha256


def plan(config: TrialConfig) -> Plan:
    """Check a trial against its dataset and its model, without reading weights.

    Raises:
        ConfigError: a setting is not valid; the message names the field and valid values.
        DatasetError: there is no dataset.
    """
    origin = None if config.origin is None else _described(config)
    dataset = Dataset.open(config.data)
    columns = config.task.columns(dataset)
    specs = _specs(config, origin)
    _check_not_told(columns, specs)
    _check_modalities(config, dataset)
    labels = _labels(config.data, dataset.manifest.sha256, config.task)
    labels = _with_modalities(labels, dataset, config)
    _check_sizes(labels, specs)
    if config.shuffle_labels:
        labels = labels.permuted(config.seed)
    split = make_split(labels, config.split).limited(config.n_labels)
    _check_targets(split)
    seen = {}
    if config.pretrained:
        assert origin is not None
        seen = refuse_seen(split, origin.card, config.initialisation)
    return Plan(config, dataset, labels, split, specs, origin, seen)


def _check_targets(split: Split) -> None:
    for part in split.parts:
        without = ~np.isfinite(part.values).any(axis=0)
        if without.any():
            raise ConfigError(
                f"task.target: no label of {split.labels.specs[int(without.argmax())].column} is among the {len(part)} "
                f"of the {part.name} part; raise n_labels, choose other shares, or predict it alone"
            )


@functools.lru_cache(maxsize=16)
def _labels(uri: str, sha256: str, task: Task) -> Labels:  # noqa: ARG001 (a dataset that changed is read again)
    return read_labels(Dataset.open(uri), task)


def _described(config: TrialConfig) -> ModelFile:
    """The model's `config.json`."""
    uri, field = config.origin, "like" if config.initialisation == SCRATCH else "initialisation"
    assert uri is not None
    valid = "give a model directory, such as the `model` folder of a pre-training run"
    if field == "initialisation":
        valid += f", or {SCRATCH}, mean or median"
    try:
        values = json.loads(storage.read_bytes(storage.join(uri, "config.json")))
        return ModelFile.from_mapping(values, origin=f"{uri}/config.json")
    except (StorageError, ValueError) as error:  # a ConfigError is a ValueError
        raise ConfigError(f"{field}: no pre-trained model at {uri} ({str(error)[:200]}); {valid}") from error


def _specs(config: TrialConfig, origin: ModelFile | None) -> dict[str, ModalitySpec]:
    if config.constant:
        return {}
    if origin is None:
        return config.specs
    there = origin.config.modalities
    missing = [name for name in config.chosen if name not in there]
    if missing:
        raise ConfigError(f"modalities: the model {config.origin} has no {missing[0]!r}; it has {', '.join(there)}")
    return {name: there[name] for name in config.chosen}


def _check_not_told(columns: Sequence[PropertySpec], specs: Mapping[str, ModalitySpec]) -> None:
    determining = [name for name in specs if modality_class(name).encodes_volume]
    for column in columns:
        if column.quantity is Quantity.VOLUME_PER_ATOM and determining:
            raise ConfigError(
                f"modalities: {determining[0]} contains {column.column}, so the target would be read off "
                "instead of predicted; read composition, or another modality that does not come from the structure"
            )


def _check_modalities(config: TrialConfig, dataset: Dataset) -> None:
    dataset.require_current(() if config.constant else config.chosen)
    there = {name for name, n in dataset.manifest.modalities.items() if n}
    for field, names in (("modalities", () if config.constant else config.chosen), ("require", config.require)):
        missing = [name for name in names if name not in there]
        if missing:
            raise ConfigError(
                f"{field}: {dataset.uri} has no {missing[0]!r}; it has {', '.join(sorted(there))}, and "
                "`crystalign derive` adds what follows from structures"
            )


def _with_modalities(labels: Labels, dataset: Dataset, config: TrialConfig) -> Labels:
    """Keep the materials that have all of `require` and at least one of the modalities that are read."""
    have = {name: _presence(labels, dataset, name) for name in {*config.require, *config.chosen}}
    for name in config.require:
        labels, have = _keep(labels, have, have[name], f"without {name}")
    if config.constant:
        return labels
    some = np.any([have[name] for name in config.chosen], axis=0)
    return labels.only(some, f"without any of {', '.join(config.chosen)}")


def _keep(
    labels: Labels, have: dict[str, NDArray[np.bool_]], keep: NDArray[np.bool_], why: str
) -> tuple[Labels, dict[str, NDArray[np.bool_]]]:
    return labels.only(keep, why), {name: mask[keep] for name, mask in have.items()}


def _presence(labels: Labels, dataset: Dataset, name: str) -> NDArray[np.bool_]:
    """Mask (N,) of the materials that have a modality."""
    if dataset.manifest.modalities.get(name, 0) == len(dataset):
        return np.ones(len(labels), bool)
    shards = {int(shard): dataset.has(int(shard), name) for shard in np.unique(labels.places[:, 0])}
    return np.array([shards[int(shard)][int(row)] for shard, row in labels.places], bool)


def _check_sizes(labels: Labels, specs: dict[str, ModalitySpec]) -> None:
    table = pa.table({"n_sites": labels.n_sites})
    for name, spec in specs.items():
        fits = make_modality(name, spec.features).fits(table)
        if not fits.all():
            raise ConfigError(
                f"task.max_sites: the {name} encoder {spec.encoder!r} does not take {int((~fits).sum())} of the "
                f"{len(labels)} labelled materials; the largest that it takes has {_largest(labels, fits)} sites: set "
                "max_sites to that, for all trials that are compared"
            )


def _largest(labels: Labels, fits: NDArray[np.bool_]) -> int:
    return int(labels.n_sites[fits].max(initial=0))
