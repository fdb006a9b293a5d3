"""Pairwise sigmoid loss (SigLIP), exact at any number of workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, cast

from crystalign.objectives.objective import Loss, Names, Pair, state_key
from crystalign.objectives.pairs import Pairwise
from crystalign.objectives.temperature import Tempered

if TYPE_CHECKING:
    import torch.distributed as dist
    from torch import Tensor, nn

BIASES = "logit_biases"
"""Name of the biases β in a model's weights."""
INITIAL_BIAS = -10.0
"""Initial bias β; it makes matches improbable, since most candidates are negatives."""


class SigLip(Pairwise, Tempered):
    """Sigmoid loss of every anchor and candidate, with a temperature and a bias per pair. See `sigmoid_loss`."""

    kind: Literal["siglip"] = "siglip"
    """Name of this objective."""

    def scaled(self, modalities: Names) -> tuple[Names, ...]:
        """Return all pairs; each has its own logit scale."""
        return self.aligned(modalities)

    def parameters(self, modalities: Names) -> dict[str, nn.Module]:
        """Make the log scales and the biases."""
        import torch
        from torch import nn

        aligned = self.aligned(modalities)
        biases = {state_key(pair): nn.Parameter(torch.tensor(INITIAL_BIAS)) for pair in aligned}
        return super().parameters(modalities) | {BIASES: nn.ParameterDict(biases)}

    def biases(self, parameters: Mapping[str, nn.Module]) -> dict[Names, Tensor]:
        """Pair → scalar β."""
        return {tuple(key.split("__")): bias for key, bias in cast("nn.ParameterDict", parameters[BIASES]).items()}

    def loss(
        self,
        parameters: Mapping[str, nn.Module],
        embeddings: Mapping[str, Tensor],
        present: Mapping[str, Tensor],
        keys: Mapping[str, Tensor],
    ) -> Loss:
        """`sigmoid_loss` of the aligned pairs."""
        modalities, scales, biases = tuple(embeddings), self.logit_scales(parameters), self.biases(parameters)
        pairs, weights = self.aligned(modalities), self.weights(modalities)
        return sigmoid_loss(embeddings, present, keys, scales, biases, pairs, weights=weights)


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

    V, E_i, masks, keys and the exactness across workers are those of `contrastive_loss`. The sum is symmetric in a and
    b, so one direction is enough.

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
    from crystalign.objectives.gather import gather
    from crystalign.objectives.pairwise import pairwise_loss

    everyone = gather(embeddings, present, keys, group)
    parameters = {pair: (logit_scales[pair], biases[pair]) for pair in pairs}
    return pairwise_loss(everyone, pairs, _sigmoid, parameters, both_ways=False, weights=weights)


def _sigmoid(
    anchors: Tensor, candidates: Tensor, targets: Tensor, indistinct: Tensor, scale: Tensor, bias: Tensor
) -> Tensor:
    """Loss of c anchors against N candidates → scalar."""
    import torch.nn.functional as F  # noqa: N812

    logits = (scale * anchors) @ candidates.T + bias  # (c, N)
    positive = logits.gather(1, targets[:, None])  # (c, 1)
    excluded = indistinct.scatter(1, targets[:, None], value=True)  # (c, N)
    negatives = F.logsigmoid(-logits).masked_fill(excluded, 0.0)
    return -F.logsigmoid(positive).sum() - negatives.sum()
