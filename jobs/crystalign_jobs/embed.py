"""`crystalign embed`: a dataset through a model's encoder, in parallel and restartable."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field
from tyro.conf import Positional

from crystalign import storage
from crystalign.config import Config
from crystalign.errors import ConfigError, ConflictError, DatasetError
from crystalign.index.embeddings import (
    MANIFEST,
    EmbeddingFile,
    EmbeddingManifest,
    Making,
    embedding_table,
    existing_embeddings,
    write_embeddings,
)
from crystalign.storage import Uri

if TYPE_CHECKING:
    import pyarrow as pa

    from crystalign.model import Model
    from crystalign.shards.dataset import Dataset

Part = Literal["train", "validation", "test"]


class Embed(Config):
    """Encode one modality of every material of a dataset that has it.

    Example: crystalign embed runs/first/model --data s3://bucket/mp --out s3://bucket/embeddings
    """

    model: Positional[Uri]
    """Model directory, any URI."""
    data: Uri
    """Dataset, any URI."""
    out: Uri
    """Where the embeddings go, any URI; with `--modality all` a folder per modality."""
    modality: str = "crystal"
    """Which modality to encode; `all` for each one that the model knows and the dataset has."""
    part: Part | None = None
    """Only this part of the split that the model carries; by default every material."""
    batch_size: int = Field(default=64, ge=1)
    """Materials that pass the encoder together."""
    rows_per_file: int = Field(default=4096, ge=1)
    """Materials of a task and of an output file, in whole row groups."""
    num_actors: int = Field(default=0, ge=0)
    """Processes that hold the model; 0 for as many as the cluster feeds, at most one per file."""
    use_gpu: bool = False
    """One GPU per process."""
    address: str | None = None
    """Ray cluster; default: RAY_ADDRESS, else this machine."""


def main(config: Embed) -> dict[str, EmbeddingManifest]:
    """Embed and print what was made.

    Returns:
        Modality → the manifest of its embeddings.
    """
    from crystalign.shards.dataset import Dataset

    made = embed(config)
    for name, manifest in made.items():
        print(f"{name}: {manifest.rows:,} vectors of {manifest.dimension} dimensions at {_target(config, name)}")
        left_out = Dataset.open(config.data).manifest.modalities.get(name, 0) - manifest.rows
        if left_out and config.part is None:
            print(f"  {left_out:,} materials are larger than the model takes and are not in it")
    target = _target(config, "crystal" if "crystal" in made else next(iter(made)))
    print(f"next: crystalign index {target} --out URI")
    return made


def embed(config: Embed) -> dict[str, EmbeddingManifest]:
    """Encode the modalities that `config` asks for, one embedding dataset each.

    Raises:
        ConfigError: the model has no such modality, or other embeddings live at `out`, or another job writes there.
        DatasetError: the dataset has no material with it.
    """
    from crystalign.model import load
    from crystalign.shards.dataset import Dataset
    from crystalign_jobs.ownership import driving
    from crystalign_jobs.session import session
    from crystalign_jobs.text_embeddings import same_language_model

    model, dataset = load(config.model), Dataset.open(config.data)
    names = _modalities(config, model, dataset)
    dataset.require_current(names)
    if "text_embedding" in names:
        same_language_model(model, dataset)
    print(f"embedding {', '.join(names)} of {config.data} with {config.model}")
    print("\n".join(f"writing to {_target(config, name)}/" for name in names))
    whole = {
        name: Making(model_sha256=model.sha256, dataset_sha256=dataset.manifest.sha256, modality=name, part=config.part)
        for name in names
    }
    made = {name: _existing(_target(config, name), making) for name, making in whole.items()}
    todo = [making for name, making in whole.items() if made[name] is None]
    if todo:
        with driving(config.out):
            with session(config.address):
                files = _run(config, dataset, todo)
            made |= {m.modality: _commit(config, model, dataset, m, files[m.modality]) for m in todo}
    return {name: manifest for name, manifest in made.items() if manifest is not None}


class Encoder:
    """What an actor does: holds the model, turns tasks into verified files."""

    def __init__(self, config: Embed) -> None:
        import torch

        from crystalign.model import load
        from crystalign.shards.dataset import Dataset

        self.config = config
        self.model = load(config.model)
        if config.use_gpu:
            self.model.to("cuda")
        else:
            torch.set_num_threads(1)
        self.dataset = Dataset.open(config.data)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """One task: its file, made now or found whole from an earlier run."""
        makings = [Making.model_validate_json(text) for text in batch["making"].tolist()]
        made = [self._one(making) for making in makings]
        return {
            "modality": np.array([making.modality for making in makings]),
            "entry": np.array([entry.model_dump_json() for entry, _ in made]),
            "found": np.array([found for _, found in made]),
        }

    def _one(self, making: Making) -> tuple[EmbeddingFile, bool]:
        name = f"shard-{making.shard:05d}-{making.row_groups[0]:05d}"
        target = _target(self.config, making.modality)
        known = existing_embeddings(target, name, making)
        if known is not None:
            return known, True
        return write_embeddings(target, name, self._encode(making), making), False

    def _rows(self, making: Making) -> tuple[pa.Table, np.ndarray[Any, Any]]:
        """The rows that have the modality and are in the part, and their positions in the shard."""
        import pyarrow as pa

        sizes = self.dataset.manifest.shards[making.shard].row_groups
        tables, positions = [], []
        for group in making.row_groups:
            table = self.dataset.read(making.shard, row_group=group, modalities=(making.modality,))
            keep = table.column(making.modality).is_valid().to_numpy(zero_copy_only=False)
            keep &= self.model.modality(making.modality).fits(table)
            if making.part is not None:
                keep &= _rule(self.model).mask(table, making.part)
            tables.append(table.filter(pa.array(keep)))
            positions.append(sum(sizes[:group]) + np.flatnonzero(keep))
        return pa.concat_tables(tables), np.concatenate(positions)

    def _encode(self, making: Making) -> pa.Table:
        from crystalign.shards.schema import table_to_materials

        rows, positions = self._rows(making)
        properties = self.dataset.manifest.properties
        materials = table_to_materials(rows, properties, modalities=(making.modality,))
        values = [material.value(making.modality) for material in materials]
        vectors = self.model.embed(making.modality, values, self.config.batch_size)
        return embedding_table(rows, vectors, shard=making.shard, positions=positions.tolist(), properties=properties)


def _run(config: Embed, dataset: Dataset, todo: list[Making]) -> dict[str, list[EmbeddingFile]]:
    """All modalities through one set of actors, which load the model once."""
    import ray

    from crystalign_jobs.progress import Meter

    tasks = [task for whole in todo for task in _tasks(dataset, whole, config.rows_per_file)]
    gpus = 1.0 if config.use_gpu else 0.0
    items = [{"making": task.model_dump_json()} for task in tasks]
    results = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        Encoder,
        fn_constructor_kwargs={"config": config},
        batch_size=1,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(size=_actors(config, len(tasks))),
        num_cpus=1,
        num_gpus=gpus,
    )
    files: dict[str, list[EmbeddingFile]] = {whole.modality: [] for whole in todo}
    total = sum(dataset.manifest.modalities.get(whole.modality, dataset.manifest.rows) for whole in todo)
    with Meter("embed", total=total, unit="rows") as meter:
        for row in results.iter_rows():
            entry = EmbeddingFile.model_validate_json(str(row["entry"]))
            files[str(row["modality"])].append(entry)
            meter.advance(entry.rows, counted=not row["found"])
        meter.reach(meter.done, total=meter.done)
    return files


def _actors(config: Embed, tasks: int) -> int:
    """How many processes hold the model; checked against the cluster before anything waits for it."""
    import ray

    from crystalign.resources import Demand, check_fits, parallel_tasks

    has = ray.cluster_resources()
    usual = int(has.get("GPU", 0)) if config.use_gpu else parallel_tasks(has, reserved=0)
    actors = max(1, min(config.num_actors or usual, tasks))
    gpus = 1.0 if config.use_gpu else 0.0
    check_fits([Demand(name="embedding processes", count=actors, gpus=gpus)], has, free_cpus=0)
    return actors


def _tasks(dataset: Dataset, whole: Making, rows_per_file: int) -> Iterator[Making]:
    """Runs of row groups with about `rows_per_file` rows; the same for every run of the job."""
    for number, shard in enumerate(dataset.manifest.shards):
        groups: list[int] = []
        for group, _ in enumerate(shard.row_groups):
            groups.append(group)
            last = group + 1 == len(shard.row_groups)
            if last or sum(shard.row_groups[g] for g in groups) >= rows_per_file:
                yield whole.model_copy(update={"shard": number, "row_groups": tuple(groups)})
                groups = []


def _existing(target: str, whole: Making) -> EmbeddingManifest | None:
    if not storage.exists(storage.join(target, MANIFEST)):
        return None
    known = EmbeddingManifest.read(target)
    if known.making != whole:
        raise ConfigError(
            f"{target} already holds embeddings of another model, dataset or part (model {known.model_sha256[:12]}, "
            f"this one {whole.model_sha256[:12]}); choose another --out or delete it"
        )
    return known


def _commit(
    config: Embed, model: Model, dataset: Dataset, whole: Making, files: list[EmbeddingFile]
) -> EmbeddingManifest:
    """The manifest, last."""
    files = sorted((entry for entry in files if entry.rows), key=lambda entry: entry.path)
    if not files:
        part = config.part or "all parts"
        raise DatasetError(f"no material of {config.data} ({part}) has {whole.modality!r}; nothing to embed")
    manifest = EmbeddingManifest(
        model_uri=config.model,
        model_sha256=whole.model_sha256,
        modality=whole.modality,
        dimension=model.config.embedding_dim,
        dataset_uri=config.data,
        dataset_sha256=whole.dataset_sha256,
        part=whole.part,
        split=dict(model.card.split),
        rows=sum(entry.rows for entry in files),
        properties=dataset.manifest.properties,
        licences=tuple(sorted({source.licence for source in dataset.manifest.sources})),
        files=tuple(files),
    )
    target = _target(config, whole.modality)
    try:
        manifest.write(target)
    except ConflictError:
        return _existing(target, whole) or manifest  # another job made the same meanwhile, or it is refused
    return manifest


def _modalities(config: Embed, model: Model, dataset: Dataset) -> list[str]:
    if config.modality != "all":
        model.modality(config.modality)  # raises with the names it has
        return [config.modality]
    return [name for name in model.config.modalities if dataset.manifest.modalities.get(name, 0) or name == "crystal"]


def _rule(model: Model) -> Any:
    from crystalign.shards.splits import SplitRule

    if not model.card.split:
        raise ConfigError("the model's card names no split, so it has no parts; leave out --part")
    return SplitRule.from_mapping(dict(model.card.split), origin="the split in the model's card")


def _target(config: Embed, modality: str) -> str:
    return storage.join(config.out, modality) if config.modality == "all" else config.out
