"""Captions drawn at random: the same facts in many wordings, orders and lengths, down to two words.

A text encoder that reads one template only understands that template. Here which facts are mentioned, their order and
their words are drawn anew for each training step, in the style of databases (sentences) and of queries (a few words).
Every text says only what the facts say.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from crystalign.crystal import SYMBOLS
from crystalign.physics.caption import ELEMENTS, packing
from crystalign.physics.facts import CrystalFacts, Environment, listed
from crystalign.text.keywords import keywords

QUERY_SHARE = 0.6
"""Share of texts in the style of a query."""
FORMULA_SHARE = 0.25
"""Share of texts that mention the formula, which otherwise is all that is learned."""
COUNTS = {1: "elemental", 2: "binary", 3: "ternary", 4: "quaternary", 5: "quinary"}
PARENTS = {
    "halide": {"fluoride", "chloride", "bromide", "iodide"},
    "chalcogenide": {"sulfide", "selenide", "telluride"},
    "pnictide": {"nitride", "phosphide", "arsenide", "antimonide"},
}
"""Class of anions → its members."""
BRITISH = {"aluminum": "aluminium", "cesium": "caesium", "sulf": "sulph"}
DIMENSIONS = {
    "layered": ("layered", "2D", "two-dimensional", "layered structure"),
    "chains": ("1D", "one-dimensional", "chain structure", "chains"),
    "molecular": ("molecular", "molecular crystal", "0D"),
    "framework": ("3D framework", "three-dimensional", "framework"),
}
GROUPS: dict[str, frozenset[str]] = {
    "alkali": frozenset(["Li", "Na", "K", "Rb", "Cs"]),
    "alkaline earth": frozenset(["Be", "Mg", "Ca", "Sr", "Ba"]),
    "rare earth": frozenset(["Sc", "Y", *SYMBOLS[57:72]]),
    "lanthanide": frozenset(SYMBOLS[57:72]),
    "actinide": frozenset(SYMBOLS[89:104]),
    "transition metal": frozenset([*SYMBOLS[21:31], *SYMBOLS[39:49], *SYMBOLS[72:81]]),
}
"""Family → symbols."""
POLYHEDRA = {"octahedral": "octahedra", "tetrahedral": "tetrahedra", "cuboctahedral": "cuboctahedra"}


def phrase(facts: CrystalFacts, rng: np.random.Generator) -> str:
    """A text about a crystal, drawn at random.

    Args:
        facts: the facts; nothing else is said.
        rng: source of the random choices.
    """
    text = _as_query(facts, rng) if rng.random() < QUERY_SHARE else _as_sentences(facts, rng)
    if rng.random() < 0.2:
        for american, british in BRITISH.items():
            text = text.replace(american, british)
    return text


def _as_query(facts: CrystalFacts, rng: np.random.Generator) -> str:
    """A few words: `layered lithium cobalt oxide`, `rutile`, `cubic Fm-3m halides`."""
    if (names := _names(facts)) and rng.random() < 0.35:
        noun = _one(names, rng)
        return noun if rng.random() < 0.5 else f"{_one(_adjectives(facts), rng)} {noun}"
    if rng.random() < FORMULA_SHARE:
        extra = _one([*_adjectives(facts), *names, ""], rng)
        return f"{extra} {facts.formula}".strip() if rng.random() < 0.5 else f"{facts.formula} {extra}".strip()
    adjectives = [word for word in _adjectives(facts) if rng.random() < 0.3]
    elements = _elements(facts, rng) if rng.random() < 0.6 else ""
    after = [_one(_attributes(facts), rng)] if rng.random() < 0.35 else []
    words = [*adjectives, elements, _one(_nouns(facts), rng) if rng.random() < 0.8 else "", *after]
    text = " ".join(word for word in words if word)
    return text or _one([*_nouns(facts), *_adjectives(facts)], rng)


def _as_sentences(facts: CrystalFacts, rng: np.random.Generator) -> str:
    """One to five sentences in a random order."""
    subject = facts.formula if rng.random() < FORMULA_SHARE else _one(["The material", "This compound", "It"], rng)
    writers: list[Callable[[], str]] = [
        lambda: f"{subject} is {_article(_described(facts, rng))}",
        lambda: f"It crystallizes in the {facts.crystal_system} space group {facts.spacegroup_symbol}",
        lambda: f"The crystal system is {facts.crystal_system}",
        lambda: f"It contains {listed([_name(symbol) for symbol in facts.elements])}",
        lambda: f"The atoms are {packing(facts.volume_per_atom)}, {facts.volume_per_atom:.0f} Å³ per atom",
        lambda: f"The density is {facts.density:.2f} g/cm³",
        lambda: f"The structure is {_one(DIMENSIONS[facts.dimensionality][:2], rng)}",
    ]
    writers += [lambda name=name: f"It has the {name} structure" for name in _names(facts)[:1]]  # type: ignore[misc]
    writers += [lambda e=e: _bonds(e, rng) for e in facts.environments if e.partners]  # type: ignore[misc]
    count = int(rng.integers(1, min(6, len(writers)) + 1))
    chosen = rng.permutation(len(writers))[:count]
    return ". ".join(writers[number]() for number in chosen.tolist()) + "."


def _described(facts: CrystalFacts, rng: np.random.Generator) -> str:
    words = [word for word in _adjectives(facts) if rng.random() < 0.4]
    return " ".join([*words, _one(_nouns(facts), rng).removesuffix("s") if facts.compound_class else "element"])


def _names(facts: CrystalFacts) -> list[str]:
    """Structure type and minerals."""
    minerals = [word.removeprefix("mineral:") for word in keywords(facts) if word.startswith("mineral:")]
    return [*([facts.structure_type] if facts.structure_type else []), *minerals]


def _adjectives(facts: CrystalFacts) -> list[str]:
    """Words before a noun, each of which holds."""
    count = COUNTS.get(len(facts.elements), "multicomponent")
    words = [DIMENSIONS[facts.dimensionality][0], facts.crystal_system, count]
    words += [name for name, symbols in GROUPS.items() if symbols & set(facts.elements)]
    if facts.structure_type:
        words.append(f"{facts.structure_type}-type")
    return words


def _nouns(facts: CrystalFacts) -> list[str]:
    """Classes, singular and plural, and their parents."""
    if not facts.compound_class:
        return ["element", _name(facts.elements[0])]
    classes = [word.removeprefix("class:") for word in keywords(facts) if word.startswith("class:")]
    whole = [facts.compound_class, f"{facts.compound_class}s"]
    parents = [parent for parent, members in PARENTS.items() if set(classes) & members and len(classes) == 1]
    return [*whole, *parents, *(f"{parent}s" for parent in parents)]


def _attributes(facts: CrystalFacts) -> list[str]:
    """Words after a noun."""
    group, number = facts.spacegroup_symbol, facts.spacegroup_number
    words = [group, f"space group {group}", f"space group {number}", f"{facts.density:.1f} g/cm3"]
    for one in facts.environments:
        if len(one.partners) == 1 and one.shape in POLYHEDRA:
            (partner,) = one.partners
            words.append(f"with {one.symbol}{partner.symbol}{partner.count} {POLYHEDRA[one.shape]}")
            words.append(f"with {one.shape} {_name(one.symbol)}")
    return words


def _elements(facts: CrystalFacts, rng: np.random.Generator) -> str:
    """Names or symbols of some or all metals, the anions being in the class: `lithium cobalt`, `Fe-O`."""
    anions = {"F", "Cl", "Br", "I", "O", "S", "Se", "Te", "N", "P", "As", "C", "H"}
    cations = [symbol for symbol in facts.elements if symbol not in anions] or list(facts.elements)
    if rng.random() < 0.3:
        symbols = rng.permutation(facts.elements if rng.random() < 0.5 else cations).tolist()
        return _one(["-", " "], rng).join(symbols)
    some = cations if rng.random() < 0.7 else cations[: int(rng.integers(1, len(cations) + 1))]
    return " ".join(_name(symbol) for symbol in rng.permutation(some).tolist())


def _bonds(environment: Environment, rng: np.random.Generator) -> str:
    """A sentence about the neighbours of an element."""
    usually = "" if environment.is_only else "mostly "
    around = listed([f"{p.count} {p.symbol}" for p in environment.partners])
    first = environment.partners[int(rng.integers(len(environment.partners)))]
    several = "" if environment.is_only and len(environment.partners) == 1 else "about "
    return _one(
        [
            f"{environment.symbol} is {usually}bonded to {around}",
            f"{_name(environment.symbol)} is {usually}{environment.shape}",
            f"{environment.symbol}–{first.symbol} bonds are {usually}{several}{first.distance:.2f} Å long",
        ],
        rng,
    )


def _name(symbol: str) -> str:
    return ELEMENTS[SYMBOLS.index(symbol) - 1]


def _article(words: str) -> str:
    return f"{'an' if words[0].lower() in 'aeiou' else 'a'} {words}"


def _one(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]
