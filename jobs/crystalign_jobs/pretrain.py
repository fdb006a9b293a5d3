"""`crystalign pretrain`: a dataset in, a model directory out, on any number of workers, and resumable.

The truth about a run is the newest checkpoint of ours that verifies. Ray restarts workers that
die; what they go on from, they read from the run's own folder.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Self

import yaml
from pydantic import Field, model_validator

from crystalign import storage
from crystalign.errors import ConfigError, DatasetError, Error
from crystalign.training.config import PretrainConfig
from crystalign_jobs.ownership import driving
from crystalign_jobs.pretrain_worker import Watch
from crystalign_jobs.run_status import CONFIG, MODEL
from crystalign_jobs.settings import stored

if TYPE_CHECKING:
    from crystalign.model_config import ModelCard
    from crystalign.shards.dataset import Dataset
    from crystalign.shards.selection import Selection
    from crystalign.training.feed import FeedPlan
    from crystalign.training.held_out import Place

PREPARED = "prepared"
CAPTIONS_FOR_TOKENIZER = 50_000
_MAY_CHANGE = {"out", "name", "max_minutes", "num_workers", "use_gpu", "compute_dtype", "loggers"} | {
    "checkpoint_every_steps",
    "log_every_steps",
    "micro_batch_size",
}


class Pretrain(PretrainConfig):
    """Align the modalities of a dataset in one space, contrastively.

    The first word is a preset (`tiny`, `default`, `multimat-paper`, `matbind-paper`, `clasp-paper`) or a YAML file.

    For example:

      crystalign pretrain default --data s3://bucket/mp --out s3://bucket/runs --name first
      crystalign pretrain matbind-paper --set model.modalities.dos=null --data mp --out runs
      crystalign pretrain --resume s3://bucket/runs/first
    """

    resume: bool = False
    """Go on from the newest checkpoint of this run; the same step, the same order of samples. `--resume RUN` needs
    nothing else: the run knows its settings."""
    address: str | None = None
    """Ray cluster; default: RAY_ADDRESS, else this machine."""
    min_workers: int | None = Field(default=None, ge=1)
    """Fewest workers to go on with where nodes are lost; by default all of `num_workers`. With fewer the run grows as
    soon as the cluster does. The samples of each step are the same at any number."""
    wait_for_nodes: float = Field(default=0.0, ge=0)
    """Minutes to wait for a cluster that starts nodes on demand, which is asked for them; with 0 a cluster that is too
    small is an error at once."""
    max_failures: int = Field(default=2, ge=0)
    """How often workers that died are started again before the run gives up. Nodes that the cluster takes away do
    not count, and what would fail again in the same way is not tried again."""
    timeout_minutes: float = Field(default=15.0, gt=0)
    """How long workers wait for one that hangs; the error names it."""
    keep_checkpoints: int = Field(default=3, ge=1)
    """How many of the best checkpoints stay beside the newest: by the retrieval on a slice of the validation rows,
    by the loss where there are none."""
    held_out: int = Field(default=512, ge=0)
    """Validation rows on which retrieval is measured: with the first checkpoint, at the end, and with those between as
    far as it takes no more than 2 % of the time."""

    @model_validator(mode="after")
    def _least(self) -> Self:
        if self.min_workers is not None and self.min_workers > self.num_workers:
            raise ValueError(f"min_workers is {self.min_workers}, more than num_workers, {self.num_workers}")
        return self


def main(config: Pretrain) -> None:
    """Train, and print what was made."""
    from crystalign_jobs.pretrain_fit import Stopped

    run = run_uri(config)
    print(f"{'going on with' if config.resume else 'pre-training on'} {run if config.resume else config.data}")
    print(f"writing to {run}/\n├─ config.yaml       every setting\n├─ checkpoints/      step-…, each a model directory")
    print("├─ metrics.csv       and tensorboard/\n├─ status.json       how it stands: `crystalign runs`")
    print("└─ model/            the final model")
    try:
        model = pretrain(config)
    except Stopped as stop:
        print(stop)
        raise SystemExit(128 + stop.signum) from None
    print(f"trained {model}\nnext: crystalign evaluate {model} --data {config.data}")


def pretrain(config: Pretrain, *, watch: Watch | None = None) -> str:
    """Run, or go on with, one pre-training.

    Args:
        config: what to train, on what, where to.
        watch: called on each rank before each step.

    Returns:
        URI of the final model directory.

    Raises:
        ConfigError: the run exists and is not resumed, or is driven by another process, or is resumed with settings
            that change what it computes, or the model cannot be built, or a logger is not installed, or the cluster is
            too small.
        DatasetError: no row to train on.
        Stopped: Ctrl-C or SIGTERM; a checkpoint was written first.
        StorageError: a checkpoint could not be stored.
    """
    from crystalign.shards.dataset import Dataset
    from crystalign.training.metrics import check_loggers
    from crystalign_jobs.elastic import nodes_for
    from crystalign_jobs.pretrain_fit import fit
    from crystalign_jobs.session import session

    run, config = run_uri(config), _with_language_model(config)  # as a run that is resumed stored it
    _check_run(config, run)
    check_loggers(config)
    dataset = Dataset.open(config.data)
    selection = _select(config, dataset)
    with driving(run), session(config.address), nodes_for(config):
        job = {
            "config": config,
            "files": _claim(config, dataset, selection, run),
            "plan": _plan(config, dataset, selection),
            "card": _card(config, dataset, selection),
            "held_out": _held_out(config, dataset),
            "run": run,
            "watch": watch,
        }
        fit(config, job)
    return storage.join(run, MODEL)


def run_uri(config: PretrainConfig) -> str:
    """Where a run writes."""
    return storage.join(config.out, config.name)


# --- before the workers ---------------------------------------------------------------------------------------------


def _with_language_model(config: Pretrain) -> Pretrain:
    """A model that reads text embeddings knows whose: those of the dataset."""
    from crystalign.modalities.text_embedding import settings_of_language_model
    from crystalign.shards.dataset import Dataset

    spec = config.model.modalities.get("text_embedding")
    if spec is None:
        return config
    language_model = Dataset.open(config.data).manifest.language_model
    features = settings_of_language_model(spec.features, language_model, origin=config.data)
    modalities = config.model.modalities | {"text_embedding": spec.model_copy(update={"features": features})}
    return config.model_copy(update={"model": config.model.model_copy(update={"modalities": modalities})})


def stored_settings(run: str) -> dict[str, Any]:
    """The settings that a run was started with, to go on with it where it lies now.

    Raises:
        ConfigError: there is no run.
    """
    out = run.rpartition("/")[0]
    missing = f"there is no run at {run} to resume; `crystalign runs {out}` lists those that are there"
    return stored(run, CONFIG, missing=missing)


def _check_run(config: Pretrain, run: str) -> None:
    """A new run finds its place empty, and one to go on with has the same settings.

    Raises:
        ConfigError: not so; the message names the fields.
    """
    place = storage.join(run, CONFIG)
    if not config.resume:
        if storage.exists(place):
            raise ConfigError(f"{run} already holds a run; go on with it by --resume {run}, or choose another --name")
        return
    own = {key: value for key, value in stored_settings(run).items() if key in PretrainConfig.model_fields}
    known = PretrainConfig.from_mapping(own, origin=place).model_dump(mode="json")
    asked = config.model_dump(mode="json", include=set(PretrainConfig.model_fields))
    different = [key for key in asked if key not in _MAY_CHANGE and asked[key] != known[key]]
    if different:
        raise ConfigError(
            f"{run} was started with other settings: "
            + ", ".join(f"{key}={known[key]!r} rather than {asked[key]!r}" for key in different)
            + "; resume with the same ones, or choose another --name"
        )


def _claim(config: Pretrain, dataset: Dataset, selection: Selection, run: str) -> dict[str, bytes]:
    """Write the settings of a new run, and make the files of its encoders; nothing stays of a model that is impossible.

    Returns:
        The encoders' files.
    """
    from crystalign.model import Model
    from crystalign.training.gradient_cache import refuse_batch_statistics

    place = storage.join(run, CONFIG)
    if not config.resume:
        settings = config.model_dump(mode="json", exclude={"resume", "address"})
        storage.write_bytes(place, yaml.safe_dump(settings, sort_keys=False).encode(), if_absent=True)
    try:
        files = _prepared(config, dataset, selection, run)
        model = Model(config.model, files, restore=True)  # what cannot work is found here and not by the workers
        model.check_inputs()
        if config.micro_batch_size is not None:
            refuse_batch_statistics(model)
    except Error:
        if not config.resume:
            storage.delete(place)
            storage.delete(storage.join(run, PREPARED))
        raise
    return files


def _select(config: PretrainConfig, dataset: Dataset) -> Selection:
    from crystalign.modalities import make_modality
    from crystalign.shards.selection import Selection

    missing = [m for m in config.model.modalities if m != "crystal" and not dataset.manifest.modalities.get(m, 0)]
    if missing:
        raise DatasetError(
            f"{config.data} holds no {', '.join(missing)}, which the model aligns; add them with `crystalign derive`, "
            "or choose a model without"
        )
    dataset.require_current(config.model.modalities)
    if (notice := dataset.manifest.uncompared(config.data)) is not None:
        print(notice)
    modalities = [make_modality(name, spec.features) for name, spec in config.model.modalities.items()]
    selection = Selection.build(dataset, config.split, "train", fits=modalities)
    left_out = Selection.build(dataset, config.split, "train").n - selection.n
    if left_out:
        print(f"{left_out} materials of the training split are larger than the model takes and are left out")
    if selection.n < config.batch_size:
        raise DatasetError(
            f"the training split of {config.data} holds {selection.n} materials, fewer than one batch of "
            f"{config.batch_size}; lower batch_size"
        )
    return selection


def _prepared(config: PretrainConfig, dataset: Dataset, selection: Selection, run: str) -> dict[str, bytes]:
    """The files that encoders need before the first step, made once per run and read again by a resumed one."""
    from crystalign.model import prepare

    folder = storage.join(run, PREPARED)
    listing = storage.join(folder, "files.json")
    if storage.exists(listing):
        return {
            path: storage.read_bytes(storage.join(folder, path)) for path in json.loads(storage.read_bytes(listing))
        }
    values = {"text": _captions(dataset, selection)} if "text" in config.model.modalities else {}
    files = prepare(config.model, values)
    for path, data in files.items():
        storage.write_bytes(storage.join(folder, path), data)
    storage.write_bytes(listing, json.dumps(sorted(files)).encode())
    return files


def _captions(dataset: Dataset, selection: Selection) -> list[Any]:
    """Texts of the training split alone: a tokenizer, too, must not have seen what it is tested on."""
    from crystalign.modalities import modality_class

    text = modality_class("text")
    found: list[Any] = []
    for place, (shard, group) in enumerate(zip(selection.shards, selection.groups, strict=True)):
        cells = dataset.read(int(shard), int(group), columns=["text"]).column("text")
        found += [text.from_column(cells[row]) for row in selection.rows(place)[:, 2].tolist() if cells[row].is_valid]
        if len(found) >= CAPTIONS_FOR_TOKENIZER:
            break
    return found


def _plan(config: PretrainConfig, dataset: Dataset, selection: Selection) -> FeedPlan:
    """For one rank; the workers put in how many they are."""
    from crystalign.training.feed import FeedPlan

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
    from crystalign.model_config import ModelCard

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
    """Where the rows are on which retrieval is measured; none where the split has no validation part."""
    from crystalign.modalities import make_modality
    from crystalign.shards.selection import Selection
    from crystalign.training.held_out import choose_places

    if config.held_out == 0:
        return ()
    modalities = [make_modality(name, spec.features) for name, spec in config.model.modalities.items()]
    try:
        selection = Selection.build(dataset, config.split, "validation", fits=modalities)
    except DatasetError:
        print("the split has no validation part: the best checkpoints are those of the lowest loss")
        return ()
    return choose_places(selection, config.held_out)
