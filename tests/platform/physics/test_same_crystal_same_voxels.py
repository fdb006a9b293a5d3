"""A density and a picture depend on the crystal alone: not on the cell, the axes or the origin that describe it."""

from __future__ import annotations

import numpy as np
import pytest

from crystalign.crystal import Crystal
from crystalign.modalities.charge_density import ChargeDensity, ChargeDensityModality
from crystalign.physics.picture import scene
from crystalign.physics.symmetry import primitive, symmetry

WIDTH, CUTOFF = 0.6, 3.5
"""Of the Gaussian electrons of an atom, Å, and the largest wave number times it that is kept."""


def density(crystal: Crystal) -> ChargeDensity:
    """Z electrons in a Gaussian on each atom: exact Fourier coefficients on a grid that holds them all."""
    reciprocal = 2 * np.pi * np.linalg.inv(crystal.lattice)
    most = np.ceil(CUTOFF / WIDTH * np.linalg.norm(crystal.lattice, axis=1) / (2 * np.pi)).astype(int)
    sides = [np.arange(-n, n + 1) for n in most]
    waves = np.stack(np.meshgrid(*sides, indexing="ij"), axis=-1)  # (A, B, C, 3)
    a, b, c = (np.exp(-2j * np.pi * np.outer(side, x)) for side, x in zip(sides, crystal.frac_coords.T, strict=True))
    factors = np.einsum("an,bn,cn->abc", a, b, c * crystal.atomic_numbers, optimize=True)
    reach = WIDTH * np.linalg.norm(waves @ reciprocal.T, axis=-1)
    spectrum = np.zeros(2 * most + 2, complex)
    spectrum[np.ix_(*sides)] = factors * np.exp(-(reach**2) / 2) * (reach < CUTOFF)
    return ChargeDensity(np.fft.ifftn(spectrum).real * spectrum.size / crystal.volume, crystal.lattice)


def voxels(crystal: Crystal) -> np.ndarray:
    return density(crystal).standardised(crystal).rho


