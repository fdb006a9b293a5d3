"""Which task makes which hypothetical crystals.

A *family* is all crystals of one prototype. Its children are made in one place, so that no two tasks can make the same
(formula, prototype); a family with more children than a shard holds is split into units by a hash of the formula. A
*block* is the units of one task. All blocks of a *bucket* read one file of parents.

Each family gets rows in proportion to its parents. A unit that cannot fill its quota is exhausted, and in the next
round others make the rows that are missing. Everything here is a pure function of the request and the parents, so the
result does not depend on the number of workers, and a restarted job finds its earlier work.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from crystalign.config import Config
from crystalign.substitution.family import VERSION, Unit

PARENTS_PER_BUCKET = 8192
MOST_BUCKETS = 256
"""Files of parents that are written at the same time."""


class Request(Config):
    """Everything that determines the result."""

    dataset_sha256: str
    """SHA-256 of the manifest of the parents' dataset."""
    rows: int
    """Number of crystals to make."""
    max_sites: int
    """Largest number of sites of a parent."""
    seed: int
    """Seed of the random draws."""
    rows_per_shard: int
    """Most rows of a shard."""
    version: str = VERSION
    """Release of the procedure."""

    @property
    def identity(self) -> str:
        """Hash of the request, in the names of the files of an unfinished job."""
        return digest(self.model_dump_json())[:12]


class UnitPlan(NamedTuple):
    """A part of the children of a family."""

    prototype: str
    """Prototype of the family."""
    unit: Unit
    """Which of the children."""
    quota: int
    """Rows of the first round, and weight in later ones; 0 if there are more families than rows."""


class Block(NamedTuple):
    """The units of one task."""

    number: int
    """Position among all blocks."""
    bucket: int
    """Number of the file with their parents."""
    units: tuple[UnitPlan, ...]
    """The units."""


def digest(*parts: str) -> str:
    """SHA-256 of texts."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def bucket_count(parents: int) -> int:
    """Number of files with parents."""
    return min(MOST_BUCKETS, max(1, -(-parents // PARENTS_PER_BUCKET)))


def bucket_of(prototype: str, buckets: int) -> int:
    """The bucket of a family."""
    return int(digest(prototype)[:8], 16) % buckets


def shares(weights: Sequence[int], total: int) -> list[int]:
    """Whole numbers that add up to `total`, in proportion to `weights`.

    Each is the difference of two rounded-down cumulative sums, so it differs from the exact share by less than 1.
    """
    everything = sum(weights)
    if not everything:
        return [0] * len(weights)
    result, before, cumulative = [], 0, 0
    for weight in weights:
        cumulative += weight
        up_to = cumulative * total // everything
        result.append(up_to - before)
        before = up_to
    return result


def plan_blocks(families: Mapping[str, int], buckets: int, request: Request) -> list[Block]:
    """The blocks of an enumeration.

    Args:
        families: prototype → number of parents.
        buckets: number of files with parents.
        request: what is to be made.
    """
    order = sorted(families, key=lambda prototype: (bucket_of(prototype, buckets), digest(prototype)))
    blocks: list[Block] = []
    units: list[UnitPlan] = []
    filled, bucket = 0, 0

    def close() -> None:
        if units:
            blocks.append(Block(len(blocks), bucket, tuple(units)))
            units.clear()

    for prototype, quota in zip(order, shares([families[p] for p in order], request.rows), strict=True):
        parts = max(1, -(-quota // request.rows_per_shard))
        for number, share in enumerate(shares([1] * parts, quota)):
            if bucket_of(prototype, buckets) != bucket or filled + share > request.rows_per_shard:
                close()
                bucket, filled = bucket_of(prototype, buckets), 0
            units.append(UnitPlan(prototype, Unit(number, parts), share))
            filled += share
    close()
    return blocks


def quotas_of(blocks: Sequence[Block], exhausted: set[tuple[int, int]], missing: int, number: int, rows: int) -> Quotas:
    """The rows that each unit is to make in a round.

    Args:
        blocks: all blocks.
        exhausted: (block, unit) that can make no more.
        missing: rows that are still to be made.
        number: number of the round; the first is 0.
        rows: rows of a shard. From the second round on, only as many blocks take part as make shards of a good size,
            twice as many in each round.
    """
    alive = [
        [(block.number, n) for n in range(len(block.units)) if (block.number, n) not in exhausted] for block in blocks
    ]
    chosen = [units for units in alive if units]
    if number:
        shuffled = sorted(chosen, key=lambda units: digest(str(number), str(units[0][0])))
        chosen = sorted(shuffled[: -(-missing // rows) << number])
    places = [place for units in chosen for place in units]
    weights = [max(blocks[b].units[n].quota, min(number, 1)) for b, n in places]
    return {place: share for place, share in zip(places, shares(weights, missing), strict=True) if share}


Quotas = dict[tuple[int, int], int]
"""(block, unit within it) → rows to make."""


def block_to_json(block: Block) -> str:
    """A block as JSON."""
    return json.dumps([block.number, block.bucket, [[u.prototype, list(u.unit), u.quota] for u in block.units]])


def block_from_json(text: str) -> Block:
    """The block that `block_to_json` wrote."""
    number, bucket, units = json.loads(text)
    return Block(number, bucket, tuple(UnitPlan(prototype, Unit(*unit), quota) for prototype, unit, quota in units))
