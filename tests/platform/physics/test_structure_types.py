from __future__ import annotations

import functools
import gzip
import json
from importlib import resources

import numpy as np
import pytest

from crystalign.crystal import SYMBOLS, Crystal, pretty_formula
from crystalign.physics.structure_types import PROTOTYPES, TYPE_NAMES, structure_type
from crystalign.physics.symmetry import symmetry
from crystalign.readers.structures.documents import crystal_of_dict

AFLOW = {
    ("ABC2_hP8_194_d_a_f", "AlCr2C"): "211 MAX phase",
    ("AB3C4_hP16_194_c_af_ef", "Ti4AlN3"): "413 MAX phase",
    ("ABC3_hR10_161_a_a_b", "LiNbO3"): "lithium niobate",
    ("A3B_cP8_223_c_a", "Cr3Si"): "A15",
    ("A4B_tI10_139_de_a", "BaAl4"): "BaAl4",
    ("AB2_hP12_194_f_ah", "MgZn2"): "C14 Laves phase",
    ("A2B_cF24_227_d_a", "MgCu2"): "C15 Laves phase",
    ("AB5_hP6_191_a_cg", "CaCu5"): "CaCu5",
    ("AB2C4_tI14_139_a_e_ce", "La2CuO4"): "Ruddlesden-Popper n=1",
    ("A12B_tI26_139_fij_a", "ThMn12"): "ThMn12",
    ("ABCD_tP8_129_c_b_a_c", "ZrCuSiAs"): "ZrCuSiAs",
    ("A2B_tP12_92_b_a", "SiO2"): "alpha cristobalite",
    ("A_cI58_217_ac2g", "Mn"): "alpha manganese",
    ("A2B_hP9_152_c_a", "SiO2"): "alpha quartz",
    ("ABC2_hR4_166_a_b_c", "NaCrS2"): "alpha-NaFeO2",
    ("AB2_hP3_191_a_d", "AlB2"): "aluminum diboride",
    ("AB3_mC16_12_g_ij", "AlCl3"): "aluminum trichloride",
    ("A2B_mP12_14_2e_e", "ZrO2"): "baddeleyite",
    ("A2B_cF24_227_c_a", "SiO2"): "beta cristobalite",
    ("A_cP20_213_cd", "Mn"): "beta manganese",
    ("A2B_hP9_180_j_c", "SiO2"): "beta quartz",
    ("A2B_hP12_194_cg_f", "SiO2"): "beta tridymite",
    ("AB3_cF16_225_a_bc", "BiF3"): "bismuth trifluoride",
    ("AB3_hR8_148_c_f", "BiI3"): "bismuth triiodide",
    ("A_oC8_64_f", "P"): "black phosphorus",
    ("A_cI2_229_a", "W"): "body-centered cubic",
    ("A2B_oP24_61_2c_c", "TiO2"): "brookite",
    ("AB2_hP3_164_a_d", "CdI2"): "cadmium iodide",
    ("ABC3_hR10_167_a_b_e", "CaCO3"): "calcite",
    ("A6B_cP7_221_f_a", "CaB6"): "calcium hexaboride",
    ("AB3_oP16_62_c_cd", "Fe3C"): "cementite",
    ("AB_cP2_221_b_a", "CsCl"): "cesium chloride",
    ("ABC2_tI16_122_a_b_d", "FeCuS2"): "chalcopyrite",
    ("AB_hP6_154_a_b", "HgS"): "cinnabar",
    ("ABC6D2_mC40_15_e_e_3f_f", "CaFe(SiO3)2"): "clinopyroxene",
    ("AB_tP4_131_c_e", "PtS"): "cooperite",
    ("A2B3_hR10_167_c_e", "Al2O3"): "corundum",
    ("A2B_oP12_62_2c_c", "PbCl2"): "cotunnite",
    ("AB3C_cP5_221_a_c_b", "CaTiO3"): "cubic perovskite",
    ("A2B_cP6_224_b_a", "Cu2O"): "cuprite",
    ("A_cF8_227_a", "C"): "diamond",
    ("A_hP4_194_ac", "La"): "double hexagonal close-packed",
    ("AB3C4_oP16_31_a_ab_2ab", "Cu3AsS4"): "enargite",
    ("A_cF4_225_a", "Cu"): "face-centered cubic",
    ("AB2_cF12_225_a_c", "CaF2"): "fluorite",
    ("AB2C_cF16_225_a_c_b", "MnAlCu2"): "full-Heusler",
    ("A_hP4_194_bc", "C"): "graphite",
    ("A_hP4_186_ab", "C"): "graphite",
    ("A_hR2_166_c", "As"): "gray arsenic",
    ("ABC_cF12_216_b_c_a", "MgAgAs"): "half-Heusler",
    ("AB_hP4_194_c_d", "BN"): "hexagonal boron nitride",
    ("A_hP2_194_c", "Mg"): "hexagonal close-packed",
    ("AB2_oP6_58_a_g", "CaCl2"): "hydrophilite",
    ("AB3C_hR10_148_c_f_c", "TiFeO3"): "ilmenite",
    ("AB_cP8_198_a_a", "FeSi"): "iron monosilicide",
    ("A2B_tI12_140_h_a", "Al2Cu"): "khatyrkite",
    ("AB_tP4_129_a_c", "PbO"): "litharge",
    ("A3B_hP4_191_bc_a", "Li3N"): "lithium nitride",
    ("A_hP4_194_f", "C"): "lonsdaleite",
    ("AB2_oP6_58_a_g", "FeS2"): "marcasite",
    ("ABC_tP6_129_c_a_c", "PbClF"): "matlockite",
    ("AB_hR6_160_b_b", "NiS"): "millerite",
    ("AB_hP8_186_ab_ab", "SiC"): "moissanite-4H",
    ("AB_hP12_186_a2b_a2b", "SiC"): "moissanite-6H",
    ("AB2_hP6_194_c_f", "MoS2"): "molybdenite",
    ("AB2_tI6_139_a_e", "Si2Mo"): "molybdenum disilicide",
    ("AB_hP4_194_c_a", "NiAs"): "nickel arsenide",
    ("AB3_cP4_221_a_c", "Cu3Au"): "ordered Cu3Au",
    ("AB_tP2_123_a_d", "CuAu"): "ordered CuAu",
    ("A3B_hP8_194_h_c", "Ni3Sn"): "ordered Ni3Sn",
    ("A3B_tI8_139_bd_a", "TiAl3"): "ordered TiAl3",
    ("AB3C_oP20_62_c_cd_a", "CaTiO3"): "orthorhombic perovskite",
    ("AB2_cP12_205_a_c", "FeS2"): "pyrite",
    ("A3B_cP4_221_d_a", "ReO3"): "rhenium trioxide",
    ("A_hR2_166_c", "C"): "rhombohedral graphite",
    ("AB_cF8_225_a_b", "NaCl"): "rock salt",
    ("A2B_tP6_136_f_a", "TiO2"): "rutile",
    ("A_hR3_166_ac", "Sm"): "samarium-type",
    ("A_cP1_221_a", "Po"): "simple cubic",
    ("A3B_cI32_204_g_c", "CoAs3"): "skutterudite",
    ("AB3_hP8_194_c_bf", "Na3As"): "sodium arsenide",
    ("AB_cF16_227_a_b", "NaTl"): "sodium thallide",
    ("A2BC4_cF56_227_d_a_e", "MgAl2O4"): "spinel",
    ("A2BC4D_tI16_121_d_a_i_b", "FeCu2SnS4"): "stannite",
    ("A3B4C_cP8_215_d_e_a", "VCu3S4"): "sulvanite",
    ("A2B3_hR5_166_c_ac", "Bi2Te3"): "tetradymite",
    ("A3BC_tP5_99_bc_a_b", "ZrPbO3"): "tetragonal perovskite",
    ("A_hP3_152_a", "Se"): "trigonal selenium",
    ("AB_hP2_187_d_a", "WC"): "tungsten carbide",
    ("A12B_cF52_225_i_a", "UB12"): "uranium dodecaboride",
    ("A_tI4_141_a", "Sn"): "white tin",
    ("AB_hP4_186_b_b", "ZnS"): "wurtzite",
    ("AB_cF8_216_c_a", "ZnS"): "zinc blende",
    ("A4BC_tI24_141_h_b_a", "ZrSiO4"): "zircon",
}
"""(AFLOW label, formula) → name, of the entries of pymatgen's AFLOW library that get one; the others must not."""
MATERIALS_PROJECT: dict[str | None, str] = {
    "anatase": "mp-390",
    "rutile": "mp-2657",
    "alpha-NaFeO2": "mp-22526 mp-19359 mp-25411",
    "delafossite": "mp-3748 mp-510281",
    None: "mp-27837 mp-20066 mp-7139",
    "pyrite": "mp-226",
    "marcasite": "mp-1522",
    "fluorite": "mp-2741",
    "antifluorite": "mp-2352 mp-1367",
    "cadmium chloride": "mp-22881",
    "cadmium iodide": "mp-567259",
    "brucite": "mp-30247",
    "tenorite": "mp-1692",
    "niobium phosphide": "mp-9339",
    "C36 Laves phase": "mp-2675",
    "C15 Laves phase": "mp-1038",
    "garnet": "mp-3050",
    "olivine": "mp-2895",
    "barite": "mp-3164 mp-3472",
    "zircon": "mp-4820",
    "scheelite": "mp-19426",
    "monazite": "mp-3962",
    "aragonite": "mp-1190109 mp-3822",
    "calcite": "mp-5348",
    "dolomite": "mp-6459",
    "lanthanum sesquioxide": "mp-1968",
    "anti lanthanum sesquioxide": "mp-2646",
    "thorium phosphide": "mp-1347",
    "ThCr2Si2": "mp-568961",
    "CaAl2Si2": "mp-7704",
    "lanthanum oxysulfide": "mp-4511",
    "211 MAX phase": "mp-12990",
    "312 MAX phase": "mp-5659",
    "Ruddlesden-Popper n=1": "mp-5532",
    "Ruddlesden-Popper n=2": "mp-3349",
    "pyrochlore": "mp-5373",
    "cubic double perovskite": "mp-1078250 mp-7251",
    "tetragonal double perovskite": "mp-18857",
    "potassium hexachloroplatinate": "mp-23513",
    "litharge": "mp-19921 mp-2097",
    "anti-perovskite": "mp-28602 mp-7961",
    "cubic perovskite": "mp-5229",
    "orthorhombic perovskite": "mp-4019",
    "rhombohedral perovskite": "mp-2920",
    "tetragonal perovskite": "mp-5986",
    "hexagonal perovskite": "mp-19138",
    "ilmenite": "mp-19417",
    "alpha quartz": "mp-7000",
    "cuprite": "mp-361",
    "skutterudite": "mp-1317",
    "filled skutterudite": "mp-582295",
    "calcium hexaboride": "mp-865",
    "chalcopyrite": "mp-3497",
    "stannite": "mp-22648",
    "matlockite": "mp-22939 mp-22964",
    "calcium carbide": "mp-2482",
    "molybdenum disilicide": "mp-2592",
    "thorium disilicide": "mp-2844",
    "quadruple perovskite": "mp-22592",
    "wolframite": "mp-19421",
    "columbite": "mp-22366",
    "trirutile": "mp-3188",
    "diaspore": "mp-625152",
    "tetradymite": "mp-34202",
    "A15": "mp-1326",
    "CaCu5": "mp-1429",
    "sodium arsenide": "mp-1136",
    "nickel arsenide": "mp-2099",
    "bismuth trifluoride": "mp-23222",
    "aluminum trichloride": "mp-570219",
}
"""Name → entries of the Materials Project; those without a name occupy the sites of delafossite and of pyrite."""
ENTRIES = {entry: name for name, entries in MATERIALS_PROJECT.items() for entry in entries.split()}


