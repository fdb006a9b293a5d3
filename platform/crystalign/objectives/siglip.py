"""Pairwise sigmoid loss (SigLIP), exact at any number of workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from crystalign.model_config import Names, Pair
from crystalign.objectives.gather import Loss, gather
from crystalign.objectives.pairwise import pairwise_loss


def sigmoid_loss(
    embeddings: Mapping[str, Tensor],
    present: Mapping[str, Tensor],
    keys: Mapping[str, Tensor],
    logit_scales: Mapping[Names, Tensor],
    biases: Mapping[Names, Tensor],
    pairs: Sequence[Pair],
    *,
    weights: Mapping[Pair, float] | None = None,
    group: dist.ProcessGroup | None = None,
) -> Loss:
    r"""Mean over pairs of the sigmoid loss of their rows (Zhai et al., ICCV 2023, arXiv:2303.15343).

        L_ab = 1/|V| Σ_{i∈V} Σ_{j∈V\E_i} −log σ( y_ij (s·z_a,i·z_b,j + β) ),   y_ii = 1, y_ij = −1

    V, E_i, masks, keys and the exactness across workers are those of `contrastive_loss`. The sum is
    symmetric in a and b, so one direction is all.

    Args:
        embeddings: modality → (b, D), unit vectors; zero where absent.
        present: modality → (b,) bool.
        keys: modality → (b,) or (b, K) int64; rows equal in any column are indistinct.
        logit_scales: pair → scalar s.
        biases: pair → scalar β.
        pairs: the aligned pairs; one that no rank has is skipped by all ranks.
        weights: pair → its weight in the mean; 1 where not given.
        group: process group; by default all processes.

    Returns:
        This rank's share, whose mean over ranks is the global loss.
    """
    everyone = gather(embeddings, present, keys, group)
    parameters = {pair: (logit_scales[pair], biases[pair]) for pair in pairs}
    return pairwise_loss(everyone, pairs, _sigmoid, parameters, both_ways=False, weights=weights)


def _sigmoid(
    anchors: Tensor, candidates: Tensor, targets: Tensor, indistinct: Tensor, scale: Tensor, bias: Tensor
) -> Tensor:
    """Of c anchors against N candidates → scalar."""
    logits = (scale * anchors) @ candidates.T + bias  # (c, N)
    positive = logits.gather(1, targets[:, None])  # (c, 1)
    excluded = indistinct.scatter(1, targets[:, None], value=True)  # (c, N)
    negatives = F.logsigmoid(-logits).masked_fill(excluded, 0.0)
    return -F.logsigmoid(positive).sum() - negatives.sum()
