"""Run the steps of a screening on Ray, and assemble their files."""

from __future__ import annotations

import datetime as dt
import os
import platform
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from crystalign import storage
from crystalign.errors import ConfigError
from crystalign.index.manifest import IndexManifest
from crystalign_serve.screening.places import Places
from crystalign_serve.screening.plan import Plan, Receipt, folder_name, groups_of

if TYPE_CHECKING:
    import pyarrow as pa

    from crystalign_serve.screening.source import Block
    from crystalign_serve.screening.step import Step

SECONDS_OF_QUERY = 0.15
"""Rough time of one query on one core: reading, encoding and reranking."""
BYTES_OF_CANDIDATE = 60
"""Rough size of a candidate of a query, compressed."""


def run(plan: Plan, blocks: Sequence[Block], out: str, *, rows_per_task: int, address: str | None) -> Receipt:
    """Screen, or finish a screening that was interrupted, and write hits, outcomes and receipt.

    Raises:
        ConfigError: another screening or other files are at `out`, another job writes there, or it is in the queries.
    """
    from crystalign_ray.driver_lock import driving
    from crystalign_ray.estimates import Estimate, announce
    from crystalign_ray.session import session

    places = Places(out)
    places.check_apart(plan.queries.uri)
    places.check_free()
    if storage.exists(places.receipt):
        return _existing(plan, places)
    manifest = IndexManifest.read(plan.index)
    groups = groups_of(manifest, rows_per_task)
    candidates = max(plan.options.k, plan.options.rerank) * len(groups)
    announce(Estimate(plan.queries.count, plan.queries.count * candidates * BYTES_OF_CANDIDATE, SECONDS_OF_QUERY), out)
    folder = storage.join(places.parts, folder_name(plan, groups))
    with driving(places.parts):
        if not storage.exists(places.receipt):  # else another run has written it since
            with session(address):
                _steps(plan, blocks, groups, folder)
            _assembled(plan, blocks, folder, places, manifest)
        receipt = _existing(plan, places)
        places.delete_parts()
    return receipt


def _existing(plan: Plan, places: Places) -> Receipt:
    """The receipt of the same screening, which has already ended."""
    stored = Receipt.read(places.receipt)
    if stored.plan.digest != plan.digest:
        raise ConfigError(
            f"{places.hits} already holds the hits of another index, model, queries or settings; choose another --out"
        )
    folder = places.receipt.rpartition("/")[0] or "."
    for entry in (stored.hits, stored.outcomes):
        storage.verify(storage.join(folder, entry.path), entry)
    return stored


def _steps(plan: Plan, blocks: Sequence[Block], groups: Sequence[Any], folder: str) -> None:
    from crystalign_serve.screening.steps import Conclude, Encode, FindIds, Scan, block_row, group_row

    by_block = [block_row(block) for block in blocks]
    by_group = [group_row(number, entries) for number, entries in enumerate(groups)]
    has_ids = any(True for _ in plan.queries.ids(list(blocks)))
    if has_ids:
        _map("find ids", "rows", FindIds(plan, folder, blocks), by_group)
    _map("encode", "queries", Encode(plan, folder, len(groups) if has_ids else 0), by_block)
    _map("search", "rows", Scan(plan, folder, len(blocks)), by_group)
    _map("rerank", "queries", Conclude(plan, folder, len(groups)), by_block)


def _map(label: str, unit: str, step: Step, rows: Sequence[dict[str, Any]]) -> None:
    """Run a step on all pieces of work, with progress."""
    from crystalign_ray.progress import Meter
    from crystalign_ray.tasks import map_rows

    with Meter(label, total=sum(step.units(row) for row in rows), unit=unit) as meter:
        for done in map_rows(rows, step):
            meter.advance(done["units"], counted=not done["found"])


def _assembled(plan: Plan, blocks: Sequence[Block], folder: str, places: Places, manifest: IndexManifest) -> Receipt:
    """Write hits and outcomes as one file each, and the receipt last."""
    import crystalign
    from crystalign_serve.screening.hits import OUTCOMES, hit_schema, write_all
    from crystalign_serve.screening.steps import Conclude, hit_names

    step, refused = Conclude(plan, folder, 0), 0
    hits, rows = write_all(
        (step.read(hit_names(block.number)[0]) for block in blocks), hit_schema(manifest), places.hits
    )

    def outcomes() -> Iterator[pa.Table]:
        nonlocal refused
        for block in blocks:
            table = step.read(hit_names(block.number)[1])
            refused += len(table) - table.column("refused").null_count
            yield table

    made, _ = write_all(outcomes(), OUTCOMES, places.outcomes)
    receipt = Receipt(
        created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        release=crystalign.__version__,
        environment=_environment(),
        plan=plan,
        hits=hits,
        outcomes=made,
        rows=rows,
        refused=refused,
    )
    storage.write_bytes(places.receipt, receipt.model_dump_json(indent=1).encode(), if_absent=True)
    return receipt


def _environment() -> dict[str, str]:
    import numpy as np
    import torch

    found = {"machine": platform.machine(), "python": platform.python_version(), "torch": torch.__version__}
    return {
        **found,
        "numpy": np.__version__,
        "cpus": str(os.cpu_count()),
        "vectors": torch.backends.cpu.get_cpu_capability(),
    }