@functools.cache
def library() -> list[tuple[str, Crystal]]:
    source = resources.files("pymatgen.analysis") / "prototypes" / "aflow_prototypes.json.gz"
    entries = json.loads(gzip.decompress(source.read_bytes()))
    return [(entry["tags"]["aflow"], crystal_of_dict(entry["snl"])) for entry in entries]


@pytest.fixture(scope="module")
def materials_project(database_entries) -> dict[str, Crystal]:
    return database_entries(ENTRIES)


def named(crystal: Crystal) -> str | None:
    return structure_type(crystal, symmetry(crystal))


def test_the_aflow_library_gets_its_names_and_no_others():
    seen = {(label, pretty_formula(crystal.formula)): named(crystal) for label, crystal in library()}
    assert {key: name for key, name in seen.items() if name} == AFLOW
    assert len(seen) > 270


@pytest.mark.parametrize("entry", ENTRIES)
def test_real_crystals_have_the_names_of_their_minerals(entry, materials_project):
    assert named(materials_project[entry]) == ENTRIES[entry]


def hexagonal(a: float, c: float, sites: list[tuple[str, float]]) -> Crystal:
    """R-3m: atoms on the threefold axis at heights z, in the hexagonal cell."""
    lattice = np.array([[a, 0, 0], [-a / 2, a * np.sqrt(3) / 2, 0], [0, 0, c]])
    shifts = np.array([[0, 0, 0], [2 / 3, 1 / 3, 1 / 3], [1 / 3, 2 / 3, 2 / 3]])
    frac = np.concatenate([shifts + np.array([0, 0, z]) for _, z in sites])
    return Crystal(lattice, frac, np.repeat([SYMBOLS.index(s) for s, _ in sites], 3))


