"""POSCAR and its relatives are read as VASP reads them, and no element is guessed."""

from __future__ import annotations

import numpy as np
import pytest

from crystalign.crystal import SYMBOLS, Crystal
from crystalign.errors import CrystalError, InputError
from crystalign.readers.structures.structure_file import (
    crystal_from_poscar,
    file_kind,
    read_structure,
    structure_of_file,
)

SALT = """title
1.0
4.0 0 0
0 4.0 0
0 0 5.0
Na Cl
1 2
Direct
0 0 0
0.5 0.4 0.3
0.1 0.2 0.6
"""


def refusal(text: str) -> InputError:
    with pytest.raises(InputError) as refused:
        crystal_from_poscar(text)
    return refused.value


def test_random_poscars_agree_with_pymatgen() -> None:
    from pymatgen.io.vasp import Poscar

    rng = np.random.default_rng(3)
    for number in range(30):
        vectors = np.diag(rng.uniform(3, 8, 3)) + rng.uniform(-1, 1, (3, 3))
        scale = rng.choice([1.0, 1.7, -90.0])
        symbols, counts = rng.choice(["Na", "Cl", "Fe", "O", "Cu", "Sb"], 3, replace=False), rng.integers(1, 4, 3)
        cartesian = bool(number % 2)
        positions = rng.uniform(0, 3 if cartesian else 1, (counts.sum(), 3))
        lines = ["random", str(scale), *(" ".join(map(str, v)) for v in vectors), " ".join(symbols)]
        lines += [" ".join(map(str, counts)), *(["Selective dynamics"] if number % 3 == 0 else [])]
        flags = " T F T" if number % 3 == 0 else ""
        lines += [
            "Cartesian" if cartesian else "Direct",
            *(" ".join(map(str, p)) + flags for p in positions),
            "",
            "0 0 0",
        ]
        ours = crystal_from_poscar("\n".join(lines))
        if cartesian and scale < 0:
            continue  # pymatgen scales positions by the volume itself
        theirs = Poscar.from_str("\n".join(lines)).structure
        assert ours.formula == Crystal.from_pymatgen(theirs).formula
        np.testing.assert_allclose(ours.lattice, theirs.lattice.matrix, atol=1e-9)
        step = ours.frac_coords - theirs.frac_coords
        np.testing.assert_allclose(step - np.rint(step), 0, atol=1e-9)


def test_a_negative_scale_is_the_volume_for_cartesian_positions_too() -> None:
    text = SALT.replace("1.0\n4.0 0 0\n0 4.0 0\n0 0 5.0", "-64\n1 0 0\n0 1 0\n0 0 1").replace("Direct", "Cartesian")
    crystal = crystal_from_poscar(text)
    assert crystal.volume == pytest.approx(64)
    np.testing.assert_allclose(crystal.frac_coords[1], [0.5, 0.4, 0.3], atol=1e-12)


def test_three_scale_factors_scale_the_axes_and_cartesian_positions() -> None:
    text = SALT.replace("1.0\n4.0 0 0\n0 4.0 0\n0 0 5.0", "4 4 5\n1 0 0\n0 1 0\n0 0 1").replace("Direct", "Kartesian")
    crystal = crystal_from_poscar(text)
    assert crystal.volume == pytest.approx(80)
    np.testing.assert_allclose(crystal.frac_coords[1], [0.5, 0.4, 0.3], atol=1e-12)


@pytest.mark.parametrize("title", ["H2O in a box", "Si", "Si O C", "alpha beta", "1 1", ""])
def test_without_a_line_of_elements_nothing_is_invented(title: str) -> None:
    error = refusal(SALT.replace("Na Cl\n", "").replace("title", title))
    assert error.reason == "elements-missing"
    assert "Add a line" in str(error)


def test_elements_of_vasp_4_may_stand_in_the_title_or_behind_the_positions() -> None:
    bare = SALT.replace("Na Cl\n", "")
    assert crystal_from_poscar(bare.replace("title", "Na Cl")).formula == "Cl2Na"
    named = bare.replace("0 0 0\n", "0 0 0 Li\n").replace("0.3\n", "0.3 F\n").replace("0.6\n", "0.6 F\n")
    assert crystal_from_poscar(named).formula == "F2Li"


