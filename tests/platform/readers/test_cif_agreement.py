"""A structure is stored only if it agrees with what its CIF says; labels, occupancies and rounded numbers are read."""

from __future__ import annotations

import numpy as np
import pytest

from crystalign.crystal import SYMBOLS, Crystal
from crystalign.errors import CrystalError, FileFormatError, InputError
from crystalign.limits import Limits
from crystalign.readers.structures.structure_file import crystal_from_cif, crystal_from_poscar, read_structure

CELL = """data_test
_cell_length_a 5.64
_cell_length_b 5.64
_cell_length_c 5.64
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M '{group}'
{stated}
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
{rows}
"""
SALT = "Na1 Na 0 0 0 1\nCl1 Cl 0.5 0.5 0.5 1"


def cif(rows: str = SALT, stated: str = "", group: str = "F m -3 m") -> str:
    return CELL.format(group=group, stated=stated, rows=rows)


def labelled(rows: str, formula: str | None, group: str = "P 1") -> str:
    stated = "" if formula is None else f"_chemical_formula_sum '{formula}'"
    return cif(rows, stated, group).replace("_atom_site_type_symbol\n", "").replace("_atom_site_occupancy\n", "")


def refusal(text: str) -> InputError:
    with pytest.raises(InputError) as refused:
        crystal_from_cif(text)
    return refused.value


@pytest.mark.parametrize(
    ("stated", "reason"),
    [
        ("_chemical_formula_sum 'Na Cl2'", "composition-disagrees"),
        ("_chemical_formula_sum 'K Cl'", "composition-disagrees"),
        ("_chemical_formula_sum 'Na Cl'\n_cell_formula_units_Z 8", "z-disagrees"),
        ("_cell_volume 170.0", "volume-disagrees"),
        ("_exptl_crystal_density_diffrn 4.33", "density-disagrees"),
    ],
)
def test_a_contradiction_is_refused_with_both_values_and_can_be_accepted(stated: str, reason: str) -> None:
    error = refusal(cif(stated=stated))
    assert error.reason == reason
    assert "state" in str(error)
    accepted = crystal_from_cif(cif(stated=stated), accept=[reason])
    assert (accepted.formula, len(accepted)) == ("ClNa", 8)
    remarks = read_structure(cif(stated=stated).encode(), "a.cif", accept=[reason]).remarks
    assert any(reason in remark for remark in remarks)


@pytest.mark.parametrize(
    "stated",
    [
        "_chemical_formula_sum 'Cl Na'\n_cell_formula_units_Z 4\n_exptl_crystal_density_diffrn 2.164",
        "_chemical_formula_structural NaCl\n_chemical_formula_sum 'Na4 Cl4'\n_cell_formula_units_Z 4",  # pymatgen
        "_chemical_formula_sum 'Na4 Cl4'\n_cell_formula_units_Z 1",
        "_chemical_formula_sum ?\n_cell_formula_units_Z ?\n_cell_volume .",
        "_cell_volume 179.406(12)",
    ],
)
def test_statements_that_agree_are_no_contradiction(stated: str) -> None:
    reading = read_structure(cif(stated=stated).encode(), "a.cif")
    assert (reading.crystal.formula, len(reading.crystal), reading.remarks) == ("ClNa", 8, ())


def test_missing_hydrogen_alone_is_a_remark_and_counts_in_the_density() -> None:
    rows = "Mg1 Mg 0 0 0 1\nO1 O 0.5 0.5 0.5 1\nO2 O 0.25 0.25 0.25 1"
    stated = "_chemical_formula_sum 'Mg O2 H2'\n_cell_formula_units_Z 1\n_exptl_crystal_density_diffrn 0.540"
    reading = read_structure(cif(rows, stated, "P 1").encode(), "a.cif")
    assert reading.crystal.formula == "MgO2"
    (remark,) = reading.remarks
    assert remark.startswith("hydrogen missing")
    assert refusal(cif(rows, stated.replace("H2", "H2 N"), "P 1")).reason == "composition-disagrees"
    more = cif(rows + "\nH1 H 0.7 0.1 0.1 1", stated.replace("H2", ""), "P 1")
    assert refusal(more).reason == "composition-disagrees"


@pytest.mark.parametrize(
    ("labels", "formula", "elements"),
    [
        ("HO1 HO2 O1 O2 Mg1", "H2 Mg O2", "H H O O Mg"),
        ("HO1 O1", "Ho O", "Ho O"),
        ("CA1 CB1 O1", "C2 O", "C C O"),
        ("CA1 C1 O1 O2 O3", "Ca C O3", "Ca C O O O"),
        ("CO1 O1", "Co O", "Co O"),
        ("CO1 O1", "C O", "C O"),
        ("Wat1 OW2 Ca1", "Ca O2 H4", "O O Ca"),
        ("NH4 Cl1", "N H4 Cl", "N Cl"),
        ("W1 Na1", "Na O H2", "O Na"),
        ("W1 O1 O2 O3", "W O3", "W O O O"),
        ("Ca1 SiT O3", None, "Ca Si O"),
        ("D1 D2 O1", "D2 O", "H H O"),
    ],
)
def test_labels_are_elements_by_the_formula(labels: str, formula: str | None, elements: str) -> None:
    rows = "\n".join(f"{label} 0.{n}1 0.{n}3 0.{n}7" for n, label in enumerate(labels.split(), start=1))
    crystal = crystal_from_cif(labelled(rows, formula))
    assert [SYMBOLS[z] for z in crystal.atomic_numbers] == elements.split()


