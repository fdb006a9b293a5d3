"""The task of `crystalign enumerate`: make the children of one block and write them as shards."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from crystalign import storage
from crystalign.errors import VerificationError
from crystalign_jobs.enumeration.parents import FOLDER, ParentFiles, read_families
from crystalign_jobs.enumeration.plan import Block, Quotas, Request, block_from_json, block_to_json, digest

if TYPE_CHECKING:
    from crystalign.material import Material
    from crystalign.shards.manifest import ShardEntry


def task_rows(
    blocks: Sequence[Block],
    quotas: Quotas,
    number: int,
    request: Request,
    earlier: dict[int, list[ShardEntry]],
) -> list[dict[str, Any]]:
    """The tasks of a round.

    Args:
        blocks: all blocks.
        quotas: (block, unit) → rows to make.
        number: number of the round.
        request: what is made.
        earlier: block → its shards of earlier rounds.
    """
    rows = []
    for block in blocks:
        shares = [quotas.get((block.number, n), 0) for n in range(len(block.units))]
        if not any(shares):
            continue
        text, before = block_to_json(block), [entry.model_dump_json() for entry in earlier.get(block.number, [])]
        key = digest(request.identity, text, json.dumps(shares), str(number), *before)[:10]
        rows.append(
            {
                "name": f"{number:02d}-{block.number:05d}",
                "receipt": f"{number:02d}-{block.number:05d}.{key}.json",
                "block": text,
                "shares": json.dumps(shares),
                "round": number,
                "earlier": json.dumps(before),
            }
        )
    return rows


def receipt_of(out: str, name: str) -> dict[str, Any] | None:
    """The receipt of an earlier run, if its shards are still complete."""
    from crystalign.shards.manifest import ShardEntry

    path = storage.join(out, FOLDER, name)
    if not storage.exists(path):
        return None
    receipt: dict[str, Any] = json.loads(storage.read_bytes(path))
    try:
        for shard in receipt["shards"]:
            entry = ShardEntry.model_validate(shard)
            storage.verify(storage.join(out, entry.path), entry)
    except VerificationError:
        return None
    return receipt


class ShardMaker:
    """Makes the children of one block; runs inside a task."""

    def __init__(self, out: str, request: Request, files: ParentFiles) -> None:
        self.out, self.request, self.buckets = out, request, files.buckets

    def __call__(self, row: dict[str, Any]) -> dict[str, str]:
        """Write the shards of a block; store the receipt, and return it as JSON."""
        from crystalign.shards.writer import write_shard

        block, shares = block_from_json(row["block"]), json.loads(row["shares"])
        children, exhausted, refused = self._make(block, shares, int(row["round"]), json.loads(row["earlier"]))
        # so that every row group is a random sample of the block
        np.random.default_rng([self.request.seed, block.number, int(row["round"])]).shuffle(children)
        size = self.request.rows_per_shard
        shards = [
            write_shard(self.out, f"{row['name']}-{start // size:03d}", children[start : start + size])
            for start in range(0, len(children), size)
        ]
        receipt = {
            "block": block.number,
            "rows": len(children),
            "shards": [shard.model_dump(mode="json") for shard in shards],
            "exhausted": exhausted,
            "refused": dict(refused),
        }
        result = json.dumps(receipt)
        storage.write_bytes(storage.join(self.out, FOLDER, row["receipt"]), result.encode())
        return {"result": result}

    def _make(
        self, block: Block, shares: Sequence[int], number: int, earlier: Sequence[str]
    ) -> tuple[list[Material], list[int], Counter[str]]:
        """The children of a block, the units that are exhausted, and why draws were refused."""
        wanted = {plan.prototype for plan, share in zip(block.units, shares, strict=True) if share}
        known: dict[str, set[str]] = {prototype: set() for prototype in wanted}
        for prototype, formula in self._made_before(earlier):
            if prototype in known:
                known[prototype].add(formula)
        families = read_families(self.out, self.buckets[block.bucket], known)
        children: list[Material] = []
        exhausted: list[int] = []
        for n, (plan, share) in enumerate(zip(block.units, shares, strict=True)):
            if not share:
                continue
            made = families[plan.prototype].children(share, [self.request.seed, number], plan.unit)
            children += made
            if len(made) < share:
                exhausted.append(n)
        refused = sum((family.refused for family in families.values()), Counter[str]())
        return children, exhausted, refused

    def _made_before(self, earlier: Sequence[str]) -> Iterator[tuple[str, str]]:
        """(prototype, formula) of the rows that this block made in earlier rounds."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        from crystalign.shards.manifest import ShardEntry

        for text in earlier:
            data = storage.read_verified(self.out, ShardEntry.model_validate_json(text))
            table = pq.read_table(pa.BufferReader(data), columns=["prototype", "formula"])
            yield from zip(table["prototype"].to_pylist(), table["formula"].to_pylist(), strict=True)
