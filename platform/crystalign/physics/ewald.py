"""Lattice sums of pair potentials over all periodic images, by Ewald's method."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crystalign.errors import ConfigError, CrystalError

Array = NDArray[np.float64]

REACH = 5.3
"""Cutoff s: the real-space and the reciprocal sum are truncated where their terms have fallen to e^(−s²), 6·10⁻¹³."""
MIN_VOLUME = 1e-3
"""Å³; a cell with a smaller volume is singular."""
MIN_DISTANCE = 0.01
"""Å; sites closer than this coincide."""
BLOCK = 50_000
"""Number of distances computed at once; chosen so that they fit into the processor's cache."""
SQRT_PI = float(np.sqrt(np.pi))


def lattice_sums(lattice: ArrayLike, frac_coords: ArrayLike, *, alpha: float = 3.0) -> Array:
    r"""Sums over all periodic images of three potentials, for every pair of sites.

    S_ij = Σ_T u(|r_i − r_j + T|) over the lattice vectors T, for

    1. u = 1/r, Coulomb, with a uniform neutralising background, so that its mean over the cell is 0
    2. u = r⁻⁶
    3. u = exp(−αr)

    For i = j, the first two sums leave out T = 0, where they diverge; the third includes it with the value 1.

    Each u is ∫ g(t) exp(−tr²) dt over t > 0. The part t > a² falls off as exp(−a²r²) and is summed
    over images; the part t < a² is smooth and is summed over the reciprocal lattice, where it falls
    off as exp(−k²/4a²) (P. P. Ewald, Ann. Phys. 369, 253 (1921); for other powers B. R. A. Nijboer &
    F. W. de Wette, Physica 23, 309 (1957)). The result does not depend on the splitting parameter a.
    With x = a²r², y = k²/4a²:

    - 1/r: erfc(ar)/r; 4π/k² e^(−y), without k = 0, whose limit is −π/a²; at r = 0: 2a/√π
    - r⁻⁶: e^(−x)(1 + x + x²/2)/r⁶; π^(3/2)/2 (k/2)³ Γ(−3/2, y), at k = 0 π^(3/2)a³/3; at r = 0: a⁶/6
    - exp(−αr), the α-derivative of the screened Coulomb sum: [e^(−αr) erfc(ar − α/2a) − e^(αr) erfc(ar + α/2a)]/2;
      8πα e^(−y − α²/4a²) [(k² + α²)⁻² + (k² + α²)⁻¹/4a²], k = 0 included

    The k-terms are divided by the volume. The terms at r = 0 are the self-interaction, which is subtracted
    for i = j; there, erf(α/2a) is added to the third sum. Images and wave vectors are taken from spheres in
    the Minkowski-reduced cell, so the sums are complete for cells of any shape.

    Args:
        lattice: (3, 3), Å, rows are vectors.
        frac_coords: (N, 3), in units of the lattice vectors.
        alpha: 1/Å, α > 0.

    Returns:
        (N, N, 3), symmetric in its first two axes; 1/Å, 1/Å⁶ and 1. Accurate to about 10⁻¹⁰.

    Raises:
        CrystalError: reason `bad-lattice`, `bad-sites`, or `overlapping-atoms` if two sites coincide.
        ConfigError: α is not positive and finite.
    """
    cell, frac = reduced(lattice, frac_coords)
    check_alpha(alpha)
    n, volume = len(frac), float(np.linalg.det(cell))
    a = splitting(n, volume)
    sums = _over_wave_vectors(cell, frac, a, alpha)  # (3, N, N)
    sums += constants(a, alpha, volume)[:, None, None]
    diagonal = np.arange(n)
    sums[:, diagonal, diagonal] += (_over_own_images(cell, a, alpha) - at_zero(a, alpha))[:, None]
    _add_other_images(sums, cell, frac, a, alpha)
    np.maximum(sums[1:], 0.0, out=sums[1:])  # rounding errors can make very small sums negative
    return np.ascontiguousarray(np.moveaxis(sums, 0, 2))


def reduced(lattice: ArrayLike, frac_coords: ArrayLike) -> tuple[Array, Array]:
    """The right-handed Minkowski-reduced cell (3, 3), Å, and the sites (N, 3) in its vectors, not wrapped.

    Raises:
        CrystalError: reason `bad-lattice` or `bad-sites`.
    """
    cell, frac = np.asarray(lattice, np.float64), np.asarray(frac_coords, np.float64)
    if frac.ndim != 2 or frac.shape[1] != 3 or len(frac) == 0 or not np.isfinite(frac).all():
        raise CrystalError(
            f"fractional coordinates of shape {frac.shape}; expected (N, 3) finite numbers with N >= 1",
            reason="bad-sites",
        )
    change = reduction(cell)
    return change @ cell, frac @ np.rint(np.linalg.inv(change))


