"""Queries against rows: which crystals are listed, and in which order."""

from __future__ import annotations

import re

import pyarrow as pa
import pytest

from crystalign.crystal import SYMBOLS
from crystalign.formula import read_formula
from crystalign.index.filter_fields import joined_keywords
from crystalign.index.filters import element_bits, make_fields, parse_filter
from crystalign.index.search import evaluate
from crystalign.properties import PropertySpec, Quantity
from crystalign.text_query.understanding import understand

GAP = PropertySpec(quantity=Quantity.BAND_GAP, method="pbe", source="mp", vintage="2026")
FIELDS = make_fields([GAP], has_facts=True)
CRYSTALS = {
    # name: formula, space group, keywords, band gap in eV, density in g/cm³, sites
    "rutile": ("TiO2", 136, "class:oxide type:rutile dimensionality:framework", 1.8, 4.2, 6),
    "anatase": ("TiO2", 141, "class:oxide type:anatase dimensionality:framework", 2.1, 3.8, 6),
    "cassiterite": ("SnO2", 136, "class:oxide type:rutile dimensionality:framework", 0.7, 6.9, 6),
    "sellaite": ("MgF2", 136, "class:fluoride type:rutile dimensionality:framework", 6.8, 3.1, 6),
    "quartz": ("SiO2", 154, "class:oxide type:alpha_quartz dimensionality:framework", 5.7, 2.6, 9),
    "halite": ("NaCl", 225, "class:chloride type:rock_salt dimensionality:framework", 5.0, 2.2, 2),
    "periclase": ("MgO", 225, "class:oxide type:rock_salt dimensionality:framework", 4.5, 3.6, 2),
    "sylvite": ("KCl", 225, "class:chloride type:rock_salt dimensionality:framework", 5.1, 2.0, 2),
    "lco": ("LiCoO2", 166, "class:oxide type:alpha-NaFeO2 dimensionality:layered", 0.7, 5.1, 4),
    "lmo": ("LiMn2O4", 227, "class:oxide type:spinel dimensionality:framework", 0.0, 4.3, 14),
    "lfp": ("LiFePO4", 62, "class:phosphate type:olivine dimensionality:framework", 0.0, 3.6, 28),
    "lnmco": ("LiCoNiO4", 12, "class:oxide dimensionality:layered", 0.0, 5.0, 14),
    "hbn": ("BN", 194, "class:nitride type:hexagonal_boron_nitride dimensionality:layered", 4.5, 2.1, 4),
    "cbn": ("BN", 216, "class:nitride type:zinc_blende dimensionality:framework", 4.5, 3.5, 2),
    "gan": ("GaN", 186, "class:nitride type:wurtzite dimensionality:framework", 1.7, 6.1, 4),
    "aln": ("AlN", 186, "class:nitride type:wurtzite dimensionality:framework", 4.1, 3.2, 4),
    "mos2": ("MoS2", 194, "class:sulfide type:molybdenite dimensionality:layered", 1.3, 5.0, 6),
    "cspbi3": ("CsPbI3", 221, "class:iodide type:cubic_perovskite dimensionality:framework", 1.5, 5.0, 5),
    "cssni3": ("CsSnI3", 221, "class:iodide type:cubic_perovskite dimensionality:framework", 0.4, 4.5, 5),
    "batio3": ("BaTiO3", 99, "class:oxide type:tetragonal_perovskite dimensionality:framework", 1.8, 6.0, 5),
    "pbtio3": ("PbTiO3", 99, "class:oxide type:tetragonal_perovskite dimensionality:framework", 1.9, 7.9, 5),
    "nial": ("NiAl", 221, "class:intermetallic_compound type:cesium_chloride dimensionality:framework", 0.0, 5.9, 2),
    "copper": ("Cu", 225, "type:face-centered_cubic dimensionality:framework", 0.0, 8.9, 1),
    "phclf": ("PbClF", 129, "class:chloride class:fluoride type:matlockite dimensionality:layered", 4.0, 7.1, 6),
    "biocl": ("BiClO", 129, "class:oxychloride type:matlockite dimensionality:layered", 2.6, 7.8, 6),
    "calcite": ("CaCO3", 167, "class:carbonate type:calcite dimensionality:framework", 5.0, 2.7, 10),
}


def table():
    rows = []
    for name, (formula, group, keywords, gap, density, sites) in CRYSTALS.items():
        read = read_formula(formula)
        symbols = sorted(SYMBOLS[z] for z in read.amounts)
        low, high = element_bits(read.amounts)
        rows.append(
            {
                "id": name,
                "formula": read.reduced,
                "chemsys": "-".join(symbols),
                "n_sites": sites,
                "nelements": len(symbols),
                "spacegroup_number": group,
                "keywords": joined_keywords(word.replace("_", " ") for word in keywords.split()),
                "density": density,
                GAP.column: gap,
                "elements_low": low,
                "elements_high": high,
            }
        )
    unsigned = {"elements_low": pa.uint64(), "elements_high": pa.uint64()}
    names = list(rows[0])
    return pa.table({n: pa.array([row[n] for row in rows], unsigned.get(n)) for n in names})