@pytest.mark.parametrize("swap", [0.0, 0.5])
def test_the_height_of_oxygen_tells_delafossite_from_sodium_ferrite(swap):
    layered = hexagonal(2.82, 14.05, [("Li", 0.5 + swap), ("Co", swap), ("O", 0.24 + swap), ("O", -0.24 + swap)])
    linear = hexagonal(2.86, 16.94, [("Cu", 0.5 + swap), ("Al", swap), ("O", 0.39 + swap), ("O", -0.39 + swap)])
    assert symmetry(layered).prototype == symmetry(linear).prototype
    assert (named(layered), named(linear)) == ("alpha-NaFeO2", "delafossite")


def pyrite(edge: float, u: float, metal: str, other: str) -> Crystal:
    """Pa-3: 4a and 8c."""
    half = np.array([[0, 0, 0], [0.5, 0, 0.5], [0, 0.5, 0.5], [0.5, 0.5, 0]])
    signs = np.array([[1, 1, 1], [-1, -1, 1], [-1, 1, -1], [1, -1, -1]])
    pairs = np.concatenate([half + s * signs * u for s in (1, -1)])
    return Crystal(edge * np.eye(3), np.concatenate([half, pairs]), np.repeat(*_counts(metal, other)))


def _counts(metal: str, other: str) -> tuple[list[int], list[int]]:
    return [SYMBOLS.index(metal), SYMBOLS.index(other)], [4, 8]


