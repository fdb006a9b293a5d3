"""Symmetric contrastive loss over pairs of modalities (CLIP), exact at any number of workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from crystalign.model_config import Pair
from crystalign.objectives.gather import Loss, PairRows, at_least_float32, connected_zero, gather, pair_rows


def contrastive_loss(
    embeddings: Mapping[str, Tensor],
    present: Mapping[str, Tensor],
    keys: Mapping[str, Tensor],
    logit_scales: Mapping[Pair, Tensor],
    pairs: Sequence[Pair],
    *,
    group: dist.ProcessGroup | None = None,
) -> Loss:
    r"""Mean over pairs of the symmetric InfoNCE loss of their rows.

    For the pair (a, b) with the global rows V that have both, unit vectors z and scale s = 1/τ:

        L_ab = 1/(2|V|) Σ_{i∈V} [ CE(s·z_a,i·z_b,j → i) + CE(s·z_b,i·z_a,j → i) ],   j ∈ V \ E_i

    E_i are the rows j ≠ i that a or b cannot tell from i (equal keys): they are no negatives. Rows
    sum over the anchors of this rank and are divided by the *global* |V|; the factor W cancels the
    mean that DDP takes, so loss and every gradient, those of s included, equal a single process's.
    With pairs = all with the crystal this is AnchoredCLIP (Moro et al., Newton 1, 100016 (2025));
    CLIP is Radford et al., ICML 2021, arXiv:2103.00020.

    Args:
        embeddings: modality → (b, D), unit vectors; zero where absent. b is the same on every rank.
        present: modality → (b,) bool.
        keys: modality → (b,) int64.
        logit_scales: pair → scalar s.
        pairs: the aligned pairs; one that no rank has is skipped by all ranks.
        group: process group; by default all processes, or none where torch.distributed is not used.

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
            total = _pair_sum(rows, local, everyone.embeddings, logit_scales[rows.pair])
            shares[rows.pair] = total * everyone.world_size / len(rows.candidates)
            counts[rows.pair] = len(rows.candidates)
        loss = connected_zero(local, logit_scales)
        if shares:
            loss = loss + torch.stack(list(shares.values())).sum() / len(shares)
    return Loss(loss, {pair: share.detach() for pair, share in shares.items()}, counts)


def _pair_sum(rows: PairRows, local: Mapping[str, Tensor], everyone: Mapping[str, Tensor], scale: Tensor) -> Tensor:
    """Sum over this rank's anchors of both directions' cross-entropy, halved."""
    first, second = rows.pair
    total = scale.new_zeros(())
    for query, key in ((first, second), (second, first)):
        anchors = local[query][rows.anchors]  # (n, D)
        candidates = everyone[key][rows.candidates]  # (N, D)
        logits = scale * anchors @ candidates.T  # (n, N)
        logits = logits.masked_fill(rows.indistinct, -torch.inf)
        positive = logits.gather(1, rows.targets[:, None]).flatten()  # (n,)
        total = total + 0.5 * (logits.logsumexp(dim=1) - positive).sum()
    return total
