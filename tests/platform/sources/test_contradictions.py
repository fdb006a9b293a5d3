"""Contradictions that could pass by coincidence, entries that could be lost, and files that cost much to read."""

from __future__ import annotations

import json
import tarfile
import time
from pathlib import Path

import gemmi
import numpy as np
import pytest

from crystalign.crystal import Crystal
from crystalign.errors import InputError
from crystalign.material import Material
from crystalign.readers.structures.structure_file import crystal_from_cif, crystal_from_poscar, read_structure
from crystalign.rejects import Reject
from crystalign.shards.writer import write_quarantine
from crystalign.sources import open_source

COLUMNS = ("label", "type_symbol", "fract_x", "fract_y", "fract_z")


def cif(
    rows: str,
    *,
    cell: tuple[float, ...] = (5.64, 5.64, 5.64, 90, 90, 90),
    name: str = "",
    number: int | None = None,
    hall: str = "",
    operations: str | None = None,
    stated: str = "",
    columns: tuple[str, ...] = COLUMNS,
) -> str:
    """A CIF; `operations` is the name of the group whose operations are listed."""
    tags = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
    lines = ["data_test", *(f"_cell_{tag} {value}" for tag, value in zip(tags, cell, strict=True)), stated]
    lines += [f"_symmetry_space_group_name_H-M '{name}'"] if name else []
    lines += [f"_symmetry_Int_Tables_number {number}"] if number else []
    lines += [f"_symmetry_space_group_name_Hall '{hall}'"] if hall else []
    if operations:
        group = gemmi.find_spacegroup_by_name(operations)
        lines += ["loop_", "_symmetry_equiv_pos_as_xyz", *(f"'{o.triplet()}'" for o in group.operations())]
    lines += ["loop_", *(f"_atom_site_{column}" for column in columns), rows]
    return "\n".join(lines) + "\n"


def refusal(text: str) -> InputError:
    with pytest.raises(InputError) as refused:
        crystal_from_cif(text)
    return refused.value


SALT = "Na1 Na 0 0 0\nCl1 Cl 0.5 0.5 0.5"
FEO = "_chemical_formula_sum 'Fe O'\n_cell_formula_units_Z 4"
OXIDE = "Fe1 Fe 0.1 0.2 0.3\nO1 O 0.6 0.1 0.4"
MONOCLINIC = (5.1, 6.2, 7.3, 90, 103, 90)


@pytest.mark.parametrize(
    "text",
    [
        cif(SALT, name="F m -3 m", operations="P m -3 m"),
        cif(SALT, name="F m -3 m", operations="P m -3 m", stated="_chemical_formula_sum 'Cl Na'"),
        cif("W1 W 0 0 0", name="I m -3 m", operations="P m -3 m"),
        cif(SALT, hall="P 1", name="F m -3 m"),
        cif(SALT, name="P 1", number=225),
        cif(SALT, name="F m -3 m", number=221),
        cif(SALT, name="P 1", stated="_space_group_name_H-M_alt 'F m -3 m'"),
        cif(OXIDE, name="P 1 21/n 1", hall="-P 2ybc", cell=MONOCLINIC, stated=FEO),
        cif(OXIDE, name="P 1 21/n 1", operations="P 1 21/c 1", cell=MONOCLINIC, stated=FEO),
        cif("C1 C 0.125 0.125 0.125", name="F d -3 m :1", operations="F d -3 m:2"),
    ],
)
def test_differing_symmetries_are_refused_even_where_the_formula_agrees(text: str) -> None:
    assert refusal(text).reason == "symmetry-disagrees"


def test_partly_occupied_sites_must_have_the_named_symmetry_too() -> None:
    columns = (*COLUMNS, "occupancy")
    rows = "Zr1 Zr 0 0 0 1\nO1 O 0.5 0.5 0 0.5"
    text = cif(rows, name="P m -3 m", operations="P 1", columns=columns)
    assert refusal(text).reason == "symmetry-disagrees"


def test_a_number_alone_whose_other_settings_fit_too_is_refused_unless_accepted() -> None:
    text = cif(OXIDE, number=14, cell=MONOCLINIC, stated=FEO)
    assert refusal(text).reason == "setting-assumed"
    assert len(crystal_from_cif(text, accept=["setting-assumed"])) == 8


