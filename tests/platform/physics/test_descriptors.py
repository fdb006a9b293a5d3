"""Descriptors are the numbers that their names say."""

from __future__ import annotations

import numpy as np
import pytest
from pymatgen.core import Element

from crystalign.crystal import Crystal
from crystalign.physics.descriptors import NAMES, PROPERTIES, STRUCTURE, WIDTH, descriptors, element_table


def numbers(crystal):
    return dict(zip(NAMES, descriptors(crystal).tolist(), strict=True))


def test_statistics_of_a_composition(textbook):
    found = numbers(textbook["TiO2"])
    assert len(found) == WIDTH == 133
    scale = np.std(np.arange(1, 95))
    z = {k.removesuffix("_atomic_number"): v * scale for k, v in found.items() if k.endswith("_atomic_number")}
    assert z["range"] == pytest.approx(14)
    assert z["maximum"] - z["mean"] == pytest.approx(22 - 38 / 3, abs=1e-4)
    assert z["mode"] == pytest.approx(z["minimum"])
    assert z["deviation"] == pytest.approx((28 / 3 + 2 * 14 / 3) / 3, abs=1e-4)
    assert found["n_elements"] == 2
    assert found["norm_2"] == pytest.approx(np.sqrt(5) / 3)


def test_density_and_volume(textbook):
    found = numbers(textbook["NaCl"])
    assert np.exp(found["log_density"]) == pytest.approx(2.16, abs=0.01)  # g/cm³, measured
    assert np.exp(found["log_volume_per_atom"]) == pytest.approx(5.64**3 / 8, rel=1e-5)
    assert np.exp(numbers(textbook["Cu"])["log_density"]) == pytest.approx(8.96, abs=0.03)


def test_nothing_depends_on_the_cell(known, cell, transform):
    np.testing.assert_allclose(descriptors(known), descriptors(transform(known, cell)), rtol=2e-5, atol=2e-5)


def test_valence_electrons_lie_outside_the_noble_gas():
    table = element_table()
    shells = [PROPERTIES.index(f"{shell}_valence") for shell in "spdf"]
    order = {shell: np.unique(table[1:95, column]) for shell, column in zip("spdf", shells, strict=True)}
    assert [len(order[s]) for s in "spdf"] == [3, 7, 11, 14]  # s⁰ is Pd; no element up to Pu has f⁸
    iron = [list(order[s]).index(table[26, c]) for s, c in zip("spdf", shells, strict=True)]
    assert iron == [2, 0, 6, 0]
    assert table[31, shells[2]] == table[30, shells[2]]  # d¹⁰ of Ga as of Zn


def test_what_is_not_known_is_nan_and_what_is_known_is_not(textbook):
    helium = numbers(Crystal(4.0 * np.eye(3), np.zeros((1, 3)), np.array([2])))
    assert np.isnan(helium["mean_electronegativity"])
    assert np.isfinite(helium["mean_ionisation_energy"])
    assert np.isfinite(descriptors(textbook["SrTiO3"])).all()
    heavy = numbers(Crystal(4.0 * np.eye(3), np.zeros((1, 3)), np.array([118])))
    assert np.isnan(list(heavy.values())).any()
    assert np.isfinite([heavy[name] for name in STRUCTURE]).all()


def test_properties_are_those_of_pymatgen():
    table = element_table()[1:95, PROPERTIES.index("electronegativity")]
    known = [z for z in range(1, 95) if z not in {2, 10, 18}]
    paulings = np.array([Element.from_Z(z).X for z in known])
    standard = (paulings - paulings.mean()) / paulings.std()
    np.testing.assert_allclose(table[np.array(known) - 1], standard, atol=1e-9)
    assert np.isnan(table[[1, 9, 17]]).all()


def test_oxidation_states(textbook):
    table = element_table()
    mean, lowest, highest = (PROPERTIES.index(f"{name}oxidation_state") for name in ("", "lowest_", "highest_"))
    assert (table[[3, 11, 19], mean] == table[55, mean]).all()  # alkali metals: 1
    assert (np.diff(table[[8, 3, 12, 13], mean]) > 0).all()  # −2, 1, 2, 3
    assert table[8, lowest] == table[16, lowest] < table[17, lowest]  # −2, −2, −1
    assert table[76, highest] == np.nanmax(table[1:95, highest])  # OsO₄
    assert np.isnan(table[[2, 10, 18], lowest]).all()
    assert np.isfinite([numbers(textbook["NaCl"])[f"range_{name}oxidation_state"] for name in ("", "lowest_")]).all()


def test_mixed_sites_are_weighted():
    site = (((26, 0.25), (27, 0.75)),)
    mixed = Crystal(2.8 * np.eye(3), np.zeros((1, 3)), np.array([27]), site)
    z = element_table()[[26, 27], 0]
    assert numbers(mixed)["mean_atomic_number"] == pytest.approx(0.25 * z[0] + 0.75 * z[1], abs=1e-5)
