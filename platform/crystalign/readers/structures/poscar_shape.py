"""Whether a text without a telling name is laid out as a POSCAR, told from its first lines, word by word."""

from __future__ import annotations

import re
from collections.abc import Sequence

from crystalign.crystal import SYMBOLS

_LONGEST = 2000
"""Characters of a line that are looked at."""


def looks_like_poscar(lines: Sequence[str]) -> bool:
    """A scale factor or three, three lattice vectors, then symbols, or counts above `Direct` or `Cartesian`.

    A table of three columns has none of the last: it is no POSCAR.

    Args:
        lines: of the file; the first eight are enough.
    """
    words = [line[:_LONGEST].partition("!")[0].partition("#")[0].split() for line in lines[:8]]
    if len(words) < 6 or not words[1] or not _number(words[1][0]):
        return False
    if not all(len(vector) >= 3 and all(map(_number, vector[:3])) for vector in words[2:5]):
        return False
    if _counts(words[5]):
        modes = [line[0][:1].lower() for line in words[6:8] if line]
        return bool(modes) and (modes[0] in set("dcks"))
    named = bool(words[5]) and all(_symbol(word) for word in words[5])
    return named and (len(words) < 7 or not words[6] or _counts(words[6]))


def _number(word: str) -> bool:
    if len(word) > 40 or not set(word) <= set("0123456789+-.eEdD"):
        return False
    try:
        float(word.lower().replace("d", "e"))
    except ValueError:
        return False
    return True


def _counts(words: Sequence[str]) -> bool:
    return bool(words) and all(word.isascii() and word.isdigit() for word in words)


def _symbol(word: str) -> bool:
    """Whether a word names an element, such as `Na`, `Na_pv` or `Na/3f2a`, in upper or lower case."""
    symbol = re.split(r"[^A-Za-z]", word[:40], maxsplit=1)[0].capitalize()
    return symbol in SYMBOLS[1:] or symbol in {"D", "T"}
