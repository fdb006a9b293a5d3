"""Names, adjectives and groups of the elements."""

from __future__ import annotations

import functools
from typing import NamedTuple

from crystalign.crystal import SYMBOLS
from crystalign.text_query.chips import Meaning, has, none_of
from crystalign.text_query.words import squeezed


class Element(NamedTuple):
    """An element in a query."""

    symbol: str
    """Its symbol."""
    valence: int = 0
    """The oxidation state that the word states, as `ferric` does; 0 if it states none."""
    number: int = 0
    """The number that a prefix states, as in `dialuminum`; 0 if it states none."""


_VALENCES = """
ferrous Fe 2, ferric Fe 3, cuprous Cu 1, cupric Cu 2, stannous Sn 2, stannic Sn 4, plumbous Pb 2, plumbic Pb 4,
mercurous Hg 1, mercuric Hg 2, cobaltous Co 2, cobaltic Co 3, manganous Mn 2, manganic Mn 3, chromous Cr 2,
chromic Cr 3, nickelous Ni 2, nickelic Ni 3, aurous Au 1, auric Au 3, cerous Ce 3, ceric Ce 4, titanous Ti 3,
titanic Ti 4, vanadous V 2, vanadic V 5, thallous Tl 1, thallic Tl 3, argentic Ag 2, argentous Ag 1, uranous U 4,
uranic U 6, platinous Pt 2, platinic Pt 4, bismuthous Bi 3, antimonous Sb 3, antimonic Sb 5, arsenous As 3,
arsenic As 0
"""
GROUPS = {
    "alkali metal, alkali": "Li Na K Rb Cs Fr",
    "alkaline earth metal, alkaline earth, alkali earth, alkaliearth metal": "Be Mg Ca Sr Ba Ra",
    "transition metal, d block element, d block metal, TM": (
        "Sc Ti V Cr Mn Fe Co Ni Cu Y Zr Nb Mo Tc Ru Rh Pd Ag Hf Ta W Re Os Ir Pt Au"
    ),
    "3d transition metal, 3d metal, first row transition metal": "Sc Ti V Cr Mn Fe Co Ni Cu",
    "4d transition metal, 4d metal, second row transition metal": "Y Zr Nb Mo Tc Ru Rh Pd Ag",
    "5d transition metal, 5d metal, third row transition metal": "Hf Ta W Re Os Ir Pt Au",
    "early transition metal": "Sc Y Ti Zr Hf V Nb Ta Cr Mo W",
    "late transition metal": "Fe Co Ni Cu Ru Rh Pd Ag Os Ir Pt Au",
    "lanthanide, lanthanoid, 4f element, 4f metal, Ln": "La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu",
    "rare earth, rare earth element, rare earth metal, REE, RE": ("Sc Y La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu"),
    "actinide, actinoid, 5f element, 5f metal": "Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr",
    "noble metal, precious metal": "Ru Rh Pd Ag Os Ir Pt Au",
    "platinum group metal, platinum group element, platinum group, PGM": "Ru Rh Pd Os Ir Pt",
    "coinage metal": "Cu Ag Au",
    "refractory metal": "Nb Mo Ta W Re",
    "post transition metal, poor metal": "Al Ga In Tl Sn Pb Bi",
    "noble gas, inert gas, rare gas": "He Ne Ar Kr Xe Rn",
    "halogen": "F Cl Br I At",
    "chalcogen": "S Se Te",
    "pnictogen": "N P As Sb Bi",
    "metalloid, semimetal element": "B Si Ge As Sb Te",
    "heavy metal": "Hg Tl Pb Bi Cd",
    "radioactive element": "Tc Pm Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr",
    "toxic element, toxic metal": "Be As Cd Hg Tl Pb",
    "main group metal": "Li Na K Rb Cs Be Mg Ca Sr Ba Al Ga In Tl Sn Pb Bi",
}
"""Names of a group of elements, the first being the one that is shown → its elements. Transition metals are those of
groups 3 to 11 without the lanthanides and actinides, as the International Union of Pure and Applied Chemistry says;
chalcogens are without oxygen and pnictogens with nitrogen, as in the names of compound classes."""
_WITHOUT = {
    "non toxic, nontoxic": "toxic element",
    "non radioactive, nonradioactive": "radioactive element",
}
_ABUNDANT = "O Si Al Fe Ca Na Mg K Ti H P Mn F Ba C Sr S Zr Cl V Cr Ni Zn N Cu"
_ARTICLES = {"a": "an", "e": "an", "i": "an", "o": "an", "h": "a"}
_COUNTS = {"mono": 1, "di": 2, "tri": 3, "tetra": 4, "penta": 5, "hexa": 6, "hepta": 7, "octa": 8}


@functools.cache
def element_names() -> dict[str, Element]:
    """Folded name or adjective → element; `lead` is the metal."""
    from crystalign.physics.caption import ELEMENTS
    from crystalign.text.vocabulary import SPELLINGS

    names = {squeezed(name): Element(SYMBOLS[z]) for z, name in enumerate(ELEMENTS, 1)}
    for symbol, words in SPELLINGS.items():
        names |= {squeezed(word): Element(symbol) for word in words.split()}
    for row in _VALENCES.split(","):
        word, symbol, valence = row.split()
        names[squeezed(word)] = Element(symbol, int(valence))
    for prefix, count in _COUNTS.items():
        names |= {
            f"{prefix}{squeezed(name)}": Element(SYMBOLS[z], number=count)
            for z, name in enumerate(ELEMENTS, 1)
            if z < 93 and f"{prefix}{squeezed(name)}" not in names
        }
    return names | {"lithiumion": Element("Li"), "sodiumion": Element("Na")}


@functools.cache
def group_elements() -> dict[str, tuple[str, ...]]:
    """First name of each group → symbols of its elements."""
    return {names.split(",")[0]: tuple(symbols.split()) for names, symbols in GROUPS.items()}


def group_meanings() -> dict[str, Meaning]:
    """Squeezed name of a group of elements → crystals with at least one of its elements."""
    found: dict[str, Meaning] = {}
    for names, listed in GROUPS.items():
        shown, *_ = names.split(",")
        label = f"contains {_ARTICLES.get(shown[0], 'a')} {shown}"
        meaning = Meaning("family", label, (has(listed.split(), "ANY"),), note=listed.replace(" ", ", "))
        found |= {squeezed(name): meaning for name in names.split(",")}
    for names, group in _WITHOUT.items():
        toxic = list(group_elements()[group])
        meaning = Meaning("without", f"contains no {group}", (none_of(has(toxic, "ANY")),), note=", ".join(toxic))
        found |= {squeezed(name): meaning for name in names.split(",")}
    abundant = Meaning(
        "family",
        "only elements that are abundant in the crust",
        (has(_ABUNDANT.split(), "ONLY"),),
        note=f"at least 20 ppm by weight: {_ABUNDANT.replace(' ', ', ')}",
    )
    return found | {"earthabundant": abundant, "abundantelement": abundant}


LOWER_CASE = frozenset(symbol.lower() for symbol in SYMBOLS[1:104] if len(symbol) == 2) - frozenset(
    ["as", "in", "no", "he", "be", "at", "am", "pm", "ac", "re", "er", "ho", "md", "es", "pa", "la", "ar"]
)
"""Symbols that are read as elements although they are typed in lower case; the others are words too."""
WORDLIKE = frozenset(["In", "As", "At", "No", "He", "Be", "Am", "I", "Re", "Es", "Pa", "Pm", "La", "Ho", "Er"])
"""Symbols that, written with a capital, are also words: `In`, `As`, `I`. Their neighbours decide."""