def reduction(cell: Array) -> Array:
    """(3, 3) the unimodular matrix M of the Minkowski-reduced cell M @ `cell`.

    Raises:
        CrystalError: reason `bad-lattice`.
    """
    from moyopy import minkowski_reduce

    if cell.shape != (3, 3) or not np.isfinite(cell).all() or abs(np.linalg.det(cell)) < MIN_VOLUME:
        raise CrystalError(
            f"lattice {np.round(cell, 4).tolist()} is singular: three finite vectors must span a volume",
            reason="bad-lattice",
        )
    _, transformation = minkowski_reduce(cell.tolist())
    change = np.array(transformation, np.float64).T
    shortest = float(np.linalg.norm(change @ cell, axis=1).min())
    if shortest < MIN_DISTANCE:
        raise CrystalError(
            f"a lattice vector is {shortest:.4f} Å long: every site coincides with its own image",
            reason="bad-lattice",
        )
    return change


def check_alpha(alpha: float) -> None:
    """Check that exp(−αr) decays.

    Raises:
        ConfigError: α is not positive and finite.
    """
    if not 0.0 < alpha < np.inf:
        raise ConfigError(f"alpha={alpha} 1/Å; exp(−αr) decays only with a positive, finite α")


def splitting(n: int, volume: float) -> float:
    """The splitting parameter a in 1/Å, for n sites in a cell of `volume` Å³.

    Both sums have equally many terms at a = √π/∛V. The factor below makes a larger, because the reciprocal sum is a
    matrix product and costs less per term.
    """
    return SQRT_PI * float(np.cbrt(12.0 / (1.0 + 10.0 / n) / volume))


class Sphere(NamedTuple):
    """Lattice vectors up to a given length."""

    vectors: Array
    """(M, 3), Å."""
    squares: Array
    """(M,) squared lengths, Å²."""


def images(cell: Array, radius: float, offset: float = 0.0) -> Sphere:
    """All lattice vectors T that can bring a point r with |r| ≤ `offset` to |r + T| ≤ `radius`, both in Å.

    The fractional coordinates of r must lie within ±1/2. The spacing of the lattice planes then bounds the number
    of images along each axis, for any cell angles.
    """
    half = 0.5 if offset else 0.0
    inverse_spacings = np.linalg.norm(np.linalg.inv(cell), axis=0)
    most = np.floor(radius * inverse_spacings + half + 1e-9).astype(int)
    return _inside(_box(most), cell, radius + offset)


def wave_vectors(cell: Array, radius: float) -> tuple[Array, Array]:
    """Half of the reciprocal lattice within `radius` (1/Å, 2π included), without k = 0: (M, 3) indices, (M,) k²."""
    most = np.floor(radius / (2.0 * np.pi) * np.linalg.norm(cell, axis=1) + 1e-9).astype(int)
    box = _box(most)
    box = box[len(box) // 2 + 1 :]  # one of each pair ±k: the box is symmetric about its middle, k = 0
    k = 2.0 * np.pi * box @ np.linalg.inv(cell).T
    squares = np.einsum("mc,mc->m", k, k)
    inside = squares <= radius * radius
    return box[inside], squares[inside]


def _box(most: NDArray[np.int_]) -> Array:
    axes = [np.arange(-m, m + 1, dtype=np.float64) for m in most]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)


def _inside(indices: Array, cell: Array, radius: float) -> Sphere:
    vectors = indices @ cell
    squares = np.einsum("mc,mc->m", vectors, vectors)
    inside = squares <= radius * radius
    return Sphere(vectors[inside], squares[inside])


def _over_wave_vectors(cell: Array, frac: Array, a: float, alpha: float) -> Array:
    """(3, N, N) the reciprocal sums Σ_k w(k) cos k·(r_i − r_j), as one matrix product per potential."""
    indices, squares = wave_vectors(cell, 2.0 * a * REACH)
    phases = 2.0 * np.pi * (frac @ indices.T)  # (N, M)
    waves = np.concatenate([np.cos(phases), np.sin(phases)], axis=1)  # (N, 2M)
    roots = np.sqrt(2.0 * smooth(squares, a, alpha) / np.linalg.det(cell))  # (3, M), of both ±k
    scaled = waves * np.concatenate([roots, roots], axis=1)[:, None]  # (3, N, 2M)
    sums: Array = np.stack([s @ s.T for s in scaled])  # BLAS computes S Sᵀ with half the work, exactly symmetric
    return sums


