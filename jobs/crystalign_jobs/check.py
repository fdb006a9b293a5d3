"""`crystalign check`: find the rows of a dataset that this release would store differently."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pydantic import Field
from tyro.conf import Positional

from crystalign import storage
from crystalign.config import Config
from crystalign.limits import Limits
from crystalign.storage import Uri

if TYPE_CHECKING:
    from crystalign.shards.check import Finding

EXAMPLES = 3
"""Rows shown for each kind of finding."""


class Check(Config):
    """Check the rows of a dataset, and with --source also compare them with the files that they came from.

    Earlier releases stored some structures wrongly: half of the atoms of a CIF without listed operations, or elements
    guessed from labels. This command changes nothing; ingest again to correct the rows that it lists.

    Example: crystalign check s3://bucket/mine --source my_cifs.zip
    """

    dataset: Positional[Uri]
    """URI of the dataset."""
    source: str | None = None
    """The source of the dataset; every file is read again and compared with its row."""
    mapping: str | None = None
    """Mapping of the source, if it is a Parquet table."""
    list_file: Uri | None = None
    """File to which all findings are written as JSON lines."""
    limits: Limits = Limits()
    """Limits on size and time of one file."""
    rows_per_task: int = Field(default=2048, ge=1)
    """Rows that one task checks."""
    address: str | None = None
    """Ray cluster; default: RAY_ADDRESS, or this machine."""


def main(config: Check) -> list[Finding]:
    """Check the dataset, and print and return the findings."""
    from crystalign.shards.check import Finding
    from crystalign.shards.dataset import Dataset
    from crystalign_ray.progress import Meter
    from crystalign_ray.session import session
    from crystalign_ray.tasks import map_rows

    dataset = Dataset.open(config.dataset)
    groups = [
        {"shard": shard, "group": group, "items": "", "count": count}
        for shard, entry in enumerate(dataset.manifest.shards)
        for group, count in enumerate(entry.row_groups)
    ]
    rows = groups + (_source_rows(config) if config.source is not None else [])
    findings: list[Finding] = []
    print(f"checking {dataset.manifest.rows:,} crystals of {config.dataset}")
    with session(config.address), Meter("check", total=sum(row["count"] for row in rows), unit="crystals") as meter:
        for result in map_rows(rows, Checker(config)):
            findings += [Finding(*finding) for finding in result["findings"]]
            meter.advance(result["count"])
    _report(config, findings, dataset.manifest.rows)
    return findings


def _source_rows(config: Check) -> list[dict[str, Any]]:
    """Tasks that compare the source with the dataset, about `rows_per_task` materials each."""
    from crystalign.sources import open_source

    items = open_source(str(config.source), mapping=config.mapping, limits=config.limits).items()
    tasks: list[list[Any]] = [[]]
    for item in items:
        if sum(one.count for one in tasks[-1]) >= config.rows_per_task:
            tasks.append([])
        tasks[-1].append(item)
    return [
        {
            "shard": -1,
            "group": -1,
            "items": json.dumps([item.model_dump(mode="json") for item in task]),
            "count": sum(item.count for item in task),
        }
        for task in tasks
        if task
    ]


class Checker:
    """Checks one row group, or some items of the source; runs inside a task."""

    def __init__(self, config: Check) -> None:
        self.config = config

    def __call__(self, row: dict[str, Any]) -> dict[str, str]:
        """Check one row group, or some items of the source; returns the findings as JSON."""
        findings = self._of_source(row["items"]) if row["items"] else self._of_rows(row["shard"], row["group"])
        return {"result": json.dumps({"findings": [list(finding) for finding in findings], "count": row["count"]})}

    def _of_rows(self, shard: int, group: int) -> Iterator[Finding]:
        from crystalign.shards.check import check_rows
        from crystalign.shards.dataset import Dataset
        from crystalign.shards.schema import DESCRIPTION, table_to_materials

        table = Dataset.open(self.config.dataset).read(shard, group, modalities=())
        described = table.select([name for name in DESCRIPTION.names if name in table.column_names])
        yield from check_rows(table_to_materials(table, modalities=()), described, self.config.limits)

    def _of_source(self, text: str) -> Iterator[Finding]:
        from crystalign.shards.check import compare_with_source
        from crystalign.sources import Item, open_source

        source = open_source(str(self.config.source), mapping=self.config.mapping, limits=self.config.limits)
        items = [Item.model_validate(item) for item in json.loads(text)]
        materials = [one for item in items for one in source.read(item)]
        yield from compare_with_source(_stored(self.config.dataset, {one.id for one in materials}), materials)


def _stored(uri: str, ids: set[str]) -> dict[str, Any]:
    """Id → crystal of the rows with these ids."""
    from crystalign.shards.dataset import Dataset

    dataset = Dataset.open(uri)
    table = dataset.table(["id"])
    names = table.column("id").to_pylist()
    shards, rows = table.column("shard").to_pylist(), table.column("row").to_pylist()
    selected = [number for number, name in enumerate(names) if name in ids]
    crystals = dataset.gather([(shards[n], rows[n]) for n in selected], "crystal")
    return dict(zip((names[n] for n in selected), crystals, strict=True))


def _report(config: Check, findings: list[Finding], rows: int) -> None:
    """Print counts by reason with examples, and the next command."""
    if config.list_file is not None:
        lines = [json.dumps(finding._asdict()) for finding in findings]
        storage.write_bytes(config.list_file, ("\n".join(lines) + "\n" if lines else "").encode())
    reasons = Counter(finding.reason for finding in findings)
    affected = len({finding.id for finding in findings})
    print(f"{affected:,} of {rows:,} crystals are not as this release would store them" + (":" if reasons else ""))
    for reason, count in reasons.most_common():
        print(f"  {count:>7,}  {reason}")
        for finding in [one for one in findings if one.reason == reason][:EXAMPLES]:
            print(f"           {finding.id}: {finding.message[:160]}")
    if findings:
        print("next: crystalign ingest SOURCE --out NEW, and derive, embed and index again")
