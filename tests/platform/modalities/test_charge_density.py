from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from crystalign.crystal import Crystal
from crystalign.errors import DensityError
from crystalign.modalities.charge_density import ChargeDensity, ChargeDensityModality, parse_chgcar

CHARGE = ChargeDensityModality()
LATTICE = np.array([[4.0, 0, 0], [0.5, 5.0, 0], [0, 1.0, 6.0]])
RHO = 0.3 + np.random.default_rng(0).random((24, 30, 36))


def test_both_conventions_are_one_density():
    volume = abs(np.linalg.det(LATTICE))
    one = ChargeDensity.from_grid(RHO, LATTICE, convention="rho")
    other = ChargeDensity.from_grid(RHO * volume, LATTICE, convention="rho_times_volume")
    np.testing.assert_allclose(one.rho, other.rho, rtol=1e-14)
    assert one.n_electrons == pytest.approx(RHO.mean() * volume)


def test_the_column_keeps_the_charge_and_the_cell():
    value = ChargeDensity(RHO, LATTICE, pseudo=True)
    cell = pa.array([CHARGE.to_column(value), None], CHARGE.column_type())
    back = CHARGE.from_column(cell[0])
    assert back.rho.shape == (32, 32, 32)
    assert back.n_electrons == pytest.approx(value.n_electrons, rel=1e-4)
    np.testing.assert_array_equal(back.lattice, LATTICE)
    assert back.pseudo
    np.testing.assert_allclose(CHARGE.featurise(back)["rho"], CHARGE.featurise(value)["rho"], atol=2e-3)


def test_huge_densities_survive_half_precision():
    value = ChargeDensity(RHO * 1e6, LATTICE)
    back = CHARGE.from_column(pa.array([CHARGE.to_column(value)], CHARGE.column_type())[0])
    assert back.n_electrons == pytest.approx(value.n_electrons, rel=1e-4)


def test_features_do_not_depend_on_the_number_of_electrons_and_stack():
    one, ten = (CHARGE.featurise(ChargeDensity(RHO * f, LATTICE)) for f in (1, 10))
    np.testing.assert_allclose(one["rho"], ten["rho"], rtol=1e-5)
    batch = CHARGE.collate([one, CHARGE.empty_sample()])
    assert batch["rho"].shape == (2, 1, 32, 32, 32)
    assert batch["lattice"].shape == (2, 3, 3)
    moved = CHARGE.featurise(ChargeDensity(RHO, LATTICE), rng=np.random.default_rng(1))
    assert moved["rho"].mean() == pytest.approx(one["rho"].mean(), rel=1e-5)
    assert np.abs(moved["rho"] - one["rho"]).max() > 0.01


@pytest.mark.parametrize(
    ("rho", "lattice", "reason"),
    [
        (np.full((4, 4, 4), np.nan), LATTICE, "nan"),
        (np.zeros((4, 4, 4)), LATTICE, "no-charge"),
        (-np.ones((4, 4, 4)), LATTICE, "no-charge"),
        (np.ones((4, 4)), LATTICE, "bad-shape"),
        (np.ones((1, 4, 4)), LATTICE, "bad-shape"),
        (np.ones((4, 4, 4)), np.zeros((3, 3)), "bad-lattice"),
    ],
)
def test_what_is_no_density_is_refused(rho, lattice, reason):
    with pytest.raises(DensityError) as caught:
        ChargeDensity(rho, lattice)
    assert caught.value.reason == reason


