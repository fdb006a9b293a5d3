"""Whether a formula makes chemical sense: charge balance by SMACT, with the tables of the optional package `smact`.

SMACT (Davies et al., J. Open Source Softw. 4, 1361 (2019)) accepts a formula if some choice of one oxidation state q
per element is neutral, Σ n_i q_i = 0, and every cation has a lower Pauling electronegativity χ than every anion. The
oxidation states are those reported at least three times in the ICSD (2024). Formulas of metals alone, and elements,
are accepted without a charge balance.

`smact.screening.smact_validity` tries all choices, which takes minutes for some formulas of seven elements. Here the
elements are sorted by χ. In an accepted choice the cations come first, so for each place where the anions can begin,
the sums that a choice can reach are collected element by element. The answer is the same.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Mapping
from typing import NamedTuple

from crystalign.crystal import SYMBOLS
from crystalign.errors import ConfigError


class ElementData(NamedTuple):
    """What SMACT knows of an element."""

    is_metal: bool
    """Whether it is a metal."""
    electronegativity: float | None
    """Pauling electronegativity χ; None if it is not known."""
    oxidation_states: tuple[int, ...]
    """Oxidation states other than zero; empty if none is reported often enough."""


def require_smact() -> None:
    """Check that SMACT is installed.

    Raises:
        ConfigError: it is not installed; the message says how to install it.
    """
    if importlib.util.find_spec("smact") is None:
        raise ConfigError("smact, which checks charge balance, is not installed; pip install 'crystalign[enumerate]'")


def is_balanced(composition: Mapping[int, float]) -> bool:
    """Whether SMACT accepts a composition with its default settings.

    Args:
        composition: atomic number → number of atoms.
    """
    table = element_data()
    if len(composition) == 1 or all(table[z].is_metal for z in composition):
        return True
    electronegativities = {z: table[z].electronegativity for z in composition}
    if any(chi is None for chi in electronegativities.values()):
        return False
    ranked = sorted(composition, key=lambda z: electronegativities[z] or 0.0)
    for n_cations in range(1, len(ranked)):
        last, first = ranked[n_cations - 1], ranked[n_cations]
        if electronegativities[last] != electronegativities[first] and _is_neutral(composition, ranked, n_cations):
            return True
    return False


def _is_neutral(composition: Mapping[int, float], ranked: list[int], n_cations: int) -> bool:
    """Whether some choice is neutral with the first elements as cations and the others as anions."""
    sums = {0.0}
    for position, z in enumerate(ranked):
        sign = 1 if position < n_cations else -1
        charges = [composition[z] * q for q in element_data()[z].oxidation_states if q * sign > 0]
        sums = {total + charge for total in sums for charge in charges}
    return 0 in sums


@functools.cache
def element_data() -> tuple[ElementData, ...]:
    """(119,) SMACT's data by atomic number; entry 0 is unused. It takes seconds to read."""
    import smact
    from smact.utils.oxidation import ICSD24OxStatesFilter

    rows = ICSD24OxStatesFilter().filter(consensus=3, include_zero=False, commonality="low")
    states = {
        str(symbol): tuple(int(q) for q in str(listed).split())
        for symbol, listed in zip(rows["element"], rows["oxidation_state"], strict=True)
    }
    known = set(smact.ordered_elements(1, 103))
    electronegativities = {symbol: smact.Element(symbol).pauling_eneg for symbol in known}
    return tuple(
        ElementData(symbol in smact.metals, electronegativities.get(symbol), states.get(symbol, ()))
        for symbol in SYMBOLS
    )
