"""The cell of a CIF is the same however its symmetry is told, over every tabulated setting of the 230 space groups."""

from __future__ import annotations

import gemmi
import numpy as np
import pytest

from crystalign.errors import CrystalError
from crystalign.readers.structures.structure_file import crystal_from_cif

SETTINGS = list(gemmi.spacegroup_table())
CODES = {"1": "1", "2": "2", "H": "H", "R": "R"}


def cell_of(group) -> tuple[float, ...]:
    """Lengths and angles that the setting allows and that are otherwise general."""
    number, ext = group.number, group.ext
    if number <= 2:
        return (5.1, 6.2, 7.3, 82.0, 95.0, 103.0)
    if number <= 15:
        axis = group.monoclinic_unique_axis()
        angles = {"a": (103.0, 90.0, 90.0), "b": (90.0, 103.0, 90.0), "c": (90.0, 90.0, 103.0)}[axis]
        return (6.1, 7.2, 8.3, *angles)
    if number <= 74:
        return (6.1, 7.2, 8.3, 90.0, 90.0, 90.0)
    if number <= 142:
        return (7.1, 7.1, 9.3, 90.0, 90.0, 90.0)
    if number <= 194:
        return (6.3, 6.3, 6.3, 78.0, 78.0, 78.0) if ext == "R" else (7.1, 7.1, 9.3, 90.0, 90.0, 120.0)
    return (8.4, 8.4, 8.4, 90.0, 90.0, 90.0)


def sites_of(group) -> list[tuple[str, np.ndarray]]:
    """An iron in general position, an oxygen on the fixed points of one operation; images lie well apart."""
    rng = np.random.default_rng(group.number)
    operations = list(group.operations())
    fixing = [operation for operation in operations if operation.triplet() != "x,y,z"][:1]
    iron = next(p for _ in range(500) if well_apart(group, p := rng.uniform(0.05, 0.45, 3).round(4)))
    for _ in range(500):
        point = rng.uniform(0.1, 0.4, 3)
        moved = [np.array(fixing[0].apply_to_xyz(point.tolist()))] if fixing else []
        special = np.mean([point, *moved], axis=0).round(4)
        if well_apart(group, special):
            break
    return [("Fe", iron), ("O", special)]


def images_of(group, point: np.ndarray) -> list[np.ndarray]:
    """Distinct images of a point, by gemmi's operations alone."""
    lattice = gemmi.UnitCell(*cell_of(group))
    images: list[np.ndarray] = []
    for operation in group.operations():
        image = np.array(operation.apply_to_xyz(point.tolist())) % 1.0
        if all(distance(lattice, image, other) > 0.02 for other in images):
            images.append(image)
    return images


def distance(lattice, one: np.ndarray, other: np.ndarray) -> float:
    step = one - other
    return lattice.orthogonalize(gemmi.Fractional(*(step - np.rint(step)))).length()


def well_apart(group, point: np.ndarray) -> bool:
    """Whether no image but itself is nearer than 0.2 Å: such atoms would overlap, and readers may merge them."""
    lattice, images = gemmi.UnitCell(*cell_of(group)), images_of(group, point)
    return all(distance(lattice, images[0], other) > 0.2 for other in images[1:])


def expanded(group, sites) -> dict[str, np.ndarray]:
    """Images of each site."""
    return {symbol: np.array(images_of(group, point)) for symbol, point in sites}


def cif(group, sites, symmetry: str, statements: str = "") -> str:
    names = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
    cell = "\n".join(f"_cell_{name} {value}" for name, value in zip(names, cell_of(group), strict=True))
    rows = "\n".join(f"{s}1 {s} {x:.4f} {y:.4f} {z:.4f}" for s, (x, y, z) in sites)
    columns = "\n".join(f"_atom_site_{name}" for name in ("label", "type_symbol", "fract_x", "fract_y", "fract_z"))
    return f"data_test\n{statements}\n{cell}\n{symmetry}\nloop_\n{columns}\n{rows}\n"


def told(group) -> dict[str, str]:
    """The same symmetry, told in every way."""
    triplets = "\n".join(f"'{operation.triplet()}'" for operation in group.operations())
    ways = {
        "operations": f"loop_\n_space_group_symop_operation_xyz\n{triplets}",
        "hall": f"_space_group_name_Hall '{group.hall}'",
        "name": f"_space_group_name_H-M_alt '{group.xhm()}'",
    }
    if group.ext in CODES:
        ways["code"] = (
            f"_symmetry_space_group_name_H-M '{group.hm}'\n_space_group.IT_coordinate_system_code {CODES[group.ext]}"
        )
    return ways


@pytest.mark.parametrize("first", range(0, len(SETTINGS), 47))
def test_a_cell_is_the_same_however_its_symmetry_is_told(first: int) -> None:
    for group in SETTINGS[first : first + 47]:
        sites = sites_of(group)
        wanted = expanded(group, sites)
        for way, symmetry in told(group).items():
            crystal = crystal_from_cif(cif(group, sites, symmetry))
            for symbol, images in wanted.items():
                here = crystal.frac_coords[crystal.atomic_numbers == {"Fe": 26, "O": 8}[symbol]]
                assert len(here) == len(images), (group.xhm(), way, symbol, len(here), len(images))
                step = here[:, None] - images[None]
                step -= np.rint(step)
                nearest = np.linalg.norm(step @ crystal.lattice, axis=2).min(axis=1)
                assert nearest.max() < 0.02, (group.xhm(), way, symbol)


