"""Find measured numbers in a text, such as lengths and energies; not counts, formulas or space group numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator

_NUMBER = re.compile(r"(?<![\w.)\-−])[-−]?\d{1,12}(?:\.\d{1,12})?(?![\w(]|\.\d)")
_UNIT = re.compile(r"\s?(?:[-–]\s?\d|Å|A\b|°|%|eV|GPa|K\b|g/cm|µB)")


def find_quantities(text: str) -> Iterator[re.Match[str]]:
    """The numbers that have decimals or a unit after them: `2.82`, `10 Å`."""
    for match in _NUMBER.finditer(text):
        if "." in match[0] or _UNIT.match(text, match.end()):
            yield match
