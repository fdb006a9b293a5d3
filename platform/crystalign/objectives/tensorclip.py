"""Contrastive loss over triples of modalities (TensorCLIP), exact at any number of workers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from crystalign.errors import ConfigError
from crystalign.objectives.objective import Loss, Names
from crystalign.objectives.pairs import AllAtOnce
from crystalign.objectives.temperature import Tempered

if TYPE_CHECKING:
    import torch.distributed as dist
    from torch import Tensor, nn

    from crystalign.objectives.likeness import Likeness

SCALE = "logit scale"


class TensorClip(AllAtOnce, Tempered):
    """Loss over triples of three modalities with one temperature, ignoring rows that lack one: `tensor_loss`."""

    kind: Literal["tensorclip"] = "tensorclip"
    """Name of this objective."""

    def check(self, modalities: Names) -> None:
        """Refuse a model that does not have exactly three modalities.

        Raises:
            ValueError: the model has another number of modalities.
        """
        self.check_number(modalities, 3, 3)

    def scaled(self, modalities: Names) -> tuple[Names, ...]:
        """Return all three modalities as one group."""
        return (modalities,)

    def loss(
        self,
        parameters: Mapping[str, nn.Module],
        embeddings: Mapping[str, Tensor],
        present: Mapping[str, Tensor],
        keys: Mapping[str, Tensor],
    ) -> Loss:
        """`tensor_loss` of all modalities."""
        return tensor_loss(embeddings, present, keys, *self.logit_scales(parameters).values())


def tensor_loss(
    embeddings: Mapping[str, Tensor],
    present: Mapping[str, Tensor],
    keys: Mapping[str, Tensor],
    logit_scale: Tensor,
    *,
    group: dist.ProcessGroup | None = None,
) -> Loss:
    r"""Contrast triples of rows, one of each modality, by the product of their three vectors.

    With t_ijk = s Σ_d a_id b_jd c_kd over the rows V that have *all three* modalities:

        L = 1/(3|V|) Σ_axes Σ_{i∈V} [ log Σ_{(j,k)∈N_i} exp t_ijk − Σ_jk M_ijk t_ijk / Σ_jk M_ijk ]

    M is 1 where i = j = k, ½ where exactly two agree and 0 elsewhere. The negatives N_i are the triples of three
    different rows of which no two are indistinct. Rows i and j, for example, must have different keys in both the
    first and the second modality. An anchor without negatives adds nothing; a row that lacks a modality is neither
    anchor nor candidate.

    This is the first non-pairwise loss of MultiMat's supplement (Moro et al., Newton 1, 100016
    (2025)), whose code sums over axes and positives: 3(1 + 3(|V| − 1)/2) times this mean.

    Time grows as |V|³ D; memory as `chunks.CHUNK`, or the |V|² logits of one anchor.

    Args:
        embeddings: modality → (b, D), unit vectors of exactly three modalities; zero where absent.
        present: modality → (b,) bool.
        keys: modality → (b,) or (b, K) int64; rows equal in any column are indistinct.
        logit_scale: scalar s = 1/τ.
        group: process group; by default all processes.

    Returns:
        This rank's share, whose mean over ranks is the global loss; zero where no row has all three.

    Raises:
        ConfigError: the number of modalities is not three.
    """
    import torch

    from crystalign.objectives import chunks
    from crystalign.objectives.gather import gather, likeness_of, rows_with_all

    names = tuple(embeddings)
    if len(names) != 3:
        raise ConfigError(f"TensorCLIP aligns three modalities, not {len(names)}: {', '.join(names)}")
    everyone = gather(embeddings, present, keys, group)
    rows = rows_with_all(everyone, names)
    n = len(rows.candidates)
    chosen = {name: everyone.embeddings[name].index_select(0, rows.candidates) for name in names}  # (N, D)
    likeness = likeness_of(everyone, names, rows)
    first, second, third = names
    with torch.autocast(logit_scale.device.type, enabled=False):
        terms = [
            partial(_chunk_loss, axis, likeness, start, stop)
            for axis in (names, (second, first, third), (third, first, second))
            for start, stop in chunks.chunks(rows.start, rows.stop, n * max(n, chosen[first].shape[1]))
        ]
        total, _ = chunks.summed(terms, {**chosen, SCALE: logit_scale})
        total = total * (everyone.world_size / (3 * max(1, n)))
    return Loss(total, {names: total.detach()} if n else {}, {names: n} if n else {})


def _chunk_loss(
    axis: tuple[str, str, str], likeness: Mapping[str, Likeness], start: int, stop: int, inputs: Mapping[Any, Tensor]
) -> Tensor:
    """Loss of the anchors [start, stop) of the axis' first modality against all pairs of the other two."""
    anchor, second, third = axis
    a, b, c = inputs[anchor][start:stop], inputs[second], inputs[third]  # (m, D), (N, D), (N, D)
    logits = inputs[SCALE] * ((a[:, None, :] * b) @ c.T)  # (m, N, N)
    excluded = (
        _alike(likeness[anchor], likeness[second], start, stop)[:, :, None]
        | _alike(likeness[anchor], likeness[third], start, stop)[:, None, :]
        | _alike(likeness[second], likeness[third], 0, len(b))
    )  # (m, N, N)
    has_negatives = ~excluded.flatten(1).all(dim=1)  # (m,)
    excluded &= has_negatives[:, None, None]  # keep masked values finite
    negative = logits.masked_fill(excluded, -math.inf).flatten(1).logsumexp(dim=1)  # (m,)
    positive = inputs[SCALE] * (a * _partners(b, c, start, stop)).sum(dim=1)  # (m,)
    return (negative - positive)[has_negatives].sum()


def _alike(first: Likeness, second: Likeness, start: int, stop: int) -> Tensor:
    """(stop − start, N) bool; the same row, or one that cannot be told from it in either modality."""
    import torch

    from crystalign.objectives.likeness import indistinct

    own = torch.arange(start, stop, device=first.keys.device)
    return indistinct(first, second, start, stop).index_put((own - start, own), torch.tensor(data=True))


def _partners(b: Tensor, c: Tensor, start: int, stop: int) -> Tensor:
    """(m, D): Σ_jk M_ijk b_j ∘ c_k / Σ_jk M_ijk of each anchor i, without the N² pairs."""
    own_b, own_c = b[start:stop], c[start:stop]
    both = own_b * own_c
    half = own_b * (c.sum(dim=0) - own_c) + (b.sum(dim=0) - own_b) * own_c + (b * c).sum(dim=0) - both
    return (both + 0.5 * half) / (1.0 + 1.5 * (len(b) - 1))
