"""`crystalign merge`: merge several datasets into one, and find structures that occur in more than one.

Each shard is copied. An id that an earlier dataset already contains gets the source and its vintage as a suffix. Then
the structures are compared, so that the same crystal from two databases is in one group.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from tyro.conf import Positional

from crystalign import storage
from crystalign.config import Config
from crystalign.errors import ConfigError, ConflictError
from crystalign.storage import Uri

if TYPE_CHECKING:
    from crystalign.properties import PropertySpec
    from crystalign.shards.dataset import Dataset
    from crystalign.shards.manifest import Manifest, ShardEntry


SECONDS = 0.001
"""Rough time to copy one crystal, for the estimate."""


class Merge(Config):
    """Merge datasets, and find the structures that they have in common.

    An id that an earlier dataset already contains gets its source as a suffix: `mp-149@materials_project-2019`. The
    quarantine files of the datasets are not copied.

    Example: crystalign merge s3://bucket/mp2025 s3://bucket/mp2019 --out s3://bucket/both
    """

    datasets: Positional[tuple[Uri, ...]]
    """URIs of two or more datasets; ids of earlier ones are kept unchanged."""
    out: Uri
    """URI of the merged dataset."""
    address: str | None = None
    """Ray cluster; default: RAY_ADDRESS, or this machine."""


def main(config: Merge) -> Manifest:
    """Merge the datasets, compare the structures, print a report, and return the manifest.

    Raises:
        ConfigError: there are fewer than two datasets, one is given twice, or there is already a dataset at `out`.
        ConflictError: a dataset was changed meanwhile.
        DatasetError: two properties share a column, or an earlier release stored a modality in another format.
    """
    from crystalign.shards.dataset import Dataset
    from crystalign.shards.writer import check_columns, commit_manifest
    from crystalign_jobs.duplicates import SECONDS as COMPARING
    from crystalign_jobs.duplicates import Duplicates, group_structures, report_copies
    from crystalign_ray.driver_lock import driving
    from crystalign_ray.estimates import Estimate, announce
    from crystalign_ray.progress import Meter
    from crystalign_ray.session import session
    from crystalign_ray.tasks import map_rows

    _check_places(config)
    datasets = [Dataset.open(uri) for uri in config.datasets]
    _check_different(datasets)
    _check_language_models(datasets)
    for dataset in datasets:
        dataset.require_current(dataset.manifest.modalities)
    properties = tuple(dict.fromkeys(p for d in datasets for p in d.manifest.properties))
    check_columns(properties)
    rows = sum(d.manifest.rows for d in datasets)
    print(f"merging {rows:,} crystals of {len(datasets)} datasets into {config.out}/")
    stored = [entry.bytes for d in datasets for s in d.manifest.shards for entry in (s, *s.siblings.values())]
    announce(Estimate(rows, sum(stored), SECONDS + COMPARING), config.out)
    with driving(config.out), session(config.address):
        with Meter("merge", total=rows, unit="crystals") as meter:
            entries: dict[str, ShardEntry] = {}
            for result in map_rows(list(_tasks(datasets)), Copier(config, properties)):
                entries[result["name"]] = _entry(result["shard"])
                meter.advance(entries[result["name"]].rows)
        commit_manifest(
            config.out,
            [entries[name] for name in sorted(entries)],
            properties,
            derived=sorted(set().union(*(d.manifest.derived for d in datasets))),
        )
        settings = Duplicates(dataset=config.out)
        manifest = group_structures(config.out, settings.same, settings.max_seconds)
    print(f"{manifest.rows:,} crystals in {len(manifest.shards)} shards at {config.out}")
    print("  " + ", ".join(f"{name} {count:,}" for name, count in manifest.modalities.items()))
    report_copies(config.out, manifest)
    print(f"next: crystalign derive {config.out}")
    return manifest


def _check_places(config: Merge) -> None:
    if len(config.datasets) < 2:
        raise ConfigError(f"give two or more datasets, not {', '.join(config.datasets) or 'none'}")
    if storage.exists(storage.join(config.out, "manifest.json")):
        raise ConfigError(
            f"{config.out} holds a dataset already; choose another --out. If a merge was interrupted while it compared "
            f"the structures, complete it with `crystalign duplicates {config.out}`"
        )
    for uri in config.datasets:
        if f"{config.out}/".startswith(f"{uri}/"):
            raise ConfigError(f"{config.out} is inside the dataset {uri}; choose another --out")


def _check_different(datasets: Sequence[Dataset]) -> None:
    """Refuse a dataset that is given twice, also as a link or a copy."""
    seen: dict[str, str] = {}
    for dataset in datasets:
        other = seen.setdefault(dataset.manifest.sha256, dataset.uri)
        if other != dataset.uri or [d.uri for d in datasets].count(dataset.uri) > 1:
            raise ConfigError(f"{other} and {dataset.uri} are the same dataset; give each once")


def _check_language_models(datasets: Sequence[Dataset]) -> None:
    """Refuse text embeddings of different language models, because they would share a column."""
    label_by_identity = {m.identity: m.label for d in datasets if (m := d.manifest.language_model) is not None}
    if len(label_by_identity) > 1:
        labels = " and ".join(label_by_identity.values())
        raise ConfigError(
            f"the datasets hold text embeddings of different language models: {labels}. Ingest one of them again"
        )


def _tasks(datasets: Sequence[Dataset]) -> Iterator[dict[str, Any]]:
    """One task per shard of each dataset, with new names for ids that an earlier dataset contains."""
    earlier_ids: set[str] = set()
    for number, dataset in enumerate(datasets):
        ids_of_dataset: set[str] = set()
        for shard in range(len(dataset.manifest.shards)):
            rows = dataset.read(shard, columns=["id", "source", "vintage"]).to_pylist()
            names = {
                row["id"]: _renamed(row, earlier_ids | ids_of_dataset) if row["id"] in earlier_ids else row["id"]
                for row in rows
            }
            ids_of_dataset.update(names.values())
            yield {
                "name": f"{number:04d}-{shard:05d}",
                "uri": dataset.uri,
                "sha256": dataset.manifest.sha256,
                "shard": shard,
                "names": json.dumps({old: new for old, new in names.items() if old != new}),
            }
        earlier_ids |= ids_of_dataset


def _renamed(row: dict[str, Any], taken: Collection[str]) -> str:
    """A unique id: with the source and its vintage as a suffix, and a number if that is taken, too.

    Raises:
        ConfigError: the new id is too long.
    """
    from crystalign.sources.source import MAX_ID_LENGTH

    origin = "-".join(filter(None, (row["source"], row["vintage"])))
    suffixes = itertools.chain([""], (f"-{n}" for n in itertools.count(2)))
    new_id = next(name for suffix in suffixes if (name := f"{row['id']}@{origin}{suffix}") not in taken)
    if len(new_id) > MAX_ID_LENGTH:
        raise ConfigError(
            f"the id {row['id']!r} occurs in two datasets, and the new id {new_id!r} is longer than {MAX_ID_LENGTH} "
            "characters; ingest one of them with shorter ids or a shorter --name"
        )
    return new_id


class Copier:
    """Copies one shard of one dataset into the merged one; runs inside a task."""

    def __init__(self, config: Merge, properties: Sequence[PropertySpec]) -> None:
        self.config, self.properties = config, properties

    def __call__(self, row: dict[str, Any]) -> dict[str, str]:
        """Copy a shard; return its new entry as JSON."""
        from crystalign.shards.dataset import Dataset
        from crystalign.shards.schema import main_modalities, table_to_materials
        from crystalign.shards.writer import write_shard

        dataset, number, names = Dataset.open(row["uri"]), int(row["shard"]), json.loads(row["names"])
        if dataset.manifest.sha256 != row["sha256"]:
            raise ConflictError(f"{row['uri']} was changed while it was merged; run the command again")
        old = dataset.manifest.shards[number]
        modalities = (*main_modalities(), *old.siblings)
        table: pa.Table = dataset.read(number, modalities=modalities)
        materials = table_to_materials(table, dataset.manifest.properties, modalities=modalities)
        materials = [replace(material, id=names.get(material.id, material.id)) for material in materials]
        new = write_shard(
            self.config.out, row["name"], materials, self.properties, rows_per_group=max(old.row_groups)
        ).model_copy(update={"language_model": old.language_model})
        return {"result": json.dumps({"name": row["name"], "shard": new.model_dump(mode="json")})}


def _entry(values: dict[str, Any]) -> ShardEntry:
    from crystalign.shards.manifest import ShardEntry

    return ShardEntry.model_validate(values)
