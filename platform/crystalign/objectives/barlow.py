"""Barlow Twins over two, three or four modalities at once, exact at any number of workers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial, reduce
from itertools import chain
from operator import mul
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from crystalign.errors import ConfigError
from crystalign.objectives.objective import Loss, Names
from crystalign.objectives.pairs import AllAtOnce

if TYPE_CHECKING:
    import torch.distributed as dist
    from torch import Tensor, nn

EPSILON = 1e-5
Block = tuple[int, ...]
Partition = tuple[Block, ...]

TARGETS: dict[tuple[int, ...], float] = {
    (2,): 1.0,
    (3,): 1.0,
    (2, 1): 1 / 2,
    (4,): 1.0,
    (3, 1): 1 / 2,
    (2, 2): 1 / 3,
    (2, 1, 1): 1 / 6,
}
"""How many of the indices of a moment agree → its target; 0 where none do."""


class BarlowTwins(AllAtOnce):
    """Cross-moments of two to four modalities; rows that lack one are ignored. See `barlow_twins_loss`."""

    kind: Literal["barlow"] = "barlow"
    """Name of this objective."""
    off_diagonal: float = Field(default=0.0051, ge=0, allow_inf_nan=False)
    """Weight λ of the moments whose indices all differ."""

    def check(self, modalities: Names) -> None:
        """Refuse fewer than two or more than four modalities.

        Raises:
            ValueError: how many there are.
        """
        self.check_number(modalities, 2, 4)

    def loss(
        self,
        parameters: Mapping[str, nn.Module],  # noqa: ARG002 (it has none)
        embeddings: Mapping[str, Tensor],
        present: Mapping[str, Tensor],
        keys: Mapping[str, Tensor],
    ) -> Loss:
        """`barlow_twins_loss` of all modalities."""
        return barlow_twins_loss(embeddings, present, keys, off_diagonal_weight=self.off_diagonal)


def barlow_twins_loss(
    embeddings: Mapping[str, Tensor],
    present: Mapping[str, Tensor],
    keys: Mapping[str, Tensor],
    *,
    off_diagonal_weight: float = 0.0051,
    group: dist.ProcessGroup | None = None,
) -> Loss:
    r"""Drives the cross-moments of n modalities towards those of n copies of independent components.

    Over the rows V that have *all n* modalities, each component standardised over V (the whole
    batch's mean and variance) to x_m, the moments of three modalities are the D³ numbers

        C_jkl = 1/|V| Σ_{i∈V} x_1,ij x_2,ik x_3,il L = Σ_{j=k=l} (C − 1)² + Σ_{two agree} (C − ½)² + λ Σ_{none agree}
        C²

    and likewise for two (Barlow Twins, Zbontar et al., ICML 2021, arXiv:2103.03230) and four, with
    targets 1, ½, ⅓, ⅙ where all, three, two and two, or two indices agree: the supplement of MultiMat
    (Moro et al., Newton 1, 100016 (2025)).

    The D^n moments are never formed. Σ C² over all indices is 1/|V|² Σ_ii' Π_m (x_m,i·x_m,i'), and where indices
    agree the same holds of elementwise products; which agree is a partition of the modalities, and sums over
    *distinct* indices follow by Möbius inversion on partitions. Time grows as |V|² D instead of |V| D^n.

    There are no negatives, so `keys` has no effect. A row that lacks a modality enters no statistic.

    Args:
        embeddings: modality → (b, D), of two to four modalities; zero where absent.
        present: modality → (b,) bool.
        keys: modality → (b,) or (b, K) int64; rows equal in any column are indistinct.
        off_diagonal_weight: λ.
        group: process group, by default all.

    Returns:
        This rank's share, whose mean over ranks is the global loss; zero where no row has all.

    Raises:
        ConfigError: not two to four modalities.
    """
    import torch

    from crystalign.objectives import chunks
    from crystalign.objectives.gather import gather, rows_with_all

    names = tuple(embeddings)
    if not 2 <= len(names) <= 4:
        raise ConfigError(f"Barlow Twins aligns two to four modalities, not {len(names)}: {', '.join(names)}")
    everyone = gather(embeddings, present, keys, group)
    rows = rows_with_all(everyone, names)
    n = len(rows.candidates)
    with torch.autocast(embeddings[names[0]].device.type, enabled=False):
        products = _products([everyone.embeddings[name].index_select(0, rows.candidates) for name in names])
        terms = [
            partial(_chunk_loss, len(names), off_diagonal_weight, start, stop)
            for start, stop in chunks.chunks(rows.start, rows.stop, n * 2 ** len(names), chunks.LEAST)
        ]
        total = chunks.summed(terms, {**products})[0]
        if n:
            total = total * everyone.world_size + _constant(len(names), products[0,].shape[1], off_diagonal_weight)
    return Loss(total, {names: total.detach()} if n else {}, {names: n} if n else {})


def _products(chosen: Sequence[Tensor]) -> dict[Block, Tensor]:
    """Set of modalities → (N, D), the product of their standardised components."""
    standard = [_standardised(z) for z in chosen]
    return {block: reduce(mul, [standard[m] for m in block]) for block in _blocks(len(standard))}


def _standardised(z: Tensor) -> Tensor:
    """(N, D): zero mean and unit variance of each component over the rows.

    A component of a unit vector is about 1/√D; the factor √D makes `EPSILON` small beside its variance.
    """
    if not len(z):
        return z
    scaled = z * math.sqrt(z.shape[1])
    return (scaled - scaled.mean(dim=0)) / (scaled.var(dim=0, correction=0) + EPSILON).sqrt()


def _chunk_loss(n: int, weight: float, start: int, stop: int, inputs: Mapping[Any, Tensor]) -> Tensor:
    """Σ over rows [start, stop) of their part in the sums of C² and of C."""
    count = len(next(iter(inputs.values())))
    own = {block: inputs[block][start:stop] for block in _blocks(n)}  # (c, D)
    grams = {block: own[block] @ inputs[block].T for block in _blocks(n)}  # (c, N)
    sums = {block: own[block].sum(dim=1) for block in _blocks(n)}  # (c,)
    total = next(iter(sums.values())).new_zeros(())
    for partition, (of_squares, of_moments) in _coefficients(n, weight).items():
        squares = reduce(mul, [grams[block] for block in partition])
        moments = reduce(mul, [sums[block] for block in partition])
        total = total + squares.sum() * (of_squares / count**2) + moments.sum() * (of_moments / count)
    return total


@cache
def _coefficients(n: int, weight: float) -> dict[Partition, tuple[float, float]]:
    """Partition σ → the factors of Σ C² and Σ C over the indices that agree *at least* where σ says.

    Σ over exactly π is Σ_{σ ≥ π} μ(π, σ) Σ over at least σ.
    """
    coefficients = dict.fromkeys(_partitions(n), (0.0, 0.0))
    for fine in _partitions(n):
        target, factor = _target(fine), _weight(fine, weight)
        for coarse, (of_squares, of_moments) in coefficients.items():
            sign = factor * _moebius(fine, coarse)
            coefficients[coarse] = (of_squares + sign, of_moments - 2 * target * sign)
    return coefficients


def _constant(n: int, width: int, weight: float) -> float:
    """Σ of the squared targets: for each partition, the ways to choose distinct indices for its blocks."""
    return sum(_weight(p, weight) * _target(p) ** 2 * math.perm(width, len(p)) for p in _partitions(n))


def _target(partition: Partition) -> float:
    return TARGETS.get(tuple(sorted(map(len, partition), reverse=True)), 0.0)


def _weight(partition: Partition, weight: float) -> float:
    return weight if all(len(block) == 1 for block in partition) else 1.0


def _moebius(fine: Partition, coarse: Partition) -> int:
    """μ(fine, coarse) of the lattice of partitions; 0 where `fine` does not refine `coarse`."""
    value = 1
    for block in coarse:
        parts = [part for part in fine if set(part) <= set(block)]
        if sum(map(len, parts)) < len(block):
            return 0
        value *= (-1) ** (len(parts) - 1) * math.factorial(len(parts) - 1)
    return value


@cache
def _partitions(n: int) -> tuple[Partition, ...]:
    """Every way to part 0, …, n − 1 into blocks; the finest first."""

    def grow(first: int) -> Iterator[Partition]:
        if first == n:
            yield ()
            return
        for rest in grow(first + 1):
            yield ((first,), *rest)
            for i, block in enumerate(rest):
                yield (*rest[:i], (first, *block), *rest[i + 1 :])

    return tuple(sorted(grow(0), key=len, reverse=True))


@cache
def _blocks(n: int) -> tuple[Block, ...]:
    """Every set of modalities whose indices may agree."""
    return tuple(dict.fromkeys(chain.from_iterable(_partitions(n))))
