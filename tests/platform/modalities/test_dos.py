from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from crystalign.errors import FileFormatError, SpectrumError
from crystalign.modalities.dos import BIN_WIDTH, EDGES, GRID, RUNGS, DensityOfStates, DosModality, parse_dos
from crystalign.modalities.spectrum import UNKNOWN

DOS = DosModality()
E = np.linspace(-12, 12, 1201)


def _insulator(spins: int = 1) -> DensityOfStates:
    curve = np.where((E < -1.0) | (E > 2.0), 4.0, 0.0)
    return DensityOfStates(E, np.stack([curve * (s + 1) for s in range(spins)]), 4, efermi=5.3)


def test_the_zero_is_the_valence_band_maximum_of_a_gapped_crystal():
    standard = _insulator().standardised()
    assert standard.zero == "vbm"
    assert standard.gap == pytest.approx(3.0, abs=0.05)
    curve = standard.densities[0]
    assert curve[GRID < -0.1].min() == pytest.approx(1.0)
    assert curve[(GRID > 0.1) & (GRID < 2.9)].max() < 1e-9
    assert standard.efermi == 5.3


def test_the_zero_of_a_metal_is_its_fermi_level():
    standard = DensityOfStates(E, 2.0 + 0.1 * E, 2).standardised()
    assert (standard.zero, standard.gap) == ("fermi", 0.0)
    np.testing.assert_allclose(standard.densities[0], 1.0 + 0.05 * GRID, rtol=1e-9)


def test_states_are_conserved_per_atom_and_spin():
    source = DensityOfStates(E, np.random.default_rng(0).random((2, 1201)) + 0.1, 3)
    standard = source.standardised()
    assert standard.densities.shape == (2, 400)
    inside = np.abs(E) <= 10.0 + 1e-9
    expected = np.trapezoid(source.densities[:, inside], E[inside], axis=-1) / 3
    np.testing.assert_allclose(standard.densities.sum(axis=-1) * BIN_WIDTH, expected, rtol=1e-12)
    assert EDGES[0] == -10.0


def test_a_supercell_has_the_same_features():
    one = _insulator(2)
    eight = DensityOfStates(one.energies, one.densities * 8, one.n_atoms * 8, one.efermi)
    np.testing.assert_allclose(DOS.featurise(eight)["dos"], DOS.featurise(one)["dos"], rtol=1e-6)


def test_another_grid_has_the_same_features():
    fine = np.linspace(-15, 15, 6001)
    smooth = [np.exp(-((x + 3) ** 2)) + 0.5 * np.exp(-((x - 4) ** 2)) for x in (E, fine)]
    one, other = (DensityOfStates(x, y, 1) for x, y in zip((E, fine), smooth, strict=True))
    np.testing.assert_allclose(DOS.featurise(one)["dos"], DOS.featurise(other)["dos"], atol=2e-3)


def test_standardising_twice_and_the_column_change_nothing():
    standard = _insulator(2).standardised()
    assert standard.standardised() is standard
    cell = pa.array([DOS.to_column(_insulator(2)), None], DOS.column_type())
    back = DOS.from_column(cell[0])
    assert (back.zero, back.gap, back.efermi) == (standard.zero, standard.gap, standard.efermi)
    np.testing.assert_allclose(back.densities, standard.densities, rtol=1e-6)
    again = DOS.from_column(pa.array([DOS.to_column(back)], DOS.column_type())[0])
    np.testing.assert_array_equal(again.densities, back.densities)


@pytest.mark.parametrize("points", [601, 2001])
def test_published_numbers_of_points_hold_the_same_states(points):
    finer = DosModality(DosModality.Settings(points=points, scale="linear"))
    plain = DosModality(DosModality.Settings(scale="linear"))
    value = DensityOfStates(E, 1.0 + np.sin(E) ** 2, 2)
    states = plain.featurise(value)["dos"].sum() * BIN_WIDTH
    made = finer.featurise(value)["dos"]
    assert made.shape == (points,)
    assert made.sum() * 20 / points == pytest.approx(states, rel=1e-6)
    edges = np.linspace(-10, 10, points + 1)
    middle = 0.5 * (1.0 + np.sin(0.5 * (edges[1:] + edges[:-1])) ** 2)
    np.testing.assert_allclose(made[10:-10], middle[10:-10], atol=2e-3)
    assert finer.collate([finer.empty_sample()])["dos"].shape == (1, points)


