"""Patterns of words for elements, compound classes, structure types and crystal systems, built from word stems.

In the lists, a space matches a space, a hyphen or nothing: `zinc blende` is also `zinc-blende` and `zincblende`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator

SPELLINGS = {
    "H": "deuterium tritium protium deuterated deuteriated tritiated hydrogenated hydrogenous hydrogenation",
    "Li": "lithian lithiated lithiation delithiated delithiation",
    "B": "boric boronated borided",
    "C": "carbonic carbonaceous carburized",
    "N": "nitric nitrous nitrogenous nitrided nitridation nitrogenated",
    "O": "oxygenated oxygenation deoxygenated",
    "F": "fluorinated fluorination fluorian hydrofluoric",
    "Na": "sodic sodian sodiated sodiation",
    "Mg": "magnesian magnesic",
    "Al": "aluminium aluminous aluminian",
    "Si": "silicic siliceous silicided",
    "P": "phosphorous phosphoric phosphatic",
    "S": "sulphur sulfuric sulphuric sulfurous sulphurous sulfidic sulphidic sulfurized sulphurized",
    "Cl": "chloric chlorinated chlorination chlorian hydrochloric perchloric",
    "K": "potassic potassian kalian",
    "Ca": "calcic calcian calcareous",
    "Ti": "titanous titanian titaniferous",
    "V": "vanadic vanadous vanadian",
    "Cr": "chromic chromous chromian chromiferous",
    "Mn": "manganic manganous manganoan manganian manganiferous",
    "Fe": "ferric ferrous ferrian ferroan ferruginous ferriferous",
    "Co": "cobaltic cobaltous cobaltian cobaltoan",
    "Ni": "nickelic nickelous nickelian nickeloan nickeliferous",
    "Cu": "cupric cuprous cuprian cupriferous",
    "Zn": "zincic zincian zinciferous",
    "As": "arsenous arsenious arsenical arsenian",
    "Se": "selenic selenious selenous selenian selenized selenization",
    "Br": "bromic brominated",
    "Sr": "strontian",
    "Mo": "molybdic molybdous molybdian",
    "Pd": "palladic palladous palladian",
    "Ag": "argentic argentous argentian argentiferous",
    "Sn": "stannic stannous stannian stanniferous",
    "Sb": "antimonic antimonous antimonial antimonian stibnous stibic",
    "Te": "tellurous tellurian tellurized tellurization",
    "I": "iodinated iodized",
    "Cs": "caesium",
    "Ba": "barian",
    "Ce": "ceric cerous cerian",
    "W": "wolfram tungstic wolframic",
    "Os": "osmic",
    "Pt": "platinic platinous platinian",
    "Au": "auric aurous aurian auriferous",
    "Hg": "quicksilver mercuric mercurous",
    "Tl": "thallic thallous thallian",
    "Pb": "plumbic plumbous plumbian plumbiferous",
    "Bi": "bismuthic bismuthous bismuthian",
    "U": "uranic uranous uraniferous",
}
"""Symbol → other spellings of the element's name, and adjectives."""

_IDES = """bor carb carbonitr silic german stann plumb nitr phosph arsen antimon bismuth bism ox sulf sulph selen tellur
polon fluor chlor brom iod astat hydr deuter hydrox perox superox subox hal pnict chalcogen alumin gall ind thall zinc
magnes beryll aur argent platin pallad rhod irid ruthen nickel cobalt lanthan actin uran cyan az am im acetyl fuller
electr alkox amin mercur cadm"""
_ATES = """titan zircon hafn vanad niob tantal chrom molybd tungst wolfram mangan technet rhen ferr cobalt nickel
cupr zinc alumin gall ind thall silic german stann plumb bor carbon nitr phosph arsen antimon bismuth sulf sulph
selen tellur chlor brom iod fluor ruthen rhod pallad platin osm irid aur argent uran neptun pluton scand yttr
lanthan cer thor beryll cyan hydroxyl acet oxal carbox carboxyl citr tartr hydr magnes xenon form"""
_ITES = "mangan cobalt chrom ferr nitr sulf sulph phosph arsen selen tellur chlor brom iod alumin antimon nickel"
_YLS = "uran neptun pluton vanad titan zircon bismuth carbon hydrox nitros phosphor sulfon"
_OXIDES = """alumina silica titania zirconia hafnia magnesia ceria yttria thoria urania baria strontia germania scandia
chromia niobia tantala lithia beryllia erbia lanthana gallia vanadia"""
_CLASSES = """intermetallic, pnictogen, chalcogen, halogen, lanthanide, actinide, lanthanoid, actinoid, ammonium,
methylammonium, formamidinium, hydronium, phosphonium, hydrated, dehydrated, hydrous, anhydrous, hydroxylated,
carbonated, oxoanion, polyanion, alkali, alkaline, rare earth, transition metal, borax, potash, TMD, TMDC, REBCO"""
_PREFIXES = """mono mon di tri tetra tetr penta pent hexa hex hepta hept octa oct nona deca undeca dodeca sesqui
hemi sub per hyper hypo super poly oxy oxo hydro hydroxy hydrogen thio seleno telluro fluoro fluo chloro bromo
iodo nitro nitrido cyano carbo carbon boro bi bis tris ortho meta pyro para alumino silico phospho germano arseno
vanado molybdo tungsto titano ferri ferro cupro mangano zirco niobo tantalo stanno organo methyl ethyl nano micro
halo pnicto chalco pseudo anti inter de un non mixed iso trans cis post pre sulf sulfo sulpho nitr ammonio uranyl
antimono bismutho tellur selen azo amino hexa double inverse alpha beta defect litho"""