def rotation(rng: np.random.Generator) -> np.ndarray:
    q, r = np.linalg.qr(rng.standard_normal((3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.sign(np.linalg.det(q))


def described_anew(crystal: Crystal, rng: np.random.Generator, cells: int = 1) -> Crystal:
    """Sheared, permuted and turned axes of either handedness, a supercell, another origin and order of the atoms."""
    matrix = rng.choice((-1, 1)) * np.eye(3, dtype=int)[rng.permutation(3)]
    for _ in range(2):
        row, other, _ = rng.permutation(3)
        matrix[row] += rng.choice((-1, 1)) * matrix[other]
    inverse = np.linalg.inv(matrix)
    frac = (crystal.frac_coords + rng.random(3)) @ inverse
    frac = np.concatenate([(frac + np.array([n, 0, 0])) / [cells, 1, 1] for n in range(cells)])
    order = rng.permutation(len(frac))
    lattice = np.diag([cells, 1, 1]) @ matrix @ crystal.lattice @ rotation(rng)
    return Crystal(lattice, frac[order], np.tile(crystal.atomic_numbers, cells)[order])


def lattice_of(number: int, rng: np.random.Generator) -> np.ndarray:
    """A conventional lattice of the space group's system."""
    a, b, c = rng.uniform(5.0, 8.0, 3)
    if number <= 2:
        return np.diag([a, b, c]) + rng.uniform(-1.5, 1.5, (3, 3))
    if number <= 15:
        return np.array([[a, 0, 0], [0, b, 0], [rng.uniform(-3.0, 0.0), 0, c]])
    if 143 <= number <= 194:
        return np.array([[a, 0, 0], [-a / 2, a * np.sqrt(3) / 2, 0], [0, 0, c]])
    return np.diag([a, b, c] if number <= 74 else [a, a, c] if number <= 142 else [a, a, a])


def operations_of(number: int) -> tuple[np.ndarray, np.ndarray]:
    from moyopy import operations_from_number

    operations = operations_from_number(number)
    return np.array(operations.rotations), np.array(operations.translations)


def orbit_of(start: np.ndarray, turns: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    orbit = (turns @ start + shifts) % 1.0
    _, first = np.unique((orbit + 1e-7).round(5) % 1.0, axis=0, return_index=True)
    return orbit[first]


def crystal_of(number: int, lattice: np.ndarray, rng: np.random.Generator) -> Crystal:
    """Two kinds of atoms on general positions and a third on a symmetry element, if it has fixed points."""
    turns, shifts = operations_of(number)
    while True:
        chosen = rng.integers(len(turns))
        path = [rng.random(3)]
        while len(path) < 12:
            path.append(turns[chosen] @ path[-1] + shifts[chosen])
        starts = (rng.random(3), rng.random(3), np.mean(path, axis=0))
        orbits = [orbit_of(start, turns, shifts) for start in starts]
        frac = np.concatenate(orbits)
        between = frac[:, None] - frac
        distances = np.linalg.norm((between - np.round(between)) @ lattice, axis=2)
        if (distances + np.eye(len(frac))).min() > 0.2:  # no two atoms at one place
            return primitive(Crystal(lattice, frac, np.repeat([8, 14, 22], [len(orbit) for orbit in orbits])))


def check_same_scene(one: Crystal, other: Crystal) -> None:
    left, right = scene(one), scene(other)
    np.testing.assert_allclose(left.edges, right.edges, atol=2e-4)
    np.testing.assert_allclose(left.centres, right.centres, atol=2e-4)
    np.testing.assert_allclose(left.colours, right.colours)


@pytest.mark.parametrize("number", range(1, 231))
def test_every_space_group_has_one_description_of_each_crystal(number):
    rng = np.random.default_rng(number)
    crystal = crystal_of(number, lattice_of(number, rng), rng)
    assert symmetry(crystal).number == number
    first, other = voxels(crystal), described_anew(crystal, rng, cells=1 + number % 2)
    assert np.abs(voxels(other) - first).max() < 1e-6 * first.max()
    check_same_scene(crystal, other)


SPECIAL = [np.eye(2), [[1, 0], [-0.5, np.sqrt(0.75)]], [[1, 0], [1, 1]], [[1, 0], [-1, 1.4]], [[1, 0], [0, 1.4]]]


@pytest.mark.parametrize("deviation", [0.0, 1e-6, 3e-4])
@pytest.mark.parametrize("plane", range(len(SPECIAL)))
def test_lattices_of_accidentally_higher_symmetry_too(plane, deviation):
    """Monoclinic cells whose a and c span a square, a hexagonal or an oblique net, which shears map to itself."""
    lattice = 6.0 * np.eye(3)
    lattice[np.ix_([0, 2], [0, 2])] = 6.0 * np.array(SPECIAL[plane]) * [[1.0], [1.0 + deviation]]
    for number in (3, 4, 5, 7, 9, 13, 14, 15):
        rng = np.random.default_rng(number)
        crystal = crystal_of(number, lattice, rng)
        first = voxels(crystal)
        for _ in range(2):
            assert np.abs(voxels(described_anew(crystal, rng)) - first).max() < 1e-6 * first.max()


MIRROR = np.diag([1.0, 1.0, -1.0])


@pytest.fixture(scope="module")
def quartz() -> Crystal:
    """α-quartz, P3_221."""
    lattice = np.array([[4.916, 0, 0], [-2.458, 2.458 * np.sqrt(3), 0], [0, 0, 5.405]])
    silicon, oxygen = (orbit_of(np.array(x), *operations_of(154)) for x in ([0.47, 0, 2 / 3], [0.413, 0.267, 0.786]))
    return Crystal(lattice, np.concatenate([silicon, oxygen]), np.repeat([14, 8], [3, 6]))


def test_enantiomorphs_are_told_apart_and_other_mirror_images_are_not(quartz):
    left = Crystal(quartz.lattice @ MIRROR, quartz.frac_coords, quartz.atomic_numbers)
    assert [symmetry(hand).number for hand in (quartz, left)] == [154, 152]
    first = voxels(quartz)
    assert np.abs(voxels(left) - first).max() > 0.05 * first.max()
    for number in (14, 62, 63, 122, 167):
        rng = np.random.default_rng(number)
        crystal = crystal_of(number, lattice_of(number, rng), rng)
        mirrored = Crystal(crystal.lattice @ MIRROR, crystal.frac_coords, crystal.atomic_numbers)
        assert np.abs(voxels(mirrored) - voxels(crystal)).max() < 1e-6 * voxels(crystal).max()


@pytest.mark.parametrize("name", ["resnext3d", "conv3d"])
def test_a_network_gives_each_crystal_one_vector(name, textbook, quartz):
    import torch

    from crystalign.encoders.conv3d import Conv3d
    from crystalign.encoders.resnext3d import ResNeXt3d

    torch.manual_seed(0)
    small = {"blocks": (1, 1, 1, 1), "channels": 8, "cardinality": 4, "width": 16}
    network = ResNeXt3d(ResNeXt3d.Settings(**small)) if name == "resnext3d" else Conv3d(Conv3d.Settings())
    modality, rng = ChargeDensityModality(), np.random.default_rng(0)

    def vector(crystal: Crystal) -> np.ndarray:
        with torch.no_grad():
            features = modality.featurise(density(crystal).standardised(crystal))
            return network.eval()(modality.collate([features]))[0].numpy()

    crystals = [quartz, textbook["TiO2"], *(crystal_of(n, lattice_of(n, rng), rng) for n in (14, 33, 62, 63, 167))]
    vectors = [vector(crystal) for crystal in crystals]
    for crystal, own in zip(crystals, vectors, strict=True):
        nearest = min(np.linalg.norm(own - other) for other in vectors if other is not own)
        assert np.linalg.norm(vector(described_anew(crystal, rng, 2)) - own) < 1e-4 * nearest


def test_real_crystals_have_one_description(real_data):
    """Every 5000th crystal of the table with at most 30 sites."""
    import pyarrow.parquet as pq
    from pymatgen.core import Lattice

    table = pq.read_table(real_data / "materials_project" / "crystals.parquet")
    for row in table.take(list(range(0, len(table), 5000))).to_pylist():
        if row["nsites"] > 30:
            continue
        lattice = Lattice.from_parameters(*row["lattice"]).matrix
        crystal = Crystal(lattice, np.reshape(row["frac_coords"], (-1, 3)), np.array(row["atomic_numbers"]))
        first, other = voxels(crystal), described_anew(crystal, np.random.default_rng(0), 2)
        assert np.abs(voxels(other) - first).max() < 1e-6 * first.max(), row["material_id"]
        check_same_scene(crystal, other)
