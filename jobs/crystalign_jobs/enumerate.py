"""`crystalign enumerate`: hypothetical crystals by substitution of elements, as a load test of everything that follows.

The parents are sorted by prototype first. Then each Ray task makes the children of some prototypes and writes a shard
and a receipt, so that a restarted job continues. Rounds of tasks follow until there are as many rows as requested: a
prototype that has no more children leaves its rows to others. The manifest is written last.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import Field
from tyro.conf import Positional

from crystalign import storage
from crystalign.config import Config
from crystalign.errors import ConfigError, DatasetError
from crystalign.storage import Uri

if TYPE_CHECKING:
    from crystalign.shards.manifest import Manifest, ShardEntry
    from crystalign_jobs.enumeration.parents import ParentFiles
    from crystalign_jobs.enumeration.plan import Block, Request

SECONDS = 0.001
"""Rough time to make one crystal, for the estimate."""
BYTES = 260
"""Bytes of a crystal of at most 16 sites with its description, compressed; measured on the Materials Project."""
MANIFEST = "manifest.json"


class Enumerate(Config):
    """Make hypothetical crystals by substituting the elements of known ones, to test with millions of rows.

    The crystals are a load test, not predictions: nothing is relaxed, and most of them are not stable. They are
    charge-balanced and have a plausible volume. No two of them, and none of the known crystals, share both formula and
    prototype. Each is marked as hypothetical and names its parent. A search leaves hypothetical crystals out unless its
    filter names them: `_crystalign_hypothetical = TRUE`.

    The same request gives the same crystals with any number of workers. If the job is interrupted, run it again.

    Example: crystalign enumerate s3://bucket/mp --out s3://bucket/hypothetical --rows 2200000
    """

    data: Positional[Uri]
    """URI of the dataset of known crystals, the parents."""
    out: Uri
    """URI of the new dataset."""
    rows: int = Field(ge=1)
    """Number of crystals to make."""
    max_sites: int = Field(default=16, ge=1)
    """Largest number of sites in the cell of a parent."""
    seed: int = Field(default=0, ge=0)
    """Seed of the random substitutions."""
    rows_per_shard: int = Field(default=4096, ge=1)
    """Most rows in one shard; a task makes one shard."""
    address: str | None = None
    """Ray cluster; default: RAY_ADDRESS, or this machine."""


class Made(NamedTuple):
    """What the tasks made."""

    shards: dict[str, ShardEntry]
    """Path → shard."""
    refused: Counter[str]
    """Why substitutions were refused → how many draws."""

    @property
    def rows(self) -> int:
        """Number of crystals."""
        return sum(entry.rows for entry in self.shards.values())


def main(config: Enumerate) -> Manifest:
    """Make the crystals, print counts, and return the manifest.

    Raises:
        ConfigError: there is already a dataset, another job writes there, or smact is not installed.
        ConflictError: another job wrote a dataset there meanwhile; that dataset is kept.
        DatasetError: no row of the dataset can be a parent, or nothing could be made.
    """
    from crystalign.substitution.charge_balance import require_smact
    from crystalign_ray.driver_lock import driving

    require_smact()
    _refuse_existing(config.out)
    with driving(config.out) as drives:
        _refuse_existing(config.out)
        return _enumerate(config, drives)


def _refuse_existing(out: str) -> None:
    if storage.exists(storage.join(out, MANIFEST)):
        raise ConfigError(f"{out} holds a dataset already; choose another --out")


def _enumerate(config: Enumerate, drives: Callable[[], bool]) -> Manifest:
    from crystalign.shards.dataset import Dataset
    from crystalign.shards.writer import commit_manifest
    from crystalign_jobs.enumeration.parents import sorted_parents
    from crystalign_jobs.enumeration.plan import Request, plan_blocks
    from crystalign_ray.estimates import Estimate, announce
    from crystalign_ray.session import session

    dataset = Dataset.open(config.data)
    request = Request(
        dataset_sha256=dataset.manifest.sha256,
        rows=config.rows,
        max_sites=config.max_sites,
        seed=config.seed,
        rows_per_shard=config.rows_per_shard,
    )
    print(f"enumerating {config.rows:,} hypothetical crystals from {config.data} into {config.out}/")
    print("├─ shards/        one row per crystal\n└─ manifest.json  written last")
    parents_bytes = sum(entry.bytes for entry in dataset.manifest.shards)
    announce(Estimate(config.rows, config.rows * BYTES + parents_bytes, SECONDS), config.out)
    old = _files(config.out)
    files = sorted_parents(dataset, config.max_sites, config.out, request.identity)
    _say_parents(config, files)
    blocks = plan_blocks(files.families, len(files.buckets), request)
    with session(config.address):
        made = _rounds(config, request, blocks, files)
    manifest = commit_manifest(config.out, [made.shards[path] for path in sorted(made.shards)])
    if drives():
        for name in {*old, *_files(config.out)}.difference(manifest.files):
            storage.delete(storage.join(config.out, name))
    _report(config, manifest, made)
    return manifest


def _files(out: str) -> list[str]:
    """Names of the files of an enumeration, and of leftovers of interrupted ones."""
    from crystalign_jobs.enumeration.parents import FOLDER

    return [f"{part}/{name}" for part in ("shards", FOLDER) for name in storage.list_names(storage.join(out, part))]


def _rounds(config: Enumerate, request: Request, blocks: list[Block], files: ParentFiles) -> Made:
    """Run rounds of tasks until all rows are made, or no prototype has any more."""
    from crystalign_jobs.enumeration.plan import quotas_of
    from crystalign_jobs.enumeration.shard import ShardMaker, receipt_of, task_rows
    from crystalign_ray.progress import Meter
    from crystalign_ray.tasks import map_rows

    made = Made({}, Counter())
    exhausted: set[tuple[int, int]] = set()
    earlier: dict[int, list[ShardEntry]] = defaultdict(list)
    with Meter("enumerate", total=config.rows, unit="crystals") as meter:
        for number in itertools.count():  # ends, because a round that lacks rows exhausts a unit
            quotas = quotas_of(blocks, exhausted, config.rows - made.rows, number, config.rows_per_shard)
            if not quotas:
                break
            tasks = task_rows(blocks, quotas, number, request, earlier)
            receipts = [receipt for task in tasks if (receipt := receipt_of(config.out, task["receipt"]))]
            meter.advance(sum(receipt["rows"] for receipt in receipts), counted=False)
            done = {receipt["block"] for receipt in receipts}
            todo = [task for task in tasks if int(task["name"].partition("-")[2]) not in done]
            for receipt in map_rows(todo, ShardMaker(config.out, request, files)):
                receipts.append(receipt)
                meter.advance(receipt["rows"])
            for receipt in receipts:
                _collect(receipt, made, exhausted, earlier)
    return made


def _collect(
    receipt: dict[str, Any],
    made: Made,
    exhausted: set[tuple[int, int]],
    earlier: dict[int, list[ShardEntry]],
) -> None:
    """Add the result of a task."""
    from crystalign.shards.manifest import ShardEntry

    shards = [ShardEntry.model_validate(shard) for shard in receipt["shards"]]
    made.shards.update({shard.path: shard for shard in shards})
    made.refused.update(receipt["refused"])
    exhausted.update((receipt["block"], unit) for unit in receipt["exhausted"])
    earlier[receipt["block"]] += shards


def _say_parents(config: Enumerate, files: ParentFiles) -> None:
    """Print how many parents there are, and why the other rows are no parents.

    Raises:
        DatasetError: there are no parents.
    """
    left_out = ", ".join(f"{count:,} {reason}" for reason, count in sorted(files.left_out.items(), key=lambda x: -x[1]))
    if not files.parents:
        raise DatasetError(f"no crystal of {config.data} can be a parent: {left_out}; raise --max-sites?")
    print(
        f"{files.parents:,} parents of {len(files.families):,} prototypes" + (f"; others: {left_out}" * bool(left_out))
    )


def _report(config: Enumerate, manifest: Manifest, made: Made) -> None:
    """Print the number of crystals and of refused draws, and the next command."""
    size = sum(entry.bytes for entry in manifest.shards)
    shards = f"{len(manifest.shards)} shards of {size / 1e6:,.1f} MB together"
    print(f"{manifest.rows:,} hypothetical crystals in {shards} at {config.out}")
    if manifest.rows < config.rows:
        print(f"{config.rows - manifest.rows:,} fewer than requested: the prototypes have no more; raise --max-sites")
    for reason, count in made.refused.most_common():
        print(f"  {count:>9,}  draws refused: {reason}")
    print(f"next: crystalign embed MODEL --data {config.out} --out EMBEDDINGS")