@pytest.mark.parametrize("number", [48, 70, 88, 141, 203, 227, 228])
def test_two_origins_are_told_apart_by_formula_and_z_or_refused(number: int) -> None:
    first, second = (g for g in SETTINGS if g.number == number and g.hm == SETTINGS_BY_NUMBER[number] and g.ext in "12")
    sites = [("Fe", np.zeros(3))]  # of different multiplicity under the two origins
    name = f"_symmetry_space_group_name_H-M '{first.hm}'"
    with pytest.raises(CrystalError, match=r"with \d+ or \d+ sites") as refused:
        crystal_from_cif(cif(first, sites, name))
    assert refused.value.reason == "ambiguous-symmetry"
    for group in (first, second):
        count = len(expanded(group, sites)["Fe"])
        stated = f"_chemical_formula_sum Fe\n_cell_formula_units_Z {count}"
        assert len(crystal_from_cif(cif(group, sites, name, stated))) == count


SETTINGS_BY_NUMBER = {number: gemmi.find_spacegroup_by_number(number).hm for number in range(1, 231)}


@pytest.mark.parametrize(
    ("name", "like"),
    [
        ("F m 3 m", "F m -3 m"),
        ("Ia3d", "I a -3 d"),
        ("F 4/m -3 2/m", "F m -3 m"),
        ("P 2_1/n", "P 1 21/n 1"),
        ("P21/c", "P 1 21/c 1"),
        ("P6(3)/mmc", "P 63/m m c"),
        ("P 63/M M C", "P 63/m m c"),
        ("C m c e", "C m c a"),
        ("I 2/a", "I 1 2/a 1"),
        ("P 2_1/n 2_1/m 2_1/a", "P n m a"),
    ],
)
def test_spellings_of_a_name_mean_one_group(name: str, like: str) -> None:
    group = gemmi.find_spacegroup_by_name(like)
    sites = sites_of(group)
    crystal = crystal_from_cif(cif(group, sites, f"_symmetry_space_group_name_H-M '{name}'"))
    assert len(crystal) == sum(len(images) for images in expanded(group, sites).values())


def test_a_group_that_does_not_fit_the_cell_is_refused() -> None:
    cubic = gemmi.find_spacegroup_by_name("F m -3 m")
    text = cif(gemmi.find_spacegroup_by_name("P n m a"), sites_of(cubic), told(cubic)["name"])
    with pytest.raises(CrystalError, match="does not fit the cell") as refused:
        crystal_from_cif(text)
    assert refused.value.reason == "symmetry-does-not-fit-cell"


def test_operations_that_are_no_group_are_refused() -> None:
    group = gemmi.find_spacegroup_by_name("P n m a")
    triplets = [operation.triplet() for operation in group.operations()][:-1]
    listed = "loop_\n_symmetry_equiv_pos_as_xyz\n" + "\n".join(f"'{t}'" for t in triplets)
    with pytest.raises(CrystalError, match="no group"):
        crystal_from_cif(cif(group, sites_of(group), listed))


def test_operations_fewer_than_the_named_group_are_refused_unless_the_atoms_have_it() -> None:
    group = gemmi.find_spacegroup_by_name("F m -3 m")
    identity = "_symmetry_space_group_name_H-M 'F m -3 m'\nloop_\n_symmetry_equiv_pos_as_xyz\n'x,y,z'"
    salt = [("Fe", np.zeros(3)), ("O", np.full(3, 0.5))]
    with pytest.raises(CrystalError, match="not those of the stated space group") as refused:
        crystal_from_cif(cif(group, salt, identity))
    assert refused.value.reason == "symmetry-disagrees"
    corners = [np.array(c) / 2 for c in ((0, 0, 0), (1, 1, 0), (1, 0, 1), (0, 1, 1))]
    whole = [("Fe", c) for c in corners] + [("O", (c + 0.5) % 1.0) for c in corners]
    assert len(crystal_from_cif(cif(group, whole, identity))) == 8


def test_a_file_without_any_symmetry_is_refused_unless_its_content_is_confirmed() -> None:
    group = gemmi.find_spacegroup_by_name("P 1")
    sites = [("Fe", np.zeros(3)), ("O", np.full(3, 0.5))]
    with pytest.raises(CrystalError) as refused:
        crystal_from_cif(cif(group, sites, ""))
    assert refused.value.reason == "symmetry-missing"
    assert len(crystal_from_cif(cif(group, sites, ""), accept=["symmetry-missing"])) == 2
    assert len(crystal_from_cif(cif(group, sites, "", "_chemical_formula_sum 'Fe O'\n_cell_formula_units_Z 1"))) == 2
