"""Shared loss of the pairwise objectives: anchors against candidates, in chunks, averaged over rows and pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from crystalign.objectives import chunks
from crystalign.objectives.chunks import Inputs, summed
from crystalign.objectives.gather import Gathered, Rows, likeness_of, rows_with_all
from crystalign.objectives.likeness import Likeness, indistinct
from crystalign.objectives.objective import Loss, Pair

RowLoss = Callable[..., Tensor]
"""(anchors (c, D), candidates (N, D), targets (c,), indistinct (c, N), *parameters) → the sum of the anchors' loss:
`targets` are the indices of the positives; `indistinct` marks candidates that are neither positive nor negative."""


def pairwise_loss(
    everyone: Gathered,
    pairs: Sequence[Pair],
    row_loss: RowLoss,
    parameters: Mapping[Pair, tuple[Tensor, ...]],
    *,
    both_ways: bool = True,
    weights: Mapping[Pair, float] | None = None,
) -> Loss:
    r"""Weighted mean over pairs of the mean loss of their rows.

        L = Σ_p w_p L_p / Σ_p w_p,    L_ab = 1/|V| Σ_{i∈V} ℓ(i),    p: the pairs that some row of the batch has

    V are the global rows that have both modalities. They are both anchors and candidates, so both directions use the
    same rows. This rank sums over its anchors and divides by the *global* |V|; the factor W cancels the mean that DDP
    takes, so loss and every gradient, those of the parameters included, equal a single process's. The largest tensors
    are the gathered embeddings and their gradient, O(B·D), and a chunk's logits: `chunks.CHUNK`, or `chunks.LEAST`
    rows of |V|.

    Args:
        everyone: the gathered global batch.
        pairs: the aligned pairs; one that no rank has is skipped by all ranks.
        row_loss: loss of a chunk of anchors.
        parameters: pair → further arguments of `row_loss`, e.g. the logit scale.
        both_ways: whether b is also used as anchor for a; each direction then counts one half.
        weights: pair → w > 0; 1 where not given.
    """
    first = next(iter(everyone.embeddings.values()))
    rows_of_pair = {pair: rows for pair in pairs if len((rows := rows_with_all(everyone, pair)).candidates)}
    weight = {pair: (weights or {}).get(pair, 1.0) for pair in rows_of_pair}
    share = {pair: weight[pair] / sum(weight.values()) for pair in rows_of_pair}
    inputs: Inputs = {**everyone.embeddings, **{(p, i): t for p in pairs for i, t in enumerate(parameters[p])}}
    with torch.autocast(first.device.type, enabled=False):
        terms = [
            partial(_pair_loss, everyone, pair, rows, row_loss, len(parameters[pair]), both_ways, share[pair])
            for pair, rows in rows_of_pair.items()
        ]
        total, values = summed(terms, inputs)
    return Loss(
        total,
        {pair: value / share[pair] for pair, value in zip(rows_of_pair, values, strict=True)},
        {pair: len(rows.candidates) for pair, rows in rows_of_pair.items()},
    )


def _pair_loss(
    everyone: Gathered,
    pair: Pair,
    rows: Rows,
    row_loss: RowLoss,
    parameters: int,
    both_ways: bool,
    share: float,
    inputs: Inputs,
) -> Tensor:
    """This rank's share of one pair's loss, times its share of the whole."""
    n = len(rows.candidates)
    local: dict[object, Tensor] = {name: inputs[name].index_select(0, rows.candidates) for name in pair}  # (N, D)
    local |= {(name, "anchors"): local[name][rows.start : rows.stop] for name in pair}  # (n, D)
    local |= {i: inputs[pair, i] for i in range(parameters)}
    likeness = likeness_of(everyone, pair, rows)
    ways = (pair, pair[::-1]) if both_ways else (pair,)
    terms = [
        partial(_chunk_loss, way, likeness, rows.start, start, stop, row_loss, parameters)
        for way in ways
        for start, stop in chunks.chunks(rows.start, rows.stop, n, chunks.LEAST)
    ]
    total, _ = summed(terms, local)
    return total * (share * everyone.world_size / (len(ways) * n))


def _chunk_loss(
    way: Pair,
    likeness: Mapping[str, Likeness],
    first: int,
    start: int,
    stop: int,
    row_loss: RowLoss,
    parameters: int,
    inputs: Inputs,
) -> Tensor:
    """Loss of the anchors [start, stop) in one direction; `first` is the first anchor of this rank."""
    query, key = way
    anchors, candidates = inputs[query, "anchors"][start - first : stop - first], inputs[key]  # (c, D), (N, D)
    targets = torch.arange(start, stop, device=anchors.device)  # (c,)
    same = indistinct(likeness[query], likeness[key], start, stop)  # (c, N)
    return row_loss(anchors, candidates, targets, same, *(inputs[i] for i in range(parameters)))
