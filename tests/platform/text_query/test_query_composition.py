"""Which crystals come first, and which ones follow, when a query names a composition."""

from __future__ import annotations

import pytest

from brief_query import brief
from crystalign.text_query.understanding import understand

FIRST = [
    ("NaCl", ['~formula="NaCl"']),
    ("ClNa", ['~formula="ClNa"']),
    ("Fe2O3", ['~formula="Fe2O3"']),
    ("Ca(OH)2", ['~formula="Ca(OH)2"']),
    ("LiFePO₄", ['~formula="LiFePO4"']),
    ("Fe<sub>2</sub>O<sub>3</sub>", ['~formula="Fe2O3"']),
    ("CuSO4·5H2O", ['~formula="CuSO4·5H2O"']),
    ("La0.7Sr0.3MnO3", ['formula="La0.7Sr0.3MnO3"']),
    ("CO", ['~formula="CO"']),
    ("CO2", ['~formula="CO2"']),
    ("Co", ['chemsys="Co"']),
    ("In", ['chemsys="In"']),
    ("No", ['chemsys="No"']),
    ("Sn", ['chemsys="Sn"']),
    ("TiN", ['~formula="TiN"']),
    ("tin", ['chemsys="Sn"']),
    ("He", ['chemsys="He"']),
    ("nacl", ['~formula="NaCl"']),
    ("tio2", ['~formula="TiO2"']),
    ("batio3", ['~formula="BaTiO3"']),
    ("licoo2", ['~formula="LiCoO2"']),
    ("fe2o3", ['~formula="Fe2O3"']),
    ("GaN AlN InN", ['~formula="GaN"', '~formula="AlN"', '~formula="InN"']),
    ("Li*O2", ['elements HAS ALL "Li","O" AND ratio="A2BC" AND formula CONTAINS "O2"']),
    ("*2O3", ['elements HAS "O" AND ratio="A3B2" AND formula CONTAINS "O3"']),
    ("ABO3", ['elements HAS "O" AND ratio="A3BC" AND formula CONTAINS "O3"']),
    ("A2BX6", ['ratio="A6B2C"']),
    ("MX2", ['ratio="A2B"']),
    ("X2YZ", ['ratio="A2BC"']),
    (
        "LnNiO3",
        ['elements HAS ANY LANTHANIDES AND elements HAS ALL "Ni","O" AND ratio="A3BC" AND formula CONTAINS "O3"'],
    ),
    ("LiMO2", ['elements HAS ALL "Li","O" AND ratio="A2BC" AND formula CONTAINS "O2"']),
    ("Li-*-O", ['nelements=3 AND elements HAS ALL "Li","O"']),
    ("Fe-O", ['chemsys="Fe-O"']),
    ("Li-Co-O", ['chemsys="Co-Li-O"']),
    ("li-co-o", ['chemsys="Co-Li-O"']),
    ("li co o", ['chemsys="Co-Li-O"']),
    ("Li, Co, O", ['chemsys="Co-Li-O"']),
    ("LI CO O", ['chemsys="Co-Li-O"']),
    ("y ba cu o", ['chemsys="Ba-Cu-O-Y"']),
    ("LixCoO2", ['chemsys="Co-Li-O"']),
    ("Li(Ni,Mn,Co)O2", ['chemsys="Co-Li-Mn-Ni-O"']),
    ("(La,Sr)MnO3", ['chemsys="La-Mn-O-Sr"']),
    ("Fe3+", ['elements HAS "Fe"']),
    ("aluminium", ['chemsys="Al"']),
    ("caesium", ['chemsys="Cs"']),
    ("sulphur", ['chemsys="S"']),
    ("sodium chloride", ['formula="NaCl"']),
    ("Aluminium Oxide", ['formula="Al2O3"']),
    ("titanium dioxide", ['formula="TiO2"']),
    ("vanadium pentoxide", ['formula="V2O5"']),
    ("ferric oxide", ['formula="Fe2O3"']),
    ("iron(III) oxide", ['formula="Fe2O3"']),
    ("copper(I) oxide", ['formula="Cu2O"']),
    ("molybdenum disulphide", ['formula="MoS2"']),
    ("silicon carbide", ['formula="SiC"']),
    ("gallium arsenide", ['formula="GaAs"']),
    ("bismuth telluride", ['formula="Bi2Te3"']),
    ("barium titanate", ['formula="BaTiO3"']),
    ("calcium carbonate", ['formula="CaCO3"']),
    ("potassium dihydrogen phosphate", ['formula="KH2PO4"']),
    ("oxide of iron and titanium", ['formula="FeTiO3"']),
    ("magnesium diboride", ['formula="MgB2"']),
    ("lanthanum manganite", ['chemsys="La-Mn-O"']),
    ("cesium chloride", ['formula="CsCl"']),
    ("tungsten carbide", ['chemsys="C-W"']),
    ("YBCO", ['chemsys="Ba-Cu-O-Y"']),
    ("LFP", ['~formula="LiFePO4"']),
    ("NMC", ['chemsys="Co-Li-Mn-Ni-O"']),
    ("MAPI", ['~formula="CH3NH3PbI3"']),
    ("alumina", ['~formula="Al2O3"']),
    ("ceria", ['~formula="CeO2"']),
    ("water", ['~formula="H2O"']),
    ("mp-149", ['~id="mp-149"']),
]
"""Typed text → the strictest filter of each chip; `~` stands before those that other rows may follow."""