def test_moving_the_zero_loses_no_states_inside():
    moved = DosModality(DosModality.Settings(scale="linear", max_width=0.0))
    bump = DensityOfStates(GRID, np.exp(-((GRID + 2) ** 2)), 1, gap=0.0)
    states = [moved.featurise(bump, rng=np.random.default_rng(seed))["dos"].sum() for seed in range(5)]
    np.testing.assert_allclose(states, moved.featurise(bump)["dos"].sum(), rtol=1e-6)


def test_augmentation_needs_chance_and_keeps_the_states():
    plain = DOS.featurise(_insulator())["dos"]
    np.testing.assert_array_equal(plain, DOS.featurise(_insulator())["dos"])
    moved = DOS.featurise(_insulator(), rng=np.random.default_rng(0))["dos"]
    assert np.abs(moved - plain).max() > 0.01
    assert np.expm1(moved).sum() == pytest.approx(np.expm1(plain).sum(), rel=0.03)
    assert DOS.collate([{"dos": plain}, DOS.empty_sample()])["dos"].shape == (2, 400)


@pytest.mark.parametrize(
    ("energies", "densities", "reason"),
    [
        (E, np.where(E > 3, np.nan, 1.0), "nan"),
        (E[::-1], np.ones(1201), "non-monotonic"),
        (np.repeat(E[:600], 2), np.ones(1200), "non-monotonic"),
        (E, -np.ones(1201), "negative-dos"),
        (E, np.zeros(1201), "negative-dos"),
        (np.array([]), np.array([]), "bad-shape"),
        (E, np.ones((3, 1201)), "bad-shape"),
        (E, np.ones(7), "bad-shape"),
    ],
)
def test_what_is_no_density_of_states_is_refused(energies, densities, reason):
    with pytest.raises(SpectrumError) as caught:
        DensityOfStates(energies, densities, 1)
    assert caught.value.reason == reason


def test_a_window_that_misses_the_fermi_level_is_refused():
    with pytest.raises(SpectrumError, match="relative to the Fermi level") as caught:
        DOS.featurise(DensityOfStates(E + 30.0, np.ones(1201), 1))
    assert caught.value.reason == "window-not-covered"


def _csv(header: str, columns: list[np.ndarray]) -> bytes:
    return "\n".join([header, *(",".join(f"{v:.6f}" for v in row) for row in zip(*columns, strict=True))]).encode()


def test_text_files_may_state_atoms_zero_and_fermi_level():
    source = _insulator(2)
    down = -source.densities[1]
    absolute = _csv("# n_atoms = 4, efermi = 5.3", [E + 5.3, source.densities[0], down])
    read = parse_dos(absolute, name="dos.csv")
    assert (read.n_atoms, read.efermi) == (4, 5.3)
    np.testing.assert_allclose(DOS.featurise(read)["dos"], DOS.featurise(source)["dos"], atol=1e-4)
    per_atom = parse_dos(_csv("energy,dos", [E, source.densities.sum(axis=0) / 4]), name="dos.csv")
    np.testing.assert_allclose(DOS.featurise(per_atom)["dos"], DOS.featurise(source)["dos"], atol=1e-4)
    assert parse_dos(_csv("# zero: vbm", [E, np.ones(1201)]), name="x.dat").standardised().zero == "vbm"


@pytest.mark.parametrize("data", [b"", b"energy,dos\n", b"1 2\nfoo 3\n", b"0.5\n0.6\n"])
def test_what_is_no_table_is_refused(data):
    with pytest.raises((FileFormatError, SpectrumError)):
        parse_dos(data, name="dos.csv")


def test_a_broken_vasprun_is_refused():
    with pytest.raises(SpectrumError) as caught:
        parse_dos(b"<?xml version='1.0'?><modeling><calculation>", name="vasprun.xml")
    assert caught.value.reason == "unreadable-vasprun"