def test_half_a_cell_does_not_pass_by_the_divisor_of_its_formula() -> None:
    stated = "_chemical_formula_sum 'Hg2 Cl2'\n_cell_formula_units_Z 2"
    rows, cell = "Hg1 Hg 0 0 0.12\nCl1 Cl 0 0 0.33", (4.4, 4.4, 10.9, 90, 90, 90)
    assert len(crystal_from_cif(cif(rows, cell=cell, name="I 4/m m m", stated=stated))) == 8
    assert refusal(cif(rows, cell=cell, name="P 4/m m m", stated=stated)).reason == "z-disagrees"
    half = cif("Al1 Al 0 0 0\nCl1 Cl 0.3 0 0\nCl2 Cl 0 0.3 0\nCl3 Cl 0 0 0.3", name="P 1")
    assert (
        refusal(half.replace("loop_", "_chemical_formula_sum 'Al2 Cl6'\n_cell_formula_units_Z 1\nloop_")).reason
        == "z-disagrees"
    )


def test_one_atom_missing_from_a_large_molecule_is_noticed() -> None:
    rng = np.random.default_rng(1)
    rows = "\n".join(f"C{n} C {x:.4f} {y:.4f} {z:.4f}" for n, (x, y, z) in enumerate(rng.uniform(size=(59, 3))))
    stated = "_chemical_formula_sum C60\n_cell_formula_units_Z 1"
    error = refusal(cif(rows, cell=(14, 14, 14, 90, 90, 90), name="P 1", stated=stated))
    assert error.reason == "z-disagrees"
    part = rows.replace("C58 C", "C58 N")
    stated = "_chemical_formula_sum 'C57 N2'\n_cell_formula_units_Z 1"
    assert (
        refusal(cif(part, cell=(14, 14, 14, 90, 90, 90), name="P 1", stated=stated)).reason == "composition-disagrees"
    )


@pytest.mark.parametrize("formula", ["Na (Cl O3", "K0.9(1) Cl", "Unobtainium", "Xx2 O"])
def test_a_formula_that_is_not_understood_is_no_agreement(formula: str) -> None:
    assert (
        refusal(cif(SALT, name="F m -3 m", stated=f"_chemical_formula_sum '{formula}'")).reason
        == "formula-not-understood"
    )


@pytest.mark.parametrize("formula", ["NaCl", "(Na Cl)", "(Cl Na)", "NA CL", "Cl1 Na1", "Na Cl1.00"])
def test_spellings_of_a_formula_are_understood(formula: str) -> None:
    assert crystal_from_cif(cif(SALT, name="F m -3 m", stated=f"_chemical_formula_sum '{formula}'")).formula == "ClNa"


def test_occupancies_and_elements_of_another_table_are_not_zipped_by_row() -> None:
    text = cif("Co1 Co 0 0 0\nFe1 Fe 0 0 0.5", name="P 1")
    for column, values in (("occupancy", "0.2 0.9"), ("type_symbol", "Fe Co")):
        first, second = values.split()
        table = f"loop_\n_atom_site_label\n_atom_site_{column}\nFe1 {first}\nCo1 {second}\n"
        plain = text.replace("_atom_site_type_symbol\n", "").replace("Co1 Co", "Co1").replace("Fe1 Fe", "Fe1")
        assert refusal(plain + table).reason == "bad-sites"
    assert refusal(text + text[text.index("loop_") :].replace("Co1", "O1")).reason in {"bad-sites", "unreadable-cif"}


def test_multiplicities_that_are_stated_are_compared() -> None:
    columns = (*COLUMNS, "symmetry_multiplicity")
    for count, right in ((4, True), (8, False)):
        text = cif(f"Na1 Na 0 0 0 {count}\nCl1 Cl 0.5 0.5 0.5 4", name="F m -3 m", columns=columns)
        if right:
            assert len(crystal_from_cif(text)) == 8
        else:
            assert refusal(text).reason == "multiplicity-disagrees"


