"""Preparation before the workers start: check the settings, select the rows, write the files that all ranks read."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import yaml

from crystalign import storage
from crystalign.errors import ConfigError, DatasetError, Error
from crystalign.model_config import ModelCard
from crystalign.shards.dataset import Dataset
from crystalign.shards.selection import Selection
from crystalign.training.config import PretrainConfig
from crystalign.training.feed import FeedPlan
from crystalign.training.held_out import Place
from crystalign_jobs.pretraining.config import Pretrain, run_uri, stored_settings
from crystalign_jobs.pretraining.job import Job, Watch
from crystalign_jobs.pretraining.status import CONFIG

if TYPE_CHECKING:
    from crystalign.modalities import Modality

PREPARED = "prepared"
"""In a run's folder: files that encoders need before the first step."""
CAPTIONS_FOR_TOKENIZER = 50_000
"""Most captions on which a tokenizer is trained."""
_MAY_CHANGE = {"out", "name", "max_minutes", "num_workers", "use_gpu", "compute_dtype", "loggers"} | {
    "checkpoint_every_steps",
    "log_every_steps",
    "micro_batch_size",
}


def with_language_model(config: Pretrain) -> Pretrain:
    """The settings with the language model of the dataset, if the model reads text embeddings."""
    from crystalign.modalities.text_embedding import settings_of_language_model
    from crystalign_jobs.text_embeddings import NAME

    spec = config.model.modalities.get(NAME)
    if spec is None:
        return config
    language_model = Dataset.open(config.data).manifest.language_model
    features = settings_of_language_model(spec.features, language_model, origin=config.data)
    modalities = config.model.modalities | {NAME: spec.model_copy(update={"features": features})}
    return config.model_copy(update={"model": config.model.model_copy(update={"modalities": modalities})})


def check_run(config: Pretrain, run: str) -> None:
    """Check that the folder of a new run is empty, and that a resumed run has the stored settings.

    Raises:
        ConfigError: it is not so; the message names the fields that differ.
    """
    path = storage.join(run, CONFIG)
    if not config.resume:
        if storage.exists(path):
            raise ConfigError(f"{run} already holds a run; continue it with --resume {run}, or choose another --name")
        return
    values = {key: value for key, value in stored_settings(run).items() if key in PretrainConfig.model_fields}
    stored = PretrainConfig.from_mapping(values, origin=path).model_dump(mode="json")
    requested = config.model_dump(mode="json", include=set(PretrainConfig.model_fields))
    different = [key for key in requested if key not in _MAY_CHANGE and requested[key] != stored[key]]
    if different:
        raise ConfigError(
            f"{run} was started with other settings: "
            + ", ".join(f"{key}={stored[key]!r} rather than {requested[key]!r}" for key in different)
            + "; resume with the same ones, or choose another --name"
        )


def prepare(config: Pretrain, dataset: Dataset, selection: Selection, watch: Watch | None) -> Job:
    """Write the settings into the run's folder, and prepare what the workers need.

    Raises:
        ConfigError: the folder holds another run, or the model cannot be built.
    """
    run = run_uri(config)
    return Job(
        run=run,
        config=config,
        files=_claim(config, dataset, selection, run),
        plan=_plan(config, dataset, selection),
        card=_card(config, dataset, selection),
        held_out=_held_out(config, dataset),
        watch=watch,
    )


def _claim(config: Pretrain, dataset: Dataset, selection: Selection, run: str) -> dict[str, bytes]:
    """Write the settings of a new run and the files of its encoders; delete both if the model cannot be built.

    Returns:
        The encoders' files.
    """
    from crystalign.model import Model
    from crystalign.training.gradient_cache import refuse_batch_statistics

    path = storage.join(run, CONFIG)
    if not config.resume:
        settings = config.model_dump(mode="json", exclude={"resume", "address"})
        storage.write_bytes(path, yaml.safe_dump(settings, sort_keys=False).encode(), if_absent=True)
    try:
        files = _prepared(config, dataset, selection, run)
        model = Model(config.model, files, restore=True)  # find an invalid model here, not in the workers
        model.check_inputs()
        if config.micro_batch_size is not None:
            refuse_batch_statistics(model)
    except Error:
        if not config.resume:
            storage.delete(path)
            storage.delete(storage.join(run, PREPARED))
        raise
    return files


