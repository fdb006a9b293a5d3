from __future__ import annotations

import itertools

import numpy as np
import pytest

from crystalign.crystal import SYMBOLS, Crystal
from crystalign.physics.compound_classes import CLASS_NAMES, UNCERTAIN, compound_class

CLASSES = {
    "oxide": "mp-23261 mp-546794 mp-306 mp-1077906 mp-7139 mp-2414 mp-2452 mp-32959 mp-558843",
    "chlorite": "mp-30965",
    "hydrocarbon": "mp-985782 mp-1021328 mp-995197",
    "nitrate": "mp-4531",
    "nitrite": "mp-2964",
    "sulfate": "mp-4770",
    "sulfite": "mp-21282",
    "carbonate": "mp-3054",
    "perchlorate": "mp-22968",
    "chlorate": "mp-23022",
    "bromate": "mp-22958",
    "iodate": "mp-1080058 mp-22955",
    "periodate": "mp-23562",
    "phosphate": "mp-13725 mp-3589",
    "silicate": "mp-27917 mp-673808",
    "borate": "mp-3635",
    "vanadate": "mp-19133 mp-23506",
    "tungstate": "mp-19426",
    "molybdate": "mp-22169",
    "chromate": "mp-19232",
    "permanganate": "mp-19046",
    "perrhenate": "mp-4757",
    "selenate": "mp-5141",
    "selenite": "mp-5416",
    "tellurite": "mp-8724",
    "arsenate": "mp-756044",
    "oxyfluoride": "mp-7100",
    "oxychloride": "mp-22939",
    "oxysulfide": "mp-4511",
    "hydroxide": "mp-626000 mp-30247",
    "oxyhydroxide": "mp-510670",
    "sulfate hydrate": "mp-23690",
    "fluoride phosphate": "mp-6473",
    "hydroxide phosphate": "mp-41472",
    "azide": "mp-827",
    "cyanide": "mp-35035",
    "thiocyanate": "mp-6511",
    "cyanate": "mp-1223463",
    "cyanamide": "mp-4124",
    "oxalate": "mp-4534",
    "amide": "mp-1079418",
    "imide": "mp-1189725",
    "borohydride": "mp-38725",
    "hydride": "mp-27653 mp-23710",
    "carbide": "mp-2482 mp-1591 mp-8062 mp-696746 mp-631 mp-1182630",
    "boride": "mp-2680 mp-763",
    "nitride": "mp-804 mp-13150 mp-2251 mp-1954 mp-235",
    "oxynitride": "mp-4165",
    "phosphide": "mp-2490 mp-1005",
    "arsenide": "mp-2534",
    "antimonide": "mp-20012",
    "sulfide": "mp-1522 mp-1434",
    "selenide": "mp-1190",
    "telluride": "mp-406 mp-938",
    "fluoride": "mp-682 mp-28027 mp-8560 mp-22885",
    "chloride": "mp-22862 mp-34337 mp-23228",
    "bromide": "mp-23251",
    "iodide": "mp-614603 mp-23281",
    "intermetallic compound": "mp-1487 mp-2343",
    "silicide": "mp-871 mp-1367",
    "peroxide": "mp-1105",
    "iodide telluride": "mp-22965",
    "bromide sulfide": "mp-22998",
    "hydride iodide": "mp-23862",
    "chloride hydride": "mp-23859",
    "compound": "mp-29145",
    "silicide sulfide": "mp-3938",
}
"""Class → entries of the Materials Project, of compounds whose class is known."""
EXPECTED = {entry: name for name, entries in CLASSES.items() for entry in entries.split()}


@pytest.mark.parametrize("entry", EXPECTED)
def test_compounds_are_called_what_chemists_call_them(entry, materials_project):
    assert compound_class(materials_project[entry]) == EXPECTED[entry]


@pytest.fixture(scope="module")
def materials_project(database_entries) -> dict[str, Crystal]:
    return database_entries(EXPECTED)


def salt(cations: str, group: list[tuple[str, list[float]]], edge: float = 7.0) -> Crystal:
    """A group of atoms (Å) at the corner of a cube, and cations at the centre and on the edges."""
    places = [[0.5] * 3, [0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5]]
    sites = [(symbol, np.array(at) / edge) for symbol, at in group]
    sites += [(symbol, np.array(at)) for symbol, at in zip(cations.split(), places, strict=False)]
    return Crystal(edge * np.eye(3), np.array([at for _, at in sites]), np.array([SYMBOLS.index(s) for s, _ in sites]))


def around(centre: str, ligand: str, length: float, directions: list[list[int]]) -> list[tuple[str, list[float]]]:
    """A centre and its ligands."""
    ends = [(np.array(d) / np.linalg.norm(d) * length).tolist() for d in directions]
    return [(centre, [0, 0, 0]), *((ligand, end) for end in ends)]