LAST = [
    ("oxides", ['elements HAS "O" AND kw HAS "class:oxide"']),
    ("sulphides", ['elements HAS "S" AND kw HAS "class:sulfide"']),
    ("halides", ["kw HAS ANY HALIDES"]),
    ("chalcogenides", ['kw HAS ANY "class:sulfide","class:selenide","class:telluride"']),
    ("pnictides", ['kw HAS ANY "class:nitride","class:phosphide","class:arsenide","class:antimonide"']),
    ("oxyhalides", ['kw HAS ANY "class:oxyfluoride","class:oxychloride","class:oxybromide","class:oxyiodide"']),
    ("oxychlorides", ['elements HAS ALL "O","Cl" AND kw HAS "class:oxychloride"']),
    ("hydroxides", ['elements HAS ALL "O","H" AND kw HAS ANY "class:hydroxide","class:oxyhydroxide"']),
    ("vanadates", ['elements HAS ALL "V","O"']),
    ("titanates", ['elements HAS ALL "Ti","O"']),
    ("binary oxides of titanium", ["nelements=2", 'elements HAS "Ti" AND (elements HAS "O" AND kw HAS "class:oxide")']),
    ("ternary nitrides", ["nelements=3", 'elements HAS "N" AND kw HAS "class:nitride"']),
    ("alkali metal halide", ['kw HAS ANY HALIDES AND elements HAS ANY "Li","Na","K","Rb","Cs","Fr"']),
    ("transition metal oxides", ['(elements HAS "O" AND kw HAS "class:oxide") AND elements HAS ANY TRANSITION METALS']),
    ("rare earth manganites", ['elements HAS ALL "Mn","O" AND elements HAS ANY RARE EARTHS']),
    ("lanthanide oxides", ['(elements HAS "O" AND kw HAS "class:oxide") AND elements HAS ANY LANTHANIDES']),
    ("lithium or sodium oxides", ['elements HAS ANY "Li","Na" AND (elements HAS "O" AND kw HAS "class:oxide")']),
    (
        "nitrides or carbides",
        ['(elements HAS "N" AND kw HAS "class:nitride") OR (elements HAS "C" AND kw HAS "class:carbide")'],
    ),
    (
        "oxide, nitride or carbide",
        [
            (
                '(elements HAS "O" AND kw HAS "class:oxide") OR (elements HAS "N" '
                'AND kw HAS "class:nitride") OR (elements HAS "C" AND kw HAS "class:carbide")'
            )
        ],
    ),
    ("carbides of tungsten", ['elements HAS "W" AND (elements HAS "C" AND kw HAS "class:carbide")']),
    (
        "phosphides of the 3d metals",
        [
            (
                '(elements HAS "P" AND kw HAS "class:phosphide") AND elements HAS ANY "Sc","Ti","V","Cr",'
                '"Mn","Fe","Co","Ni","Cu"'
            )
        ],
    ),
    (
        "lithium cobalt oxide",
        ['chemsys="Co-Li-O" OR (elements HAS ALL "Li","Co" AND (elements HAS "O" AND kw HAS "class:oxide"))'],
    ),
    (
        "lithium iron phosphate",
        [
            (
                'chemsys="Fe-Li-O-P" OR (elements HAS ALL "Li","Fe" AND (elements HAS ALL "P","O" '
                'AND kw HAS "class:phosphate"))'
            )
        ],
    ),
    ("Fe3+ oxides", ['elements HAS "Fe" AND (elements HAS "O" AND kw HAS "class:oxide")']),
    ("Sn oxides", ['elements HAS "Sn" AND (elements HAS "O" AND kw HAS "class:oxide")']),
    ("In oxide", ['chemsys="In-O" OR (elements HAS "In" AND (elements HAS "O" AND kw HAS "class:oxide"))']),
    ("I want oxides", ['elements HAS "O" AND kw HAS "class:oxide"']),
    ("Mn-rich oxides", ['elements HAS "Mn" AND (elements HAS "O" AND kw HAS "class:oxide")']),
    ("Li-containing sulfides", ['elements HAS "Li" AND (elements HAS "S" AND kw HAS "class:sulfide")']),
    ("uranium compounds", ['elements HAS "U"']),
    ("compounds with lithium", ['elements HAS "Li"']),
    ("intermetallics", ['kw HAS "class:intermetallic compound"']),
    ("Ni-Al intermetallics", ['elements HAS ALL "Ni","Al"', 'kw HAS "class:intermetallic compound"']),
    ("hydrates", ['kw HAS "class:hydrate"']),
    ("metal-organic framework", ['kw HAS "class:metal-organic compound"']),
    ("organic crystals", ['kw HAS ANY "class:organic compound","class:hydrocarbon"']),
    ("borocarbides", ['elements HAS ALL "B","C"']),
    (
        "mixed anion",
        [
            (
                'kw HAS ANY "class:oxyfluoride","class:oxychloride","class:oxybromide","class:oxyiodide",'
                '"class:oxysulfide","class:oxyselenide","class:oxynitride","class:mixed-anion compound"'
            )
        ],
    ),
    ("no lead", ['NOT elements HAS "Pb"']),
    ("without lead or cadmium", ['NOT elements HAS ANY "Pb","Cd"']),
    ("oxides without Co, Ni", ['elements HAS "O" AND kw HAS "class:oxide"', 'NOT elements HAS ANY "Co","Ni"']),
    ("lead-free", ['NOT elements HAS "Pb"']),
    ("lead free perovskite", ['NOT elements HAS "Pb"', "PEROVSKITES"]),
    ("free of mercury", ['NOT elements HAS "Hg"']),
    ("non-oxide", ['NOT elements HAS "O"']),
    ("halogen-free", ['NOT elements HAS ANY "F","Cl","Br","I","At"']),
    ("everything except oxides", ['NOT elements HAS "O"', "rest: everything"]),
    ("halides except fluorides", ["kw HAS ANY HALIDES", 'NOT (elements HAS "F" AND kw HAS "class:fluoride")']),
    ("Show me materials that contain Li and Fe but not O", ['elements HAS ALL "Li","Fe"', 'NOT elements HAS "O"']),
    ("non-toxic", ['NOT elements HAS ANY "Be","As","Cd","Hg","Tl","Pb"']),
    ("only Fe and O", ['chemsys="Fe-O"']),
    ("Fe and O only", ['chemsys="Fe-O"']),
    ("Li-ion battery", ['elements HAS "Li"', "rest: battery"]),
    ("containing Mn or Fe", ['elements HAS ANY "Mn","Fe"']),
    ("alkali metals", ['elements HAS ANY "Li","Na","K","Rb","Cs","Fr"']),
    ("noble metals", ['elements HAS ANY "Ru","Rh","Pd","Ag","Os","Ir","Pt","Au"']),
    ("actinides", ['elements HAS ANY "Ac","Th","Pa","U","Np","Pu","Am","Cm","Bk","Cf","Es","Fm","Md","No","Lr"']),
    ("metal nitride", ['elements HAS "N" AND kw HAS "class:nitride"']),
    ("co-doped ceria", ['~formula="CeO2"', "rest: co-doped"]),
    ("Co-doped ceria", ['elements HAS "Co"', '~formula="CeO2"', "rest: doped"]),
    ("ammonium nitrate", ['elements HAS ALL "N","H"', 'elements HAS ALL "N","O" AND kw HAS "class:nitrate"']),
    ("as good as gold", ['elements HAS "Au"', "rest: good"]),
    ("300 K", ["rest: 300 K"]),
]
"""Typed text → the loosest filter of each chip, which every row fulfils."""


