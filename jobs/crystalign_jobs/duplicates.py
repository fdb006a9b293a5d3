"""`crystalign duplicates`: group the materials of a dataset that have the same structure.

Ingestion runs it as its last step. Ray tasks compare crystals with the same formula. Then each shard gets a small file
with the structure group of every row, and the manifest is replaced. No row is removed. In training, members of the same
group are not negatives of each other; in evaluation, retrieving another member of the group is not a miss.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

from pydantic import Field
from tyro.conf import Positional

from crystalign import storage
from crystalign.config import Config
from crystalign.physics.same_structure import Candidate, SameStructure, alike
from crystalign.storage import Uri

if TYPE_CHECKING:
    from crystalign.crystal import Crystal
    from crystalign.shards.dataset import Dataset
    from crystalign.shards.manifest import Manifest, ShardEntry, StructureGroups

ROWS_PER_TASK, TASKS = 128, 64
"""Fewest crystals per task, and approximately the most tasks. Crystals of one formula are scattered over the dataset,
so each task reads most of the crystal column; more tasks would read it more often."""
SECONDS = 0.008
"""Rough time of comparing, for each crystal of a dataset: half of the formulas of a database occur several times."""
GROUPS = "groups"
"""Folder of the files with the structure groups."""
LARGEST = 5
"""Largest groups that the report lists."""


class Duplicates(Config):
    """Find the materials of a dataset with the same structure, and store the groups in the dataset.

    `ingest` does this by default; use this command for datasets of earlier releases, or for another tolerance. No row
    is removed: `pretrain` and `evaluate` read the groups, so that a copy counts neither as a negative nor as a miss.

    Example: crystalign duplicates s3://bucket/mp
    """

    dataset: Positional[Uri]
    """URI of the dataset."""
    same: SameStructure = SameStructure()
    """Tolerance within which two crystals have the same structure."""
    max_seconds: float = Field(default=20.0, gt=0)
    """Time limit for comparing two crystals; if it is exceeded, they count as different, and the report counts them."""
    address: str | None = None
    """Ray cluster; default: RAY_ADDRESS, or this machine."""


def main(config: Duplicates) -> Manifest:
    """Compare the structures, replace the manifest, print a report, and return the manifest.

    Raises:
        ConfigError: another job writes to the dataset.
        ConflictError: another job changed the dataset meanwhile; its version is kept.
    """
    from crystalign.shards.manifest import Manifest
    from crystalign_ray.driver_lock import driving
    from crystalign_ray.session import session

    Manifest.read(config.dataset)  # fails if there is no dataset to lock
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
    """Compare the structures of a dataset, and replace its manifest by one with their groups. Needs a Ray session.

    Args:
        uri: URI of the dataset; this process must hold its lock.
        same: the tolerance.
        max_seconds: time limit of one comparison.

    Raises:
        ConflictError: another job changed the dataset meanwhile.
    """
    from crystalign.shards.dataset import Dataset
    from crystalign.shards.manifest import Manifest, StructureGroups
    from crystalign.shards.writer import commit_manifest, write_groups

    version = Manifest.version(uri)  # read before the manifest, so that a change in between is refused below
    dataset = Dataset.open(uri)
    leaders, unsettled = _compare(dataset, same, max_seconds)
    shards: list[ShardEntry] = []
    for number, entry in enumerate(dataset.manifest.shards):
        ids = dataset.read(number, columns=["id"]).column("id").to_pylist()
        shards.append(write_groups(uri, entry, [leaders.get(name, name) for name in ids]))
    old = dataset.manifest
    copies = sum(name != leader for name, leader in leaders.items())
    structures = StructureGroups(tolerance=same, groups=old.rows - copies, copies=copies, unsettled=unsettled)
    return commit_manifest(
        uri,
        shards,
        old.properties,
        quarantine=old.quarantine,
        quarantined=old.quarantined,
        derived=old.derived,
        structures=structures,
        schema_version=old.schema_version,
        expected=version,
    )


def _compare(dataset: Dataset, same: SameStructure, max_seconds: float) -> tuple[dict[str, str], int]:
    """Compare crystals with equal formulas. Return id → leader of its group, and how many comparisons failed."""
    from crystalign_ray.progress import Meter
    from crystalign_ray.tasks import map_rows

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
    """Tasks with the positions of all crystals whose formula occurs more than once, some formulas per task."""
    table = dataset.table(["id", "formula"])
    formulas = table.column("formula").to_pylist()
    repeated = {formula for formula, n in Counter(formulas).items() if n > 1}
    members: dict[str, list[tuple[str, int, int]]] = {}
    columns = (table.column(name).to_pylist() for name in ("id", "shard", "row"))
    for formula, *position in zip(formulas, *columns, strict=True):
        if formula in repeated:
            members.setdefault(formula, []).append(tuple(position))
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
        """Compare the crystals at these positions; return id → leader and the number of failures as JSON."""
        from crystalign.physics.same_structure import group
        from crystalign.shards.dataset import Dataset

        self.unsettled = 0
        buckets = json.loads(row["buckets"])
        crystals = iter(Dataset.open(self.uri).gather([(s, r) for b in buckets for _, s, r in b], "crystal"))
        leaders: dict[str, str] = {}
        for bucket in buckets:
            members = [(str(name), cast("Crystal", next(crystals))) for name, _, _ in bucket]
            leaders |= group(members, self.same, compare=self._alike)
        result = {"leaders": leaders, "unsettled": self.unsettled, "count": row["count"]}
        return {"result": json.dumps(result)}

    def _alike(self, one: Candidate, other: Candidate, same: SameStructure) -> bool:
        """Whether two crystals are alike. A failure or timeout is counted as no, so that it does not stop the job."""
        from crystalign.limits import time_limit

        try:
            with time_limit(self.max_seconds, "the comparison of two structures"):
                return alike(one, other, same)
        except Exception:  # noqa: BLE001 (a library may raise anything on an unusual crystal)
            self.unsettled += 1
            return False


def report_copies(uri: str, manifest: Manifest) -> None:
    """Print the number of structures and copies, the sources that share them, and the largest groups."""
    from crystalign.shards.dataset import Dataset
    from crystalign.shards.schema import GROUP

    groups: StructureGroups | None = manifest.structures
    assert groups is not None, "the structures have been compared"
    print(f"{groups.groups:,} different structures, {groups.copies:,} copies of them")
    if groups.unsettled:
        print(f"{groups.unsettled:,} comparisons failed or exceeded --max-seconds; these crystals count as different")
    if not groups.copies:
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
