"""Facts about crystals: numbers computed by hand, environments, mixed sites, and crystals with little to say."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from crystalign.crystal import Crystal
from crystalign.derivation import text_of
from crystalign.material import Material, Provenance
from crystalign.physics.caption import caption, caption_of
from crystalign.physics.facts import CrystalFacts, crystal_facts
from crystalign.physics.symmetry import symmetry
from crystalign.sources.prototypes import library

AVOGADRO = 6.02214076e23


def facts_of(crystal: Crystal) -> CrystalFacts:
    return crystal_facts(crystal, symmetry(crystal))


def iron() -> Crystal:
    return Crystal(2.866 * np.eye(3), np.array([[0, 0, 0], [0.5] * 3]), np.array([26, 26]))


def test_what_is_said_about_salt(textbook):
    facts = facts_of(textbook["NaCl"])
    assert (facts.formula, facts.elements, facts.compound_class) == ("NaCl", ("Na", "Cl"), "chloride")
    assert (facts.structure_type, facts.dimensionality) == ("rock salt", "framework")
    assert (facts.crystal_system, facts.spacegroup_symbol, facts.spacegroup_number) == ("cubic", "Fm-3m", 225)
    assert facts.volume_per_atom == pytest.approx(5.64**3 / 8)
    sodium, chlorine = facts.environments
    assert (sodium.symbol, sodium.is_only, sodium.shape) == ("Na", True, "octahedral")
    assert [(p.count, p.symbol, p.distance) for p in sodium.partners] == [(6, "Cl", 2.82)]
    assert [(p.count, p.symbol, p.distance) for p in chlorine.partners] == [(6, "Na", 2.82)]


def test_densities_are_those_of_handbooks(textbook):
    """Atomic masses 22.990, 35.45, 28.085 and 55.845; 4, 8 and 2 formula units in the cubic cell."""
    by_hand = {
        "NaCl": (4 * (22.990 + 35.45) / AVOGADRO / (5.64e-8) ** 3, 2.16),
        "Si": (8 * 28.085 / AVOGADRO / (5.431e-8) ** 3, 2.33),
        "Fe": (2 * 55.845 / AVOGADRO / (2.866e-8) ** 3, 7.87),
    }
    crystals = {**textbook, "Fe": iron()}
    for name, (computed, handbook) in by_hand.items():
        density = facts_of(crystals[name]).density
        assert density == pytest.approx(computed, rel=2e-3), name
        assert density == pytest.approx(handbook, abs=0.02), name


def test_densities_are_those_of_pymatgen():
    for label, crystal in library()[::10]:
        assert facts_of(crystal).density == pytest.approx(float(crystal.to_pymatgen().density), rel=1e-3), label


def test_a_mixed_site_counts_by_its_occupancies():
    """Half of the places of a rock salt hold sodium, half potassium; a fifth of the anions is missing."""
    lattice = 6.0 * (np.ones((3, 3)) - np.eye(3)) / 2
    sites = np.array([[0, 0, 0], [0.5] * 3])
    mixed = Crystal(lattice, sites, np.array([19, 17]), (((11, 0.5), (19, 0.5)), ((17, 0.8),)))
    facts = facts_of(mixed)
    mass = 0.5 * 22.990 + 0.5 * 39.098 + 0.8 * 35.45
    assert facts.density == pytest.approx(4 * mass / AVOGADRO / 6.0e-8**3, rel=2e-3)
    assert facts.volume_per_atom == pytest.approx(6.0**3 / 4 / 1.8)
    assert facts.elements == ("Na", "Cl", "K")
    assert facts.compound_class == "chloride"


def test_atoms_in_several_environments_are_not_said_to_have_one():
    """Copper of YBa2Cu3O7 is in squares and in square pyramids."""
    (superconductor,) = [c for label, c in library() if label == "A2B3C7D_oP13_47_t_aq_eqrs_h"]
    environments = {e.symbol: e for e in facts_of(superconductor).environments}
    assert not environments["Cu"].is_only
    assert environments["Cu"].shape == "square-pyramidal", "two thirds of the copper atoms"
    assert environments["Y"].is_only


def test_an_element_has_no_class_and_a_noble_gas_no_bonds():
    facts = facts_of(iron())
    assert (facts.compound_class, facts.elements, facts.structure_type) == ("", ("Fe",), "body-centered cubic")
    helium = facts_of(Crystal(4.2 * np.eye(3), np.zeros((1, 3)), np.array([2])))
    assert helium.dimensionality == "molecular"
    assert [(e.symbol, e.partners, e.shape) for e in helium.environments] == [("He", (), "")]


def test_many_elements_have_five_environments():
    atoms = np.array([3, 11, 25, 26, 27, 8])
    places = np.array([[0, 0, 0], [0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5], [0.5, 0.5, 0], [0.5, 0.5, 0.5]])
    facts = facts_of(Crystal(4.2 * np.eye(3), places, atoms))
    assert facts.elements == ("Li", "O", "Na", "Mn", "Fe", "Co")
    assert [e.symbol for e in facts.environments] == ["Li", "O", "Na", "Mn", "Fe"]


def test_facts_come_back_from_json_and_cannot_be_changed(known):
    facts = facts_of(known)
    assert CrystalFacts.model_validate_json(facts.model_dump_json()) == facts
    with pytest.raises(ValidationError):
        facts.density = 1.0  # type: ignore[misc]


def test_another_cell_has_the_same_facts(known, cell, transform):
    one, other = facts_of(known), facts_of(transform(known, cell))
    assert other.density == pytest.approx(one.density, abs=2e-4)
    rounded = {"density": 0.0, "volume_per_atom": 0.0}
    assert other.model_copy(update=rounded) == one.model_copy(update=rounded)


def test_a_caption_and_its_facts_belong_together(known):
    text = text_of(Material("known", known, Provenance("test", "CC0-1.0")))
    assert text.generated
    assert text.facts.model_copy(update={"property_words": (), "wrong_property_words": ()}) == facts_of(known)
    assert text.description == caption_of(text.facts) == caption(known, symmetry(known))
