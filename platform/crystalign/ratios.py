"""Amounts as the smallest integers in the same ratio, so that formulas do not depend on the choice of cell."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

TOLERANCE = 1e-5 * math.sqrt(0.9)
"""Largest deviation of an atomic fraction from the ratio of integers: 9.5e-6.

The factor here and below is irrational, so that decimal amounts never lie exactly at the limit, where rounding errors
would decide.
"""
SMALL = range(3, 65)
"""Numbers of atoms in a formula for which the larger tolerance `SMALL_TOLERANCE` applies."""
SMALL_TOLERANCE = 0.0015 * math.sqrt(2)
"""Largest deviation of each amount of such a formula, 0.0021 atoms: occupancies 0.333 and 0.334 are 1/3."""

_BLOCKS = tuple(2**power for power in range(6, 18))


def whole_ratio(amounts: Sequence[float]) -> tuple[int, ...]:
    """The smallest positive integers n_i with n_i / Σn ≈ x_i / Σx, the same for x and k·x with any k > 0.

    With N = Σn the number of atoms in the formula, the smallest N is chosen for which every
    |x_i / Σx − n_i / N| is at most `TOLERANCE`, or, for N in `SMALL`, `SMALL_TOLERANCE` / N. Values of
    Python's type `int` are counts: they are divided by their greatest common divisor, without any
    approximation. Both methods agree for up to 300 atoms in the reduced formula.

    Args:
        amounts: positive and finite numbers x_i.
    """
    if all(isinstance(x, int) for x in amounts):
        divisor = math.gcd(*(int(x) for x in amounts))
        return tuple(int(x) // divisor for x in amounts)
    return _approximate(tuple(float(x) for x in amounts))


@functools.lru_cache(4096)
def _approximate(amounts: tuple[float, ...]) -> tuple[int, ...]:
    fractions = np.array(amounts) / math.fsum(amounts)  # (M,)
    start = 1
    for stop in _BLOCKS:
        candidates = np.arange(start, stop, dtype=np.float64)
        for fraction in fractions:  # each of them excludes most candidates
            whole = np.maximum(1.0, np.rint(candidates * fraction))
            candidates = candidates[np.abs(whole - candidates * fraction) <= _allowed(candidates)]
        for atoms in candidates:
            counts = tuple(int(n) for n in np.maximum(1.0, np.rint(atoms * fractions)))
            divisor = math.gcd(*counts)
            close = np.abs(np.array(counts) - atoms * fractions) <= TOLERANCE * atoms
            if divisor == 1 or close.all():
                return tuple(n // divisor for n in counts)
        start = stop
    # beyond 1 / TOLERANCE atoms every fraction fits
    raise AssertionError(
        f"no whole numbers stand for {amounts}",
    )


def _allowed(atoms: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N,) largest deviation of an amount from an integer, in formulas with the given numbers of atoms."""
    small = (atoms >= SMALL.start) & (atoms < SMALL.stop)
    allowed: NDArray[np.float64] = np.where(small, np.maximum(SMALL_TOLERANCE, TOLERANCE * atoms), TOLERANCE * atoms)
    return allowed
