"""Contrastive loss with a margin on the positive's cosine (CosFace, as in CLaSP), exact at any number of workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from crystalign.objectives.clip import cross_entropy
from crystalign.objectives.objective import Loss, Pair
from crystalign.objectives.pairs import Pairwise

if TYPE_CHECKING:
    import torch.distributed as dist
    from torch import Tensor, nn


class CosFace(Pairwise):
    """Softmax cross-entropy with a margin on the positive and a fixed scale: see `cosface_loss`."""

    kind: Literal["cosface"] = "cosface"
    """Name of this objective."""
    scale: float = Field(default=3.0, gt=0, allow_inf_nan=False)
    """Factor s of the cosines."""
    margin: float = Field(default=0.5, ge=0, lt=2)
    """Margin m that is subtracted from the cosine of the positive."""

    def loss(
        self,
        parameters: Mapping[str, nn.Module],  # noqa: ARG002 (it has none)
        embeddings: Mapping[str, Tensor],
        present: Mapping[str, Tensor],
        keys: Mapping[str, Tensor],
    ) -> Loss:
        """`cosface_loss` of the aligned pairs."""
        modalities = tuple(embeddings)
        pairs, weights = self.aligned(modalities), self.weights(modalities)
        return cosface_loss(embeddings, present, keys, pairs, scale=self.scale, margin=self.margin, weights=weights)


def cosface_loss(
    embeddings: Mapping[str, Tensor],
    present: Mapping[str, Tensor],
    keys: Mapping[str, Tensor],
    pairs: Sequence[Pair],
    *,
    scale: float = 3.0,
    margin: float = 0.5,
    weights: Mapping[Pair, float] | None = None,
    group: dist.ProcessGroup | None = None,
) -> Loss:
    r"""Mean over pairs of the symmetric large-margin cosine loss of their rows.

    The loss of `contrastive_loss` with the logits

        s·(z_a,i·z_b,j − m·δ_ij)

    so that the positive must win by the margin m. Nothing in it is trained: s and m are those of
    CLaSP by default (Suzuki et al., Mach. Learn.: Sci. Technol. 6, 035006 (2025)); CosFace is Wang et
    al., CVPR 2018, arXiv:1801.09414. Rows, equivalences, pairs and ranks are those of `contrastive_loss`.

    Args:
        embeddings: modality → (b, D), unit vectors; zero where absent.
        present: modality → (b,) bool.
        keys: modality → (b,) or (b, K) int64; rows equal in any column are indistinct.
        pairs: the aligned pairs; one that no rank has is skipped by all ranks.
        scale: s.
        margin: m.
        weights: pair → its weight in the mean; 1 where not given.
        group: process group; by default all processes.

    Returns:
        This rank's share, whose mean over ranks is the global loss.
    """
    from crystalign.objectives.gather import gather
    from crystalign.objectives.pairwise import pairwise_loss

    everyone = gather(embeddings, present, keys, group)
    row_loss = partial(_margin_cross_entropy, scale=scale, margin=margin)
    return pairwise_loss(everyone, pairs, row_loss, dict.fromkeys(pairs, ()), weights=weights)


def _margin_cross_entropy(
    anchors: Tensor, candidates: Tensor, targets: Tensor, indistinct: Tensor, *, scale: float, margin: float
) -> Tensor:
    """Loss of c anchors against N candidates → scalar."""
    logits = (scale * anchors) @ candidates.T  # (c, N)
    own = logits.new_full((len(targets), 1), -scale * margin)  # (c, 1)
    return cross_entropy(logits.scatter_add_(1, targets[:, None], own), targets, indistinct)
