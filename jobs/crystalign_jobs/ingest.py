"""`crystalign ingest`: crystals from files, tables or the demo corpus into a dataset.

The driver lists work items, deals them out in chunks, and Ray tasks read one chunk each and write its shards;
nothing but names and counts comes back. What cannot be used goes to quarantine with its reason. The manifest is
written last: without it there is no dataset, and a dataset that is replaced stays whole until then.

Neighbours in a source resemble each other, and training reads whole row groups: only if each of them is
a fair sample does a batch made of a few look like one drawn from everything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field
from tyro.conf import Positional

from crystalign import storage
from crystalign.config import Config
from crystalign.errors import ConfigError
from crystalign.sources import Item, Limits, Source, open_source
from crystalign.sources.source import sample
from crystalign.storage import Uri

if TYPE_CHECKING:
    from crystalign.material import Material
    from crystalign.properties import PropertySpec
    from crystalign.shards.manifest import Manifest
    from crystalign.shards.writer import Reject

HEAVY_ROWS = 512
"""Rows with a charge density after which a shard is closed: 512 of them fill about 130 MB of memory."""
LEAST_ROWS = 128
"""Small datasets are shared out in at least this many rows, so that all cores have work."""
CHUNKS = 8
"""Into how many chunks a small dataset is shared out; a constant, so that shards do not depend on the machine."""
STRETCH = 64
"""So many neighbouring chunks deal their rows out among each other: 262,144 rows at the default. A row group of the
source is read by each of them, at worst so many times; longer sources are dealt stretch by stretch, and a window of the
training order takes its row groups evenly from all of them."""
PARTS = ("shards", "charge_density", "groups", "quarantine", "selections", "derive")
"""What a dataset consists of beside its manifest."""
MANIFEST = "manifest.json"


class Ingest(Config):
    """Read crystals into a dataset.

    SOURCE is a folder, zip or tar of CIF, POSCAR, JSON and VASP output, a JSON file, a Parquet table
    (with --mapping), `demo` or `prototypes`. What cannot be used is quarantined with its reason, and so is
    a structure that contradicts the formula, Z, volume, density or symmetry that its file states.

    Example: crystalign ingest crystals.parquet --mapping materials_project --out s3://bucket/mp --limit 20000
    """

    source: Positional[str]
    """What to read: a path, a URI, `demo` or `prototypes`."""
    out: Uri
    """Where the dataset goes, any URI."""
    mapping: str | None = None
    """For a Parquet table: the YAML that says what its columns are, or the name of a shipped one."""
    name: str = ""
    """Of the source, for provenance; default: the last part of its path."""
    licence: str = ""
    """SPDX identifier of files and JSON, e.g. CC-BY-4.0; it follows the rows everywhere."""
    vintage: str = ""
    """Release of the source, for files and JSON."""
    limit: int | None = Field(default=None, ge=1)
    """Take a random sample of this many crystals."""
    seed: int = 0
    """Of the sample and of the demo's substitutions."""
    rows_per_shard: int = Field(default=4096, ge=1)
    """At most this many rows in one shard."""
    overwrite: bool = False
    """Replace the dataset at `out`; it stays until the new one is complete."""
    accept: tuple[str, ...] = ()
    """Take structures that contradict their own file in these ways, with a remark: reasons such as
    composition-disagrees, z-disagrees, volume-disagrees, density-disagrees, symmetry-disagrees, symmetry-missing."""
    compare: bool = True
    """Find the materials that are the same structure (`crystalign duplicates`) as the last step."""
    limits: Limits = Limits()
    """What one file may cost."""
    address: str | None = None
    """Ray cluster; default: RAY_ADDRESS, or this machine."""


