"""Amounts as the smallest whole numbers in the same ratio: what makes a formula independent of its cell."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

TOLERANCE = 1e-5 * math.sqrt(0.9)
"""How far an atomic fraction may lie from the ratio that stands for it: 9.5e-6.

Here and below the factor is irrational, so that no composition of decimals stands on a border, where
rounding errors would decide.
"""
SMALL = range(3, 65)
"""Atoms in a formula that rounded occupancies are recognised as."""
SMALL_TOLERANCE = 0.0015 * math.sqrt(2)
"""How far each amount of such a formula may be off: 0.0021 atoms. 0.333 of a site, or 0.334, is a third of it."""

_BLOCKS = tuple(2**power for power in range(6, 18))


def whole_ratio(amounts: Sequence[float]) -> tuple[int, ...]:
    """The smallest positive integers n_i with n_i / Σn ≈ x_i / Σx, the same for k·x whatever k is.

    With N = Σn the number of atoms in the formula, the smallest N is taken for which every
    |x_i / Σx − n_i / N| is at most `TOLERANCE`, or, for N in `SMALL`, `SMALL_TOLERANCE` / N. Values of
    Python's type `int` are counts: they are divided by their greatest common divisor, and never
    approximated. Both ways give the same for up to 300 atoms in the reduced formula.

    Args:
        amounts: positive and finite.
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
        for fraction in fractions:  # each leaves few of them
            whole = np.maximum(1.0, np.rint(candidates * fraction))
            candidates = candidates[np.abs(whole - candidates * fraction) <= _allowed(candidates)]
        for atoms in candidates:
            found = tuple(int(n) for n in np.maximum(1.0, np.rint(atoms * fractions)))
            divisor = math.gcd(*found)
            close = np.abs(np.array(found) - atoms * fractions) <= TOLERANCE * atoms
            if divisor == 1 or close.all():
                return tuple(n // divisor for n in found)
        start = stop
    message = f"no whole numbers stand for {amounts}"  # beyond 1 / TOLERANCE atoms every fraction fits
    raise AssertionError(message)


def _allowed(atoms: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N,) how far an amount may be from a whole number in formulas with so many atoms."""
    small = (atoms >= SMALL.start) & (atoms < SMALL.stop)
    allowed: NDArray[np.float64] = np.where(small, np.maximum(SMALL_TOLERANCE, TOLERANCE * atoms), TOLERANCE * atoms)
    return allowed
