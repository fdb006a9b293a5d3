"""Whether a formula makes chemical sense: charge balance by SMACT, from the optional package `smact`.

SMACT (Davies et al., J. Open Source Softw. 4, 1361 (2019)) accepts a formula if some choice of one oxidation state per
element is neutral, Σ n_i q_i = 0, and gives every anion a higher Pauling electronegativity than every cation. The
oxidation states are those reported at least three times in the ICSD (2024). Formulas of metals alone, and elements, are
accepted without a charge balance.
"""

from __future__ import annotations

import functools
import importlib.util
import warnings

from crystalign.errors import ConfigError

CACHED = 131_072
"""Formulas whose answer is remembered; they take about 20 MB."""


def require_smact() -> None:
    """Check that SMACT is installed.

    Raises:
        ConfigError: it is not; the message says how to install it.
    """
    if importlib.util.find_spec("smact") is None:
        raise ConfigError("smact, which checks charge balance, is not installed; pip install 'crystalign[enumerate]'")


@functools.lru_cache(CACHED)
def is_balanced(formula: str) -> bool:
    """Whether SMACT accepts a reduced formula with its default settings."""
    from smact.screening import smact_validity

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of elements without an electronegativity, which are not accepted
        return bool(smact_validity(formula))