def main(config: Ingest) -> Manifest:
    """Ingest, print what became of every entry, and return the manifest.

    Raises:
        ConfigError: there is a dataset and `overwrite` was not asked for, or another job writes there.
        ConflictError: another job made or changed a dataset there meanwhile; that one stays.
        DatasetError: no crystal could be used.
    """
    from crystalign_jobs.duplicates import Duplicates, group_structures
    from crystalign_jobs.ownership import driving
    from crystalign_jobs.progress import Meter
    from crystalign_jobs.session import session

    _existing(config)
    source = open_source(
        config.source,
        mapping=config.mapping,
        licence=config.licence,
        name=config.name,
        vintage=config.vintage,
        seed=config.seed,
        limits=config.limits,
        accept=config.accept,
    )
    items = sample(source.items(), config.limit, config.seed)
    expected = sum(item.count for item in items)
    chunks = share_out(items, min(config.rows_per_shard, max(LEAST_ROWS, -(-expected // CHUNKS))))
    print(f"ingesting {config.source} ({expected:,} entries, {len(chunks)} tasks) into {config.out}/")
    print("├─ shards/        one row per crystal\n├─ quarantine/    what was refused, and why\n└─ manifest.json  last")
    results = []
    with driving(config.out) as drives:
        replaced, old = _existing(config), _files(config.out)
        with session(config.address):
            with Meter("ingest", total=expected, unit="crystals") as meter:
                for result in _run(source, chunks, config):
                    results.append(result)
                    meter.advance(result["entries"])
            manifest = _commit(config.out, source.properties(), results, replaced)
            if config.compare:
                settings = Duplicates(dataset=config.out)
                manifest = group_structures(config.out, settings.same, settings.max_seconds)
        if drives():
            _delete_unnamed(config.out, old, manifest)
    _report(config, manifest, results)
    return manifest


def _existing(config: Ingest) -> str | None:
    """The version of the dataset that is to be replaced; None where there is none.

    Raises:
        ConfigError: there is a dataset and `overwrite` was not asked for.
    """
    found = storage.sha256_of(storage.join(config.out, MANIFEST))
    if found is not None and not config.overwrite:
        message = f"{config.out} holds a dataset already; give --overwrite to replace it, or another --out"
        raise ConfigError(message)
    return found


def _files(out: str) -> list[str]:
    """Names of the files of a dataset, and of what interrupted jobs left of one; nothing else in that folder."""
    return [f"{part}/{name}" for part in PARTS for name in storage.list_names(storage.join(out, part))]


def _delete_unnamed(out: str, old: Sequence[str], manifest: Manifest) -> None:
    """Delete what was there before and the new manifest does not name; never a file that came meanwhile."""
    for name in set(old).difference(manifest.files):
        storage.delete(storage.join(out, name))


def share_out(items: Sequence[Item], rows: int) -> list[list[Item]]:
    """Chunks of at most `rows` materials, each a fair sample of a stretch of the source, in the source's order.

    Rows of a table are dealt one by one; a slice of a file that must be parsed is never cut.

    Args:
        items: everything there is.
        rows: materials per chunk; an item that holds more is a chunk of its own.
    """
    import numpy as np

    chunks: list[list[Item]] = []
    for stretch in _consecutive(items, STRETCH * rows):
        units = [(place, row) for place, item in enumerate(stretch) for row in _units(item)]
        hands: list[list[tuple[int, int | None]]] = []
        filled = rows
        for number in np.random.default_rng(len(chunks)).permutation(len(units)).tolist():
            place, row = units[number]
            weight = stretch[place].count if row is None else 1
            if filled + weight > rows:
                hands.append([])
                filled = 0
            hands[-1].append((place, row))
            filled += weight
        chunks += [_gathered(stretch, hand) for hand in hands]
    return chunks


def _consecutive(items: Sequence[Item], rows: int) -> Iterator[list[Item]]:
    """Neighbours, about `rows` materials at a time."""
    stretch: list[Item] = []
    filled = 0
    for item in items:
        if stretch and filled + item.count > rows:
            yield stretch
            stretch, filled = [], 0
        stretch.append(item)
        filled += item.count
    if stretch:
        yield stretch


def _units(item: Item) -> Sequence[int | None]:
    """What an item can be cut into: its rows, or nothing."""
    return range(len(item.rows)) if item.rows and not item.stop else (None,)


def _gathered(stretch: Sequence[Item], hand: Sequence[tuple[int, int | None]]) -> list[Item]:
    """The dealt units of a chunk as items, in order: what a file or row group holds is read together."""
    rows: dict[int, list[int]] = {}
    for place, row in hand:
        rows.setdefault(place, []).extend([] if row is None else [row])
    return [stretch[place].take(sorted(rows[place])) if rows[place] else stretch[place] for place in sorted(rows)]


def _run(source: Source, chunks: list[list[Item]], config: Ingest) -> Iterator[dict[str, Any]]:
    """One task per chunk; results in the order in which they finish."""
    from crystalign_jobs.pool import map_rows

    rows = [
        {"name": f"{number:05d}", "items": [item.model_dump_json() for item in chunk]}
        for number, chunk in enumerate(chunks)
    ]
    yield from map_rows(rows, ChunkReader(source, config.out, config.rows_per_shard))


class ChunkReader:
    """Reads the items of a chunk and writes what they hold; runs inside a task."""

    def __init__(self, source: Source, out: str, rows_per_shard: int) -> None:
        self.source = source
        self.out = out
        self.rows_per_shard = rows_per_shard

    def __call__(self, row: dict[str, Any]) -> dict[str, str]:
        """A chunk in, the JSON of its shard entries and of its quarantine out."""
        import json

        import numpy as np

        from crystalign.shards.writer import write_quarantine

        items = [Item.model_validate_json(text) for text in row["items"]]
        rejects: list[Reject] = []
        shards = []
        for number, materials in enumerate(self._batches(items, rejects)):
            np.random.default_rng([int(row["name"]), number]).shuffle(materials)  # every row group a fair sample
            shards.append(self._write(f"{row['name']}-{number:03d}", materials).model_dump(mode="json"))
        quarantine = None
        if rejects:
            quarantine = write_quarantine(self.out, row["name"], rejects).model_dump(mode="json")
        reasons = dict(Counter(f"{reject.stage}: {reject.reason}" for reject in rejects))
        entries = sum(item.count for item in items)
        return {
            "result": json.dumps({"shards": shards, "quarantine": quarantine, "reasons": reasons, "entries": entries})
        }

    def _batches(self, items: Sequence[Item], rejects: list[Reject]) -> Iterator[list[Material]]:
        """Materials in lists that make one shard each; rejects are collected on the way."""
        from crystalign.shards.writer import Reject

        batch: list[Material] = []
        heavy = 0
        seen: set[str] = set()
        for item in items:
            for found in self.source.read(item):
                if isinstance(found, Reject):
                    rejects.append(found)
                elif found.id in seen:
                    message = f"the id {found.id!r} stands for an earlier entry"
                    rejects.append(Reject(found.id, "list", "duplicate-id", message, found.provenance.reference))
                else:
                    seen.add(found.id)
                    batch.append(found)
                    heavy += "charge_density" in found.modalities
                if len(batch) >= self.rows_per_shard or heavy >= HEAVY_ROWS:
                    yield batch
                    batch, heavy = [], 0
        if batch:
            yield batch

    def _write(self, name: str, materials: list[Material]) -> Any:
        from crystalign.shards.writer import write_shard

        return write_shard(self.out, name, materials, self.source.properties())


def _commit(
    out: str, properties: Sequence[PropertySpec], results: list[dict[str, Any]], replaced: str | None
) -> Manifest:
    """The manifest of everything that the tasks wrote."""
    from crystalign.shards.manifest import ShardEntry
    from crystalign.shards.writer import commit_manifest

    shards = [ShardEntry.model_validate(shard) for result in results for shard in result["shards"]]
    quarantine = [storage.FileEntry.model_validate(r["quarantine"]) for r in results if r["quarantine"]]
    return commit_manifest(
        out,
        sorted(shards, key=lambda entry: entry.path),
        properties,
        quarantine=sorted(quarantine, key=lambda entry: entry.path),
        quarantined=sum(sum(result["reasons"].values()) for result in results),
        expected=replaced,
    )


def _report(config: Ingest, manifest: Manifest, results: list[dict[str, Any]]) -> None:
    """What was made, what was refused, what is there twice, and the next command."""
    from crystalign_jobs.duplicates import report_copies

    reasons: Counter[str] = Counter()
    for result in results:
        reasons.update(result["reasons"])
    print(f"{manifest.rows:,} crystals in {len(manifest.shards)} shards at {config.out}")
    print("  " + ", ".join(f"{name} {count:,}" for name, count in manifest.modalities.items()))
    print(f"{manifest.quarantined:,} quarantined" + (":" if reasons else ""))
    for reason, count in reasons.most_common():
        print(f"  {count:>7,}  {reason}")
    if manifest.structures is not None:
        report_copies(config.out, manifest)
    print(f"next: crystalign derive {config.out}")
