"""The parents of an enumeration: which rows of a dataset they are, sorted into files by prototype."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from crystalign import storage
from crystalign.config import Config
from crystalign.crystal import SYMBOLS
from crystalign.errors import VerificationError
from crystalign.material import HYPOTHETICAL
from crystalign.storage import FileEntry
from crystalign_jobs.enumeration.plan import bucket_count, bucket_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crystalign.shards.dataset import Dataset
    from crystalign.substitution.family import Family

FOLDER = "enumerate"
"""Folder of the files of an unfinished job."""
BUFFERED = 65_536
"""Rows that are held in memory before they are written to their files."""
_LIGHT = ("id", "formula", "prototype", "spacegroup_number", "source", "licence", "vintage")


class ParentFiles(Config):
    """The parents, sorted by prototype."""

    families: dict[str, int]
    """Prototype → number of parents."""
    buckets: tuple[FileEntry, ...]
    """The file of each bucket, with paths relative to the new dataset."""
    left_out: dict[str, int]
    """Why rows are no parents → how many."""

    @property
    def parents(self) -> int:
        """Number of parents."""
        return sum(self.families.values())


def sorted_parents(dataset: Dataset, max_sites: int, out: str, identity: str) -> ParentFiles:
    """The files of parents that an interrupted job wrote, if they are complete; otherwise new ones.

    Args:
        dataset: the known crystals.
        max_sites: largest number of sites of a parent.
        out: URI of the new dataset.
        identity: hash of the request.
    """
    receipt = storage.join(out, FOLDER, f"parents.{identity}.json")
    if storage.exists(receipt):
        found = ParentFiles.from_mapping(json.loads(storage.read_bytes(receipt)), origin=receipt)
        try:
            for entry in found.buckets:
                storage.verify(storage.join(out, entry.path), entry)
        except VerificationError:
            pass  # damaged: write them again
        else:
            return found
    families: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    for shard in range(len(dataset.manifest.shards)):
        _, reasons = _parent_mask(dataset, shard, max_sites)
        known = dataset.read(shard, columns=["prototype"]).column("prototype").to_pylist()
        families.update(prototype for prototype, reason in zip(known, reasons, strict=True) if not reason)
        left_out.update(reason for reason in reasons if reason)
    buckets = _write(dataset, max_sites, out, identity, bucket_count(sum(families.values())))
    made = ParentFiles(families=dict(sorted(families.items())), buckets=tuple(buckets), left_out=dict(left_out))
    storage.write_bytes(receipt, made.model_dump_json().encode())
    return made


def _parent_mask(dataset: Dataset, shard: int, max_sites: int) -> tuple[NDArray[np.bool_], list[str]]:
    """(rows,) which rows of a shard are parents, and why the others are not."""
    from crystalign.substitution.probabilities import replaceable_elements

    symbols = {SYMBOLS[z] for z in replaceable_elements()}
    table = dataset.read(shard, columns=["n_sites", "prototype", "elements", HYPOTHETICAL])
    reasons = [
        _reason(row, ordered=bool(ordered), max_sites=max_sites, symbols=symbols)
        for row, ordered in zip(table.to_pylist(), dataset.is_ordered(shard), strict=True)
    ]
    return np.array([not reason for reason in reasons], bool), reasons


def _reason(row: dict[str, Any], *, ordered: bool, max_sites: int, symbols: set[str]) -> str:
    if row["n_sites"] > max_sites:
        return f"more than {max_sites} sites"
    if not ordered:
        return "disordered"
    if row[HYPOTHETICAL]:
        return "hypothetical itself"
    if row["prototype"] is None:
        return "no prototype"
    return "" if symbols.issuperset(row["elements"]) else "an element that nothing replaces"


def _write(dataset: Dataset, max_sites: int, out: str, identity: str, buckets: int) -> list[FileEntry]:
    """Write all rows with a prototype to the file of their bucket; only parents keep their crystal."""
    with tempfile.TemporaryDirectory(prefix="crystalign-enumerate-") as folder:
        paths = [Path(folder) / f"{bucket}.parquet" for bucket in range(buckets)]
        writers: dict[int, pq.ParquetWriter] = {}
        waiting: list[pa.Table] = []
        for shard in range(len(dataset.manifest.shards)):
            waiting.append(_rows(dataset, shard, max_sites, buckets))
            last = shard + 1 == len(dataset.manifest.shards)
            if last or sum(map(len, waiting)) >= BUFFERED:
                _flush(pa.concat_tables(waiting), paths, writers)
                waiting = []
        for writer in writers.values():
            writer.close()
        entries = []
        for bucket, path in enumerate(paths):
            name = f"{FOLDER}/parents-{bucket:03d}.{identity}.parquet"
            if bucket in writers:
                entries.append(storage.upload(path, storage.join(out, name)).model_copy(update={"path": name}))
        return entries


def _rows(dataset: Dataset, shard: int, max_sites: int, buckets: int) -> pa.Table:
    mask, _ = _parent_mask(dataset, shard, max_sites)
    table = dataset.read(shard, columns=[*_LIGHT, "crystal"])
    places = pa.array(np.arange(len(table)), mask=~mask)  # a place that is null gives no crystal
    crystals = table.column("crystal").combine_chunks().take(places)
    table = table.set_column(table.column_names.index("crystal"), table.schema.field("crystal"), crystals)
    prototypes = table.column("prototype").to_pylist()
    bucket = [None if name is None else bucket_of(name, buckets) for name in prototypes]
    table = table.append_column("bucket", pa.array(bucket, pa.int32()))
    return table.filter(pc.is_valid(table.column("bucket")))


def _flush(rows: pa.Table, paths: Sequence[Path], writers: dict[int, pq.ParquetWriter]) -> None:
    buckets = rows.column("bucket").to_numpy()
    for bucket, path in enumerate(paths):
        some = rows.filter(pa.array(buckets == bucket)).drop_columns(["bucket"])
        if bucket not in writers:
            writers[bucket] = pq.ParquetWriter(path, some.schema, compression="zstd")
        writers[bucket].write_table(some)


def read_families(out: str, entry: FileEntry, known: dict[str, set[str]]) -> dict[str, Family]:
    """The families of some prototypes, from the file of their bucket.

    Args:
        out: URI of the new dataset.
        entry: the file.
        known: prototype → formulas that exist besides those in the file. Only these prototypes are read.
    """
    from crystalign.material import Provenance
    from crystalign.modalities.crystal import CrystalModality
    from crystalign.substitution.family import Family, Parent

    data = storage.read_verified(out, entry)
    table = pq.read_table(pa.BufferReader(data))
    table = table.filter(pc.is_in(table.column("prototype"), pa.array(list(known), pa.string())))
    parents: dict[str, list[Parent]] = {prototype: [] for prototype in known}
    formulas = {prototype: set(some) for prototype, some in known.items()}
    crystals = table.column("crystal")
    for number, row in enumerate(table.select(_LIGHT).to_pylist()):
        formulas[row["prototype"]].add(row["formula"])
        if crystals[number].is_valid:
            provenance = Provenance(row["source"], row["licence"], row["vintage"] or "")
            crystal = CrystalModality.from_column(crystals[number])
            parents[row["prototype"]].append(Parent(row["id"], crystal, row["spacegroup_number"], provenance))
    return {
        prototype: Family(prototype, sorted(some, key=lambda parent: parent.id), formulas[prototype])
        for prototype, some in parents.items()
    }
