"""`crystalign derive`: modalities that follow from the crystal, added to a dataset.

Each shard becomes a new one beside it, under a name that its content and the request determine, and a receipt says
that it is complete: a job that was killed finds the receipts and goes on where it was. The manifest is swapped
last; only then are the shards it no longer names deleted.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field
from tyro.conf import Positional

from crystalign import storage
from crystalign.config import Config
from crystalign.errors import InputError
from crystalign.sources import time_limit

if TYPE_CHECKING:
    from crystalign.crystal import Crystal
    from crystalign.shards.manifest import Manifest, ShardEntry
    from crystalign.shards.writer import Reject

Derivable = Literal["xrd", "text", "composition"]
VERSION = 1
"""Raised when a derivation changes, so that an interrupted job never mixes old and new."""


class Derive(Config):
    """Add powder patterns, captions and compositions, computed from the structures.

    What is there already stays: a text that a person wrote is never replaced by a generated one.

    Example: crystalign derive s3://bucket/mp --modalities xrd text
    """

    data: Positional[str]
    """The dataset, any URI; it is extended in place."""
    modalities: tuple[Derivable, ...] = ("xrd", "text", "composition")
    """What to compute."""
    max_seconds: float = Field(default=60.0, gt=0)
    """For one modality of one crystal; what takes longer stays missing and is reported."""
    address: str | None = None
    """Ray cluster; default: RAY_ADDRESS, or this machine."""


def main(config: Derive) -> Manifest:
    """Derive, swap the manifest, delete what it superseded, and return it."""
    from crystalign.shards.dataset import Dataset
    from crystalign_jobs.progress import Meter
    from crystalign_jobs.session import session

    dataset = Dataset.open(config.data)
    manifest = dataset.manifest
    plan = {number: _target(entry, config) for number, entry in enumerate(manifest.shards)}
    print(f"deriving {', '.join(config.modalities)} of {manifest.rows:,} crystals\nwriting shards/ in {config.data}/")
    done = {number: receipt for number, name in plan.items() if (receipt := _receipt(config.data, name))}
    if done:
        print(f"{len(done)} of {len(plan)} shards were derived before")
    with Meter("derive", total=manifest.rows, unit="crystals") as meter:
        meter.advance(sum(manifest.shards[number].rows for number in done), counted=False)
        todo = {number: name for number, name in plan.items() if number not in done}
        if todo:
            with session(config.address):
                for receipt in _run(config, todo):
                    done[receipt["number"]] = receipt
                    meter.advance(manifest.shards[receipt["number"]].rows)
    new = _commit(config, dataset.manifest, [done[number] for number in plan])
    _clean(config.data, manifest, new)
    _report(config, new, list(done.values()))
    return new