@pytest.mark.parametrize(
    ("change", "symbols"),
    [
        (("Na Cl", "Fe_pv O_s"), "Fe O O"),
        (("Na Cl", "Fe/8a3f21 O/0c2d1f2ab"), "Fe O O"),
        (("Na Cl", "D O"), "H O O"),
        (("Na Cl", "Na Cl ! made by hand"), "Na Cl Cl"),
        (("Na Cl\n1 2", "Na Cl Na\n1 1 1"), "Na Cl Na"),
        (("4.0 0 0", "4.0D0 0.0D+00 0"), "Na Cl Cl"),
        (("\n", "\r\n"), "Na Cl Cl"),
        (("Direct\n", "Selective dynamics\nDirect\n"), "Na Cl Cl"),
        (("title", ""), "Na Cl Cl"),
    ],
)
def test_variants_of_the_format_are_read(change: tuple[str, str], symbols: str) -> None:
    crystal = crystal_from_poscar(SALT.replace(*change))
    assert [SYMBOLS[z] for z in crystal.atomic_numbers] == symbols.split()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("1 2", "1 3"), "unreadable-poscar"),
        (("1 2", "1 1"), "unreadable-poscar"),
        (("1 2", "1"), "unreadable-poscar"),
        (("Na Cl", "Na Zz"), "unknown-element"),
        (("1.0\n", "0\n"), "unreadable-poscar"),
        (("0 0 5.0", "0 0"), "unreadable-poscar"),
        (("0.5 0.4 0.3", "0.5 0.4 nan"), "unreadable-poscar"),
        (("0 0 0\n", "0 0 0 Cl\n"), "elements-disagree"),
        (("1 2", "999999999999999999999 2"), "too-many-sites"),
        (("1 2", "9999999 2"), "too-many-sites"),
        (("Direct\n", "0.1 0.1 0.1\n"), "unreadable-poscar"),
    ],
)
def test_what_contradicts_itself_is_refused(change: tuple[str, str], reason: str) -> None:
    assert refusal(SALT.replace(*change)).reason == reason


def test_a_declared_number_of_atoms_costs_nothing() -> None:
    with pytest.raises(CrystalError, match="10000001 atoms are declared; the limit is 1000"):
        read_structure(SALT.replace("1 2", "9999999 2").encode(), "POSCAR")


def test_the_last_frame_of_a_trajectory_is_read() -> None:
    head = "\n".join(SALT.splitlines()[:7])
    frames = [f"Direct configuration= {n}\n0 0 0\n0.5 0.5 0.{n}\n0.1 0.2 0.6" for n in (1, 2, 3)]
    fixed = structure_of_file("\n".join([head, *frames]).encode(), "XDATCAR")
    grown = head.replace("1.0", "1.1", 1)
    varying = structure_of_file("\n".join([head, frames[0], grown, frames[2]]).encode(), "XDATCAR_npt")
    for crystal in (fixed, varying):
        assert crystal.frac_coords[1, 2] == pytest.approx(0.3)
    assert varying.volume == pytest.approx(80 * 1.1**3)


def test_extended_xyz_is_read_where_it_is_periodic() -> None:
    pytest.importorskip("ase")
    text = '2\nLattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3 pbc="{}"\nNa 0 0 0\nCl 2 2 2\n'
    assert structure_of_file(text.format("T T T").encode(), "a.xyz").formula == "ClNa"
    for broken in (text.format("T T F"), "2\nplain\nNa 0 0 0\nCl 2 2 2\n"):
        with pytest.raises(CrystalError) as refused:
            structure_of_file(broken.encode(), "a.xyz")
        assert refused.value.reason == "not-periodic"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("POSCAR_KCl", "poscar"),
        ("KF_POSCAR", "poscar"),
        ("CONTCAR.relax2", "poscar"),
        ("a/b/POSCAR-NaF.gz", "poscar"),
        ("mp-1.POSCAR.vasp", "poscar"),
        ("x.CIF.bz2", "cif"),
        ("vasprun_mp-1.xml", "vasprun"),
        ("vasprun.xml.relax2.gz", "vasprun"),
        ("CHGCAR", "chgcar"),
        ("._NaCl.cif", ""),
        ("imposcard.txt", ""),
        ("README", ""),
    ],
)
def test_a_name_tells_the_kind(name: str, kind: str) -> None:
    assert file_kind(name) == kind
