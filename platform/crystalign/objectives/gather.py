"""Shared parts of the objectives: a differentiable gather across ranks, and the selection of rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from crystalign.objectives.likeness import Likeness
from crystalign.objectives.objective import Names


class Gathered(NamedTuple):
    """The global batch as one rank sees it: B = W·b rows, those of rank r at [r·b, (r+1)·b)."""

    embeddings: dict[str, Tensor]
    """Modality → (B, D), differentiable: gradients return to the rank that the rows came from."""
    present: dict[str, Tensor]
    """Modality → (B,) bool."""
    keys: dict[str, Tensor]
    """Modality → (B,) or (B, K) int64; and the claims and facts of `crystalign.objectives.likeness`."""
    rank: int
    """Rank r of this process."""
    world_size: int
    """Number of ranks W."""


class Rows(NamedTuple):
    """The N rows of the global batch that have all given modalities; this rank's are [start, stop)."""

    candidates: Tensor
    """(N,) int64, ascending; row indices in the global batch."""
    start: int
    """Index of this rank's first row among the N."""
    stop: int
    """Index after this rank's last row among the N."""


def gather(
    embeddings: Mapping[str, Tensor],
    present: Mapping[str, Tensor],
    keys: Mapping[str, Tensor],
    group: dist.ProcessGroup | None = None,
) -> Gathered:
    """Gather the batch of all ranks: one collective for the embeddings, one for masks and keys.

    The first collective is differentiable; otherwise the loss would be right but the gradients wrong. Half precision
    is converted to float32, because similarities near 1 need the precision.
    """
    world_size = dist.get_world_size(group) if dist.is_initialized() else 1
    local = {name: t if t.dtype == torch.float64 else t.float() for name, t in embeddings.items()}
    if world_size == 1:
        return Gathered(local, dict(present), dict(keys), 0, 1)
    names = list(local)
    widths = [local[name].shape[1] for name in names]
    kinds = sorted(keys)  # a batch that was read from bytes may have them in another order on each rank
    columns = [*(present[name].long()[:, None] for name in names), *(keys[k].reshape(len(keys[k]), -1) for k in kinds)]
    flags = torch.cat(columns, dim=1)  # (b, M + ΣK)
    joined = torch.cat([local[name] for name in names], dim=1)  # (b, ΣD)
    everyone = _Gather.apply(joined, world_size, group)  # type: ignore[no-untyped-call]  # (B, ΣD)
    everyones = torch.split(_gathered(flags, world_size, group), [column.shape[1] for column in columns], dim=1)
    return Gathered(
        embeddings=dict(zip(names, everyone.split(widths, dim=1), strict=True)),
        present={name: column[:, 0].bool() for name, column in zip(names, everyones, strict=False)},
        keys=dict(zip(kinds, everyones[len(names) :], strict=True)),
        rank=dist.get_rank(group),
        world_size=world_size,
    )


class _Gather(torch.autograd.Function):
    """Gather whose backward pass sums, in rank order, the gradients that all ranks have for a rank's rows.

    The backward pass is a reduce-scatter written as an all-to-all, since gloo's reduce-scatter is an all-reduce and
    sends twice the bytes.
    """

    @staticmethod
    def forward(ctx: Any, local: Tensor, world_size: int, group: dist.ProcessGroup | None) -> Tensor:
        ctx.world_size, ctx.group = world_size, group
        return _gathered(local, world_size, group)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        mine = torch.empty_like(gradient, memory_format=torch.contiguous_format)  # (B, ΣD)
        dist.all_to_all_single(mine, gradient.contiguous(), group=ctx.group)
        return mine.reshape(ctx.world_size, -1, mine.shape[1]).sum(dim=0), None, None


def _gathered(local: Tensor, world_size: int, group: dist.ProcessGroup | None) -> Tensor:
    """(B, …) of every rank's (b, …)."""
    everyone = local.new_empty((world_size * len(local), *local.shape[1:]))
    dist.all_gather_single(everyone, local.contiguous(), group=group)
    return everyone


def rows_with_all(everyone: Gathered, names: Names) -> Rows:
    """Return the rows that have all modalities in `names`; the result is the same on every rank."""
    has = torch.stack([everyone.present[name] for name in names]).all(dim=0)  # (B,)
    candidates = has.nonzero().flatten()  # (N,)
    b = len(has) // everyone.world_size
    mine = torch.tensor([everyone.rank * b, (everyone.rank + 1) * b], device=candidates.device)
    start, stop = torch.searchsorted(candidates, mine).tolist()
    return Rows(candidates, start, stop)


def likeness_of(everyone: Gathered, names: Names, rows: Rows) -> dict[str, Likeness]:
    """Modality → what decides whether the candidates among these rows look alike in it."""
    return {name: Likeness.of(name, everyone.keys, rows.candidates) for name in names}
