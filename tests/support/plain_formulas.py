"""The formulas of the objectives, row by row, in one process: what the exactness suite compares with."""

from __future__ import annotations

import math
from itertools import combinations, product
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812


class Loss(NamedTuple):
    total: torch.Tensor
    pairs: dict


def _zero() -> torch.Tensor:
    return torch.zeros((), dtype=torch.float64)


def _rows(present: dict, names: tuple) -> list[int]:
    return [i for i in range(len(present[names[0]])) if all(present[name][i] for name in names)]


def _alike(keys: dict, pair: tuple, i: int, j: int) -> bool:
    """Row i of the first modality of a pair, and row j of the second."""
    if any(bool((keys[name][i] == keys[name][j]).any()) for name in pair):
        return True
    return _fits(keys, pair[0], i, j) or _fits(keys, pair[1], j, i)


def _fits(keys: dict, name: str, i: int, j: int) -> bool:
    """Whether the text of row i is also true of row j."""
    claims = {int(c) for c in keys.get(f"{name}/claims", torch.zeros(i + 1, 1))[i]} - {0}
    facts = {int(f) for f in keys.get(f"{name}/facts", torch.zeros(j + 1, 1))[j]} - {0}
    return bool(claims) and claims <= facts


def _mean_over_pairs(found: dict, weights: dict | None) -> Loss:
    weight = {pair: (weights or {}).get(pair, 1.0) for pair in found}
    total = sum((weight[pair] * loss for pair, loss in found.items()), _zero())
    return Loss(total / sum(weight.values()), found)


def _softmax_loss(z, present, keys, pairs, weights, logit) -> Loss:
    found = {}
    for pair in pairs:
        rows = _rows(present, pair)
        terms = []
        for query, key in (pair, pair[::-1]):
            for i in rows:
                others = [j for j in rows if j == i or not _alike(keys, (query, key), i, j)]
                logits = torch.stack([logit(pair, z[query][i] @ z[key][j], i == j) for j in others])
                terms.append(-logits.log_softmax(0)[others.index(i)])
        if rows:
            found[pair] = sum(terms) / (2 * len(rows))
    return _mean_over_pairs(found, weights)


def contrastive_loss(z, present, keys, scales, pairs, *, weights=None) -> Loss:
    return _softmax_loss(z, present, keys, pairs, weights, lambda pair, cosine, own: scales[pair] * cosine)


def cosface_loss(z, present, keys, pairs, *, scale=3.0, margin=0.5, weights=None) -> Loss:
    def logit(pair, cosine, own):
        return scale * (cosine - margin if own else cosine)

    return _softmax_loss(z, present, keys, pairs, weights, logit)


def sigmoid_loss(z, present, keys, scales, biases, pairs, *, weights=None) -> Loss:
    found = {}
    for pair in pairs:
        rows = _rows(present, pair)
        total = _zero()
        for i, j in product(rows, rows):
            if i == j or not _alike(keys, pair, i, j):
                logit = scales[pair] * z[pair[0]][i] @ z[pair[1]][j] + biases[pair]
                total = total - F.logsigmoid(logit if i == j else -logit)
        if rows:
            found[pair] = total / len(rows)
    return _mean_over_pairs(found, weights)


def tensor_loss(z, present, keys, scale) -> Loss:
    """From the whole |V|³ tensor of logits, each of its entries looked at."""
    names = tuple(z)
    rows = _rows(present, names)
    logits = scale * torch.einsum("id,jd,kd->ijk", *(z[name][rows] for name in names))
    same = {(p, q): [[_alike(keys, (names[p], names[q]), i, j) for j in rows] for i in rows] for p, q in PLACES}
    total = _zero()
    for axis, i in product(range(3), range(len(rows))):
        negatives, full, half = [], [], []
        for j, k in product(range(len(rows)), repeat=2):
            index = {0: (i, j, k), 1: (j, i, k), 2: (j, k, i)}[axis]
            agree = 3 - len(set(index))
            if agree:
                (full if agree == 2 else half).append(index)
            elif not any(same[p, q][index[p]][index[q]] for p, q in PLACES):
                negatives.append(index)
        if negatives:
            positive = _entries(logits, full).sum() + 0.5 * _entries(logits, half).sum()
            total = total + _entries(logits, negatives).logsumexp(0) - positive / (len(full) + 0.5 * len(half))
    return Loss(total / (3 * len(rows)), {names: total / (3 * len(rows))}) if rows else Loss(total, {})


def _entries(tensor: torch.Tensor, indices: list[tuple]) -> torch.Tensor:
    return tensor[tuple(torch.tensor(indices, dtype=torch.int64).reshape(len(indices), tensor.ndim).T)]


PLACES = tuple(combinations(range(3), 2))


def barlow_twins_loss(z, present, keys, *, off_diagonal_weight=0.0051) -> Loss:
    """From the whole D^n tensor of moments, each of its entries looked at."""
    names = tuple(z)
    rows = _rows(present, names)
    if not rows:
        return Loss(_zero(), {})
    standard = []
    for name in names:
        values = z[name][rows] * math.sqrt(z[name].shape[1])
        mean = sum(values) / len(rows)
        variance = sum((value - mean) ** 2 for value in values) / len(rows)
        standard.append((values - mean) / (variance + 1e-5).sqrt())
    letters = "jklm"[: len(names)]
    moments = torch.einsum(",".join(f"i{x}" for x in letters) + f"->{letters}", *standard) / len(rows)
    target, weight = torch.zeros_like(moments), torch.full_like(moments, off_diagonal_weight)
    targets = {2: {1: 1.0}, 3: {3: 1.0, 1: 0.5}, 4: {6: 1.0, 3: 0.5, 2: 1 / 3, 1: 1 / 6}}[len(names)]
    for index in product(range(moments.shape[0]), repeat=len(names)):
        agreeing = sum(a == b for a, b in combinations(index, 2))
        if agreeing:
            target[index], weight[index] = targets[agreeing], 1.0
    total = (weight * (moments - target) ** 2).sum()
    return Loss(total, {names: total})
