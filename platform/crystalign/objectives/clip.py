"""Symmetric contrastive loss over pairs of modalities (CLIP), exact at any number of workers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from crystalign.objectives.objective import Loss, Names, Pair
from crystalign.objectives.pairs import Pairwise
from crystalign.objectives.temperature import Tempered

if TYPE_CHECKING:
    import torch.distributed as dist
    from torch import Tensor, nn


class Clip(Pairwise, Tempered):
    """Symmetric softmax cross-entropy, with a temperature for each pair: see `contrastive_loss`."""

    kind: Literal["clip"] = "clip"
    """Name of this objective."""

    def scaled(self, modalities: Names) -> tuple[Names, ...]:
        """Return all pairs; each has its own logit scale."""
        return self.aligned(modalities)

    def loss(
        self,
        parameters: Mapping[str, nn.Module],
        embeddings: Mapping[str, Tensor],
        present: Mapping[str, Tensor],
        keys: Mapping[str, Tensor],
    ) -> Loss:
        """`contrastive_loss` of the aligned pairs."""
        modalities, scales = tuple(embeddings), self.logit_scales(parameters)
        pairs, weights = self.aligned(modalities), self.weights(modalities)
        return contrastive_loss(embeddings, present, keys, scales, pairs, weights=weights)


def contrastive_loss(
    embeddings: Mapping[str, Tensor],
    present: Mapping[str, Tensor],
    keys: Mapping[str, Tensor],
    logit_scales: Mapping[Names, Tensor],
    pairs: Sequence[Pair],
    *,
    weights: Mapping[Pair, float] | None = None,
    group: dist.ProcessGroup | None = None,
) -> Loss:
    r"""Mean over pairs of the symmetric InfoNCE loss of their rows.

    For the pair (a, b) with the global rows V that have both, unit vectors z and scale s = 1/τ:

        L_ab = 1/(2|V|) Σ_{i∈V} [ CE(s·z_a,i·z_b,j → i) + CE(s·z_b,i·z_a,j → i) ],   j ∈ V \ E_i

    E_i are the rows j ≠ i that a or b cannot tell from i (equal keys), or that a text of the anchor or the candidate is
    true of (`likeness.indistinct`): they are no negatives.
    `pairwise_loss` says how rows, pairs and ranks are averaged. With every pair of the crystal this
    is AnchoredCLIP, with all pairs AllPairsCLIP (Moro et al., Newton 1, 100016 (2025)); CLIP is
    Radford et al., ICML 2021, arXiv:2103.00020. A fixed temperature is a scale without gradient.

    Args:
        embeddings: modality → (b, D), unit vectors; zero where absent. b is the same on every rank.
        present: modality → (b,) bool.
        keys: modality → (b,) or (b, K) int64; rows equal in any column are indistinct.
        logit_scales: pair → scalar s.
        pairs: the aligned pairs; one that no rank has is skipped by all ranks.
        weights: pair → its weight in the mean; 1 where not given.
        group: process group; by default all processes, or none where torch.distributed is not used.

    Returns:
        This rank's share, whose mean over ranks is the global loss.
    """
    from crystalign.objectives.gather import gather
    from crystalign.objectives.pairwise import pairwise_loss

    everyone = gather(embeddings, present, keys, group)
    scales = {pair: (logit_scales[pair],) for pair in pairs}
    return pairwise_loss(everyone, pairs, scaled_cross_entropy, scales, weights=weights)


def scaled_cross_entropy(
    anchors: Tensor, candidates: Tensor, targets: Tensor, indistinct: Tensor, scale: Tensor
) -> Tensor:
    """Loss of c anchors against N candidates → scalar."""
    return cross_entropy((scale * anchors) @ candidates.T, targets, indistinct)


def cross_entropy(logits: Tensor, targets: Tensor, indistinct: Tensor) -> Tensor:
    """Σ over anchors of −log softmax(logits) at their targets, (c, N) → scalar; the logits are overwritten."""
    logits = logits.masked_fill_(indistinct, -math.inf)  # (c, N)
    positive = logits.gather(1, targets[:, None]).flatten()  # (c,)
    return (logits.logsumexp(dim=1) - positive).sum()