def test_a_header_that_contradicts_itself_is_refused():
    for header in ("# n_atoms = many", "# zero = conduction"):
        with pytest.raises(SpectrumError) as caught:
            parse_dos(_csv(header, [E, np.ones(1201)]), name="dos.csv")
        assert caught.value.reason == "bad-header"


def test_real_spectra_of_any_grid_are_read(real_data):
    rows = pq.read_table(real_data / "electronic" / "dos_charge_density.parquet", columns=["dos_energy", "dos"])
    broken = 0
    given = [row for row in rows.to_pylist() if row["dos"] is not None][:100]
    for row in given:
        energies = np.array(row["dos_energy"])
        if (np.diff(energies) <= 0).any():
            broken += 1
            continue
        value = DensityOfStates(energies, np.array(row["dos"]), 10).standardised()
        assert value.densities.min() >= 0.0
        assert value.densities.sum() > 0.0
    assert len(given) == 100
    assert broken <= 1


# --- what a calculation does not reach -------------------------------------------------------------------------------

MASKED = DosModality(DosModality.Settings(beyond="unknown"))


def _metal(low: float, high: float) -> DensityOfStates:
    energies = np.arange(low, high, 0.02)
    return DensityOfStates(energies, 2.0 + np.sin(energies), 1)


def test_the_ends_of_a_calculation_cannot_be_read_off_its_features():
    short, shorter = _metal(-8.3, 7.1), _metal(-7.5, 8.9)
    assert not np.allclose(DOS.featurise(short)["dos"], DOS.featurise(shorter)["dos"]), "zeros show the ends"
    one, other = MASKED.featurise(short)["dos"], MASKED.featurise(shorter)["dos"]
    np.testing.assert_allclose(one, other, atol=1e-6)
    seen = one > UNKNOWN
    assert (GRID[seen][0], GRID[seen][-1]) == (pytest.approx(-6.975), pytest.approx(5.975))


def test_what_is_unknown_in_training_says_nothing_but_a_pair_of_rungs():
    rng = np.random.default_rng(0)
    ends, seen = set(), []
    for high in rng.uniform(2.0, 40.0, 60):
        value = _metal(-12.0, high)
        for _ in range(5):
            shown = MASKED.featurise(value, rng=rng)["dos"] > UNKNOWN
            where = np.flatnonzero(shown)
            assert shown[where[0] : where[-1] + 1].all()
            ends.add((round(EDGES[where[0]], 6), round(EDGES[where[-1] + 1], 6)))
            seen.append(where[-1])
    assert ends <= {(low, high) for low in RUNGS[0] for high in RUNGS[1]}
    assert len(set(seen)) == len(RUNGS[1]), "every rung is met"


def test_a_complete_spectrum_is_shown_whole_and_the_shortest_in_part():
    assert (MASKED.featurise(_metal(-12, 12))["dos"] > UNKNOWN).all()
    least = MASKED.featurise(_metal(-3.01, 2.05))["dos"] > UNKNOWN
    assert GRID[least][0] == pytest.approx(-2.475)
    assert GRID[least][-1] == pytest.approx(1.475)


def test_the_column_keeps_where_a_spectrum_is_known_and_an_older_one_is_all_known():
    value = _metal(-8.3, 7.1).standardised()
    cell = pa.array([DOS.to_column(value)], DOS.column_type())
    assert DOS.from_column(cell[0]).covered == value.covered == (pytest.approx(-8.3), pytest.approx(7.08))
    older = pa.StructArray.from_arrays(
        [cell.field(n) for n in ("densities", "n_spins", "zero", "gap", "efermi")],
        names=["densities", "n_spins", "zero", "gap", "efermi"],
    )
    back = DOS.from_column(older[0])
    assert back.covered is None
    assert (MASKED.featurise(back)["dos"] > UNKNOWN).all()


def test_a_model_of_an_earlier_release_keeps_its_settings():
    saved = {"points": 400, "scale": "log1p", "max_shift": 0.1, "max_width": 0.15}  # every setting of its time
    assert DosModality.Settings(**saved).beyond == "zero"