_TYPES = """perovskite, spinel, garnet, pyrochlore, delafossite, rutile, anatase, brookite, corundum, ilmenite,
fluorite, wurtzite, zinc blende, sphalerite, rock salt, halite, heusler, half heusler, full heusler, laves,
chevrel, zintl, clathrate, skutterudite, ruddlesden popper, ruddlesden, aurivillius, dion jacobson, frank kasper,
remeika, magneli, kaolin, serpentine, hume rothery, nowotny juza, chalcopyrite, apatite, olivine, pyroxene,
amphibole, mica, feldspar, zeolite, zircon, quartz, cristobalite, diamond, graphite, graphene, graphane, graphyne,
graphone, graphdiyne, silicene, silicane, germanene, germanane, stanene, stannene, phosphorene, borophene,
arsenene, antimonene, bismuthene, plumbene, selenene, tellurene, gallenene, aluminene, fullerene, mxene, max
phase, nasicon, lisicon, bronze, galena, gypsum, opal, ruby, sapphire, emerald, topaz, tourmaline, jade, cinnabar,
realgar, orpiment, clay, melilite, langasite, cryolite, elpasolite, beryl, hydrotalcite, layered double hydroxide,
prussian blue, infinite layer, brownmillerite, argyrodite, kesterite"""
_ORDINARY_ITES = """finite infinite definite indefinite site onsite insite website subsite offsite intersite
multisite antisite composite nanocomposite microcomposite biocomposite opposite quite suite white write rewrite
overwrite despite spite satellite partite bipartite tripartite multipartite dendrite crystallite nanocrystallite
microcrystallite spherulite cite unite reunite invite requisite prerequisite ignite excite elite favorite
favourite polite granite meteorite bite kite mite rite trite respite smite sprite hermite parasite appetite
dynamite termite erudite expedite recite incite contrite exquisite stalactite stalagmite plebiscite socialite
neurite metabolite lite byte hypocrite austenite martensite premartensite pearlite bainite"""
"""English words and microstructures that end in `-ite` like minerals."""

_SYSTEMS = "cubic tetragonal orthorhombic hexagonal trigonal rhombohedral monoclinic triclinic"

COMPOUND_NAMES = frozenset(
    """YBCO BSCCO LSCO NCCO LSMO LCMO PCMO LBCO YIG YAG GGG PZT PMN PLZT BST SBT STO BTO BFO LAO LNO KDP ADP KTP KTN
    TGS LSAT REBCO HBCCO TBCCO NBCO GBCO BKT NBT KNN ITO AZO IGZO FTO BEDT-TTF TTF-TCNQ TCNQ LTO LCO NMC""".split()  # noqa: SIM905 (fifty quoted words are no clearer)
)
"""Abbreviations that stand for a compound."""


def _any(words: list[str]) -> str:
    """An alternation with the longest word first, so that no word matches before a longer one."""
    return "|".join(sorted(set(words), key=len, reverse=True))


def _phrases(listed: str) -> list[str]:
    """Patterns of the phrases in a comma-separated list; a space matches a space, a hyphen or nothing."""
    return [re.sub(r"\s+", "[ -]?", phrase.strip()) for phrase in listed.split(",")]


def _prefixes(most: int) -> str:
    return rf"(?:(?:{_any(_PREFIXES.split())})-?){{0,{most}}}"


