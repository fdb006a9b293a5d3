"""A contrastive loss of another package: the soft triplet loss. Nothing of Crystalign names it.

The package's `pyproject.toml` offers it under a name:

    [project.entry-points."crystalign.objectives"]
    soft-triplet = "soft_triplet:SoftTriplet"

and a configuration asks for it: `objective: {kind: soft-triplet, margin: 0.1}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from crystalign.objectives import Loss, Names
from crystalign.objectives.pairs import Pairwise
from crystalign.objectives.temperature import Tempered

if TYPE_CHECKING:
    from torch import Tensor, nn


class SoftTriplet(Pairwise, Tempered):
    r"""Soft-margin triplet loss (Hermans et al., arXiv:1703.07737) over all negatives of the global batch.

    For the pair (a, b) with the rows V that have both, unit vectors z and scale s = 1/τ:

        L_ab = 1/(2|V|) Σ_{i∈V} Σ_{j∈V\E_i} log(1 + exp s·(z_a,i·z_b,j − z_a,i·z_b,i + m)) + the same from b to a

    `Pairwise` brings `pairs` and `pair_weights`, `Tempered` the temperature of each pair; `pairwise_loss` makes it
    exact at any number of workers.
    """

    kind: Literal["soft-triplet"] = "soft-triplet"
    """Name of this objective."""
    margin: float = Field(default=0.0, ge=0, lt=2)
    """By how much the positive's cosine m is to exceed a negative's."""

    def scaled(self, modalities: Names) -> tuple[Names, ...]:
        """Each pair has a temperature."""
        return self.aligned(modalities)

    def loss(
        self,
        parameters: Mapping[str, nn.Module],
        embeddings: Mapping[str, Tensor],
        present: Mapping[str, Tensor],
        keys: Mapping[str, Tensor],
    ) -> Loss:
        """This rank's share of the loss above."""
        from crystalign.objectives.gather import gather
        from crystalign.objectives.pairwise import pairwise_loss

        modalities = tuple(embeddings)
        scales = {pair: (scale,) for pair, scale in self.logit_scales(parameters).items()}
        everyone = gather(embeddings, present, keys)
        row_loss = partial(_row_loss, margin=self.margin)
        return pairwise_loss(everyone, self.aligned(modalities), row_loss, scales, weights=self.weights(modalities))


def _row_loss(
    anchors: Tensor, candidates: Tensor, targets: Tensor, indistinct: Tensor, scale: Tensor, *, margin: float
) -> Tensor:
    """Of c anchors against N candidates → scalar."""
    import torch.nn.functional as F  # noqa: N812

    cosines = anchors @ candidates.T  # (c, N)
    excess = cosines - cosines.gather(1, targets[:, None]) + margin  # (c, N)
    excluded = indistinct.scatter(1, targets[:, None], value=True)  # (c, N)
    return F.softplus(scale * excess).masked_fill(excluded, 0.0).sum()
