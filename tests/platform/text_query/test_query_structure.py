"""Structure types, minerals and symmetry in queries."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from brief_query import brief
from crystalign.index.filters import parse_filter
from crystalign.index.search import evaluate
from crystalign.text_query.understanding import understand

STRUCTURE = [
    ("rutile type", ['kw HAS "type:rutile"']),
    ("rutile structure", ['kw HAS "type:rutile"']),
    ("rutiles", ['kw HAS "type:rutile"']),
    ("rutile oxides", ['kw HAS "type:rutile"', 'elements HAS "O" AND kw HAS "class:oxide"']),
    ("NaCl-type", ['kw HAS "type:rock salt"']),
    ("NaCl structure", ['kw HAS "type:rock salt"']),
    ("CsCl structure nitride", ['kw HAS "type:cesium chloride"', 'elements HAS "N" AND kw HAS "class:nitride"']),
    ("cesium chloride structure", ['kw HAS "type:cesium chloride"']),
    ("K2NiF4-type oxides", ['kw HAS "type:Ruddlesden-Popper n=1"', 'elements HAS "O" AND kw HAS "class:oxide"']),
    ("Fe2P type", ['(ratio="A2B" AND sg=189) OR formula="Fe2P"']),
    ("Fe2Ge type", ['formula="Fe2Ge" OR ratio="A2B"']),
    ("isostructural with NaCl", ['kw HAS "type:rock salt"']),
    ("same structure as cementite", ['kw HAS "type:cementite"']),
    ("rutile type and anatase type", ['kw HAS "type:rutile" OR kw HAS "type:anatase"']),
    ("half-Heusler", ['kw HAS "type:half-Heusler"']),
    ("full Heusler alloys", ['kw HAS ANY "type:full-Heusler","type:inverse Heusler"']),
    (
        "Heusler",
        ['kw HAS ANY "type:full-Heusler","type:half-Heusler","type:inverse Heusler","type:quaternary Heusler"'],
    ),
    ("MAX phase", ['kw HAS ANY "type:211 MAX phase","type:312 MAX phase","type:413 MAX phase"']),
    ("Laves phase", ['kw HAS ANY "type:C14 Laves phase","type:C15 Laves phase","type:C36 Laves phase"']),
    ("A15", ['kw HAS "type:A15"']),
    ("L1_2", ['kw HAS "type:ordered Cu3Au"']),
    ("L12", ['kw HAS "type:ordered Cu3Au"']),
    ("C14", ['kw HAS "type:C14 Laves phase"']),
    ("B1", ['kw HAS "type:rock salt"']),
    ("B2 structure", ['kw HAS "type:cesium chloride"']),
    ("D0_3", ['kw HAS "type:bismuth trifluoride"']),
    ("perovskite", ["PEROVSKITES"]),
    ("perovskites", ["PEROVSKITES"]),
    (
        "double perovskite",
        [
            (
                'kw HAS ANY "type:cubic double perovskite","type:monoclinic double perovskite",'
                '"type:rhombohedral double perovskite","type:tetragonal double perovskite"'
            )
        ],
    ),
    ("cubic perovskite", ["sg>=195 AND sg<=230", "PEROVSKITES"]),
    ("layered perovskite", ['kw HAS ANY "type:Ruddlesden-Popper n=1","type:Ruddlesden-Popper n=2"']),
    ("anti-perovskite", ['kw HAS "type:anti-perovskite"']),
    ("lead halide perovskite", ['elements HAS "Pb" AND kw HAS ANY HALIDES', "PEROVSKITES"]),
    ("Ruddlesden-Popper", ['kw HAS ANY "type:Ruddlesden-Popper n=1","type:Ruddlesden-Popper n=2"']),
    ("delafossites", ['kw HAS "type:delafossite"']),
    ("garnet", ['kw HAS "type:garnet"']),
    ("lithium garnet", ['elements HAS "Li"', 'kw HAS "type:garnet"']),
    ("spinel", ['kw HAS "type:spinel"']),
    ("olivine", ['kw HAS "type:olivine"']),
    (
        "apatite",
        [
            (
                'kw HAS "type:apatite" OR (ratio="A12B5C3D" AND elements HAS ANY "P","As","V","Si","Ge","S" AND '
                'elements HAS "O" AND (sg=4 OR sg=11 OR sg=14 OR sg=147 OR (sg>=173 AND sg<=174) OR sg=176))'
            )
        ],
    ),
    ("zinc blende semiconductors", ['kw HAS "type:zinc blende"', "band_gap>=0.1 AND band_gap<=4"]),
    ("wurtzite GaN", ['kw HAS "type:wurtzite"', '~formula="GaN"']),
    ("rock-salt oxides", ['kw HAS "type:rock salt"', 'elements HAS "O" AND kw HAS "class:oxide"']),
    ("fluorite structure oxides", ['kw HAS "type:fluorite"', 'elements HAS "O" AND kw HAS "class:oxide"']),
    ("hcp metals", ['kw HAS "type:hexagonal close-packed"']),
    ("tungsten carbide structure", ['kw HAS "type:tungsten carbide"']),
    ("non-perovskite oxides", ["NOT PEROVSKITES", 'elements HAS "O" AND kw HAS "class:oxide"']),
]
"""Typed text → the filter that every row fulfils."""

MINERALS = [
    ("rutile", ['~formula="TiO2" AND sg=136']),
    ("quartz", ['~formula="SiO2" AND (sg=152 OR sg=154)']),
    ("alpha quartz", ['~formula="SiO2" AND (sg=152 OR sg=154)']),
    ("hematite", ['~formula="Fe2O3" AND sg=167']),
    ("haematite", ['~formula="Fe2O3" AND sg=167']),
    ("ruby", ['~formula="Al2O3" AND sg=167']),
    ("sapphire", ['~formula="Al2O3" AND sg=167']),
    ("rock salt", ['~formula="NaCl" AND sg=225']),
    ("zincblende", ['~formula="ZnS" AND sg=216']),
    ("fluorspar", ['~formula="CaF2" AND sg=225']),
    ("diamond", ['~formula="C" AND sg=227']),
    ("graphite", ['~formula="C" AND sg=194']),
    ("perovskite mineral", ["SIMPLE PEROVSKITES", "rest: mineral"]),
    ("hexagonal boron nitride", ['~formula="BN" AND sg=194']),
    ("hBN", ['~formula="BN" AND sg=194']),
    ("c-BN", ['~formula="BN" AND sg=216']),
    ("4H-SiC", ['~formula="SiC" AND sg=186']),
    ("black phosphorus", ['~formula="P" AND sg=64']),
    ("beta Ga2O3", ['~formula="Ga2O3" AND sg=12']),
    ("delafossite", ['~formula="CuFeO2" AND sg=166']),
    ("cobaltite", ['~formula="CoAsS" AND sg=29']),
    ("lanthanum cobaltite", ['chemsys="Co-La-O"']),
    ("calcite", ['~formula="CaCO3" AND sg=167']),
    ("magnetite", ['~formula="Fe3O4" AND sg=227']),
    ("pyrite", ['~formula="FeS2" AND sg=205']),
    ("quartz and rutile", ['~formula="SiO2" AND (sg=152 OR sg=154)', '~formula="TiO2" AND sg=136']),
    (
        "zeolite",
        [
            (
                '(elements HAS ALL "Al","Si","O" AND nsites>=20) AND kw HAS "class:silicate" '
                'AND kw HAS "dimensionality:framework"'
            )
        ],
    ),
    (
        "feldspar",
        ['(elements HAS ALL "Al","Si","O" AND (ratio="A8B3CD" OR ratio="A8B2C2D")) AND kw HAS "class:silicate"'],
    ),
]
"""Typed text → the filter of the rows that come first."""

SYMMETRY = [
    ("cubic", ["sg>=195 AND sg<=230"]),
    ("tetragonal", ["sg>=75 AND sg<=142"]),
    ("rhombohedral", ["sg=146 OR sg=148 OR sg=155 OR (sg>=160 AND sg<=161) OR (sg>=166 AND sg<=167)"]),
    ("hexagonal crystals", ["sg>=168 AND sg<=194"]),
    ("cubic or tetragonal", ["(sg>=195 AND sg<=230) OR (sg>=75 AND sg<=142)"]),
    ("cubic tetragonal", ["sg>=195 AND sg<=230", "sg>=75 AND sg<=142"]),
    ("non-cubic oxides", ["NOT (sg>=195 AND sg<=230)", 'elements HAS "O" AND kw HAS "class:oxide"']),
    ("Fm-3m", ["sg=225"]),
    ("Fm3m", ["sg=225"]),
    ("Fm3̅m", ["sg=225"]),
    ("F m -3 m", ["sg=225"]),
    ("fm-3m", ["sg=225"]),
    ("P63/mmc", ["sg=194"]),
    ("P6_3/mmc", ["sg=194"]),
    ("P 21/c", ["sg=14"]),
    ("pnma", ["sg=62"]),
    ("Pbnm", ["sg=62"]),
    ("P-1", ["sg=2"]),
    ("C2/c", ["sg=15"]),
    ("space group 225", ["sg=225"]),
    ("spacegroup no. 62", ["sg=62"]),
    ("No. 62", ["sg=62"]),
    ("sg 62", ["sg=62"]),
    ("SG 225", ["sg=225"]),
    ("#225", ["sg=225"]),
    ("space group Cc", ["sg=9"]),
    ("point group m-3", ["sg>=200 AND sg<=206"]),
    ("point group -42m", ["sg>=111 AND sg<=122"]),
    ("crystal class D2d", ["sg>=111 AND sg<=122"]),
    ("point group 4/mmm oxides", ["sg>=123 AND sg<=142", 'elements HAS "O" AND kw HAS "class:oxide"']),
    (
        "body-centred tetragonal",
        [
            (
                "(sg>=79 AND sg<=80) OR sg=82 OR (sg>=87 AND sg<=88) OR (sg>=97 AND sg<=98) OR (sg>=107 AND sg<=110) "
                "OR (sg>=119 AND sg<=122) OR (sg>=139 AND sg<=142)"
            )
        ],
    ),
    ("C-centered monoclinic", ["sg=5 OR (sg>=8 AND sg<=9) OR sg=12 OR sg=15"]),
    ("Pearson symbol aP10", ["(sg>=1 AND sg<=2) AND nsites=10"]),
    ("mP4", ["((sg>=3 AND sg<=4) OR (sg>=6 AND sg<=7) OR (sg>=10 AND sg<=11) OR (sg>=13 AND sg<=14)) AND nsites=4"]),
    ("mC12", ["(sg=5 OR (sg>=8 AND sg<=9) OR sg=12 OR sg=15) AND (nsites=6 OR nsites=12)"]),
    (
        "hR15",
        ["(sg=146 OR sg=148 OR sg=155 OR (sg>=160 AND sg<=161) OR (sg>=166 AND sg<=167)) AND (nsites=5 OR nsites=15)"],
    ),
    ("O_h^5", ["sg=225"]),
    ("D4h^14", ["sg=136"]),
    ("LiCoO2 in space group R-3m", ['~formula="LiCoO2"', "sg=166"]),
    ("Pm-3m (221)", ["sg=221"]),
    ("Pnma oxides", ["sg=62", 'elements HAS "O" AND kw HAS "class:oxide"']),
    ("P4", ['~formula="P4"']),
]


@pytest.mark.parametrize(("typed", "expected"), STRUCTURE + SYMMETRY, ids=[typed for typed, _ in STRUCTURE + SYMMETRY])
def test_all_rows_have_the_structure(typed, expected, fields):
    assert brief(typed, fields, level=9) == expected


@pytest.mark.parametrize(("symbol", "sites"), [("cF8", "nsites=2"), ("tI10", "nsites=5"), ("cP4", "nsites=4")])
def test_primitive_cells_come_first_for_a_pearson_symbol(symbol, sites, fields):
    (line,) = brief(symbol, fields)
    assert line.endswith(f"AND {sites}")


@pytest.mark.parametrize(("typed", "expected"), MINERALS, ids=[typed for typed, _ in MINERALS])
def test_the_mineral_comes_first(typed, expected, fields):
    assert brief(typed, fields) == expected


def test_the_type_of_a_mineral_follows_it_and_then_its_other_structures(fields):
    (chip,) = understand("rutile", fields).chips
    mineral = 'chemical_formula_reduced="TiO2" AND space_group_it_number=136'
    assert chip.label == "rutile: TiO2, P4_2/mnm"
    assert chip.then == (
        f'({mineral}) OR _crystalign_keywords HAS "type:rutile"',
        'chemical_formula_reduced="TiO2" OR _crystalign_keywords HAS "type:rutile"',
    )


def test_a_structure_type_is_found_by_wyckoff_positions_in_an_index_without_types(bare):
    (chip,) = understand("rutile type", bare).chips
    assert chip.filter == '_crystalign_prototype="AB2:136:a.f"'
    assert "no structure types" in chip.note


def test_every_space_group_is_found_by_its_symbols_and_its_number(fields):
    import gemmi

    for number in range(1, 231):
        group = gemmi.find_spacegroup_by_number(number)
        for typed in (f"space group {group.hm}", f"space group {group.short_name()}", f"sg {number}"):
            (chip,) = understand(typed, fields).chips
            assert chip.filter == f"space_group_it_number={number}", typed
            assert chip.words == typed


def test_centrosymmetric_and_noncentrosymmetric_groups_are_all_groups(fields):
    rows = pa.table({"spacegroup_number": list(range(1, 231))})
    sets = [
        set(np.flatnonzero(evaluate(rows, parse_filter(understand(word, fields).chips[0].filter, fields))) + 1)
        for word in ("centrosymmetric", "noncentrosymmetric", "chiral", "polar", "piezoelectric")
    ]
    centric, acentric, chiral, polar, piezoelectric = sets
    assert len(centric) == 92
    assert len(acentric) == 138
    assert not centric & acentric
    assert len(chiral) == 65
    assert len(polar) == 68
    assert acentric - piezoelectric == set(range(207, 215))


def test_schoenflies_symbols_number_the_groups_of_each_point_group(fields):
    expected = {"C_{2h}^5": 14, "D2h^16": 62, "Td^2": 216, "O_h^7": 227, "D6h^4": 194, "D3d^5": 166, "C1^1": 1}
    for typed, number in expected.items():
        assert understand(typed, fields).chips[0].filter == f"space_group_it_number={number}", typed