@functools.cache
def element_words() -> re.Pattern[str]:
    """Names and adjectives of the elements except `lead`, which is ambiguous and needs the context."""
    from crystalign.physics.caption import ELEMENTS

    names = [name for name in ELEMENTS if name not in {"lead", "radon"}] + ["radon(?! transform)"]
    names += [word for words in SPELLINGS.values() for word in words.split()]
    return re.compile(rf"\b{_prefixes(1)}(?:{_any(names)})s?\b", re.IGNORECASE)


@functools.cache
def class_words() -> re.Pattern[str]:
    """Compound classes named after their anions: oxides, dihydrogenphosphates, oxypnictides, cuprates."""
    endings = [(_IDES, "ide"), (_ATES, "ate"), (_ITES, "ite"), (_YLS, "yl")]
    stems = [f"(?:{_any(words.split())}){ending}" for words, ending in endings] + _OXIDES.split()
    listed = _any([name for name in _classes() if " " not in name])
    return re.compile(rf"\b(?:{_prefixes(4)}(?:{'|'.join(stems)})|{listed})s?\b", re.IGNORECASE)


def _classes() -> list[str]:
    """Patterns of compound classes that no stem covers, including those of our captions."""
    from crystalign.physics.compound_classes import CLASS_NAMES

    return _phrases(_CLASSES) + [re.sub("[ -]", "[ -]?", name) for name in CLASS_NAMES]


def _types() -> list[str]:
    """Patterns of structure types, including those of our captions, and of minerals."""
    from crystalign.minerals import minerals
    from crystalign.physics.structure_types import TYPE_NAMES

    captioned = [re.sub(r"\\?[ -]", "[ -]?", re.escape(name)).replace("center", "cent(?:er|re)") for name in TYPE_NAMES]
    named = [mineral.name for mineral in minerals() if mineral.name != "lime"]  # a fruit as well
    return captioned + _phrases(_TYPES) + [name for name in named if not class_words().fullmatch(name)]


@functools.cache
def type_words() -> re.Pattern[str]:
    """Structure types and minerals that are one word."""
    return _type_pattern([name for name in _types() if " " not in name])


@functools.cache
def phrases() -> dict[str, re.Pattern[str]]:
    """Mark → pattern of terms with more than one word, such as `zinc blende` and `rare earth`."""
    classes = _any([name for name in _classes() if " " in name])
    types = _type_pattern([name for name in _types() if " " in name])
    return {"type": types, "class": re.compile(rf"\b(?:{classes})s?\b", re.IGNORECASE)}


def _type_pattern(names: list[str]) -> re.Pattern[str]:
    return re.compile(rf"\b{_prefixes(2)}(?:{_any(names)})(?:e?s|oids?|i?tic)?\b", re.IGNORECASE)


@functools.cache
def mineral_like_words() -> re.Pattern[str]:
    """Any other word of at least six letters that ends in `-ite` and is not an ordinary English word."""
    return re.compile(rf"\b(?!(?:{_any(_ORDINARY_ITES.split())})s?\b)[a-z]{{3,}}ites?\b", re.IGNORECASE)


@functools.cache
def system_words() -> re.Pattern[str]:
    """Crystal systems and lattices; coordination shapes such as `trigonal planar` are not matched."""
    systems = f"(?:{_any(_SYSTEMS.split())})(?:ly|ity)?"
    shapes = r"(?![ -]?(?:planar|prism|bipyramid|pyramid|antiprism))"
    centred = r"(?:face|body|base|side|[abc])[- ]cent(?:er|re)d(?:[ -](?:cubic|tetragonal|orthorhombic|monoclinic))?"
    packed = r"(?:hexagonal|cubic)(?:ly)?[- ]close(?:st)?[- ]packed"
    return re.compile(
        rf"\b(?:{packed}|(?:pseudo|quasi|near|non)?-?(?:{systems}|anorthic){shapes}|{centred}|d?hcp|[fbc]c[cp]|bct|fct)\b",
        re.IGNORECASE,
    )


_WORD = re.compile(r"(?<!\w)\w[\w-]*")


def find_words(kind: Callable[[], re.Pattern[str]], text: str) -> Iterator[tuple[int, int]]:
    """Find matches of a pattern that consists only of letters and hyphens.

    Args:
        kind: one of the functions above that return a pattern.
        text: plain characters.

    Yields:
        (start, end) of each match.
    """
    for word in _WORD.finditer(text):
        for start, end in _within_word(kind, word[0]):
            yield word.start() + start, word.start() + end


@functools.lru_cache(maxsize=1 << 16)
def _within_word(kind: Callable[[], re.Pattern[str]], word: str) -> tuple[tuple[int, int], ...]:
    """Matches within one word; cached because words recur and the patterns are long."""
    return tuple(match.span() for match in kind().finditer(word))