def _over_own_images(cell: Array, a: float, alpha: float) -> Array:
    """(3,) the real-space sums of an atom with its own images, the same for every atom."""
    squares = images(cell, REACH / a).squares
    total: Array = short_ranged(np.sqrt(squares[squares > 0.0]), a, alpha).sum(axis=1)
    return total


def _add_other_images(sums: Array, cell: Array, frac: Array, a: float, alpha: float) -> None:
    """Add the real-space sums of each pair i < j to both triangles of `sums` (3, N, N)."""
    first, second = np.triu_indices(len(frac), 1)
    if len(first) == 0:
        return
    between = frac[first] - frac[second]
    between = (between - np.rint(between)) @ cell  # (P, 3)
    lengths = np.einsum("pc,pc->p", between, between)
    radius = REACH / a
    shifts = images(cell, radius, float(np.sqrt(lengths.max())) + 1e-9)
    rows = max(1, BLOCK // len(shifts.vectors))
    for start in range(0, len(first), rows):
        part = slice(start, start + rows)
        squares = lengths[part, None] + shifts.squares + 2.0 * between[part] @ shifts.vectors.T
        pair, shift = np.nonzero(squares < radius * radius)
        distances = np.linalg.norm(between[part][pair] + shifts.vectors[shift], axis=1)
        _refuse_coincident(distances, first[part][pair], second[part][pair])
        count = len(squares)
        terms = [np.bincount(pair, term, count) for term in short_ranged(distances, a, alpha)]
        sums[:, first[part], second[part]] += terms
        sums[:, second[part], first[part]] += terms


def _refuse_coincident(distances: Array, first: NDArray[np.int_], second: NDArray[np.int_]) -> None:
    if len(distances) and distances.min() < MIN_DISTANCE:
        at = int(distances.argmin())
        raise CrystalError(
            f"sites {first[at]} and {second[at]} are {distances[at]:.4f} Å apart; sites closer than "
            f"{MIN_DISTANCE} Å coincide: remove one",
            reason="overlapping-atoms",
        )


def short_ranged(r: Array, a: float, alpha: float) -> Array:
    """(3, M) the parts of the three potentials that are summed over images, at distances r > 0 (M,), Å."""
    from scipy.special import erfc, erfcx

    u, ar = 0.5 * alpha / a, a * r
    x = ar * ar
    gauss = np.exp(-x)
    terms = np.empty((3, len(r)))
    terms[0] = gauss * erfcx(ar) / r
    terms[1] = gauss * (1.0 + x * (1.0 + 0.5 * x)) / (r * r * r) ** 2
    terms[2] = 0.5 * (np.exp(-alpha * r) * erfc(ar - u) - np.exp(-u * u) * gauss * erfcx(ar + u))
    return terms


def smooth(k_squared: Array, a: float, alpha: float) -> Array:
    """(3, M) the Fourier transforms of the smooth parts, at wave vectors with k² > 0 (M,), 1/Å²."""
    from scipy.special import erfcx

    y = k_squared / (4.0 * a * a)
    root = np.sqrt(y)
    gauss = np.exp(-y)
    gamma = (2.0 / 3.0) * (1.0 / (y * root) - 2.0 / root + 2.0 * SQRT_PI * erfcx(root))  # e^y Γ(−3/2, y)
    pole = 1.0 / (k_squared + alpha * alpha)
    terms = np.empty((3, len(k_squared)))
    terms[0] = 4.0 * np.pi / k_squared
    terms[1] = 0.5 * np.pi**1.5 * (0.25 * k_squared) ** 1.5 * np.maximum(gamma, 0.0)  # rounding may take it below 0
    terms[2] = 8.0 * np.pi * alpha * np.exp(-0.25 * (alpha / a) ** 2) * pole * (pole + 0.25 / (a * a))
    terms *= gauss
    return terms


def constants(a: float, alpha: float, volume: float) -> Array:
    """(3,) the terms at k = 0, divided by the volume."""
    pole = 1.0 / (alpha * alpha)
    exponential = 8.0 * np.pi * alpha * np.exp(-0.25 * (alpha / a) ** 2) * pole * (pole + 0.25 / (a * a))
    return np.array([-np.pi / (a * a), np.pi**1.5 * a**3 / 3.0, exponential]) / volume


def at_zero(a: float, alpha: float) -> Array:
    """(3,) the self-interaction at r = 0 in the reciprocal sums; the third potential lacks it, so it is negative."""
    from scipy.special import erf

    return np.array([2.0 * a / SQRT_PI, a**6 / 6.0, -erf(0.5 * alpha / a)])