@pytest.mark.parametrize(
    ("labels", "formula", "reason"),
    [
        ("CO1 O1", None, "ambiguous-element"),
        ("CL1 NA1", None, "ambiguous-element"),
        ("CO1 CO2 O1", "C Co O2", "ambiguous-element"),
        ("Zz1 O1", None, "unknown-element"),
        ("HO1 O1", "Fe O", "composition-disagrees"),
        ("NH4 Cl1", None, "ambiguous-element"),
    ],
)
def test_labels_that_nothing_decides_are_refused(labels: str, formula: str | None, reason: str) -> None:
    rows = "\n".join(f"{label} 0.{n}1 0.{n}3 0.{n}7" for n, label in enumerate(labels.split(), start=1))
    assert refusal(labelled(rows, formula)).reason == reason


@pytest.mark.parametrize("symbol", ["Fe3+", "Fe+3", "Fe", "FE", "fe", "Fe0+", "Fe2.5+", "Fe3"])
def test_type_symbols_lose_their_charge(symbol: str) -> None:
    assert crystal_from_cif(cif(f"A1 {symbol} 0 0 0 1\nO1 O2- 0.5 0.5 0.5 1")).formula == "FeO"


@pytest.mark.parametrize("symbol", ["NH3x", "Nh", "Cn", "Xx", "Va", "Q"])
def test_no_element_is_made_of_a_word_that_is_none(symbol: str) -> None:
    assert refusal(cif(f"A1 {symbol} 0 0 0 1\nO1 O 0.5 0.5 0.5 1")).reason in {
        "unknown-element",
        "ambiguous-element",
    }


def test_species_that_share_a_place_are_one_site() -> None:
    rows = "La1 La 0.5 0.5 0.5 0.7\nSr1 Sr 0.5 0.5 0.5 0.3\nMn1 Mn 0 0 0 1\nO1 O 0.5 0 0 1"
    crystal = crystal_from_cif(cif(rows, group="P 1"))
    assert len(crystal) == 3
    assert crystal.composition == pytest.approx({8: 1, 25: 1, 38: 0.3, 57: 0.7})


def test_split_sites_are_kept_and_do_not_overlap() -> None:
    rows = "Ti1 Ti 0 0 0 1\nO1 O 0.52 0.5 0.5 0.5\nO2 O 0.48 0.5 0.5 0.5"
    crystal = crystal_from_cif(cif(rows, group="P 1")).check()
    assert len(crystal) == 3
    both = rows.replace("0.5 0.5 0.5\n", "0.5 0.5 0.9\n")
    with pytest.raises(CrystalError, match="overlap"):
        crystal_from_cif(cif(both, group="P 1")).check()


@pytest.mark.parametrize(("occupancy", "share"), [(".", 1), ("?", 1), ("0.952(8)", 0.952), ("1.00002", 1), ("1.0", 1)])
def test_occupancies_are_read_as_written(occupancy: str, share: float) -> None:
    crystal = crystal_from_cif(cif(f"Ti1 Ti 0 0 0 {occupancy}\nO1 O 0.5 0.5 0.5 1"))
    assert crystal.composition[22] == pytest.approx(4 * share)


@pytest.mark.parametrize(("occupancy", "reason"), [("1.4", "bad-sites"), ("-0.2", "bad-sites"), ("half", "bad-sites")])
def test_impossible_occupancies_are_refused(occupancy: str, reason: str) -> None:
    assert refusal(cif(f"Ti1 Ti 0 0 0 {occupancy}\nO1 O 0.5 0.5 0.5 1")).reason == reason


def test_a_place_that_is_occupied_more_than_once_is_refused() -> None:
    rows = "Co1 Co 0 0 0 0.87\nNi1 Ni 0 0 0 0.24\nO1 O 0.5 0.5 0.5 1"
    assert refusal(cif(rows)).reason == "occupancy-above-one"


def test_sites_without_coordinates_are_refused_unless_they_are_hydrogen() -> None:
    reading = read_structure(cif(SALT + "\nH1 H ? ? ? 1").encode(), "a.cif")
    assert "hydrogen" in reading.remarks[0]
    assert refusal(cif(SALT + "\nO1 O ? ? ? 1")).reason == "sites-without-coordinates"


