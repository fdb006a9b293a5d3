"""`crystalign embed`: encode a dataset with a model, in parallel and restartable."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field
from tyro.conf import Positional

from crystalign import storage
from crystalign.config import Config
from crystalign.errors import ConfigError, ConflictError, DatasetError
from crystalign.index.embeddings import (
    LIGHT_COLUMNS,
    TEXT,
    EmbeddingFile,
    EmbeddingManifest,
    EmbeddingProvenance,
    contents,
    embedding_table,
    existing_embeddings,
    read_contents,
    write_embeddings,
)
from crystalign.index.stored_manifest import MANIFEST
from crystalign.storage import Uri

if TYPE_CHECKING:
    import pyarrow as pa

    from crystalign.model import Model
    from crystalign.properties import PropertySpec
    from crystalign.shards.dataset import Dataset

BYTES_OF_METADATA, SECONDS = 400, 0.02
"""Rough size of a row without its vector, and rough time to encode one, for the estimate."""
SHOWN = 10
"""Ids that are printed of rows that are gone."""
Part = Literal["train", "validation", "test"]


class Embed(Config):
    """Encode one modality of all materials of a dataset that have it.

    Example: crystalign embed runs/first/model --data s3://bucket/mp --out s3://bucket/embeddings
    """

    model: Positional[Uri]
    """URI of the model directory."""
    data: Uri
    """URI of the dataset."""
    out: Uri
    """URI of the embeddings; with `--modality all` it gets a folder per modality."""
    modality: str = "crystal"
    """Modality to encode; `all` means every modality that both the model and the dataset have."""
    part: Part | None = None
    """Encode only this part of the split stored with the model; default: all materials."""
    batch_size: int = Field(default=64, ge=1)
    """Materials per batch in the encoder."""
    since: tuple[Uri, ...] = ()
    """Earlier embeddings by the same model. Only materials that they lack, or that have changed since, are encoded; a
    material is recognised by its id and its content, wherever it stands in the dataset. Several are read in order."""
    rows_per_file: int = Field(default=4096, ge=1)
    """Materials per task and output file, rounded up to whole row groups."""
    num_actors: int = Field(default=0, ge=0)
    """Number of processes that load the model, at most one per file; 0 means as many as the cluster can run."""
    use_gpu: bool = False
    """One GPU per process."""
    address: str | None = None
    """Ray cluster; default: RAY_ADDRESS, else this machine."""


def main(config: Embed) -> dict[str, EmbeddingManifest]:
    """Embed, and print the numbers of vectors.

    Returns:
        Modality → the manifest of its embeddings.
    """
    from crystalign.shards.dataset import Dataset

    made = embed(config)
    for name, manifest in made.items():
        print(f"{name}: {manifest.rows:,} vectors of {manifest.dimension} dimensions at {_target(config, name)}")
        if config.since:
            show_changes(config, name, manifest)
        left_out = Dataset.open(config.data).manifest.modalities.get(name, 0) - manifest.rows
        if left_out and config.part is None and not config.since:
            print(f"  {left_out:,} materials exceed the size limit of the model and are left out")
    target = _target(config, "crystal" if "crystal" in made else next(iter(made)))
    print(f"next: crystalign index {target} --out URI")
    return made


def embed(config: Embed) -> dict[str, EmbeddingManifest]:
    """Encode the modalities that `config` asks for, one embedding dataset each.

    Raises:
        ConfigError: the model has no such modality, there are other embeddings at `out`, or another job writes there.
        DatasetError: no material of the dataset has the modality.
    """
    from crystalign.model import load
    from crystalign.shards.dataset import Dataset
    from crystalign_jobs.text_embeddings import same_language_model
    from crystalign_ray.driver_lock import driving
    from crystalign_ray.estimates import Estimate, announce
    from crystalign_ray.session import session

    model, dataset = load(config.model), Dataset.open(config.data)
    names = _modalities(config, model, dataset)
    dataset.require_current(names)
    same_language_model(model, dataset, names)
    print(f"embedding {', '.join(names)} of {config.data} with {config.model}")
    print("\n".join(f"writing to {_target(config, name)}/" for name in names))
    provenance_of = {
        name: EmbeddingProvenance(
            model_sha256=model.sha256,
            dataset_sha256=dataset.manifest.sha256,
            modality=name,
            part=config.part,
            since=earlier_embeddings(config, name, model.sha256),
        )
        for name in names
    }
    manifests = {name: _existing(_target(config, name), provenance) for name, provenance in provenance_of.items()}
    todo = [provenance for name, provenance in provenance_of.items() if manifests[name] is None]
    if todo:
        rows = sum(dataset.manifest.modalities.get(provenance.modality, 0) for provenance in todo)
        announce(Estimate(rows, rows * (2 * model.config.embedding_dim + BYTES_OF_METADATA), SECONDS), config.out)
        with driving(config.out):
            with session(config.address):
                files = _run(config, dataset, todo)
            manifests |= {m.modality: _commit(config, model, dataset, m, files[m.modality]) for m in todo}
    return {name: manifest for name, manifest in manifests.items() if manifest is not None}


class Encoder:
    """An actor that loads the model once, and writes a verified file per task."""

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
        self._known: dict[str, dict[str, str]] = {}

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Write the file of a task, unless an earlier run has completed it."""
        provenances = [EmbeddingProvenance.model_validate_json(text) for text in batch["making"].tolist()]
        made = [self._one(provenance) for provenance in provenances]
        return {
            "modality": np.array([provenance.modality for provenance in provenances]),
            "entry": np.array([entry.model_dump_json() for entry, _ in made]),
            "found": np.array([found for _, found in made]),
        }

    def _one(self, provenance: EmbeddingProvenance) -> tuple[EmbeddingFile, bool]:
        name = f"shard-{provenance.shard:05d}-{provenance.row_groups[0]:05d}"
        target = _target(self.config, provenance.modality)
        existing = existing_embeddings(target, name, provenance)
        if existing is not None:
            return existing, True
        return write_embeddings(target, name, self._encode(provenance), provenance), False

    def _rows(self, provenance: EmbeddingProvenance) -> tuple[pa.Table, np.ndarray[Any, Any]]:
        """The rows with the modality in the part, and their positions in the shard."""
        import pyarrow as pa

        sizes = self.dataset.manifest.shards[provenance.shard].row_groups
        names = [provenance.modality]
        if self.dataset.manifest.modalities.get(TEXT) and TEXT not in names:
            names.append(TEXT)  # for search by words
        tables, positions = [], []
        for group in provenance.row_groups:
            table = self.dataset.read(provenance.shard, row_group=group, modalities=tuple(names))
            keep = table.column(provenance.modality).is_valid().to_numpy(zero_copy_only=False)
            keep &= self.model.modality(provenance.modality).fits(table)
            if provenance.part is not None:
                keep &= _rule(self.model).mask(table, provenance.part)
            keep &= ~self._is_known(table, provenance)
            tables.append(table.filter(pa.array(keep)))
            positions.append(sum(sizes[:group]) + np.flatnonzero(keep))
        return pa.concat_tables(tables), np.concatenate(positions)

    def _is_known(self, table: pa.Table, provenance: EmbeddingProvenance) -> np.ndarray[Any, Any]:
        """(rows,) which rows the earlier embeddings have with the same content."""
        name = provenance.modality
        if provenance.since is None:
            return np.zeros(len(table), dtype=bool)
        if name not in self._known:
            self._known[name] = known_contents(self.config, name)
        own = contents(table, content_columns(self.dataset.manifest.properties, name)).to_pylist()
        pairs = zip(table.column("id").to_pylist(), own, strict=True)
        return np.array([self._known[name].get(key) == content for key, content in pairs], dtype=bool)

    def _encode(self, provenance: EmbeddingProvenance) -> pa.Table:
        from crystalign.shards.schema import table_to_materials

        rows, positions = self._rows(provenance)
        properties = self.dataset.manifest.properties
        materials = table_to_materials(rows, properties, modalities=(provenance.modality,))
        values = [material.value(provenance.modality) for material in materials]
        vectors = self.model.embed(provenance.modality, values, self.config.batch_size)
        return embedding_table(
            rows,
            vectors,
            shard=provenance.shard,
            positions=positions.tolist(),
            properties=properties,
            modality=provenance.modality,
        )