def gaussians(crystal: Crystal, shape) -> ChargeDensity:
    """Z electrons in a Gaussian of 0.6 Å on each atom, summed over images in space."""
    points = np.stack(np.meshgrid(*[np.arange(n) / n for n in shape], indexing="ij"), axis=-1).reshape(-1, 3)
    images = np.stack(np.meshgrid(*[np.arange(-3, 4)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    rho = np.zeros(len(points))
    for z, site in zip(crystal.atomic_numbers, crystal.frac_coords, strict=True):
        for image in images:
            rho += z * np.exp(-np.square((points - site - image) @ crystal.lattice).sum(axis=1) / (2 * 0.6**2))
    return ChargeDensity(rho.reshape(shape), crystal.lattice)


@pytest.mark.parametrize("name", ["NaCl", "Si"])
def test_equivalent_cells_have_the_same_standard_voxels(textbook, transform, name):
    crystal = textbook[name]
    turn, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))
    moved = crystal.frac_coords + np.array([0.13, 0.29, 0.41])
    others = {
        "skewed": (transform(crystal, [[1, 0, 0], [1, 1, 0], [-1, 1, 1]]), (20, 20, 20)),
        "supercell": (transform(crystal, [[2, 0, 0], [0, 1, 0], [0, 0, 1]]), (28, 14, 14)),
        "rotated": (Crystal(crystal.lattice @ turn, crystal.frac_coords, crystal.atomic_numbers), (14, 14, 14)),
        "another origin": (Crystal(crystal.lattice, moved[::-1], crystal.atomic_numbers[::-1]), (15, 14, 16)),
    }
    first = gaussians(crystal, (14, 14, 14))
    standard = first.standardised(crystal)
    assert standard.rho.shape == (32, 32, 32)
    assert standard.n_electrons == pytest.approx(first.n_electrons, rel=1e-12)
    for other, shape in others.values():
        again = gaussians(other, shape).standardised(other)
        assert again.n_electrons == pytest.approx(first.n_electrons, rel=1e-5)
        np.testing.assert_allclose(again.lattice @ again.lattice.T, standard.lattice @ standard.lattice.T, atol=1e-9)
        assert np.abs(again.rho - standard.rho).max() < 1e-3 * standard.rho.max()


def test_the_standard_voxels_are_those_of_a_crystal_with_a_rarest_atom_at_the_origin(textbook):
    """Wurtzite by new axes from one of its oxygen atoms makes the density that was carried there."""
    from crystalign.physics.settings import proper_rotations
    from crystalign.physics.symmetry import primitive

    crystal = textbook["ZnO"]
    carried, cell = gaussians(crystal, (16, 16, 24)).standardised(crystal), primitive(crystal)
    np.testing.assert_allclose(carried.lattice @ carried.lattice.T, cell.lattice @ cell.lattice.T, atol=1e-9)
    np.testing.assert_allclose(carried.lattice, np.tril(carried.lattice), atol=1e-12)
    misses = []
    for turn in proper_rotations(cell.lattice):
        for origin in cell.frac_coords[cell.atomic_numbers == 8]:
            frac = (cell.frac_coords - origin) @ np.linalg.inv(turn)
            made = gaussians(Crystal(turn @ cell.lattice, frac, cell.atomic_numbers), (8, 8, 8))
            misses.append(np.abs(made.rho - carried.rho[::4, ::4, ::4]).max() / made.rho.max())
    assert min(misses) < 1e-6


def _chgcar(crystal: Crystal, values: np.ndarray) -> bytes:
    grid = " ".join(map(str, values.shape))
    flat = values.ravel(order="F")
    rows = "\n".join(" ".join(f"{v:.11E}" for v in flat[i : i + 5]) for i in range(0, len(flat), 5))
    return f"{crystal.to_poscar().strip()}\n\n {grid}\n{rows}\n".encode()


def test_a_chgcar_gives_its_structure_and_its_density(textbook):
    crystal = textbook["NaCl"]
    rho = 0.1 + np.random.default_rng(2).random((6, 8, 10))
    read, density = parse_chgcar(_chgcar(crystal, rho * crystal.volume))
    assert read.formula == "ClNa"
    np.testing.assert_allclose(density.rho, rho, rtol=1e-6)
    np.testing.assert_allclose(density.lattice, crystal.lattice, atol=1e-6)


def test_a_truncated_chgcar_is_refused(textbook):
    whole = _chgcar(textbook["NaCl"], np.ones((6, 8, 10)))
    for data in (b"", whole[: len(whole) // 2], b"hello"):
        with pytest.raises(DensityError) as caught:
            parse_chgcar(data)
        assert caught.value.reason == "unreadable-chgcar"


def test_real_densities_in_chgcar_convention_are_read(real_data):
    table = pq.read_table(real_data / "electronic" / "dos_charge_density.parquet", columns=["charge_density_32"])
    given = [c for c in table["charge_density_32"] if c.is_valid and len(c.values) == 32**3][:20]
    assert given
    for scalar in given:
        values = scalar.values.to_numpy(zero_copy_only=False).astype(float).reshape(32, 32, 32)
        made = ChargeDensity.from_grid(values, LATTICE, convention="rho_times_volume")
        assert made.n_electrons == pytest.approx(values.mean())
        assert np.isfinite(CHARGE.featurise(made)["rho"]).all()