@pytest.mark.parametrize("digits", [3, 4, 5])
def test_rounded_thirds_are_on_their_special_position(digits: int) -> None:
    third, other = round(1 / 3, digits), round(2 / 3, digits)
    text = cif(f"Ga1 Ga {third} {other} 0 1\nN1 N {third} {other} 0.377 1", group="P 63 m c")
    text = text.replace("_cell_length_c 5.64", "_cell_length_c 5.18").replace("gamma 90", "gamma 120")
    crystal = crystal_from_cif(text.replace("length_a 5.64", "length_a 3.19").replace("length_b 5.64", "length_b 3.19"))
    assert len(crystal) == 4
    assert np.abs((crystal.frac_coords[:, :2] * 3) - np.rint(crystal.frac_coords[:, :2] * 3)).max() < 1e-9


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("5.64", "5,64"), "bad-cell"),
        (("_cell_angle_gamma 90", "_cell_angle_gamma 200"), "bad-cell"),
        (("_cell_length_b 5.64\n", ""), "bad-cell"),
        (("0.5 0.5 0.5", "1/2 1/2 1/2"), "bad-sites"),
        (("fract_x", "Cartn_x"), "no-fractional-coordinates"),
        (("F m -3 m", "Q 9"), "unknown-space-group"),
        (("loop_", "_cell_modulation_dimension 1\nloop_"), "modulated"),
    ],
)
def test_what_cannot_be_read_is_named(change: tuple[str, str], reason: str) -> None:
    error = refusal(cif().replace(*change))
    assert error.reason == reason
    assert len(str(error)) > 20


def test_a_web_page_and_a_broken_loop_are_no_cif() -> None:
    for text in ("<!DOCTYPE html><html>404</html>", "", "data_a\nloop_\n_a _b\n1 2 3\n"):
        with pytest.raises(InputError):
            crystal_from_cif(text)
    with pytest.raises(FileFormatError, match="no CIF"):
        crystal_from_cif("<!DOCTYPE html><html>404</html>")


def test_a_crystal_survives_its_own_cif_and_poscar() -> None:
    rng = np.random.default_rng(5)
    for _ in range(20):
        lattice = np.diag(rng.uniform(6, 9, 3)) + rng.uniform(-1, 1, (3, 3))
        crystal = Crystal(lattice, rng.uniform(size=(4, 3)), rng.choice([1, 3, 8, 11, 17, 26, 29, 47, 57, 82], 4))
        for copy in (crystal_from_cif(crystal.to_cif()), crystal_from_poscar(crystal.to_poscar())):
            assert copy.formula == crystal.formula
            assert copy.volume == pytest.approx(crystal.volume, rel=1e-5)
            order = np.argsort(copy.atomic_numbers, kind="stable"), np.argsort(crystal.atomic_numbers, kind="stable")
            step = copy.frac_coords[order[0]] - crystal.frac_coords[order[1]]
            assert np.abs(np.sort((step - np.rint(step)).ravel())).max() < 1.0  # order within an element may differ
            assert sorted(np.linalg.norm(copy.frac_coords % 1, axis=1).round(4)) == pytest.approx(
                sorted(np.linalg.norm(crystal.frac_coords % 1, axis=1).round(4)), abs=1e-3
            )


def test_a_disordered_crystal_survives_its_own_cif() -> None:
    sites = (((3, 0.25), (11, 0.7)), ((17, 1.0),))
    crystal = Crystal(np.eye(3) * 4, np.array([[0, 0, 0], [0.5] * 3]), np.array([11, 17]), sites)
    copy = crystal_from_cif(crystal.to_cif())
    assert copy.composition == pytest.approx(crystal.composition)
    assert len(copy) == 2


def test_symmetry_expansion_is_bounded_before_it_is_built() -> None:
    rows = "\n".join(f"Na{n} Na 0.{n:03d}1 0.{(7 * n) % 1000:03d}2 0.{(13 * n) % 1000:03d}3 1" for n in range(900))
    text = cif(rows).replace("5.64", "56.4").encode()
    with pytest.raises(CrystalError, match="the limit is 1000"):
        read_structure(text, "a.cif")
    with pytest.raises(CrystalError, match="more than 50000 positions"):
        read_structure(text, "a.cif", limits=Limits(max_positions=50_000))


def test_tags_of_newer_dictionaries_and_capitals_are_the_same_tags() -> None:
    text = cif(stated="_chemical_formula_sum 'Na Cl'\n_cell_formula_units_Z 4")
    capitals = text.replace("_cell_length", "_CELL_Length").replace("_atom_site_fract", "_Atom_Site_FRACT")
    assert len(crystal_from_cif(capitals)) == 8
    for old, new in (("_cell_", "_cell."), ("_atom_site_", "_atom_site."), ("_symmetry_space", "_symmetry.space")):
        assert len(crystal_from_cif(text.replace(old, new))) == 8


def test_a_magnetic_cif_has_the_cell_of_its_operations_without_time_reversal() -> None:
    tags = ("_space_group_symop_magn_operation", "_space_group_symop_magn_centering")
    rows = ("1 x,y,z,+1\n2 -x,-y,-z,-1", "1 x,y,z,+1\n2 x+1/2,y+1/2,z,-1")
    stated = "\n".join(f"loop_\n{tag}.id\n{tag}.xyz\n{row}" for tag, row in zip(tags, rows, strict=True))
    text = cif("Mn1 Mn 0.1 0.2 0.3 1", stated).replace("_symmetry_space_group_name_H-M 'F m -3 m'", "")
    assert len(crystal_from_cif(text)) == 4