def _run(config: Embed, dataset: Dataset, todo: list[EmbeddingProvenance]) -> dict[str, list[EmbeddingFile]]:
    """Encode all modalities with one set of actors, which load the model once."""
    from crystalign_ray.progress import Meter
    from crystalign_ray.tasks import map_actors

    tasks = [
        provenance.model_copy(update={"shard": shard, "row_groups": groups})
        for provenance in todo
        for shard, groups in dataset.parts(config.rows_per_file)
    ]
    results = map_actors(
        [{"making": task.model_dump_json()} for task in tasks],
        Encoder,
        {"config": config},
        name="embedding processes",
        count=config.num_actors,
        use_gpu=config.use_gpu,
    )
    files: dict[str, list[EmbeddingFile]] = {provenance.modality: [] for provenance in todo}
    total = sum(dataset.manifest.modalities.get(provenance.modality, dataset.manifest.rows) for provenance in todo)
    with Meter("embed", total=total, unit="rows") as meter:
        for row in results:
            entry = EmbeddingFile.model_validate_json(str(row["entry"]))
            files[str(row["modality"])].append(entry)
            meter.advance(entry.rows, counted=not row["found"])
        meter.reach(meter.done, total=meter.done)
    return files


def _existing(target: str, provenance: EmbeddingProvenance) -> EmbeddingManifest | None:
    if not storage.exists(storage.join(target, MANIFEST)):
        return None
    stored = EmbeddingManifest.read(target)
    if stored.provenance != provenance:
        raise ConfigError(
            f"{target} already holds embeddings of another model, dataset, part or --since (model "
            f"{stored.model_sha256[:12]}, this one {provenance.model_sha256[:12]}); choose another --out or delete it"
        )
    return stored