@pytest.mark.parametrize(("typed", "expected"), FIRST, ids=[typed for typed, _ in FIRST])
def test_a_composition_comes_first(typed, expected, fields):
    assert brief(typed, fields) == expected


@pytest.mark.parametrize(("typed", "expected"), LAST, ids=[typed for typed, _ in LAST])
def test_all_rows_have_the_composition(typed, expected, fields):
    assert brief(typed, fields, level=9) == expected


@pytest.mark.parametrize(
    "typed", ["(La,Sr)MnO3", "Ca(OH)2", "FeO(OH)", "LiFePO₄", "Fe₂O₃", "iron (III) oxide", "4H-SiC"]
)
def test_a_chip_shows_the_words_as_typed(typed, fields):
    assert [chip.words for chip in understand(f"stable {typed}, cubic", fields).chips] == ["stable", typed, "cubic"]


def test_a_chip_says_what_it_filters_by(fields):
    labels = [chip.label for chip in understand("lithium oxides without lead or tin", fields).chips]
    assert labels == ["oxide of Li", "contains no Pb and no Sn"]
    assert understand("Li garnet", fields).chips[0].label == "contains Li"


def test_what_is_excluded_is_a_chip_of_its_own_kind(fields):
    kinds = [chip.kind for chip in understand("halides except fluorides, non-cubic, no In", fields).chips]
    assert kinds == ["class", "without", "without", "without"]


def test_only_what_commas_and_or_join_are_alternatives(fields):
    chips = understand("oxides with nitrides or carbides", fields).chips
    assert [chip.words for chip in chips] == ["oxides", "nitrides or carbides"]
    (chip,) = understand("cubic, tetragonal or hexagonal", fields).chips
    assert chip.label == "cubic or tetragonal or hexagonal"


def test_how_a_lower_case_formula_was_read_is_said(fields):
    (chip,) = understand("licoo2", fields).chips
    assert chip.note == "read as LiCoO2; it may also be LiCOO2"


def test_classes_are_found_by_elements_in_an_index_without_classes(bare):
    (chip,) = understand("lithium phosphates", bare).chips
    assert chip.filter == 'elements HAS "Li" AND elements HAS ALL "P","O"'
    assert "no compound classes" in chip.note
