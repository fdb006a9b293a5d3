"""`crystalign embed`: a dataset through a model's encoder, in parallel and restartable."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field
from tyro.conf import Positional

from crystalign import storage
from crystalign.config import Config
from crystalign.errors import ConfigError, DatasetError
from crystalign.index.embeddings import (
    MANIFEST,
    EmbeddingFile,
    EmbeddingManifest,
    Making,
    embedding_table,
    existing_embeddings,
    write_embeddings,
)

if TYPE_CHECKING:
    import pyarrow as pa
    from crystalign.shards.dataset import Dataset

    from crystalign.model import Model

Part = Literal["train", "validation", "test"]


class Embed(Config):
    """Encode one modality of every material of a dataset that has it.

    Example: crystalign embed runs/first/model --data s3://bucket/mp --out s3://bucket/embeddings
    """

    model: Positional[str]
    """Model directory, any URI."""
    data: str
    """Dataset, any URI."""
    out: str
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
    made = embed(config)
    for name, manifest in made.items():
        print(f"{name}: {manifest.rows:,} vectors of {manifest.dimension} dimensions at {_target(config, name)}")
    target = _target(config, "crystal" if "crystal" in made else next(iter(made)))
    print(f"next: crystalign index {target} --out URI")
    return made


def embed(config: Embed) -> dict[str, EmbeddingManifest]:
    """Encode the modalities that `config` asks for, one embedding dataset each.

    Raises:
        ConfigError: the model has no such modality, or other embeddings live at `out`.
        DatasetError: the dataset has no material with it.
    """
    from crystalign.shards.dataset import Dataset

    from crystalign.model import load
    from crystalign_jobs.session import session

    model, dataset = load(config.model), Dataset.open(config.data)
    names = _modalities(config, model, dataset)
    print(f"embedding {', '.join(names)} of {config.data} with {config.model}")
    print("\n".join(f"writing to {_target(config, name)}/" for name in names))
    with session(config.address):
        return {name: _embed_one(config, model, dataset, name) for name in names}


class Encoder:
    """What an actor does: holds the model, turns tasks into verified files."""

    def __init__(self, config: Embed, target: str, modality: str) -> None:
        import torch
        from crystalign.shards.dataset import Dataset

        from crystalign.model import load

        self.config, self.target, self.modality = config, target, modality
        self.model = load(config.model)
        if config.use_gpu:
            self.model.to("cuda")
        else:
            torch.set_num_threads(1)
        self.dataset = Dataset.open(config.data)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """One task: its file, made now or found whole from an earlier run."""
        made = [self._one(Making.model_validate_json(text)) for text in batch["making"].tolist()]
        return {
            "entry": np.array([entry.model_dump_json() for entry, _ in made]),
            "found": np.array([found for _, found in made]),
        }

    def _one(self, making: Making) -> tuple[EmbeddingFile, bool]:
        name = f"shard-{making.shard:05d}-{making.row_groups[0]:05d}"
        known = existing_embeddings(self.target, name, making)
        if known is not None:
            return known, True
        rows, positions = self._rows(making)
        table = self._encode(rows, positions, making.shard)
        return write_embeddings(self.target, name, table, making), False

    def _rows(self, making: Making) -> tuple[pa.Table, np.ndarray[Any, Any]]:
        """The rows that have the modality and are in the part, and their positions in the shard."""
        import pyarrow as pa

        sizes = self.dataset.manifest.shards[making.shard].row_groups
        tables, positions = [], []
        for group in making.row_groups:
            table = self.dataset.read(making.shard, row_group=group, modalities=(self.modality,))
            keep = table.column(self.modality).is_valid().to_numpy(zero_copy_only=False)
            if making.part is not None:
                keep &= _rule(self.model).mask(table, making.part)
            tables.append(table.filter(pa.array(keep)))
            positions.append(sum(sizes[:group]) + np.flatnonzero(keep))
        return pa.concat_tables(tables), np.concatenate(positions)

    def _encode(self, rows: pa.Table, positions: np.ndarray[Any, Any], shard: int) -> pa.Table:
        from crystalign.shards.schema import table_to_materials

        properties = self.dataset.manifest.properties
        materials = table_to_materials(rows, properties, modalities=(self.modality,))
        values = [material.value(self.modality) for material in materials]
        vectors = self.model.embed(self.modality, values, self.config.batch_size)
        return embedding_table(rows, vectors, shard=shard, positions=positions, properties=properties)


def _embed_one(config: Embed, model: Model, dataset: Dataset, name: str) -> EmbeddingManifest:
    """One modality: tasks through the actors, the manifest last."""
    from crystalign_jobs.progress import Meter

    target = _target(config, name)
    whole = Making(model_sha256=model.sha256, dataset_sha256=dataset.manifest.sha256, modality=name, part=config.part)
    known = _existing(target, whole)
    if known is not None:
        return known
    tasks = list(_tasks(dataset, whole, config.rows_per_file))
    files = []
    with Meter(
        f"embed {name}", total=dataset.manifest.modalities.get(name, dataset.manifest.rows), unit="rows"
    ) as meter:
        for entry, found in _run(config, tasks, target, name):
            files.append(entry)
            meter.advance(entry.rows, counted=not found)
        meter.reach(meter.done, total=meter.done)
    files = sorted((entry for entry in files if entry.rows), key=lambda entry: entry.path)
    if not files:
        raise DatasetError(
            f"no material of {config.data} ({config.part or 'all parts'}) has {name!r}; nothing to embed"
        )
    manifest = _manifest(config, model, dataset, whole, files)
    manifest.write(target)
    return manifest


def _run(config: Embed, tasks: list[Making], target: str, name: str) -> Iterator[tuple[EmbeddingFile, bool]]:
    import ray

    from crystalign.resources import Demand, check_fits, parallel_tasks

    total = ray.cluster_resources()
    actors = config.num_actors or int(total.get("GPU", 0)) if config.use_gpu else config.num_actors
    actors = min(actors or parallel_tasks(total, reserved=0), len(tasks))
    gpus = 1.0 if config.use_gpu else 0.0
    check_fits([Demand(name="embedding processes", count=max(actors, 1), gpus=gpus)], total, free_cpus=0)
    items = [{"making": task.model_dump_json()} for task in tasks]
    results = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        Encoder,
        fn_constructor_kwargs={"config": config, "target": target, "modality": name},
        batch_size=1,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=max(actors, 1)),
        num_cpus=1,
        num_gpus=gpus,
    )
    for row in results.iter_rows():
        yield EmbeddingFile.model_validate_json(str(row["entry"])), bool(row["found"])


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


def _manifest(
    config: Embed, model: Model, dataset: Dataset, whole: Making, files: list[EmbeddingFile]
) -> EmbeddingManifest:
    return EmbeddingManifest(
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
