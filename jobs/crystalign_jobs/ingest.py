"""`crystalign ingest`: read crystals from files, tables or the demo corpus into a dataset.

The driver lists work items and distributes them over chunks. Each Ray task reads one chunk, writes its shards, and
returns only names and counts. Entries that cannot be used go to quarantine with the reason. The manifest is written
last: a dataset exists only with its manifest, and a dataset that is replaced stays complete until then.

Rows are shuffled over the chunks, because neighbours in a source are similar and training reads whole row groups. A
batch from a few row groups is representative only if each row group is a random sample.
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
from crystalign.licences import refused
from crystalign.limits import Limits
from crystalign.sources import Item, Source, open_source
from crystalign.sources.source import sample
from crystalign.storage import Uri

if TYPE_CHECKING:
    from crystalign.material import Material
    from crystalign.properties import PropertySpec
    from crystalign.rejects import Reject
    from crystalign.shards.manifest import Manifest

SECONDS = 0.006
"""Rough time to read and check one crystal, for the estimate."""
HEAVY_ROWS = 512
"""Rows with a charge density after which a shard is closed; 512 of them take about 130 MB of memory."""
LEAST_ROWS = 128
"""Fewest rows per chunk of a small dataset."""
CHUNKS = 8
"""Chunks of a small dataset, so that all cores have work; a constant, so that shards do not depend on the machine."""
STRETCH = 64
"""Chunks among which the rows of a stretch of the source are shuffled: 262,144 rows by default. Each of these chunks
may read the same row group of the source. Longer sources are shuffled stretch by stretch; a window of the training
order takes its row groups evenly from all stretches."""
PARTS = ("shards", "groups", "quarantine", "selections", "derive")
"""Folders of a dataset, without those of modalities that are stored in separate files."""
MANIFEST = "manifest.json"


class Ingest(Config):
    """Read crystals into a dataset.

    SOURCE is a folder, zip or tar of CIF, POSCAR, JSON and VASP output, a JSON file, a Parquet table (with --mapping),
    the downloaded files of a database (gnome:FOLDER, alexandria:FOLDER, cod:FOLDER), `demo` or `prototypes`. Entries
    that cannot be used are quarantined with the reason. So are structures that contradict the formula, Z, volume,
    density or symmetry stated in their file.

    Example: crystalign ingest crystals.parquet --mapping materials_project --out s3://bucket/mp --limit 20000
    """

    source: Positional[str]
    """The source: a path, a URI, gnome:, alexandria: or cod: with the folder of the files, `demo` or `prototypes`."""
    out: Uri
    """URI of the new dataset."""
    mapping: str | None = None
    """For a Parquet table: a YAML file that describes its columns, or the name of a built-in mapping."""
    name: str = ""
    """Name of the source, for provenance; default: the last part of its path."""
    licence: str = ""
    """SPDX identifier of the licence of files and JSON, e.g. CC-BY-4.0; it is stored with every row."""
    allow_licence: tuple[str, ...] = ()
    """Non-commercial licences to allow, e.g. CC-BY-NC-4.0; rows of others with a non-commercial licence are refused."""
    vintage: str = ""
    """Release of the source, for files and JSON."""
    limit: int | None = Field(default=None, ge=1)
    """Take a random sample of this many crystals."""
    seed: int = 0
    """Seed of the sample and of the substitutions in the demo corpus."""
    rows_per_shard: int = Field(default=4096, ge=1)
    """Most rows in one shard."""
    overwrite: bool = False
    """Replace the dataset at `out`; the old one is kept until the new one is complete."""
    accept: tuple[str, ...] = ()
    """Accept structures that contradict their file for these reasons, with a remark: composition-disagrees,
    z-disagrees, volume-disagrees, density-disagrees, symmetry-disagrees, symmetry-missing."""
    compare: bool = True
    """Group the materials with the same structure (`crystalign duplicates`) as the last step."""
    limits: Limits = Limits()
    """Limits on size and time of one file."""
    address: str | None = None
    """Ray cluster; default: RAY_ADDRESS, or this machine."""


def main(config: Ingest) -> Manifest:
    """Ingest, print counts of accepted and rejected entries, and return the manifest.

    Raises:
        ConfigError: there is already a dataset and `overwrite` is not set, or another job writes there.
        ConflictError: another job wrote a dataset there meanwhile; that dataset is kept.
        DatasetError: no crystal could be used.
    """
    from crystalign_jobs.duplicates import SECONDS as COMPARING
    from crystalign_jobs.duplicates import Duplicates, group_structures
    from crystalign_ray.driver_lock import driving
    from crystalign_ray.estimates import BYTES_OF_ROW, Estimate, announce, bytes_of
    from crystalign_ray.progress import Meter
    from crystalign_ray.session import session

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
    _refuse_licences(source, config)
    items = sample(source.items(), config.limit, config.seed)
    expected = sum(item.count for item in items)
    chunks = share_out(items, min(config.rows_per_shard, max(LEAST_ROWS, -(-expected // CHUNKS))))
    print(f"ingesting {config.source} ({expected:,} entries, {len(chunks)} tasks) into {config.out}/")
    print(
        "├─ shards/        one row per crystal\n├─ quarantine/    rejected entries with reasons\n"
        "└─ manifest.json  written last"
    )
    heavy = sum(bool(item.files) for item in items)
    seconds = SECONDS + (COMPARING if config.compare else 0.0)
    announce(Estimate(expected, expected * BYTES_OF_ROW + heavy * bytes_of(["charge_density"]), seconds), config.out)
    results = []
    with driving(config.out) as drives:
        replaced, old = _existing(config), _files(config.out)
        with session(config.address):
            with Meter("ingest", total=expected, unit="crystals") as meter:
                for result in _run(source, chunks, config):
                    results.append(result)
                    meter.advance(result["entries"])
            results = _without_repeats(config.out, source.properties(), results)
            manifest = _commit(config.out, source.properties(), results, replaced)
            if config.compare:
                settings = Duplicates(dataset=config.out)
                manifest = group_structures(config.out, settings.same, settings.max_seconds)
        if drives():
            _delete_unnamed(config.out, old, manifest)
    _report(config, manifest, results)
    return manifest


def _refuse_licences(source: Source, config: Ingest) -> None:
    """Refuse a source before it is read if all of its rows have licences that the user did not allow.

    Raises:
        ConfigError: no row could enter the dataset.
    """
    reasons = [refused(licence, config.allow_licence) for licence in source.licences() or (config.licence,)]
    if all(reasons):
        raise ConfigError(f"{config.source} is not ingested: {reasons[0]}")


def _existing(config: Ingest) -> str | None:
    """Checksum of the manifest of the dataset at `out`; None if there is no dataset.

    Raises:
        ConfigError: there is a dataset and `overwrite` is not set.
    """
    checksum = storage.sha256_of(storage.join(config.out, MANIFEST))
    if checksum is not None and not config.overwrite:
        message = f"{config.out} holds a dataset already; use --overwrite to replace it, or choose another --out"
        raise ConfigError(message)
    return checksum


def _files(out: str) -> list[str]:
    """Names of the files of a dataset and of leftovers of interrupted jobs; other files in the folder are ignored."""
    from crystalign.shards.schema import sibling_modalities

    parts = (*PARTS, *sibling_modalities())
    return [f"{part}/{name}" for part in parts for name in storage.list_names(storage.join(out, part))]


def _delete_unnamed(out: str, old: Sequence[str], manifest: Manifest) -> None:
    """Delete the old files that the new manifest does not list; files written meanwhile are kept."""
    for name in set(old).difference(manifest.files):
        storage.delete(storage.join(out, name))


def share_out(items: Sequence[Item], rows: int) -> list[list[Item]]:
    """Distribute items over chunks of at most `rows` materials, each a random sample of a stretch of the source.

    Rows of a table are distributed one by one. A slice of a file that must be parsed is not split. Within a chunk,
    items keep the order of the source.

    Args:
        items: all work items.
        rows: materials per chunk; an item with more materials is its own chunk.
    """
    import numpy as np

    chunks: list[list[Item]] = []
    for stretch in _consecutive(items, STRETCH * rows):
        units = [(index, row) for index, item in enumerate(stretch) for row in _units(item)]
        dealt: list[list[tuple[int, int | None]]] = []
        filled = rows
        for unit in np.random.default_rng(len(chunks)).permutation(len(units)).tolist():
            index, row = units[unit]
            weight = stretch[index].count if row is None else 1
            if filled + weight > rows:
                dealt.append([])
                filled = 0
            dealt[-1].append((index, row))
            filled += weight
        chunks += [_gathered(stretch, units_of_chunk) for units_of_chunk in dealt]
    return chunks


def _consecutive(items: Sequence[Item], rows: int) -> Iterator[list[Item]]:
    """Stretches of consecutive items, about `rows` materials each."""
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
    """The units into which an item can be split: its rows, or the item as a whole (None)."""
    return range(len(item.rows)) if item.rows and not item.stop else (None,)


def _gathered(stretch: Sequence[Item], units: Sequence[tuple[int, int | None]]) -> list[Item]:
    """The units of a chunk as items, in order; rows of the same file or row group are read together."""
    rows: dict[int, list[int]] = {}
    for index, row in units:
        rows.setdefault(index, []).extend([] if row is None else [row])
    return [stretch[index].take(sorted(rows[index])) if rows[index] else stretch[index] for index in sorted(rows)]


def _run(source: Source, chunks: list[list[Item]], config: Ingest) -> Iterator[dict[str, Any]]:
    """Run one task per chunk; yields results in the order in which the tasks finish."""
    from crystalign_ray.tasks import map_rows

    rows = [
        {"name": f"{number:05d}", "items": [item.model_dump_json() for item in chunk]}
        for number, chunk in enumerate(chunks)
    ]
    yield from map_rows(rows, ChunkReader(source, config.out, config.rows_per_shard, config.allow_licence))


class ChunkReader:
    """Reads the items of a chunk and writes its shards; runs inside a task."""

    def __init__(self, source: Source, out: str, rows_per_shard: int, allow_licence: Sequence[str] = ()) -> None:
        self.source = source
        self.out = out
        self.rows_per_shard = rows_per_shard
        self.allow_licence = allow_licence

    def __call__(self, row: dict[str, Any]) -> dict[str, str]:
        """Read a chunk; return the entries of its shards and of its quarantine file as JSON."""
        import json

        import numpy as np

        from crystalign.shards.writer import write_quarantine

        items = [Item.model_validate_json(text) for text in row["items"]]
        rejects: list[Reject] = []
        shards = []
        for number, materials in enumerate(self._batches(items, rejects)):
            # so that every row group is a random sample
            np.random.default_rng([int(row["name"]), number]).shuffle(materials)
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
        """Lists of materials for one shard each; appends to `rejects`."""
        from crystalign.rejects import Reject
        from crystalign.shards.repeats import repeated_id
        from crystalign.shards.schema import sibling_modalities

        stored_apart = sibling_modalities()
        batch: list[Material] = []
        heavy = 0
        seen: set[str] = set()
        for item in items:
            for material in self.source.read(item):
                if isinstance(material, Reject):
                    rejects.append(material)
                elif material.id in seen:
                    rejects.append(repeated_id(material))
                elif why := refused(material.provenance.licence, self.allow_licence):
                    rejects.append(Reject(material.id, "check", "licence", why, material.provenance.reference))
                else:
                    seen.add(material.id)
                    batch.append(material)
                    heavy += any(name in material.modalities for name in stored_apart)
                if len(batch) >= self.rows_per_shard or heavy >= HEAVY_ROWS:
                    yield batch
                    batch, heavy = [], 0
        if batch:
            yield batch

    def _write(self, name: str, materials: list[Material]) -> Any:
        from crystalign.shards.writer import write_shard

        return write_shard(self.out, name, materials, self.source.properties())


def _without_repeats(
    out: str, properties: Sequence[PropertySpec], results: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The results of all tasks, and one more if an id occurs in several: its later rows go to quarantine."""
    from crystalign.shards.manifest import ShardEntry
    from crystalign.shards.repeats import without_repeats
    from crystalign.shards.writer import write_quarantine

    shards = [ShardEntry.model_validate(shard) for result in results for shard in result["shards"]]
    kept, rejects = without_repeats(out, sorted(shards, key=lambda entry: entry.path), properties)
    if not rejects:
        return results
    quarantine = write_quarantine(out, "repeats", rejects).model_dump(mode="json")
    reasons = {"list: duplicate-id": len(rejects)}
    written = [shard.model_dump(mode="json") for shard in kept]
    last = {"shards": written, "quarantine": quarantine, "reasons": reasons, "entries": 0}
    return [*({**result, "shards": []} for result in results), last]


def _commit(
    out: str, properties: Sequence[PropertySpec], results: list[dict[str, Any]], replaced: str | None
) -> Manifest:
    """Write the manifest of all shards and quarantine files."""
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
    """Print the numbers of rows, rejected entries and copies, and the next command."""
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
