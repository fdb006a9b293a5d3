"""In how many directions a crystal is bonded: textbook structures, any cell, and pymatgen's answer for the bonds."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure

from crystalign.crystal import Crystal
from crystalign.physics.coordination import Bonds, bonds
from crystalign.physics.dimensionality import BETWEEN_LAYERS, LARGE_ANIONS, TRIVALENT, dimensionality, network, ranks
from crystalign.sources.prototypes import library

THIRD, TWO_THIRDS = 1 / 3, 2 / 3
HEXAGONAL = (90, 90, 120)
RIGHT = (90, 90, 90)
STRUCTURES: dict[str, tuple[str, int, tuple[float, float, float], tuple[float, float, float], str]] = {
    # name: answer, space group, lengths in Å, angles in degrees, sites of the asymmetric unit
    "MoS2": ("layered", 194, (3.16, 3.16, 12.29), HEXAGONAL, "Mo 1/3 2/3 1/4, S 1/3 2/3 0.621"),
    "graphite": ("layered", 194, (2.464, 2.464, 6.711), HEXAGONAL, "C 0 0 1/4, C 1/3 2/3 1/4"),
    "boron nitride": ("layered", 194, (2.504, 2.504, 6.661), HEXAGONAL, "B 1/3 2/3 1/4, N 1/3 2/3 3/4"),
    "CdI2": ("layered", 164, (4.24, 4.24, 6.84), HEXAGONAL, "Cd 0 0 0, I 1/3 2/3 1/4"),
    "PbI2": ("layered", 164, (4.557, 4.557, 6.979), HEXAGONAL, "Pb 0 0 0, I 1/3 2/3 0.265"),
    "V2O5": (
        "layered", 59, (11.512, 3.564, 4.368), RIGHT,
        "V -0.1488 0 -0.1083, O -0.1457 0 -0.469, O -0.3189 0 0.003, O 0 0 0.001",
    ),
    "black phosphorus": ("layered", 64, (3.3136, 10.478, 4.3763), RIGHT, "P 0 0.1017 0.0806"),
    "Bi2Te3": ("layered", 166, (4.386, 4.386, 30.497), HEXAGONAL, "Bi 0 0 0.4001, Te 0 0 0, Te 0 0 0.2095"),
    "LiCoO2": ("layered", 166, (2.816, 2.816, 14.054), HEXAGONAL, "Li 0 0 1/2, Co 0 0 0, O 0 0 0.2606"),
    "K2NiF4": ("layered", 139, (4.006, 4.006, 13.076), RIGHT, "K 0 0 0.352, Ni 0 0 0, F 0 1/2 0, F 0 0 0.151"),
    "FeOCl": ("layered", 59, (3.780, 3.303, 7.917), RIGHT, "Fe 0 1/2 0.1157, O 0 0 -0.0483, Cl 0 0 0.3301"),
    "brucite": ("layered", 164, (3.142, 3.142, 4.766), HEXAGONAL, "Mg 0 0 0, O 1/3 2/3 0.2203, H 1/3 2/3 0.4130"),
    "portlandite": ("layered", 164, (3.589, 3.589, 4.911), HEXAGONAL, "Ca 0 0 0, O 1/3 2/3 0.2341, H 1/3 2/3 0.4248"),
    "BaFe2As2": ("layered", 139, (3.963, 3.963, 13.017), RIGHT, "Ba 0 0 0, Fe 1/2 0 1/4, As 0 0 0.3545"),
    "La2CuO4": ("layered", 139, (3.78, 3.78, 13.2), RIGHT, "La 0 0 0.362, Cu 0 0 0, O 0 1/2 0, O 0 0 0.184"),
    "LaFeAsO": (
        "layered", 129, (4.033, 4.033, 8.739), RIGHT,
        "La 0 1/2 0.1415, Fe 0 0 1/2, As 0 1/2 0.6512, O 0 0 0",
    ),
    "EuFe2As2": ("layered", 139, (3.907, 3.907, 12.114), RIGHT, "Eu 0 0 0, Fe 1/2 0 1/4, As 0 0 0.3625"),
    "Bi2O2Se": ("layered", 139, (3.88, 3.88, 12.16), RIGHT, "Bi 0 0 0.352, O 0 1/2 1/4, Se 0 0 0"),
    "PbFCl": ("layered", 129, (4.11, 4.11, 7.24), RIGHT, "Pb 0 1/2 0.205, F 0 0 0, Cl 0 1/2 0.648"),
    "CrI3": ("layered", 148, (6.867, 6.867, 19.807), HEXAGONAL, "Cr 0 0 1/3, I 0.318 0.334 0.4121"),
    "arsenic": ("layered", 166, (3.760, 3.760, 10.548), HEXAGONAL, "As 0 0 0.2271"),
    "antimony": ("layered", 166, (4.307, 4.307, 11.273), HEXAGONAL, "Sb 0 0 0.2335"),
    "bismuth": ("layered", 166, (4.546, 4.546, 11.862), HEXAGONAL, "Bi 0 0 0.2339"),
    "selenium": ("chains", 152, (4.366, 4.366, 4.954), HEXAGONAL, "Se 0.2254 0 1/3"),
    "PdCl2": ("chains", 58, (3.81, 11.0, 3.34), RIGHT, "Pd 0 0 1/2, Cl 0.173 0.132 0"),
    "SiS2": ("chains", 72, (9.583, 5.614, 5.547), RIGHT, "Si 0 0 1/4, S 0.118 0.207 0"),
    "TiI3": ("chains", 193, (7.14, 7.14, 6.51), HEXAGONAL, "Ti 0 0 0, I 0.32 0 1/4"),
    "solid CO2": ("molecular", 205, (5.624, 5.624, 5.624), RIGHT, "C 0 0 0, O 0.1185 0.1185 0.1185"),
    "iodine": ("molecular", 64, (7.136, 4.686, 9.784), RIGHT, "I 0 0.1543 0.1174"),
    "iodine, relaxed by DFT": ("molecular", 64, (9.146, 4.606, 9.83), RIGHT, "I 0 0.158 0.1228"),
    "solid argon": ("molecular", 225, (5.31, 5.31, 5.31), RIGHT, "Ar 0 0 0"),
    "SnI4": (
        "molecular", 205, (12.26, 12.26, 12.26), RIGHT,
        "Sn 0.129 0.129 0.129, I 0.253 0.253 0.253, I 0.009 0.001 0.253",
    ),
    "quartz": ("framework", 154, (4.913, 4.913, 5.405), HEXAGONAL, "Si 0.4697 0 2/3, O 0.4135 0.2669 0.7858"),
    "rutile": ("framework", 136, (4.594, 4.594, 2.959), RIGHT, "Ti 0 0 0, O 0.305 0.305 0"),
    "perovskite": ("framework", 221, (3.905, 3.905, 3.905), RIGHT, "Sr 1/2 1/2 1/2, Ti 0 0 0, O 1/2 0 0"),
    "rock salt": ("framework", 225, (5.64, 5.64, 5.64), RIGHT, "Na 0 0 0, Cl 1/2 1/2 1/2"),
    "diamond": ("framework", 227, (3.567, 3.567, 3.567), RIGHT, "C 0 0 0"),
    "spinel": ("framework", 227, (8.083, 8.083, 8.083), RIGHT, "Mg 0 0 0, Al 5/8 5/8 5/8, O 0.3876 0.3876 0.3876"),
    "fluorite": ("framework", 225, (5.463, 5.463, 5.463), RIGHT, "Ca 0 0 0, F 1/4 1/4 1/4"),
    "copper": ("framework", 225, (3.61, 3.61, 3.61), RIGHT, "Cu 0 0 0"),
    "calcium": ("framework", 225, (5.588, 5.588, 5.588), RIGHT, "Ca 0 0 0"),
    "calcite": ("framework", 167, (4.991, 4.991, 17.062), HEXAGONAL, "Ca 0 0 0, C 0 0 1/4, O 0.2568 0 1/4"),
    "LaAlO3": ("framework", 221, (3.79, 3.79, 3.79), RIGHT, "La 1/2 1/2 1/2, Al 0 0 0, O 1/2 0 0"),
    "La2O3": ("framework", 164, (3.937, 3.937, 6.129), HEXAGONAL, "La 1/3 2/3 0.2454, O 1/3 2/3 0.6471, O 0 0 0"),
    "ammonium chloride": ("framework", 215, (3.868, 3.868, 3.868), RIGHT, "N 0 0 0, H .153 .153 .153, Cl 1/2 1/2 1/2"),
    "LiFePO4": (
        "framework", 62, (10.332, 6.010, 4.692), RIGHT,
        "Li 0 0 0, Fe .2822 1/4 .9747, P .0948 1/4 .4182, O .0968 1/4 .7428, O .4571 1/4 .206, O .1656 .0465 .2848",
    ),
}  # fmt: skip


def number(text: str) -> float:
    top, _, bottom = text.partition("/")
    return float(top) / float(bottom or 1)


@functools.cache
def made(name: str) -> Crystal:
    _, group, lengths, angles, sites = STRUCTURES[name]
    rows = [site.split() for site in sites.split(",")]
    frac = [[number(x) for x in row[1:]] for row in rows]
    lattice = Lattice.from_parameters(*lengths, *angles)
    return Crystal.from_pymatgen(Structure.from_spacegroup(group, lattice, [row[0] for row in rows], frac))


def of(crystal: Crystal) -> str:
    return dimensionality(crystal, bonds(crystal))


@pytest.mark.parametrize("name", STRUCTURES)
def test_textbook_structures_have_the_dimensionality_that_textbooks_say(name):
    assert of(made(name)) == STRUCTURES[name][0]


def test_rings_of_sulfur_are_molecules():
    """A crown of eight atoms, 2.05 Å apart, in a cell that keeps it away from the next ones."""
    turn = np.arange(8) * np.pi / 4
    height = np.where(np.arange(8) % 2, 0.5, -0.5)
    crown = np.stack([2.35 * np.cos(turn), 2.35 * np.sin(turn), height], axis=1)
    cell = np.diag([9.0, 9.0, 5.0])
    crystal = Crystal(cell, (crown + np.array([4.5, 4.5, 2.5])) @ np.linalg.inv(cell), np.full(8, 16))
    assert of(crystal) == "molecular"


def test_the_strongest_bonds_alone_do_not_make_a_metal_a_molecule():
    """Twelve aluminum atoms around each tungsten atom, and Fe-B bonds: the metal atoms touch each other as well."""
    for label in ("A12B_cI26_204_g_a", "AB_oP8_62_c_c", "AB4_cP5_215_a_e", "AB_mP4_11_e_e"):
        crystals = [c for name, c in library() if name == label and c.formula in {"Al12W", "BFe", "CFe4", "NiTi"}]
        assert [of(c) for c in crystals] == ["framework"], label


def test_calcium_between_sheets_of_graphite_leaves_them_layers():
    (crystal,) = [c for label, c in library() if label == "A6B_hR7_166_g_a"]
    assert crystal.formula == "C6Ca"
    assert of(crystal) == "layered"


# --- any description of the same crystal ------------------------------------------------------------------------------

VARIED = ("MoS2", "K2NiF4", "SiS2", "selenium", "solid CO2", "rutile", "rock salt", "LiCoO2", "copper")
UNIMODULAR = st.lists(st.tuples(st.permutations(range(3)), st.integers(-1, 1)), min_size=1, max_size=3)


@given(
    name=st.sampled_from(VARIED),
    steps=UNIMODULAR,
    repeat=st.sampled_from([(1, 1, 1), (2, 1, 1), (1, 1, 2), (1, 2, 1)]),
    shift=st.tuples(*[st.floats(0, 1, exclude_max=True)] * 3),
    seed=st.integers(0, 1000),
)
@settings(max_examples=50, deadline=None)
def test_the_description_of_a_crystal_makes_no_difference(name, steps, repeat, shift, seed):
    crystal = made(name)
    matrix = np.diag(repeat)
    for (one, other, _), factor in steps:  # add one lattice vector to another
        matrix[one] += factor * matrix[other]
    lattice = matrix @ crystal.lattice
    cells = np.stack(np.meshgrid(*[np.arange(n) for n in repeat], indexing="ij"), -1).reshape(-1, 3)
    points = (crystal.frac_coords[:, None] + cells).reshape(-1, 3) + shift
    frac = points @ np.linalg.inv(matrix) % 1.0
    numbers = np.repeat(crystal.atomic_numbers, len(cells))
    order = np.random.default_rng(seed).permutation(len(numbers))
    assert of(Crystal(lattice, frac[order], numbers[order])) == STRUCTURES[name][0]


# --- against pymatgen -------------------------------------------------------------------------------------------------


REMOVED: tuple[frozenset[int], ...] = (frozenset(), BETWEEN_LAYERS, BETWEEN_LAYERS | TRIVALENT, LARGE_ANIONS)


def ranks_of_parts(crystal: Crystal, bonding: Bonds) -> tuple[list[int], list[int]]:
    """The largest rank of the network, and of what is left without ions between layers: ours and pymatgen's."""
    joined, ends = network(crystal, bonding), np.stack([bonding.near.receivers, bonding.near.senders])
    parts = [joined & ~np.isin(crystal.atomic_numbers[ends], list(ions)).any(axis=0) for ions in REMOVED]
    ours = [int(ranks(len(crystal), ends.T[part], bonding.near.images[part]).max()) for part in parts]
    return ours, [larsen(crystal, bonding, part) for part in parts]