def test_deuterium_and_densities_without_hydrogen_agree() -> None:
    deuteride = cif(
        "Li1 Li 0 0 0\nD1 D 0.5 0.5 0.5",
        name="F m -3 m",
        cell=(4.07, 4.07, 4.07, 90, 90, 90),
        stated="_chemical_formula_sum 'D Li'\n_cell_formula_units_Z 4\n_exptl_crystal_density_diffrn 0.881",
    )
    assert len(crystal_from_cif(deuteride)) == 8
    bare = "_chemical_formula_sum 'Mg O2 H2'\n_cell_formula_units_Z 1\n_exptl_crystal_density_diffrn 0.521"
    text = cif("Mg1 Mg 0 0 0\nO1 O 0.5 0.5 0.5\nO2 O 0.25 0.25 0.25", name="P 1", stated=bare)
    assert crystal_from_cif(text).formula == "MgO2"


def test_two_digits_of_a_third_are_a_third_in_a_large_cell() -> None:
    text = cif("Ga1 Ga 0.33 0.67 0.25", name="P 63/m m c", cell=(12.0, 12.0, 8.0, 90, 90, 120))
    assert len(crystal_from_cif(text)) == 2
    general = cif("Ga1 Ga 0.33 0.11 0.21", name="P 63/m m c", cell=(12.0, 12.0, 8.0, 90, 90, 120))
    assert len(crystal_from_cif(general)) == 24


@pytest.mark.parametrize("name", ["Fm\u22123m", "Fm3\u0305m", "F m \u20133 m"])
def test_typographic_minus_and_bar_are_read(name: str) -> None:
    assert len(crystal_from_cif(cif(SALT, name=name))) == 8


def test_operations_with_rounded_thirds_repeated_and_without_identity_are_a_group() -> None:
    group = gemmi.find_spacegroup_by_name("R -3 c:H")
    words = [o.triplet() for o in group.operations()]
    text = cif("Ca1 Ca 0 0 0", cell=(4.99, 4.99, 17.06, 90, 90, 120), name="P 1")
    rounded = [
        w.replace("1/3", "0.33").replace("2/3", "0.67").replace("1/6", "0.17").replace("5/6", "0.83") for w in words
    ]
    listed = "\n".join(f"'{word}'" for word in [*rounded[1:], rounded[5]])
    text = text.replace("_symmetry_space_group_name_H-M 'P 1'", f"loop_\n_symmetry_equiv_pos_as_xyz\n{listed}")
    assert len(crystal_from_cif(text)) == 6


@pytest.mark.parametrize("label", ["T1", "Cg1", "Uiso", "Oct1", "Ph1", "Cm1", "Wa1"])
def test_labels_that_name_no_atom_are_not_guessed_without_a_formula(label: str) -> None:
    text = cif(f"{label} 0 0 0\nNa1 0.5 0.5 0.5", name="P 1", columns=tuple(c for c in COLUMNS if c != "type_symbol"))
    assert refusal(text).reason in {"ambiguous-element", "unknown-element"}


def poscar(lines: list[str], symbols: str = "") -> str:
    head = ["title", "1.0", "4 0 0", "0 4 0", "0 0 4", *([symbols] if symbols else []), "2", "Direct"]
    return "\n".join([*head, *lines]) + "\n"


def test_flags_of_selective_dynamics_are_never_elements() -> None:
    for flags in ("F F F", "T T T", "T F T"):
        with pytest.raises(InputError) as refused:
            crystal_from_poscar(poscar([f"0 0 0 {flags}", f"0.5 0.5 0.5 {flags}"]))
        assert refused.value.reason == "elements-missing"
        assert crystal_from_poscar(poscar([f"0 0 0 {flags}", f"0.5 0.5 0.5 {flags}"], "Fe")).formula == "Fe"
        assert crystal_from_poscar(poscar([f"0 0 0 C {flags}", f"0.5 0.5 0.5 C {flags}"])).formula == "C"


@pytest.mark.parametrize("counts", ["4 \u00b2", "\u00b2", "\u0664"])
def test_digits_that_are_not_ascii_are_no_counts(counts: str) -> None:
    with pytest.raises(InputError):
        crystal_from_poscar(poscar(["0 0 0", "0.5 0.5 0.5"], "Fe").replace("\n2\n", f"\n{counts}\n"))


GOOD = {
    "lattice": {"matrix": np.eye(3).tolist()},
    "sites": [{"species": [{"element": "Na", "occu": 1}], "abc": [0, 0, 0]}],
}
GOOD["lattice"]["matrix"] = (np.eye(3) * 4).tolist()


