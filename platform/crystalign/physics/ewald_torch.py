"""Lattice sums of many crystals at once in PyTorch, on CPU or GPU and with gradients."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from crystalign.errors import CrystalError
from crystalign.physics.ewald import (
    MIN_DISTANCE,
    REACH,
    SQRT_PI,
    Array,
    check_alpha,
    images,
    reduction,
    splitting,
    wave_vectors,
)

BLOCK = 16_000_000
"""Largest number of elements of an array, unless a single crystal needs more."""


def lattice_sums_batch(lattice: Tensor, frac_coords: Tensor, n_atoms: Tensor, *, alpha: float = 3.0) -> Tensor:
    """The sums of `crystalign.physics.lattice_sums` for n crystals.

    The sums are computed in float64 on the device of `lattice`, for inputs of any dtype, and are differentiable in
    `lattice` and `frac_coords`. The images and wave vectors of each crystal are chosen on the CPU. Crystals of
    similar size are computed together, which limits padding.

    Args:
        lattice: (n, 3, 3), Å, rows are vectors.
        frac_coords: (A, 3), concatenated over the crystals.
        n_atoms: (n,) integers with sum A.
        alpha: 1/Å, α > 0.

    Returns:
        (P, 3) float64, P = Σ N²: for each crystal in order, the pairs (0, 0), (0, 1), … (N − 1, N − 1).

    Raises:
        CrystalError: reason `bad-lattice`, `bad-sites` or `overlapping-atoms`, with the index of the crystal.
        ConfigError: α is not positive.
    """
    check_alpha(alpha)
    sizes = n_atoms.tolist()
    if lattice.shape != (len(sizes), 3, 3) or frac_coords.shape != (sum(sizes), 3) or min(sizes, default=0) < 1:
        raise CrystalError(
            f"lattices {tuple(lattice.shape)} and coordinates {tuple(frac_coords.shape)} for sites {sizes[:8]}; "
            "expected (n, 3, 3) and (A, 3) with A the sum of n counts",
            reason="bad-sites",
        )
    if not bool(torch.isfinite(frac_coords).all()):
        raise CrystalError("a fractional coordinate is not a finite number", reason="bad-sites")
    lattice, frac_coords = lattice.double(), frac_coords.double()
    plans = [_plan(cell, n, at) for at, (cell, n) in enumerate(zip(lattice.detach().cpu().numpy(), sizes, strict=True))]
    starts = [0, *itertools.accumulate(sizes)]
    blocks: list[Tensor] = [lattice.new_empty(0)] * len(sizes)
    for chunk in _chunks(sizes, plans):
        frac = [frac_coords[starts[c] : starts[c + 1]] for c in chunk]
        sums = _sums(lattice[chunk], frac, [plans[c] for c in chunk], chunk, alpha)
        for crystal, block in zip(chunk, sums, strict=True):
            blocks[crystal] = block.reshape(-1, 3)
    return torch.cat(blocks)


class _Plan(NamedTuple):
    """The images and wave vectors over which one crystal is summed."""

    change: Array
    """(3, 3) vectors of the reduced cell in units of the given ones."""
    shifts: Array
    """(T, 3) images, in units of the vectors of the reduced cell."""
    waves: Array
    """(K, 3) half of the wave vectors, in units of its reciprocal vectors."""
    a: float
    """1/Å; the splitting parameter."""


def _plan(cell: Array, n: int, at: int) -> _Plan:
    try:
        change = reduction(cell)
    except CrystalError as error:
        raise CrystalError(f"crystal {at}: {error}", reason=error.reason) from error
    small = change @ cell
    a = splitting(n, abs(float(np.linalg.det(cell))))
    diagonal = 0.5 * float(np.linalg.norm(small, axis=1).sum())  # largest distance of a wrapped pair
    shifts = images(small, REACH / a, diagonal).vectors @ np.linalg.inv(small)
    return _Plan(change, np.rint(shifts), wave_vectors(small, 2.0 * a * REACH)[0], a)


def _chunks(sizes: Sequence[int], plans: Sequence[_Plan]) -> Iterator[list[int]]:
    """Crystals that are computed together: sizes within a factor of two, arrays of at most `BLOCK` elements."""
    chunk: list[int] = []
    sites = shifts = waves = 0
    for at in sorted(range(len(sizes)), key=lambda c: (sizes[c], len(plans[c].shifts))):
        sites, shifts, waves = sizes[at], max(shifts, len(plans[at].shifts)), max(waves, len(plans[at].waves))
        full = (len(chunk) + 1) * sites * (3 * sites * shifts + 6 * waves) > BLOCK
        if chunk and (full or sites > 2 * sizes[chunk[0]]):
            yield chunk
            chunk, shifts, waves = [], len(plans[at].shifts), len(plans[at].waves)
        chunk.append(at)
    yield chunk


def _sums(
    lattice: Tensor, frac: Sequence[Tensor], plans: Sequence[_Plan], names: Sequence[int], alpha: float
) -> Iterator[Tensor]:
    """(N, N, 3) for each crystal of a chunk; all are padded to its largest crystal."""
    sites = torch.nn.utils.rnn.pad_sequence(list(frac), batch_first=True)  # (n, N, 3)
    real = _padded([np.ones(len(f)) for f in frac], lattice) > 0  # (n, N)
    change = lattice.new_tensor(np.stack([p.change for p in plans]))
    cell = change @ lattice  # (n, 3, 3)
    sites = sites @ torch.linalg.inv(change).round()
    a, volume = lattice.new_tensor([p.a for p in plans]), torch.linalg.det(cell)  # (n,)
    pairs = real[:, :, None] & real[:, None]  # (n, N, N)
    sums = _over_wave_vectors(cell, sites, [p.waves for p in plans], a, alpha, volume)  # (n, N, N, 3)
    sums = sums + _over_images(cell, sites, [p.shifts for p in plans], pairs, a, alpha, names)
    own = torch.stack([2.0 * a / SQRT_PI, a**6 / 6.0, -torch.erf(0.5 * alpha / a)], dim=1)  # (n, 3)
    diagonal = torch.eye(sums.shape[1], dtype=sums.dtype, device=sums.device)[..., None]  # (N, N, 1)
    sums = sums - diagonal * own[:, None, None]
    sums = torch.cat([sums[..., :1], sums[..., 1:].clamp(min=0.0)], dim=-1)
    return (block[: len(f), : len(f)] for block, f in zip(sums, frac, strict=True))


def _padded(arrays: Sequence[Array], like: Tensor) -> Tensor:
    """(n, M, …) with zeros where an array is shorter than M."""
    return torch.nn.utils.rnn.pad_sequence([like.new_tensor(array) for array in arrays], batch_first=True)


def _over_images(
    cell: Tensor,
    sites: Tensor,
    shifts: Sequence[Array],
    pairs: Tensor,
    a: Tensor,
    alpha: float,
    names: Sequence[int],
) -> Tensor:
    """(n, N, N, 3) the real-space sums; see `crystalign.physics.ewald.short_ranged`."""
    between = sites[:, :, None] - sites[:, None]
    between = between - between.detach().round()  # (n, N, N, 3)
    listed = _padded([np.ones(len(s)) for s in shifts], cell) > 0  # (n, T)
    vectors = torch.einsum("nijtc,ncd->nijtd", between[..., None, :] + _padded(shifts, cell)[:, None, None], cell)
    squares = vectors.square().sum(dim=-1)  # (n, N, N, T)
    bounds = (REACH / a).square()[:, None, None, None]
    same = torch.eye(pairs.shape[1], dtype=torch.bool, device=cell.device)[None, ..., None]
    near = (squares < bounds) & listed[:, None, None] & pairs[..., None]
    near = near & ~(same & (squares < MIN_DISTANCE**2))
    at = near.nonzero(as_tuple=True)
    r = squares[at].sqrt()  # (M,)
    _refuse_coincident(r.detach(), at, names)
    scale = a[at[0]]
    u, x = 0.5 * alpha / scale, (scale * r).square()
    gauss, erfcx = torch.exp(-x), torch.special.erfcx
    screened = torch.exp(-alpha * r) * torch.erfc(scale * r - u)
    terms = [
        gauss * erfcx(scale * r) / r,
        gauss * (1.0 + x + 0.5 * x.square()) / r**6,
        0.5 * (screened - torch.exp(-u.square()) * gauss * erfcx(scale * r + u)),
    ]
    n, size = pairs.shape[:2]
    pair = (at[0] * size + at[1]) * size + at[2]
    summed = torch.zeros(n * size * size, 3, dtype=r.dtype, device=r.device)
    return summed.index_add(0, pair, torch.stack(terms, dim=1)).reshape(n, size, size, 3)


def _refuse_coincident(r: Tensor, at: tuple[Tensor, ...], names: Sequence[int]) -> None:
    if len(r) and float(r.min()) < MIN_DISTANCE:
        first = int(r.argmin())
        crystal, i, j = (int(axis[first]) for axis in at[:3])
        raise CrystalError(
            f"crystal {names[crystal]}: sites {i} and {j} are {float(r[first]):.4f} Å apart; sites closer than "
            f"{MIN_DISTANCE} Å coincide: remove one",
            reason="overlapping-atoms",
        )


def _over_wave_vectors(
    cell: Tensor, sites: Tensor, waves: Sequence[Array], a: Tensor, alpha: float, volume: Tensor
) -> Tensor:
    """(n, N, N, 3) the reciprocal sums, k = 0 included; see `crystalign.physics.ewald.smooth`."""
    indices = _padded(waves, cell)  # (n, K, 3)
    listed = _padded([np.ones(len(w)) for w in waves], cell) > 0  # (n, K)
    k = 2.0 * torch.pi * indices @ torch.linalg.inv(cell).transpose(1, 2)
    squares = torch.where(listed, k.square().sum(dim=-1), 1.0)  # (n, K)
    scale = a[:, None]
    y = squares / (2.0 * scale).square()
    root = y.sqrt()
    gamma = (2.0 / 3.0) * (1.0 / (y * root) - 2.0 / root + 2.0 * SQRT_PI * torch.special.erfcx(root))
    decay = 8.0 * torch.pi * alpha * torch.exp(-(0.5 * alpha / scale).square())  # (n, 1)
    pole = 1.0 / (squares + alpha**2)
    weights = [
        4.0 * torch.pi / squares,
        0.5 * torch.pi**1.5 * (0.25 * squares) ** 1.5 * gamma,
        decay * pole * (pole + 0.25 / scale.square()),
    ]
    scaled = torch.stack(weights, dim=1) * torch.where(listed, 2.0 * torch.exp(-y), 0.0)[:, None]  # (n, 3, K)
    phases = 2.0 * torch.pi * (sites @ indices.transpose(1, 2))  # (n, N, K)
    factors = torch.cat([phases.cos(), phases.sin()], dim=2)[:, None]  # (n, 1, N, 2K)
    summed = (factors * torch.cat([scaled, scaled], dim=2)[:, :, None]) @ factors.transpose(2, 3)  # (n, 3, N, N)
    at_zero = [
        -torch.pi / a.square(),
        torch.pi**1.5 * a**3 / 3.0,
        decay[:, 0] / alpha**2 * (alpha**-2 + 0.25 / a.square()),
    ]
    return (summed + torch.stack(at_zero, dim=1)[:, :, None, None]).permute(0, 2, 3, 1) / volume[:, None, None, None]