def test_molecules_on_the_sites_of_pyrite_are_no_pyrite():
    iron, dioxide = pyrite(5.42, 0.385, "Fe", "S"), pyrite(5.62, 0.118, "C", "O")
    assert symmetry(iron).prototype == symmetry(dioxide).prototype == "AB2:205:a.c"
    assert (named(iron), named(dioxide)) == ("pyrite", None)
    assert named(pyrite(5.42, 0.345, "Si", "O")) is None  # no pairs


FCC = np.ones((3, 3)) - np.eye(3)


def cubic(edge: float, sites: str, places: list[float]) -> Crystal:
    """Atoms on the body diagonal of the primitive cell of a face-centred lattice."""
    z = np.array([SYMBOLS.index(s) for s in sites.split()])
    return Crystal(0.5 * edge * FCC, np.repeat(np.array(places)[:, None], 3, axis=1), z)


@pytest.mark.parametrize(
    ("crystal", "name"),
    [
        (cubic(5.46, "Ca F F", [0, 0.25, 0.75]), "fluorite"),
        (cubic(4.62, "O Li Li", [0, 0.25, 0.75]), "antifluorite"),
        (cubic(6.35, "Si Mg Mg", [0, 0.25, 0.75]), "antifluorite"),
        (cubic(6.0, "Al Pd Pd", [0, 0.25, 0.75]), None),
        (cubic(5.95, "Mn Al Cu Cu", [0, 0.5, 0.25, 0.75]), "full-Heusler"),
        (cubic(5.95, "Mn Al O O", [0, 0.5, 0.25, 0.75]), None),
        (cubic(6.1, "Ti Sn Ni", [0, 0.5, 0.25]), "half-Heusler"),
        (cubic(6.1, "Y O F", [0, 0.5, 0.25]), None),
    ],
)
def test_the_roles_of_the_elements_decide(crystal, name):
    assert named(crystal) == name


def test_perovskite_and_anti_perovskite_differ_by_who_is_in_the_octahedron(textbook):
    places = np.array([[0.5] * 3, [0] * 3, [0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5]])
    anti = Crystal(3.8 * np.eye(3), places, np.array([13, 6, 28, 28, 28]))  # AlCNi3
    assert (named(textbook["SrTiO3"]), named(anti)) == ("cubic perovskite", "anti-perovskite")


def test_names_do_not_depend_on_the_cell_or_the_origin(transform):
    for label, crystal in library()[::9]:
        if len(crystal) > 12:
            continue
        other = transform(crystal, [[1, 1, 0], [-1, 1, 0], [0, 1, 1]])
        moved = Crystal(other.lattice, other.frac_coords + np.array([0.13, 0.27, 0.41]), other.atomic_numbers)
        assert named(moved) == named(crystal), label


def test_the_table_is_complete():
    assert set(PROTOTYPES.values()) <= set(TYPE_NAMES)
    assert len(TYPE_NAMES) == len(set(TYPE_NAMES)) > 100
    assert set(AFLOW.values()) | {name for name in ENTRIES.values() if name} <= set(TYPE_NAMES)
