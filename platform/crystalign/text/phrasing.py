"""Captions drawn at random: the same facts in many wordings, orders and lengths, down to two words.

A text encoder that reads one template only understands that template. Here which facts are mentioned, their order and
their words are drawn anew for each training step, in the style of databases (sentences) and of queries (a few words).
Every text says only what the facts say.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from crystalign.crystal import SYMBOLS
from crystalign.physics.caption import ELEMENTS, lattice_sentences, packing_sentence
from crystalign.physics.compound_classes import NONMETALS, WHOLE
from crystalign.physics.facts import CrystalFacts, Environment, listed
from crystalign.text.anion_elements import without_anions
from crystalign.text.keywords import keywords
from crystalign.text.property_words import AFTER_NOUN
from crystalign.text.property_words import BEFORE_NOUN as PROPERTY_BEFORE_NOUN

QUERY_SHARE = 0.6
"""Share of texts in the style of a query."""
FORMULA_SHARE = 0.25
"""Share of texts that mention the formula, which otherwise is all that is learned."""
NAME_SHARE = 0.4
"""Share of queries for a structure type or a mineral, where there is one; few crystals have one."""
SYMMETRY_SHARE = 0.12
"""Share of queries for a space group or crystal system, alone or with the class."""
BRITISH_SHARE = 0.2
"""Share of texts in British spelling."""
COUNTS = {2: "binary", 3: "ternary", 4: "quaternary", 5: "quinary"}
PARENTS = {
    "halide": {"fluoride", "chloride", "bromide", "iodide"},
    "chalcogenide": {"sulfide", "selenide", "telluride"},
    "pnictide": {"nitride", "phosphide", "arsenide", "antimonide"},
    "oxyhalide": {"oxyfluoride", "oxychloride", "oxybromide", "oxyiodide"},
    "oxychalcogenide": {"oxysulfide", "oxyselenide", "oxytelluride"},
    "oxypnictide": {"oxynitride", "oxyphosphide", "oxyarsenide", "oxyantimonide"},
}
"""Family of classes → its members."""
BRITISH = {"aluminum": "aluminium", "cesium": "caesium", "sulf": "sulph", "Sulf": "Sulph", "Aluminum": "Aluminium"}
BRITISH |= {"Cesium": "Caesium", "gray": "grey", "centered": "centred", "crystallizes": "crystallises"}
BEFORE_NOUN = {
    "layered": ("layered", "layered", "2D", "two-dimensional"),
    "chains": ("1D", "one-dimensional", "chain-like"),
    "molecular": ("molecular",),
    "framework": ("3D", "three-dimensional"),
}
"""Dimensionality → adjectives."""
STATEMENTS = {
    "layered": ("The structure is layered", "The structure is two-dimensional", "The structure consists of layers"),
    "chains": ("The structure is one-dimensional", "The structure consists of chains"),
    "molecular": ("The crystal consists of molecules", "The structure is molecular"),
    "framework": ("The structure is three-dimensional", "The atoms form a three-dimensional framework"),
}
"""Dimensionality → sentences."""
GROUPS: dict[str, frozenset[str]] = {
    "alkali": frozenset(["Li", "Na", "K", "Rb", "Cs", "Fr"]),
    "alkaline earth": frozenset(["Be", "Mg", "Ca", "Sr", "Ba", "Ra"]),
    "rare earth": frozenset(["Sc", "Y", *SYMBOLS[57:72]]),
    "lanthanide": frozenset(SYMBOLS[57:72]),
    "actinide": frozenset(SYMBOLS[89:104]),
    "transition metal": frozenset([*SYMBOLS[21:30], *SYMBOLS[39:48], *SYMBOLS[72:80]]),
}
"""Family → symbols. Transition metals are those of groups 3 to 11, as a search takes them."""
POLYHEDRA = {"octahedral": "octahedra", "tetrahedral": "tetrahedra", "cuboctahedral": "cuboctahedra"}
POLYHEDRA |= {
    "square-planar": "squares",
    "trigonal prismatic": "trigonal prisms",
    "square-pyramidal": "square pyramids",
}
"""Coordination → its polyhedra."""
INTERMETALLIC = WHOLE[3]
AFTER_A_COMPOUND = re.compile(rf"\d|[A-Z][a-z]?[A-Z]|\b(?:{'|'.join(ELEMENTS)})\b|diamond|cubic$|close-packed$|-type$")
"""Structure types named after a compound or an element: caesium chloride is also the type of NiAl."""


def phrase(facts: CrystalFacts, rng: np.random.Generator) -> str:
    """A text about a crystal, drawn at random.

    Args:
        facts: the facts; nothing else is said.
        rng: source of the random choices.
    """
    with_formula = bool(rng.random() < FORMULA_SHARE)
    write = _as_query if rng.random() < QUERY_SHARE else _as_sentences
    text = write(facts, rng, with_formula)
    if rng.random() < BRITISH_SHARE:
        for american, british in BRITISH.items():
            text = text.replace(american, british)
    return text


# --- a few words ------------------------------------------------------------------------------------------------------


def _as_query(facts: CrystalFacts, rng: np.random.Generator, with_formula: bool) -> str:
    """A few words: `layered lithium cobalt oxide`, `rutile`, `cubic halides Fm-3m`."""
    known = names(facts)
    if with_formula:
        adjectives = _adjectives(facts, rng)
        extras = [word for word in (*adjectives, *known, *attributes(facts)) if not _overlap(word, facts.formula)]
        extra = _one([*extras, ""], rng)
        comes_first = extra in adjectives and rng.random() < 0.7
        return f"{extra} {facts.formula}" if comes_first else f"{facts.formula} {extra}".strip()
    if known and rng.random() < NAME_SHARE:
        name = _one(known, rng)
        before = [word for word in _adjectives(facts, rng) if not _overlap(word, name)] if rng.random() < 0.5 else []
        return f"{_one(before, rng)} {name}" if before else name
    if rng.random() < SYMMETRY_SHARE:
        noun = _one(nouns(facts), rng) if facts.compound_class and rng.random() < 0.5 else ""
        return f"{_one(_symmetry(facts), rng)} {noun}".strip()
    adjectives = _some(_adjectives(facts, rng), 0.35, rng)
    group = _noun_group(facts, rng)
    after = [_one(attributes(facts), rng)] if rng.random() < 0.35 else []
    words = [*adjectives, group, *after]
    text = " ".join(word for word in words if word)
    if " " not in text:
        text = f"{_one([word for word in _adjectives(facts, rng) if word != text], rng)} {text}".strip()
    return text


def _symmetry(facts: CrystalFacts) -> list[str]:
    """Ways to ask for a space group or crystal system."""
    number = facts.spacegroup_number
    return [
        facts.spacegroup_symbol,
        facts.spacegroup_symbol,
        f"space group {number}",
        f"No. {number}",
        facts.crystal_system,
    ]


def _noun_group(facts: CrystalFacts, rng: np.random.Generator) -> str:
    """Elements and class: `lithium cobalt oxide`, `Fe-O`, `alkali halides`, `copper`."""
    if not facts.compound_class:
        symbol = facts.elements[0]
        return _one([element_name(symbol), symbol, f"elemental {element_name(symbol)}"], rng)
    noun = _one(nouns(facts), rng)
    if rng.random() < 0.1:
        order = rng.permutation(facts.elements).tolist() if rng.random() < 0.5 else _in_order(facts.elements, facts)
        return _one(["-".join(order), f"{'-'.join(order)} system", " ".join(order)], rng)
    if rng.random() < 0.35:
        families = [name for name, symbols in GROUPS.items() if symbols & set(facts.elements)]
        return f"{_one(families, rng)} {noun}" if families and rng.random() < 0.4 else noun
    return f"{_elements(facts, rng)} {noun}".strip()


def _elements(facts: CrystalFacts, rng: np.random.Generator) -> str:
    """Names or symbols of some or all elements that the class does not name: `lithium cobalt`, `Fe`."""
    others = _in_order(without_anions(facts.compound_class, facts.elements), facts)
    if rng.random() < 0.3:
        others = rng.permutation(others).tolist()
    if len(others) > 1 and rng.random() < 0.25:
        others = others[: int(rng.integers(1, len(others)))]
    if rng.random() < 0.15:
        return " ".join(others)
    words = [element_name(symbol) for symbol in others]
    if words and rng.random() < 0.15:
        place = int(rng.integers(len(words)))
        families = [name for name, symbols in GROUPS.items() if others[place] in symbols]
        words[place] = _one(families, rng) if families else words[place]
    return " ".join(words)


def attributes(facts: CrystalFacts) -> list[str]:
    """Words after a noun or a formula."""
    group, number = facts.spacegroup_symbol, facts.spacegroup_number
    words = [group, f"space group {group}", f"space group {number}", f"{facts.density:.1f} g/cm3"]
    words += [AFTER_NOUN[word] for word in facts.property_words if word in AFTER_NOUN]
    for one in facts.environments:
        if len(one.partners) == 1 and one.shape in POLYHEDRA and _surrounded_by_anions(one):
            (partner,) = one.partners
            words.append(f"with {one.symbol}{partner.symbol}{partner.count} {POLYHEDRA[one.shape]}")
            words.append(f"with {one.shape} {element_name(one.symbol)}")
    return words


# --- sentences --------------------------------------------------------------------------------------------------------


def _as_sentences(facts: CrystalFacts, rng: np.random.Generator, with_formula: bool) -> str:
    """One to five sentences in a random order; the one about the class names the formula or not."""
    subject = facts.formula if with_formula else _one(["The material", "This compound", "It"], rng)
    if not facts.compound_class:
        subject = subject.replace("This compound", "This crystal")
    writers: list[Callable[[], str]] = [
        lambda: f"{subject} is {_article(_described(facts, rng))}",
        lambda: f"It crystallizes in the {facts.crystal_system} space group {facts.spacegroup_symbol}",
        lambda: f"The crystal system is {facts.crystal_system}",
        lambda: f"It contains {listed([element_name(symbol) for symbol in rng.permutation(facts.elements).tolist()])}",
        lambda: packing_sentence(facts),
        lambda: density_sentence(facts),
        *(lambda s=s: s for s in lattice_sentences(facts)),
    ]
    if has_dimensionality(facts):
        writers.append(lambda: _one(STATEMENTS[facts.dimensionality], rng))
    if facts.structure_type:
        writers.append(lambda: f"It has the {facts.structure_type} structure")
    if facts.property_words:
        writers.append(lambda: _property_sentence(_property_word(facts, rng)))
    writers += [lambda e=e: _one(bond_sentences(e), rng) for e in facts.environments if e.partners]  # type: ignore[misc]
    count = int(rng.integers(1, 6))
    chosen = rng.permutation(len(writers))[:count].tolist()
    if with_formula and 0 not in chosen:
        chosen[0] = 0
    return ". ".join(writers[number]() for number in chosen) + "."


def _described(facts: CrystalFacts, rng: np.random.Generator) -> str:
    """Adjectives and a noun, such as `layered ternary oxide` or `cubic form of iron`."""
    words = _some(_adjectives(facts, rng), 0.4, rng)
    noun = _one(_singular(facts), rng) if facts.compound_class else f"form of {element_name(facts.elements[0])}"
    return " ".join([*words, noun])


def bond_sentences(environment: Environment) -> list[str]:
    """The neighbours of an element; the mean bond length to each kind of them; and, if it has a name, the shape."""
    symbol, shape = environment.symbol, environment.shape
    if not environment.partners:
        return []
    usually, about = ("", "") if environment.is_only else ("mostly ", "about ")
    sentences = [f"{symbol} is {usually}bonded to {listed([f'{p.count} {p.symbol}' for p in environment.partners])}"]
    sentences += [
        f"The mean {symbol}–{partner.symbol} bond length is {about}{partner.distance:.2f} Å"
        for partner in environment.partners
    ]
    if shape not in {"terminal", "bent"}:
        sentences.append(f"{element_name(symbol).capitalize()} has {usually}{shape} coordination")
    return sentences


def density_sentence(facts: CrystalFacts) -> str:
    """`The density is 5.32 g/cm³`."""
    return f"The density is {facts.density:.2f} g/cm³"


# --- words ------------------------------------------------------------------------------------------------------------


def names(facts: CrystalFacts) -> list[str]:
    """Structure type and minerals. A type named after a compound is called a structure."""
    minerals = [word.removeprefix("mineral:") for word in keywords(facts) if word.startswith("mineral:")]
    kind = facts.structure_type
    types = [] if kind is None else [f"{kind} structure" if AFTER_A_COMPOUND.search(kind) else kind]
    return list(dict.fromkeys([*types, *minerals]))


def _adjectives(facts: CrystalFacts, rng: np.random.Generator) -> list[str]:
    """Words before a noun, each of which holds. A network in three directions is so common that it is left out more."""
    words = [facts.crystal_system]
    if facts.compound_class:
        words.append(COUNTS.get(len(facts.elements), "multicomponent"))
    if has_dimensionality(facts) and (facts.dimensionality != "framework" or rng.random() < 0.3):
        words.insert(0, _one(BEFORE_NOUN[facts.dimensionality], rng))
    if facts.property_words:
        words.insert(0, _property_word(facts, rng))
    kind = facts.structure_type
    if kind and kind.endswith(("cubic", "close-packed", "-type")):
        words.append(kind)
    elif kind and not kind.endswith("phase"):
        words.append(f"{kind}-type")
    return words


def _property_word(facts: CrystalFacts, rng: np.random.Generator) -> str:
    """One of the words for its properties: `wide-gap`."""
    return _one(PROPERTY_BEFORE_NOUN[_one(facts.property_words, rng)], rng)


def _property_sentence(word: str) -> str:
    """`The material is magnetic`, `The material has a wide band gap`."""
    is_noun = word.endswith((" gap", " index", " density"))
    return f"The material has a {word}" if is_noun else f"The material is {word}"


def has_dimensionality(facts: CrystalFacts) -> bool:
    """Whether people would say how far the bonds reach: not of a metal, nor of atoms without bonds."""
    nonmetals = {SYMBOLS[z] for z in NONMETALS}
    return any(e.partners for e in facts.environments) and not nonmetals.isdisjoint(facts.elements)


def _singular(facts: CrystalFacts) -> list[str]:
    """The class and its family: `chloride`, `halide`."""
    classes = {word.removeprefix("class:") for word in keywords(facts) if word.startswith("class:")}
    short = ["intermetallic"] if facts.compound_class == INTERMETALLIC else []
    parents = [parent for parent, members in PARENTS.items() if classes and classes <= members]
    return [facts.compound_class, *short, *parents]


def nouns(facts: CrystalFacts) -> list[str]:
    """The class and its family, singular and plural."""
    words = _singular(facts)
    return [*words, *(f"{word}s" for word in words)]


def _in_order(symbols: Sequence[str], facts: CrystalFacts) -> list[str]:
    """Symbols in the order of the formula."""
    order = re.findall(r"[A-Z][a-z]?", facts.formula)
    return sorted(symbols, key=lambda symbol: order.index(symbol) if symbol in order else len(order))


def _surrounded_by_anions(environment: Environment) -> bool:
    from crystalign.physics.contacts import electronegativities

    chi = electronegativities()
    centre, partners = SYMBOLS.index(environment.symbol), [SYMBOLS.index(p.symbol) for p in environment.partners]
    return all(z in NONMETALS and chi[z] > chi[centre] for z in partners)


def _some(words: Iterable[str], share: float, rng: np.random.Generator) -> list[str]:
    """Some of the words, in order; none that repeats a part of another one."""
    chosen: list[str] = []
    for word in words:
        if rng.random() < share and not any(_overlap(word, other) for other in chosen):
            chosen.append(word)
    return chosen


def _overlap(one: str, other: str) -> bool:
    """Whether two phrases share a word."""
    parts = [set(re.split(r"[ -]", words)) for words in (one, other)]
    return bool(parts[0] & parts[1])


def element_name(symbol: str) -> str:
    """`lithium` for Li."""
    return ELEMENTS[SYMBOLS.index(symbol) - 1]


def _article(words: str) -> str:
    """`an oxide`, `a one-dimensional oxide`, `a uranium dodecaboride-type boride`."""
    vowel = words[0].lower() in "aeio" and not words.startswith("one")
    return f"{'an' if vowel else 'a'} {words}"


def _one(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]
