"""Keywords by which a search filters: one for each word of a class, structure types, minerals, dimensionality."""

from __future__ import annotations

import pytest

from crystalign.minerals import minerals
from crystalign.physics.compound_classes import CLASS_NAMES
from crystalign.physics.structure_types import TYPE_NAMES
from crystalign.text.keywords import MIRROR_IMAGES, TYPE_OF_MINERAL, keywords


def classes(facts) -> list[str]:
    return [word.removeprefix("class:") for word in keywords(facts) if word.startswith("class:")]


def named(facts) -> list[str]:
    return [word.removeprefix("mineral:") for word in keywords(facts) if word.startswith("mineral:")]


def test_a_mineral_has_the_keywords_that_a_mineralogist_expects(facts_about):
    words = keywords(facts_about())
    assert {"class:oxide", "type:rutile", "mineral:rutile", "dimensionality:framework"} <= set(words)
    assert len(words) == len(set(words))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("phosphate hydroxide hydrate", ["phosphate", "hydroxide", "hydrate"]),
        ("oxychloride", ["oxychloride"]),
        ("oxyhydroxide", ["oxyhydroxide"]),
        ("cyanamide", ["cyanamide"]),
        ("thiocyanate", ["thiocyanate"]),
        ("borohydride", ["borohydride"]),
        ("hydroborate", ["hydroborate"]),
        ("organic compound", ["organic compound"]),
        ("metal-organic compound", ["metal-organic compound"]),
        ("intermetallic compound", ["intermetallic compound"]),
        ("mixed-anion compound", ["mixed-anion compound"]),
        ("compound", []),
        ("", []),
    ],
)
def test_a_class_gives_one_keyword_for_each_of_its_words(facts_about, name, words):
    assert classes(facts_about(compound_class=name)) == words


@pytest.mark.parametrize("name", CLASS_NAMES)
def test_every_class_is_its_own_keyword(facts_about, name):
    assert classes(facts_about(compound_class=name)) == [name]


def test_the_classes_of_real_structures_are_taken_apart_without_rest(varied_facts):
    for facts in varied_facts:
        if facts.compound_class not in {"", "compound"}:
            assert " ".join(classes(facts)) == facts.compound_class


@pytest.mark.parametrize(
    ("formula", "number", "kind", "names"),
    [
        ("SnO2", 136, "rutile", ["cassiterite"]),
        ("NaCl", 225, "rock salt", ["halite"]),
        ("NaCl", 221, "cesium chloride", []),
        ("Ca5P3O13H", 176, None, ["hydroxylapatite"]),
        ("Sr0.3La0.7MnO3", 62, "orthorhombic perovskite", []),
        ("C", 194, "graphite", []),
        ("C", 194, None, []),
        ("C", 194, "lonsdaleite", ["lonsdaleite"]),
        ("ZnS", 186, "wurtzite", ["wurtzite"]),
        ("ZnS", 186, "moissanite-4H", []),
        ("SiO2", 152, "alpha quartz", ["quartz"]),
        ("SiO2", 154, "alpha quartz", ["quartz"]),
        ("SiO2", 152, None, []),
        ("HgS", 154, "cinnabar", ["cinnabar"]),
        ("CuO", 15, "tenorite", ["tenorite"]),
        ("CuO", 15, None, []),
        ("TiO2", 141, "anatase", ["anatase"]),
        ("Al2O3", 167, "corundum", ["corundum"]),
        ("Bi2Te2S", 166, None, ["tetradymite"]),
        ("NiAs", 194, "anti nickel arsenide", []),
    ],
)
def test_minerals_are_named_by_formula_symmetry_and_structure(facts_about, formula, number, kind, names):
    assert named(facts_about(formula=formula, spacegroup_number=number, structure_type=kind)) == names


def test_mirror_images_are_the_eleven_enantiomorphic_pairs():
    from pymatgen.symmetry.groups import SpaceGroup

    pairs = {tuple(sorted(pair)) for pair in MIRROR_IMAGES.items()}
    assert len(pairs) == 11
    for one, other in pairs:
        symbols = [SpaceGroup.from_int_number(number).symbol for number in (one, other)]
        assert symbols[0][:2] == symbols[1][:2]
        assert SpaceGroup.from_int_number(one).crystal_system == SpaceGroup.from_int_number(other).crystal_system


def test_the_types_that_minerals_need_exist():
    assert set(TYPE_OF_MINERAL) <= {mineral.name for mineral in minerals()}
    assert {kind for kind in TYPE_OF_MINERAL.values() if kind} <= set(TYPE_NAMES)