TETRAHEDRON = [[1, 1, 1], [-1, -1, 1], [-1, 1, -1], [1, -1, -1]]
PYRAMID, BENT = [[1, 1, 0], [1, 0, 1], [0, 1, 1]], [[1, 1, 0], [1, -1, 0]]
TRIANGLE = [[1, -1, 0], [0, 1, -1], [-1, 0, 1]]
GROUPS = [
    ("Na", around("Cl", "O", 1.60, BENT), "chlorite"),
    ("Na", around("Cl", "O", 1.50, PYRAMID), "chlorate"),
    ("Na", around("Cl", "O", 1.45, TETRAHEDRON), "perchlorate"),
    ("Na", around("Br", "O", 1.67, PYRAMID), "bromate"),
    ("Na", around("I", "O", 1.82, PYRAMID), "iodate"),
    ("Na", around("N", "O", 1.25, TRIANGLE), "nitrate"),
    ("Na", around("N", "O", 1.25, BENT), "nitrite"),
    ("Ca", around("C", "O", 1.29, TRIANGLE), "carbonate"),
    ("Ca", around("S", "O", 1.49, TETRAHEDRON), "sulfate"),
    ("Ca", around("S", "O", 1.53, PYRAMID), "sulfite"),
    ("Na Na Na", around("P", "O", 1.55, TETRAHEDRON), "phosphate"),
    ("Ca Ca", around("Si", "O", 1.65, TETRAHEDRON), "silicate"),
    ("Na Na Na", around("B", "O", 1.39, TRIANGLE), "borate"),
    ("Na Na Na", around("V", "O", 1.73, TETRAHEDRON), "vanadate"),
    ("K", around("Mn", "O", 1.63, TETRAHEDRON), "permanganate"),
    ("Na", around("B", "H", 1.23, TETRAHEDRON), "borohydride"),
    ("Cl", around("N", "H", 1.03, TETRAHEDRON), "chloride"),
    ("Na", around("N", "H", 1.03, BENT), "amide"),
    ("Na", around("O", "H", 0.97, [[1, 1, 1]]), "hydroxide"),
    ("Na", around("C", "N", 1.18, [[1, 1, 1]]), "cyanide"),
    ("Na", around("N", "N", 1.18, [[1, 1, 1], [-1, -1, -1]]), "azide"),
    ("Ba", around("O", "O", 1.50, [[1, 1, 1]]), "peroxide"),
    ("K", around("O", "O", 1.34, [[1, 1, 1]]), "superoxide"),
    ("", around("C", "H", 1.09, TETRAHEDRON), "hydrocarbon"),
    ("Na F", around("P", "O", 1.55, TETRAHEDRON), "fluoride phosphate"),
    ("Na Cl", around("O", "H", 0.98, BENT), "chloride hydrate"),
    ("Zn Cl Cl", around("N", "H", 1.03, TETRAHEDRON), "chloride"),
]


@pytest.mark.parametrize(("cations", "group", "name"), GROUPS)
def test_an_anion_of_several_atoms_is_known_by_its_shape(cations, group, name):
    crystal = salt(cations, group)
    assert compound_class(crystal) == name
    double = np.concatenate([crystal.frac_coords, crystal.frac_coords + np.array([1, 0, 0])]) / [2, 1, 1]
    assert (
        compound_class(Crystal(crystal.lattice * [[2], [1], [1]], double, np.tile(crystal.atomic_numbers, 2))) == name
    )


@pytest.mark.parametrize(
    ("atoms", "name"),
    [
        ("Na Cl", "chloride"), ("Fe Al", "intermetallic compound"), ("Ga As", "arsenide"), ("Ti C", "carbide"),
        ("La B", "boride"), ("Pt Si", "silicide"), ("Xe Na", UNCERTAIN), ("Na H", "hydride"), ("Si Ge", UNCERTAIN),
    ],
)  # fmt: skip
def test_a_pair_of_atoms_in_rock_salt_is_called_after_its_anion(atoms, name):
    fcc = 2.7 * (np.ones((3, 3)) - np.eye(3))
    z = np.array([SYMBOLS.index(s) for s in atoms.split()])
    assert compound_class(Crystal(fcc, np.array([[0] * 3, [0.5] * 3]), z)) == name


def test_every_class_is_made_of_known_words():
    words = {word for name in EXPECTED.values() for word in name.split()} - {"compound"}
    known = set(itertools.chain.from_iterable(name.split() for name in CLASS_NAMES))
    assert words <= known
    assert len(set(CLASS_NAMES)) == len(CLASS_NAMES)
