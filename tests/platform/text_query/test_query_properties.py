"""Properties, sizes, dimensionality and applications in queries."""

from __future__ import annotations

import pytest

from brief_query import brief
from crystalign.index.filters import make_fields
from crystalign.properties import PropertySpec, Quantity
from crystalign.text_query.understanding import understand

PROPS = [
    ("band gap > 2 eV", ["band_gap>2"]),
    ("bandgap>2eV", ["band_gap>2"]),
    ("band gap between 1 and 2", ["band_gap>=1 AND band_gap<=2"]),
    ("gap 1-2 eV", ["band_gap>=1 AND band_gap<=2"]),
    ("1.5 eV band gap", ["band_gap>=1.35 AND band_gap<=1.65"]),
    ("band gap of about 1.5 eV", ["band_gap>=1.35 AND band_gap<=1.65"]),
    ("band gap between 2 and 1 eV", ["band_gap>=1 AND band_gap<=2"]),
    ("band gap > 0.5 and < 2 eV", ["band_gap>0.5 AND band_gap<2"]),
    ("0.5 < Eg <= 1 eV", ["band_gap>0.5 AND band_gap<=1"]),
    ("500 meV < gap < 1 eV", ["band_gap>0.5 AND band_gap<1"]),
    ("300 >= bulk modulus > 200 GPa", ["bulk_modulus_vrh<=300 AND bulk_modulus_vrh>200"]),
    ("Eg = 1.34 +/- 0.1 eV", ["band_gap>=1.24 AND band_gap<=1.44"]),
    ("gap of 1.5 ± 0.2 eV", ["band_gap>=1.3 AND band_gap<=1.7"]),
    ("band gap 3 eV or more", ["band_gap>=3"]),
    ("band gap > 2 eV and density < 4", ["band_gap>2", "density<4"]),
    ("K > 150 GPa", ["bulk_modulus_vrh>150"]),
    ("G over 100 GPa", ["shear_modulus_vrh>100"]),
    ("refractive index n > 2", ["refractive_index>2"]),
    (
        "insulating nitride, gap at least 3 eV",
        ["band_gap>=3", 'elements HAS "N" AND kw HAS "class:nitride"', "band_gap>=3"],
    ),
    ("narrow gap, Eg < 0.5 eV", ["band_gap>0.05 AND band_gap<0.5", "band_gap<0.5"]),
    ("stiff, density < 4", ["bulk_modulus_vrh>=200", "density<4"]),
    ("six or more different elements", ["nelements>=6"]),
    ("10 or fewer atoms", ["nsites<=10"]),
    ("gap = 0", ["band_gap<=0.05"]),
    ("Eg > 3", ["band_gap>3"]),
    ("gap below 500 meV", ["band_gap<0.5"]),
    ("wide band gap", ["band_gap>=3"]),
    ("wide-gap oxides", ["band_gap>=3", 'elements HAS "O" AND kw HAS "class:oxide"']),
    ("narrow gap", ["band_gap>0.05 AND band_gap<=1"]),
    ("metallic oxides", ["band_gap<=0.05", 'elements HAS "O" AND kw HAS "class:oxide"']),
    ("not metallic", ["band_gap>0.05"]),
    ("semiconductor", ["band_gap>=0.1 AND band_gap<=4"]),
    (
        "wide band gap nitride semiconductor",
        ["band_gap>=3", 'elements HAS "N" AND kw HAS "class:nitride"', "band_gap>=0.1"],
    ),
    ("insulators", ["band_gap>=4"]),
    ("stable", ["energy_above_hull<=0.025"]),
    ("metastable", ["energy_above_hull>0 AND energy_above_hull<=0.1"]),
    ("energy above hull < 50 meV/atom", ["energy_above_hull<0.05"]),
    ("formation energy < -1 eV/atom", ["formation_energy_per_atom<-1"]),
    ("bulk modulus above 200 GPa", ["bulk_modulus_vrh>200"]),
    ("bulk modulus of 2 Mbar", ["bulk_modulus_vrh>=180 AND bulk_modulus_vrh<=220"]),
    ("stiff", ["bulk_modulus_vrh>=200"]),
    ("hard", ["shear_modulus_vrh>=150"]),
    ("soft", ["bulk_modulus_vrh<=40"]),
    ("ferromagnetic", ["total_magnetization_per_atom>=0.1"]),
    ("non-magnetic", ["total_magnetization_per_atom>=-0.01 AND total_magnetization_per_atom<=0.01"]),
    ("high refractive index", ["refractive_index>=2.2"]),
    ("dense", ["density>=8"]),
    ("low density", ["density<=2.5"]),
    ("density > 5 g/cm3", ["density>5"]),
    ("layered", ['kw HAS "dimensionality:layered"']),
    ("2D materials", ['kw HAS "dimensionality:layered"']),
    ("van der Waals crystals", ['kw HAS "dimensionality:layered"']),
    ("1D", ['kw HAS "dimensionality:chains"']),
    ("chain", ['kw HAS "dimensionality:chains"']),
    ("molecular crystals", ['kw HAS "dimensionality:molecular"']),
    ("framework", ['kw HAS "dimensionality:framework"']),
    ("elemental", ["nelements=1"]),
    ("binary", ["nelements=2"]),
    ("two elements", ["nelements=2"]),
    ("at least four elements", ["nelements>=4"]),
    ("more than 3 elements", ["nelements>3"]),
    ("small unit cell", ["nsites<=10"]),
    ("less than 10 atoms", ["nsites<10"]),
    ("fewer than ten atoms per unit cell", ["nsites<10"]),
    ("up to 20 atoms", ["nsites<=20"]),
    ("high entropy", ["nelements>=5"]),
    (
        "lithium-ion cathode",
        [
            (
                'elements HAS "Li" AND elements HAS ANY "Ti","V","Cr","Mn","Fe","Co","Ni","Cu","Nb",'
                '"Mo" AND elements HAS ANY "O","F","S"'
            )
        ],
    ),
    (
        "transparent conducting oxide",
        [
            (
                'elements HAS "O" AND elements HAS ANY "Zn","Ga","Cd","In","Sn" '
                'AND NOT elements HAS ANY "H","P","S","C","N","Si","B"'
            )
        ],
    ),
    (
        "solid electrolyte",
        [
            (
                'elements HAS ANY "Li","Na" AND elements HAS ANY "O","F","S","Cl","Br","I","N","P",'
                '"Se" AND NOT elements HAS ANY "V","Cr","Mn","Fe","Co","Ni","Cu","Nb","Mo","W"'
            )
        ],
    ),
    (
        "transition metal dichalcogenides",
        [
            (
                'elements HAS ANY TRANSITION METALS AND elements HAS ANY "S","Se","Te" AND ratio="A2B" '
                'AND (formula CONTAINS "S2" OR formula CONTAINS "Se2" OR formula CONTAINS "Te2")'
            )
        ],
    ),
    ("topological insulator", ["rest: topological insulator"]),
    ("magnetic topological insulator", ["total_magnetization_per_atom>=0.1", "rest: topological insulator"]),
    ("antiferromagnetic oxides", ['elements HAS "O" AND kw HAS "class:oxide"', "rest: antiferromagnetic"]),
    ("superconductor", ["rest: superconductor"]),
    ("pretty blue crystals", ["rest: pretty blue"]),
    ("hello world", ["rest: hello world"]),
]


