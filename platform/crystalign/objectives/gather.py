"""What all objectives share: one differentiable gather, which pairs count, and which rows are negatives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from crystalign.model_config import Pair


class Loss(NamedTuple):
    """An objective's value on one rank."""

    total: Tensor
    """Scalar. Its mean over the ranks, which is what DDP takes of the gradients, is the exact global loss."""
    pairs: dict[Pair, Tensor]
    """Pair → this rank's share of the pair's loss, without gradient; the mean over ranks is the pair's loss."""
    counts: dict[Pair, int]
    """Pair → rows of the global batch that have both modalities."""


class Gathered(NamedTuple):
    """The global batch as one rank sees it: B = W·b rows, those of rank r at [r·b, (r+1)·b)."""

    embeddings: dict[str, Tensor]
    """Modality → (B, D), differentiable: gradients return to the rank that the rows came from."""
    present: dict[str, Tensor]
    """Modality → (B,) bool."""
    keys: dict[str, Tensor]
    """Modality → (B,) int64."""
    offset: int
    """First row of this rank."""
    world_size: int
    """W."""


class PairRows(NamedTuple):
    """One pair's rows: the n local anchors against the N global candidates."""

    pair: Pair
    """(a, b)."""
    anchors: Tensor
    """(n,) int64; local rows that have both modalities."""
    candidates: Tensor
    """(N,) int64; global rows that have both modalities."""
    targets: Tensor
    """(n,) int64; where each anchor stands among the candidates."""
    indistinct: Tensor
    """(n, N) bool; another row that the pair's modalities cannot tell from the anchor: no negative."""


def gather(
    embeddings: Mapping[str, Tensor],
    present: Mapping[str, Tensor],
    keys: Mapping[str, Tensor],
    group: dist.ProcessGroup | None = None,
) -> Gathered:
    """Gather the batch of all ranks: one collective for the embeddings, one for masks and keys.

    The first is differentiable; without that the loss is right and the gradients are wrong.
    """
    world_size = dist.get_world_size(group) if dist.is_initialized() else 1
    names = list(embeddings)
    if world_size == 1:
        return Gathered(dict(embeddings), dict(present), dict(keys), 0, 1)
    from torch.distributed._functional_collectives import all_gather_single_autograd

    widths = [embeddings[name].shape[1] for name in names]
    local = torch.cat([embeddings[name] for name in names], dim=1).contiguous()  # (b, ΣD)
    flags = torch.stack([t for name in names for t in (present[name].long(), keys[name])], dim=1)  # (b, 2M)
    chosen = group or dist.distributed_c10d._get_default_group()  # noqa: SLF001
    everyone = all_gather_single_autograd(local, 0, chosen)  # (B, ΣD)
    everyones = flags.new_empty((world_size * len(flags), flags.shape[1]))  # (B, 2M)
    dist.all_gather_into_tensor(everyones, flags.contiguous(), group=group)
    parts = dict(zip(names, everyone.split(widths, dim=1), strict=True))
    return Gathered(
        embeddings=parts,
        present={name: everyones[:, 2 * i].bool() for i, name in enumerate(names)},
        keys={name: everyones[:, 2 * i + 1] for i, name in enumerate(names)},
        offset=dist.get_rank(group) * len(local),
        world_size=world_size,
    )


def pair_rows(everyone: Gathered, pairs: Sequence[Pair], b: int) -> Iterator[PairRows]:
    """The rows of each pair that at least one rank has: the same pairs on every rank.

    Negatives are rows with *both* modalities, so that both directions see the same rows. Rows i ≠ j
    whose keys agree in either modality are not negatives of each other.
    """
    for pair in pairs:
        first, second = pair
        both = everyone.present[first] & everyone.present[second]  # (B,)
        candidates = both.nonzero().flatten()  # (N,)
        if len(candidates) == 0:
            continue
        mine = (candidates >= everyone.offset) & (candidates < everyone.offset + b)
        targets = mine.nonzero().flatten()  # (n,)
        same = torch.zeros(len(targets), len(candidates), dtype=torch.bool, device=candidates.device)
        for name in pair:
            key = everyone.keys[name][candidates]  # (N,)
            same |= key[targets, None] == key[None, :]
        same[torch.arange(len(targets), device=targets.device), targets] = False
        yield PairRows(pair, candidates[targets] - everyone.offset, candidates, targets, same)


def at_least_float32(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Half precision is for encoders: similarities near 1 need the digits."""
    return {name: t if t.dtype == torch.float64 else t.float() for name, t in tensors.items()}


def connected_zero(tensors: Mapping[str, Tensor], scales: Mapping[Pair, Tensor]) -> Tensor:
    """A zero that depends on everything, so that a skipped pair leaves no parameter without a gradient."""
    terms = [t.sum() for t in tensors.values()] + [t.sum() for t in scales.values()]
    return 0.0 * torch.stack(terms).sum()