ROWS = table()


def listed(typed):
    """The rows of each tier that no tier before has."""
    seen: list[str] = []
    tiers = []
    for tier in understand(typed, FIELDS).tiers():
        if tier is None:
            continue
        held = evaluate(ROWS, parse_filter(tier, FIELDS)).tolist()
        new = [name for name, inside in zip(CRYSTALS, held, strict=True) if inside and name not in seen]
        seen += new
        tiers += [" ".join(new)] if new else []
    return tiers


@pytest.mark.parametrize(
    ("typed", "tiers"),
    [
        ("rutile", ["rutile", "cassiterite sellaite", "anatase"]),
        ("rutile oxides", ["rutile cassiterite"]),
        ("rutile TiO2", ["rutile", "cassiterite sellaite"]),
        ("TiO2", ["rutile anatase"]),
        ("titanium dioxide", ["rutile anatase", "batio3 pbtio3"]),
        ("quartz", ["quartz"]),
        ("quartz and rutile", ["rutile quartz", "anatase cassiterite sellaite"]),
        ("NaCl", ["halite"]),
        ("sodium chloride", ["halite"]),
        ("rock salt", ["halite", "periclase sylvite"]),
        ("NaCl structure", ["halite periclase sylvite"]),
        ("rock salt chlorides", ["halite sylvite"]),
        ("lithium cobalt oxide", ["lco", "lnmco"]),
        ("layered lithium cobalt oxide", ["lco", "lnmco"]),
        ("layered lithium oxides", ["lco lnmco"]),
        ("lithium oxides without cobalt", ["lmo"]),
        ("Li-Co-O", ["lco", "lnmco"]),
        ("lithium iron phosphate", ["lfp"]),
        ("LFP", ["lfp"]),
        ("lithium-ion cathode", ["lco lmo lfp lnmco"]),
        ("cobalt-free cathode", ["lmo lfp"]),
        ("hexagonal boron nitride", ["hbn", "cbn"]),
        ("cubic boron nitride", ["cbn", "hbn"]),
        ("c-BN", ["cbn", "hbn"]),
        ("wide band gap nitride semiconductor", ["hbn cbn aln"]),
        ("wurtzite GaN", ["gan", "aln"]),
        ("lead halide perovskite", ["cspbi3"]),
        ("lead-free halide perovskites", ["cssni3"]),
        ("perovskites without lead", ["cssni3 batio3"]),
        ("tetragonal perovskite", ["batio3 pbtio3"]),
        ("polar oxides", ["batio3 pbtio3"]),
        ("layered sulfide semiconductors", ["mos2"]),
        ("transition metal dichalcogenides", ["mos2"]),
        ("ABO3", ["batio3 pbtio3 calcite"]),
        ("intermetallic", ["nial"]),
        ("B2 structure", ["nial"]),
        ("fcc", ["copper", "halite periclase cbn sylvite lmo"]),
        ("copper", ["copper"]),
        ("dense", ["copper"]),
        ("oxychlorides", ["biocl"]),
        ("cubic tetragonal", []),
        ("cubic or tetragonal fluorides", ["sellaite phclf"]),
        ("P4_2/mnm", ["rutile cassiterite sellaite"]),
        ("carbonates", ["calcite"]),
        ("ternary chlorides", ["phclf"]),
        ("fewer than 3 atoms per cell", ["halite periclase sylvite cbn nial copper"]),
        ("band gap between 1 and 2 eV oxides", ["rutile batio3 pbtio3"]),
        ("nothing that is known", []),
    ],
)
def test_rows_are_listed_from_the_best_to_the_loosest(typed, tiers):
    found = [" ".join(sorted(tier.split())) for tier in listed(typed)]
    assert found == [" ".join(sorted(tier.split())) for tier in tiers]


def test_formulas_alone_leave_no_row_out():
    assert understand("NaCl KCl", FIELDS).tiers()[-1] is None
    assert understand("rutile", FIELDS).tiers()[-1] is None
    assert None not in understand("rutile oxides", FIELDS).tiers()


def test_a_formula_is_listed_before_its_neighbours_whatever_its_notation():
    for typed in ("NaCl", "ClNa", "nacl", "Na₁Cl₁"):
        assert listed(typed)[0] == "halite", typed


def test_tiers_only_grow():
    for typed in (
        "rutile oxides",
        "lithium cobalt oxide",
        "quartz rutile NaCl",
        "layered lithium garnet",
        "fcc copper",
    ):
        tiers = [t for t in understand(typed, FIELDS).tiers() if t is not None]
        sets = [set(re.findall(r"True (\w+)", " ".join(map(str, _held(tier))))) for tier in tiers]
        assert sets[0] <= sets[-1], typed


def _held(tier):
    return [
        f"{inside} {name}" for name, inside in zip(CRYSTALS, evaluate(ROWS, parse_filter(tier, FIELDS)), strict=True)
    ]