@pytest.mark.parametrize(("typed", "expected"), PROPS, ids=[typed for typed, _ in PROPS])
def test_a_property_phrase_is_a_range(typed, expected, fields):
    assert brief(typed, fields, level=9) == expected


def test_every_vintage_of_a_property_counts_known_or_predicted():
    gap = {"quantity": Quantity.BAND_GAP, "source": "mp", "vintage": "2026"}
    fields = make_fields([PropertySpec(method="pbe", **gap), PropertySpec(method="hse06", **gap)])
    predicted = fields["_crystalign_band_gap_pbe"].model_copy(
        update={"name": "_crystalign_predicted_band_gap", "column": "predicted_band_gap"}
    )
    (chip,) = understand("wide gap", fields | {predicted.name: predicted}).chips
    assert chip.filter == (
        "_crystalign_band_gap_hse06>=3 OR _crystalign_band_gap_pbe>=3 OR (_crystalign_predicted_band_gap>=3 AND "
        "_crystalign_band_gap_hse06 IS UNKNOWN AND _crystalign_band_gap_pbe IS UNKNOWN)"
    )
    assert chip.label == "wide band gap: band gap ≥ 3 eV (known or predicted)"


def test_a_property_that_the_index_lacks_is_searched_as_text_and_said_so(bare):
    found = understand("wide gap stiff oxides", bare)
    assert [chip.words for chip in found.chips] == ["oxides"]
    assert found.rest == "wide gap stiff"
    assert "no values of band gap" in found.notes[0]


def test_stable_means_a_negative_formation_energy_without_energies_above_the_hull():
    spec = PropertySpec(quantity=Quantity.FORMATION_ENERGY_PER_ATOM, method="pbe", source="mp", vintage="2026")
    (chip,) = understand("stable", make_fields([spec])).chips
    assert chip.filter == "_crystalign_formation_energy_per_atom<0"
    assert "no energies above the hull" in chip.note


def test_dimensionality_needs_keywords(bare):
    found = understand("layered sulfides", bare)
    assert [chip.filter for chip in found.chips] == ['elements HAS "S"']
    assert found.rest == "layered"
    assert "dimensionalities" in found.notes[0]