def select(config: PretrainConfig, dataset: Dataset) -> Selection:
    """The training rows that have the modalities of the model.

    Raises:
        DatasetError: the dataset lacks a modality of the model, or holds too few rows.
    """
    from crystalign.modalities import make_modality

    missing = [m for m in config.model.modalities if m != "crystal" and not dataset.manifest.modalities.get(m, 0)]
    if missing:
        raise DatasetError(
            f"{config.data} holds no {', '.join(missing)}, which the model reads; add them with `crystalign derive`, "
            "or choose a model without them"
        )
    dataset.require_current(config.model.modalities)
    if (notice := dataset.manifest.uncompared(config.data)) is not None:
        print(notice)
    modalities = [make_modality(name, spec.features) for name, spec in config.model.modalities.items()]
    selection = Selection.build(dataset, config.split, "train", fits=modalities)
    left_out = Selection.build(dataset, config.split, "train").n - selection.n
    if left_out:
        print(f"{left_out} materials of the training split exceed the size limit of the model and are left out")
    if selection.n < config.batch_size:
        raise DatasetError(
            f"the training split of {config.data} holds {selection.n} materials, fewer than one batch of "
            f"{config.batch_size}; lower batch_size"
        )
    return selection


def _prepared(config: PretrainConfig, dataset: Dataset, selection: Selection, run: str) -> dict[str, bytes]:
    """The files that encoders need before the first step, made once per run and read again by a resumed one."""
    from crystalign.modalities import make_modality, modality_class
    from crystalign.model import prepare as prepare_encoders

    folder = storage.join(run, PREPARED)
    listing = storage.join(folder, "files.json")
    if storage.exists(listing):
        return {
            path: storage.read_bytes(storage.join(folder, path)) for path in json.loads(storage.read_bytes(listing))
        }
    needed = [name for name in config.model.modalities if modality_class(name).prepares_encoder]
    values = {
        name: _training_values(dataset, selection, make_modality(name, config.model.modalities[name].features))
        for name in needed
    }
    files = prepare_encoders(config.model, values)
    for path, data in files.items():
        storage.write_bytes(storage.join(folder, path), data)
    storage.write_bytes(listing, json.dumps(sorted(files)).encode())
    return files


def _training_values(dataset: Dataset, selection: Selection, modality: Modality[Any]) -> list[Any]:
    """What training may read, from the training split only, because a tokenizer must not see test data either."""
    values: list[Any] = []
    count = 0
    for position, (shard, group) in enumerate(zip(selection.shards, selection.groups, strict=True)):
        cells = dataset.read(int(shard), int(group), columns=[modality.name]).column(modality.name)
        present = [row for row in selection.rows(position)[:, 2].tolist() if cells[row].is_valid]
        for row in present:
            values += modality.seen_in_training(modality.from_column(cells[row]))
        count += len(present)
        if count >= CAPTIONS_FOR_TOKENIZER:
            break
    return values


def _plan(config: PretrainConfig, dataset: Dataset, selection: Selection) -> FeedPlan:
    """The plan for one rank; the workers set the world size."""
    return FeedPlan(
        data=config.data,
        data_sha256=dataset.manifest.sha256,
        selection=selection.save(run_uri(config)),
        modalities={name: spec.features for name, spec in config.model.modalities.items()},
        seed=config.seed,
        augment=config.augment,
        batch_size=config.batch_size,
        micro_batch_size=config.micro_batch_size,
        window_rows=config.rows_per_window,
        world_size=1,
        epochs=config.epochs,
    )


def _card(config: PretrainConfig, dataset: Dataset, selection: Selection) -> ModelCard:
    sources = dataset.manifest.sources
    return ModelCard(
        name=config.name,
        dataset_uri=config.data,
        dataset_sha256=dataset.manifest.sha256,
        selection_sha256=selection.sha256,
        split=config.split.model_dump(mode="json"),
        sources=tuple(sorted({source.name for source in sources})),
        licences=tuple(sorted({source.licence for source in sources})),
    )


def _held_out(config: Pretrain, dataset: Dataset) -> tuple[Place, ...]:
    """Positions of the rows on which retrieval is measured; empty if the split has no validation part."""
    from crystalign.modalities import make_modality
    from crystalign.training.held_out import choose_places

    if config.held_out == 0:
        return ()
    modalities = [make_modality(name, spec.features) for name, spec in config.model.modalities.items()]
    try:
        selection = Selection.build(dataset, config.split, "validation", fits=modalities)
    except DatasetError:
        print("the split has no validation part: the checkpoints with the lowest loss are kept")
        return ()
    return choose_places(selection, config.held_out)
