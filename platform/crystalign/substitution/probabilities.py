"""How likely an element replaces another one in the same structure.

Hautier et al., Inorg. Chem. 50, 656 (2011), fitted how often two ions occur on the same site of compounds with the same
structure: p(A^q, B^q') ∝ exp λ(A^q, B^q'). pymatgen ships their λ. Here an ion is replaced by one of the same charge:

    P(B | A) = Σ_q exp λ(A^q, B^q) / Σ_C≠A Σ_q exp λ(A^q, C^q)        B ≠ A

Pairs that were never observed, and elements without a bond radius, count as zero.
"""

from __future__ import annotations

import functools
import json
import re
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from crystalign.crystal import MAX_ATOMIC_NUMBER, SYMBOLS
from crystalign.physics.bond_radii import bond_radius

NEVER_OBSERVED = -5.0
"""λ of pairs that were never observed, as in pymatgen's `SubstitutionProbability`."""
_ION = re.compile(r"([A-Z][a-z]?)(\d*[+-])")


@functools.cache
def replacement_probabilities() -> NDArray[np.float64]:
    """(119, 119) P(B | A), rows by the atomic number of A. A row of zeros: A is never replaced."""
    weights = np.zeros((MAX_ATOMIC_NUMBER + 1, MAX_ATOMIC_NUMBER + 1))
    for first, second, strength in _fitted():
        (a, charge), (b, other_charge) = _parts(first), _parts(second)
        if charge == other_charge and a != b and strength > NEVER_OBSERVED:
            pair = SYMBOLS.index(a), SYMBOLS.index(b)
            weights[pair] += np.exp(strength)
            weights[pair[::-1]] += np.exp(strength)
    unknown = [z for z in range(MAX_ATOMIC_NUMBER + 1) if z == 0 or bond_radius(z) is None]
    weights[unknown], weights[:, unknown] = 0.0, 0.0
    total = weights.sum(axis=1, keepdims=True)
    probabilities: NDArray[np.float64] = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)
    return probabilities


@functools.cache
def cumulative_probabilities() -> NDArray[np.float64]:
    """(119, 119) Σ_C≤B P(C | A); infinite from the last element on that replaces A."""
    probabilities = replacement_probabilities()
    last = MAX_ATOMIC_NUMBER - np.argmax(probabilities[:, ::-1] > 0, axis=1)
    beyond = np.arange(MAX_ATOMIC_NUMBER + 1)[None, :] >= last[:, None]
    return np.where(beyond, np.inf, np.cumsum(probabilities, axis=1))


@functools.cache
def replaceable_elements() -> frozenset[int]:
    """Atomic numbers of the elements that are replaced by others."""
    return frozenset(np.flatnonzero(replacement_probabilities().sum(axis=1) > 0).tolist())


def _parts(ion: str) -> tuple[str, str]:
    """Symbol and charge of an ion: `Fe3+` → `Fe`, `3+`."""
    match = _ION.fullmatch(ion)
    assert match is not None, f"{ion!r} of pymatgen's table is no ion"
    return match[1], match[2]


def _fitted() -> list[tuple[str, str, float]]:
    """(ion, ion, λ) of pymatgen's table, without the artificial row of deuterium."""
    table = resources.files("pymatgen.core") / "structure_prediction" / "data" / "lambda.json"
    rows = json.loads(table.read_text(encoding="utf-8"))
    return [(str(a), str(b), float(strength)) for a, b, strength in rows if "D1+" not in {a, b}]
