"""Pairwise sigmoid loss (SigLIP), exact at any number of workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from crystalign.model_config import Pair
from crystalign.objectives.gather import Loss, at_least_float32, connected_zero, gather, pair_rows


def sigmoid_loss(
    embeddings: Mapping[str, Tensor],
    present: Mapping[str, Tensor],
    keys: Mapping[str, Tensor],
    logit_scales: Mapping[Pair, Tensor],
    biases: Mapping[Pair, Tensor],
    pairs: Sequence[Pair],
    *,
    group: dist.ProcessGroup | None = None,
) -> Loss:
    r"""Mean over pairs of the sigmoid loss of their rows (Zhai et al., ICCV 2023, arXiv:2303.15343).

        L_ab = 1/|V| Σ_{i∈V} Σ_{j∈V\E_i} −log σ( y_ij (s·z_a,i·z_b,j + β) ),   y_ii = 1, y_ij = −1

    V, E_i, masks, keys and the exactness across workers are those of `contrastive_loss`.

    Args:
        embeddings: modality → (b, D), unit vectors; zero where absent.
        present: modality → (b,) bool.
        keys: modality → (b,) int64.
        logit_scales: pair → scalar s.
        biases: pair → scalar β.
        pairs: the aligned pairs; one that no rank has is skipped by all ranks.
        group: process group; by default all processes.

    Returns:
        This rank's share, whose mean over ranks is the global loss.
    """
    b = len(next(iter(embeddings.values())))
    device = next(iter(embeddings.values())).device.type
    with torch.autocast(device, enabled=False):
        local = at_least_float32(embeddings)
        everyone = gather(local, present, keys, group)
        shares: dict[Pair, Tensor] = {}
        counts: dict[Pair, int] = {}
        for rows in pair_rows(everyone, pairs, b):
            first, second = rows.pair
            anchors = local[first][rows.anchors]  # (n, D)
            candidates = everyone.embeddings[second][rows.candidates]  # (N, D)
            logits = logit_scales[rows.pair] * anchors @ candidates.T + biases[rows.pair]  # (n, N)
            sign = torch.full_like(logits, -1.0).scatter(1, rows.targets[:, None], 1.0)
            terms = F.logsigmoid(sign * logits).masked_fill(rows.indistinct, 0.0)
            shares[rows.pair] = -terms.sum() * everyone.world_size / len(rows.candidates)
            counts[rows.pair] = len(rows.candidates)
        loss = connected_zero(local, logit_scales) + connected_zero({}, biases)
        if shares:
            loss = loss + torch.stack(list(shares.values())).sum() / len(shares)
    return Loss(loss, {pair: share.detach() for pair, share in shares.items()}, counts)
