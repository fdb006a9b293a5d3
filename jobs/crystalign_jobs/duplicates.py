"""`crystalign duplicates`: which materials of a dataset are the same structure.

Ingestion runs it as its last step. Crystals of one formula are compared in Ray tasks; each shard then gets a small
file that names the structure group of every row, and the manifest is swapped. No row is removed. In training and
evaluation the members of a group are neither negatives nor misses of each other, whatever the modality.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import Field
from tyro.conf import Positional

from crystalign import storage
from crystalign.config import Config
from crystalign.physics.same_structure import Candidate, SameStructure, alike, candidate
from crystalign.storage import Uri

if TYPE_CHECKING:
    from crystalign.crystal import Crystal
    from crystalign.shards.dataset import Dataset
    from crystalign.shards.manifest import Manifest, ShardEntry, StructureGroups

T = TypeVar("T")
ROWS_PER_TASK, TASKS = 128, 64
"""Fewest crystals per task, and roughly the most tasks. Crystals of one formula are scattered over the dataset, so each
task reads most of the crystal column; more tasks would read it more often."""
GROUPS = "groups"
"""Folder of the files that name the groups."""
LARGEST = 5
"""Groups that the report names."""


class Duplicates(Config):
    """Find the materials of a dataset that are the same structure, and note it in the dataset.

    `ingest` does so by itself; this is for datasets of earlier releases, and for another tolerance. No row is
    removed: pretrain and evaluate read the groups, so that a copy is neither a negative nor a miss.

    Example: crystalign duplicates s3://bucket/mp
    """

    dataset: Positional[Uri]
    """The dataset, any URI."""
    same: SameStructure = SameStructure()
    """How far two crystals may differ and still be the same structure."""
    max_seconds: float = Field(default=20.0, gt=0)
    """Longest comparison of two crystals; beyond it they count as different, and the report says how many."""
    address: str | None = None
    """Ray cluster; default: RAY_ADDRESS, or this machine."""


def main(config: Duplicates) -> Manifest:
    """Compare, swap the manifest, report, and return it.

    Raises:
        ConfigError: another job writes to the dataset.
        ConflictError: another job changed the dataset meanwhile; it stays as that job left it.
    """
    from crystalign.shards.manifest import Manifest
    from crystalign_jobs.ownership import driving
    from crystalign_jobs.session import session

    Manifest.read(config.dataset)  # or there is nothing to drive
    with driving(config.dataset) as drives, session(config.address):
        old = storage.list_names(storage.join(config.dataset, GROUPS))
        manifest = group_structures(config.dataset, config.same, config.max_seconds)
        if drives():
            for name in old:
                if f"{GROUPS}/{name}" not in manifest.files:
                    storage.delete(storage.join(config.dataset, GROUPS, name))
    report_copies(config.dataset, manifest)
    print(f"next: crystalign pretrain --data {config.dataset} --out RUNS")
    return manifest


def group_structures(uri: str, same: SameStructure, max_seconds: float) -> Manifest:
    """Compare the structures of a dataset and swap its manifest for one that names their groups.

    Args:
        uri: a dataset that this process drives, in a Ray session.
        same: the tolerance.
        max_seconds: of one comparison.

    Raises:
        ConflictError: another job changed the dataset meanwhile.
    """
    from crystalign.shards.dataset import Dataset
    from crystalign.shards.manifest import Manifest, StructureGroups
    from crystalign.shards.writer import commit_manifest, write_groups

    version = Manifest.version(uri)  # before the manifest: what is read may be newer, and is then refused below
    dataset = Dataset.open(uri)
    leaders, unsettled = _compare(dataset, same, max_seconds)
    shards: list[ShardEntry] = []
    for number, entry in enumerate(dataset.manifest.shards):
        ids = dataset.read(number, columns=["id"]).column("id").to_pylist()
        shards.append(write_groups(uri, entry, [leaders.get(name, name) for name in ids]))
    old = dataset.manifest
    copies = sum(name != leader for name, leader in leaders.items())
    found = StructureGroups(tolerance=same, groups=old.rows - copies, copies=copies, unsettled=unsettled)
    return commit_manifest(
        uri,
        shards,
        old.properties,
        quarantine=old.quarantine,
        quarantined=old.quarantined,
        derived=old.derived,
        structures=found,
        schema_version=old.schema_version,
        expected=version,
    )


def _compare(dataset: Dataset, same: SameStructure, max_seconds: float) -> tuple[dict[str, str], int]:
    """Compare crystals with equal formulas. Returns the leader of each id, and the number of unsettled comparisons."""
    from crystalign_jobs.pool import map_rows
    from crystalign_jobs.progress import Meter

    tasks = list(_tasks(dataset))
    leaders: dict[str, str] = {}
    unsettled = 0
    with Meter("compare", total=sum(task["count"] for task in tasks), unit="crystals of repeated formulas") as meter:
        for result in map_rows(tasks, Comparer(dataset.uri, same, max_seconds)):
            leaders |= result["leaders"]
            unsettled += result["unsettled"]
            meter.advance(result["count"])
    return leaders, unsettled


def _tasks(dataset: Dataset) -> Iterator[dict[str, Any]]:
    """The places of all crystals whose formula occurs more than once, some formulas at a time."""
    table = dataset.table(["id", "formula"])
    formulas = table.column("formula").to_pylist()
    often = {formula for formula, n in Counter(formulas).items() if n > 1}
    members: dict[str, list[tuple[str, int, int]]] = {}
    columns = (table.column(name).to_pylist() for name in ("id", "shard", "row"))
    for formula, *place in zip(formulas, *columns, strict=True):
        if formula in often:
            members.setdefault(formula, []).append(tuple(place))
    rows = max(ROWS_PER_TASK, sum(map(len, members.values())) // TASKS)
    task: list[list[tuple[str, int, int]]] = []
    count = 0
    for bucket in members.values():
        task.append(bucket)
        count += len(bucket)
        if count >= rows:
            yield {"buckets": json.dumps(task), "count": count}
            task, count = [], 0
    if task:
        yield {"buckets": json.dumps(task), "count": count}


class Comparer:
    """Compares the crystals of some formulas; runs inside a task."""

    def __init__(self, uri: str, same: SameStructure, max_seconds: float) -> None:
        self.uri, self.same, self.max_seconds = uri, same, max_seconds
        self.unsettled = 0

    def __call__(self, row: dict[str, Any]) -> dict[str, str]:
        """Places in; id → leader, and the number of comparisons that were not settled, as JSON."""
        from crystalign.physics.same_structure import group
        from crystalign.shards.dataset import Dataset

        self.unsettled = 0
        buckets = json.loads(row["buckets"])
        crystals = iter(Dataset.open(self.uri).gather([(s, r) for b in buckets for _, s, r in b], "crystal"))
        leaders: dict[str, str] = {}
        for bucket in buckets:
            members = [(name, next(crystals)) for name, _, _ in bucket]
            leaders |= group(members, self.same, prepare=self._candidate, compare=self._alike)
        result = {"leaders": leaders, "unsettled": self.unsettled, "count": row["count"]}
        return {"result": json.dumps(result)}

    def _candidate(self, crystal: Crystal, same: SameStructure) -> Candidate | None:
        return self._within_limits(lambda: candidate(crystal, same))

    def _alike(self, one: Candidate, other: Candidate, same: SameStructure) -> bool:
        return self._within_limits(lambda: alike(one, other, same)) or False

    def _within_limits(self, work: Callable[[], T]) -> T | None:
        """What `work` returns; None where it takes too long or fails, which is counted: one crystal stops no job."""
        from crystalign.sources.source import time_limit

        try:
            with time_limit(self.max_seconds, "the comparison of two structures"):
                return work()
        except Exception:  # noqa: BLE001 (whatever a library meets in a stranger's crystal)
            self.unsettled += 1
            return None


def report_copies(uri: str, manifest: Manifest) -> None:
    """How many structures there are, between which sources the copies are, and the largest groups."""
    from crystalign.shards.dataset import Dataset
    from crystalign.shards.schema import GROUP

    found: StructureGroups | None = manifest.structures
    assert found is not None, "the structures have been compared"
    print(f"{found.groups:,} different structures, {found.copies:,} copies of them")
    if found.unsettled:
        print(f"{found.unsettled:,} comparisons failed or took too long (--max-seconds); those crystals are no copies")
    if not found.copies:
        return
    table = Dataset(uri, manifest).table(["id", "formula", "source", "vintage", GROUP])
    members: dict[str, list[Mapping[str, Any]]] = {}
    for row in table.to_pylist():
        members.setdefault(row[GROUP], []).append(row)
    several = sorted((rows for rows in members.values() if len(rows) > 1), key=lambda rows: (-len(rows), rows[0]["id"]))
    origins = Counter(" + ".join(sorted({f"{r['source']} {r['vintage']}".strip() for r in rows})) for rows in several)
    for origin, count in origins.most_common():
        print(f"  {count:>7,}  groups within {origin}")
    for rows in several[:LARGEST]:
        names = ", ".join(row["id"] for row in rows[:4])
        print(f"           {rows[0]['formula']}: {len(rows)} materials, {names}{', …' if len(rows) > 4 else ''}")
