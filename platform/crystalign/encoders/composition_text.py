"""Composition written as words, for a text encoder."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from pydantic import Field
from torch import Tensor

from crystalign.crystal import SYMBOLS
from crystalign.encoders.bert import Bert, small_network_files, word_tokenizer
from crystalign.encoders.encoder import Files
from crystalign.modalities import Inputs

MAX_ATOMS = 200
"""Largest denominator: a formula unit with more atoms is written with decimals."""


class CompositionText(Bert):
    """A text encoder that reads `Fe 2 O 3`: elements in alphabetical order, each followed by its amount.

    Costa et al. give a composition to a language model in this form. Without `pretrained`, the words
    are the elements, the numbers to 200, digits and the point, whatever the training data is.
    """

    class Settings(Bert.Settings):
        """Settings of the text encoder; the vocabulary consists of the elements and numbers."""

        max_tokens: int = Field(default=128, ge=4)
        """Longest composition in tokens, about twenty elements with uneven amounts; longer ones are truncated."""

    def forward(self, inputs: Inputs) -> Tensor:
        """(n, width) from `z` (n, M), zero where padded, and `fraction` (n, M)."""
        rows = zip(inputs["z"].tolist(), inputs["fraction"].tolist(), strict=True)
        return self.read([composition_words(z, x) for z, x in rows], inputs["z"].device)

    @classmethod
    def prepare(cls, settings: Any, values: Sequence[Any]) -> Files:
        """Make a tokenizer of elements and numbers, or read that of a published encoder."""
        if settings.pretrained is not None:
            return super().prepare(settings, values)
        words = [*SYMBOLS[1:], *(str(n) for n in range(MAX_ATOMS + 1)), "."]
        return small_network_files(settings, word_tokenizer(words, max_tokens=settings.max_tokens))


def composition_words(atomic_numbers: Sequence[int], fractions: Sequence[float]) -> str:
    """Write elements and atomic fractions as `Fe 2 O 3`; zeros are padding.

    Amounts are the smallest whole numbers that reproduce the fractions to 10⁻⁴ with at most 200 atoms in total; if
    there are none, per cent with two decimals.
    """
    present = [(SYMBOLS[z], x) for z, x in zip(atomic_numbers, fractions, strict=True) if z > 0]
    unit = functools.reduce(math.lcm, (Fraction(x).limit_denominator(MAX_ATOMS).denominator for _, x in present))
    amounts = [str(round(unit * x)) for _, x in present]
    if unit > MAX_ATOMS or any(abs(round(unit * x) / unit - x) > 1e-4 or round(unit * x) < 1 for _, x in present):
        amounts = [f"{100.0 * x:.2f}".rstrip("0").rstrip(".") for _, x in present]
    return " ".join(f"{symbol} {amount}" for (symbol, _), amount in sorted(zip(present, amounts, strict=True)))
