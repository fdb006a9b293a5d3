"""Ids that occur in more than one shard: tasks read files independently, so only their shards together show this."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow.parquet as pq

from crystalign import storage
from crystalign.material import Material
from crystalign.properties import PropertySpec
from crystalign.rejects import Reject
from crystalign.shards.dataset import Dataset
from crystalign.shards.manifest import Manifest, ShardEntry
from crystalign.shards.schema import main_modalities, table_to_materials
from crystalign.shards.writer import write_shard


def repeated_id(material: Material) -> Reject:
    """The reject of a material whose id belongs to an earlier one."""
    message = f"the id {material.id!r} already belongs to an earlier entry"
    return Reject(material.id, "list", "duplicate-id", message, material.provenance.reference)


def without_repeats(
    uri: str, shards: Sequence[ShardEntry], properties: Sequence[PropertySpec]
) -> tuple[list[ShardEntry], list[Reject]]:
    """Keep the first row of each id, in the order of the shards, and rewrite the shards that hold others.

    Args:
        uri: URI of the dataset, which has no manifest yet.
        shards: its shards, in order.
        properties: its property columns.

    Returns:
        The shards, without those that have no row left, and the rejects. Files of rewritten shards are deleted.
    """
    seen: set[str] = set()
    kept: list[ShardEntry] = []
    rejects: list[Reject] = []
    for number, entry in enumerate(shards):
        with storage.open_input(storage.join(uri, entry.path)) as source:
            ids = [str(name) for name in pq.read_table(source, columns=["id"]).column("id").to_pylist()]
        if seen.isdisjoint(ids) and len(set(ids)) == len(ids):
            seen.update(ids)
            kept.append(entry)
            continue
        materials = _materials(uri, shards, properties, number)
        unique = [material for material in materials if not _is_repeated(material, seen, rejects)]
        if unique:
            name = entry.path.rpartition("/")[2].partition(".")[0]
            kept.append(write_shard(uri, f"{name}-unique", unique, properties, rows_per_group=max(entry.row_groups)))
        for old in (entry, *entry.siblings.values()):
            storage.delete(storage.join(uri, old.path))
    return kept, rejects


def _materials(
    uri: str, shards: Sequence[ShardEntry], properties: Sequence[PropertySpec], number: int
) -> list[Material]:
    """The materials of a shard with all their modalities."""
    uncommitted = Manifest(created="", shards=tuple(shards), modalities={}, properties=tuple(properties), sources=())
    modalities = (*main_modalities(), *shards[number].siblings)
    return table_to_materials(
        Dataset(uri, uncommitted).read(number, modalities=modalities), properties, modalities=modalities
    )


def _is_repeated(material: Material, seen: set[str], rejects: list[Reject]) -> bool:
    if material.id in seen:
        rejects.append(repeated_id(material))
        return True
    seen.add(material.id)
    return False