@pytest.mark.parametrize(
    ("text", "kept", "refused"),
    [
        ("\n".join([json.dumps(GOOD), "null", *[json.dumps(GOOD)] * 9]), 10, 1),
        (json.dumps([GOOD] * 3) + json.dumps([GOOD] * 2), 3, 1),
        ("[" + json.dumps(GOOD) + "}" + ", ".join([json.dumps(GOOD)] * 3) + "]", 1, 1),
        (json.dumps([GOOD, {"structure": {**GOOD, "lattice": {"matrix": [[10**400, 0, 0]] * 3}}}, GOOD]), 2, 1),
        (json.dumps({"entries": [{"structure": GOOD, "entry_id": n} for n in range(3)]}), 3, 0),
        (json.dumps({"data": {"id": "1", "attributes": {"lattice_vectors": np.eye(3).tolist()}}, "meta": {}}), 0, 1),
    ],
)
def test_no_entry_of_a_json_file_is_lost_in_silence(text: str, kept: int, refused: int, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    source = open_source(str(tmp_path / "a.json"))
    found = [one for item in source.items() for one in source.read(item)]
    assert sum(isinstance(one, Material) for one in found) == kept
    assert sum(isinstance(one, Reject) for one in found) >= refused


def test_a_vacancy_alone_is_no_site_and_assemblies_are_refused(tmp_path: Path) -> None:
    species = [
        {"name": "Na", "chemical_symbols": ["Na"], "concentration": [1.0]},
        {"name": "gap", "chemical_symbols": ["vacancy"], "concentration": [1.0]},
    ]
    entry = {
        "lattice_vectors": (np.eye(3) * 4).tolist(),
        "cartesian_site_positions": [[0, 0, 0], [2, 2, 2]],
        "species_at_sites": ["Na", "gap"],
        "species": species,
    }
    from crystalign.readers.structures.documents import read_document

    assert len(read_document({"attributes": entry}, max_sites=10).crystal) == 1
    with pytest.raises(InputError, match="assemblies"):
        read_document({"attributes": {**entry, "assemblies": [{"sites_in_groups": [[0], [1]]}]}}, max_sites=10)


def test_halves_of_surrogate_pairs_end_in_quarantine(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"id": "x\\ud800y", "structure": null}]')
    source = open_source(str(tmp_path / "a.json"))
    (reject,) = (one for item in source.items() for one in source.read(item))
    assert write_quarantine(str(tmp_path / "data"), "a", [reject]).bytes > 0
    with pytest.raises(InputError):
        crystal_from_cif("data_\ud800")


@pytest.mark.parametrize(
    "text",
    [
        cif(SALT, cell=(9999, 9999, 9999, 90, 90, 90), name="P 1"),
        cif(SALT, cell=(564, 564, 564, 90, 90, 90), name="F m -3 m"),
        "\n" * 60_000 + "x",
        cif(f"Fe1 Fe{'1' * 40_000}x 0 0 0", name="P 1"),
        cif("\n".join(f"Na{n} Na 0 0 0" for n in range(990)), name="P 1"),
    ],
)
def test_costly_files_are_refused_at_once(text: str) -> None:
    began = time.process_time()
    with pytest.raises(InputError):
        read_structure(text.encode(), "a.cif")
    assert time.process_time() - began < 3.0


def test_extremely_skewed_cells_are_refused_at_once() -> None:
    crystal = Crystal([[1, 0, 0], [1e6, 1, 0], [1e6, 1e6, 1]], [[0, 0, 0]], [11])
    with pytest.raises(InputError, match="reduced cell"):
        crystal.check()


def test_a_damaged_xz_archive_names_what_is_lost(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for n in range(5):
        (tmp_path / f"{n}.cif").write_bytes(rng.bytes(20_000))
    with tarfile.open(tmp_path / "a.tar.xz", "w:xz") as archive:
        for n in range(5):
            archive.add(tmp_path / f"{n}.cif", f"{n}.cif")
    data = bytearray((tmp_path / "a.tar.xz").read_bytes())
    data[len(data) // 2 : len(data) // 2 + 50] = bytes(50)
    (tmp_path / "a.tar.xz").write_bytes(data)
    *whole, last = open_source(str(tmp_path / "a.tar.xz")).items()
    assert [item.key for item in whole] == [f"{n}.cif" for n in range(len(whole))]
    assert len(whole) < 5
    assert last.rejected is not None
    assert last.rejected[0] == "truncated"