def _commit(
    config: Embed, model: Model, dataset: Dataset, provenance: EmbeddingProvenance, files: list[EmbeddingFile]
) -> EmbeddingManifest:
    """Write the manifest, as the last file."""
    files = sorted((entry for entry in files if entry.rows), key=lambda entry: entry.path)
    if not files and provenance.since is not None:
        raise DatasetError(f"no {provenance.modality!r} of {config.data} is new or changed; nothing to embed")
    if not files:
        part = config.part or "all parts"
        raise DatasetError(f"no material of {config.data} ({part}) has {provenance.modality!r}; nothing to embed")
    manifest = EmbeddingManifest(
        model_uri=config.model,
        model_sha256=provenance.model_sha256,
        modality=provenance.modality,
        dimension=model.config.embedding_dim,
        dataset_uri=config.data,
        dataset_sha256=provenance.dataset_sha256,
        part=provenance.part,
        since=provenance.since,
        split=dict(model.card.split),
        rows=sum(entry.rows for entry in files),
        properties=dataset.manifest.properties,
        licences=tuple(sorted({source.licence for source in dataset.manifest.sources})),
        files=tuple(files),
    )
    target = _target(config, provenance.modality)
    try:
        manifest.write(target)
    except ConflictError:
        # Another job wrote embeddings meanwhile: the same ones are used, others are refused.
        return _existing(target, provenance) or manifest
    return manifest


def _modalities(config: Embed, model: Model, dataset: Dataset) -> list[str]:
    if config.modality != "all":
        model.modality(config.modality)  # raises if there is none, with the names of the others
        return [config.modality]
    return [name for name in model.config.modalities if dataset.manifest.modalities.get(name, 0) or name == "crystal"]


def _rule(model: Model) -> Any:
    from crystalign.shards.splits import SplitRule

    if not model.card.split:
        raise ConfigError("the model card has no split; leave out --part")
    return SplitRule.from_mapping(dict(model.card.split), origin="the split in the model's card")


def _target(config: Embed, modality: str) -> str:
    return storage.join(config.out, modality) if config.modality == "all" else config.out


# --- earlier embeddings -----------------------------------------------------------------------------------------------


def _earlier(config: Embed, modality: str) -> list[str]:
    """URIs of the earlier embeddings of a modality."""
    return [storage.join(uri, modality) if config.modality == "all" else uri for uri in config.since]


def earlier_embeddings(config: Embed, modality: str, model_sha256: str) -> str | None:
    """Identity of the earlier embeddings of a modality; None without `--since`.

    Raises:
        ConfigError: they are of another model or modality.
        DatasetError: there are none.
    """
    digests = []
    for uri in _earlier(config, modality):
        manifest = EmbeddingManifest.read(uri)
        if (manifest.model_sha256, manifest.modality) != (model_sha256, modality):
            raise ConfigError(
                f"the embeddings at {uri} are of {manifest.modality} by model {manifest.model_sha256[:12]}, not of "
                f"{modality} by model {model_sha256[:12]}; vectors of different models cannot be compared: embed all "
                "rows again, without --since"
            )
        digests += [entry.sha256 for entry in manifest.files]
    return hashlib.sha256(" ".join(digests).encode()).hexdigest() if digests else None


def known_contents(config: Embed, modality: str) -> dict[str, str]:
    """Id → hash of the content, for all rows of the earlier embeddings; later ones replace earlier ones."""
    found: dict[str, str] = {}
    for uri in _earlier(config, modality):
        found |= read_contents(uri, EmbeddingManifest.read(uri))
    return found


def content_columns(properties: Sequence[PropertySpec], modality: str) -> list[str]:
    """The columns of a dataset that decide whether a row has changed."""
    return [*LIGHT_COLUMNS, *(spec.column for spec in properties), modality, TEXT]


def show_changes(config: Embed, modality: str, manifest: EmbeddingManifest) -> None:
    """Print how many rows are new, changed and gone since the earlier embeddings."""
    from crystalign.shards.dataset import Dataset

    known = known_contents(config, modality)
    made = read_contents(_target(config, modality), manifest)
    changed = sum(name in known for name in made)
    gone = sorted(known.keys() - set(Dataset.open(config.data).table(["id"]).column("id").to_pylist()))
    print(f"  {len(made) - changed:,} new and {changed:,} changed rows; unchanged ones are left out")
    if gone:
        names = ", ".join(gone[:SHOWN]) + (", …" if len(gone) > SHOWN else "")
        print(f"  {len(gone):,} rows of the earlier embeddings are no longer in {config.data}: {names}")
