"""Queries in words whose right answers are known: phrases about crystals, mixed with everyday words or not.

`unrelated_texts.txt` holds texts that no crystal answers: everyday sentences in several languages, names, keyboard
mashing, and words with a second meaning (`gold price today`). Its lines serve alternately for fitting and for testing.
"""

from __future__ import annotations

import functools
from importlib import resources

import numpy as np

from crystalign.evaluation.held_out_queries import NOTHING, HeldOutQuery, Pool, sometimes_left_out
from crystalign.material import Material
from crystalign.text.claims import claimable, draw, without_quantities

MIXED_SHARE = 0.4
"""Share of phrases to which everyday words are added."""
MOST_ADDED = 2.0
"""Largest number of added words, relative to the words of the phrase."""
ABSENT_SHARE = 0.25
"""Share of phrases whose fitting crystals are left out of the search."""
FILE = "unrelated_texts.txt"


class TypedQueries:
    """Phrases about held-out materials, and texts that have nothing to do with crystals.

    A crystal fits a phrase if everything that the phrase claims holds for it. Everyday words that are added to a
    phrase are asked for, too, and no crystal has them: with more of them than words of the phrase, nothing fits.
    """

    def __init__(self, modality: str) -> None:
        self.modality = modality

    def keys(self, material: Material) -> frozenset[str]:
        """What can be claimed of a crystal; nothing if its text has no facts."""
        text = material.value(self.modality)
        facts = None if text is None else text.facts
        return frozenset() if facts is None else without_quantities(claimable(facts))

    def query(self, material: Material, pool: Pool, rng: np.random.Generator, half: int) -> HeldOutQuery | None:
        """A phrase about a material, in part with everyday words; None if nothing but numbers can be said of it."""
        text = material.value(self.modality)
        facts = None if text is None else text.facts
        drawn = None if facts is None else draw(facts, rng)
        if drawn is None:
            return None
        query = HeldOutQuery(drawn.text, tuple(frozenset([claim]) for claim in sorted(drawn.claims)))
        query = sometimes_left_out(query, pool, rng, ABSENT_SHARE)
        return _mixed(query, half, rng) if rng.random() < MIXED_SHARE else query

    def unrelated(self, half: int) -> list[HeldOutQuery]:
        """The texts of one half of the file."""
        return [HeldOutQuery(text, NOTHING) for text in unrelated_texts()[half::2]]


def _mixed(query: HeldOutQuery, half: int, rng: np.random.Generator) -> HeldOutQuery:
    """The phrase with some everyday words of this half, each at a random place."""
    words = query.value.split()
    everyday = [word for text in unrelated_texts()[half::2] for word in text.split()]
    added = int(rng.integers(1, max(2, round(MOST_ADDED * len(words)) + 1)))
    mixed = list(words)
    for word in rng.choice(everyday, added):
        mixed.insert(int(rng.integers(len(mixed) + 1)), str(word))
    wants = NOTHING if added > len(words) else query.wants
    return HeldOutQuery(" ".join(mixed), wants, query.leave_out)


@functools.cache
def unrelated_texts() -> tuple[str, ...]:
    """The texts of the file, in order."""
    lines = resources.files("crystalign.evaluation").joinpath(FILE).read_text(encoding="utf-8").splitlines()
    return tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))