def larsen(crystal: Crystal, bonding: Bonds, chosen: np.ndarray) -> int:
    from pymatgen.analysis.dimensionality import get_dimensionality_larsen
    from pymatgen.analysis.graphs import StructureGraph

    near = bonding.near
    ends = zip(near.receivers[chosen], near.senders[chosen], near.images[chosen], strict=True)
    both = [(int(a), int(b), (0, 0, 0), tuple(image.tolist())) for a, b, image in ends]
    edges = {edge: {} for edge in both if (edge[0], (0, 0, 0)) < (edge[1], edge[3])}  # each bond once
    graph = StructureGraph.from_edges(crystal.to_pymatgen(), edges)
    return int(get_dimensionality_larsen(graph))


@pytest.mark.parametrize("part", range(5))
def test_pymatgen_finds_the_same_in_the_library_of_prototypes(part):
    small = [(label, crystal) for label, crystal in library() if len(crystal) <= 16]
    chosen = small[part::5][:32]
    found, expected = {}, {}
    for number, (label, crystal) in enumerate(chosen):
        bonding = bonds(crystal)
        found[number, label], expected[number, label] = ranks_of_parts(crystal, bonding)
    assert found == expected
    assert len({rank for parts in found.values() for rank in parts}) >= 3


def test_pymatgen_finds_the_same_in_real_crystals(real_data):
    import pyarrow.parquet as pq

    table = pq.read_table(
        real_data / "materials_project" / "crystals.parquet", columns=["lattice", "frac_coords", "atomic_numbers"]
    )
    kinds = []
    for row in table.take(np.random.default_rng(3).permutation(len(table))[:80].tolist()).to_pylist():
        if len(row["atomic_numbers"]) > 20:
            continue
        lattice = np.array(Lattice.from_parameters(*row["lattice"]).matrix)
        crystal = Crystal(lattice, np.reshape(row["frac_coords"], (-1, 3)), np.array(row["atomic_numbers"], int))
        bonding = bonds(crystal)
        ours, theirs = ranks_of_parts(crystal, bonding)
        kinds.append(ours[0])
        assert ours == theirs, crystal
    assert len(kinds) > 30


REAL = {
    "mp-2815": "layered",  # MoS2
    "mp-48": "layered",  # graphite
    "mp-22526": "layered",  # LiCoO2
    "mp-34202": "layered",  # Bi2Te3
    "mp-149": "framework",  # Si
    "mp-22862": "framework",  # NaCl
    "mp-2657": "framework",  # rutile
    "mp-13": "framework",  # iron
    "mp-19017": "framework",  # LiFePO4
    "mp-14": "chains",  # selenium
}


def test_real_crystals_have_the_dimensionality_that_they_are_known_for(database_entries):
    crystals = database_entries(REAL)
    assert {name: of(crystal) for name, crystal in crystals.items()} == {name: REAL[name] for name in crystals}
    assert len(crystals) >= 8
