"""Contacts are what a sum over images, written out, finds."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from pymatgen.core import Element

from crystalign.crystal import Crystal
from crystalign.physics.contacts import MAX_IONS, NAMES, contact_statistics
from crystalign.physics.picture import covalent_radii


def numbers(crystal: Crystal) -> dict[str, float]:
    return dict(zip(NAMES, contact_statistics(crystal).tolist(), strict=True))


def written_out(crystal: Crystal) -> dict[str, float]:
    """Over all images within four cells, one pair after the other."""
    n, radii = len(crystal), covalent_radii()
    z = crystal.atomic_numbers.astype(int)
    chi = [Element.from_Z(int(number)).X for number in z]
    shifts = [np.array(shift) @ crystal.lattice for shift in itertools.product(range(-4, 5), repeat=3)]
    contacts, strength, bonds = np.zeros(n), np.zeros(n), []
    for i, j in itertools.product(range(n), repeat=2):
        for shift in shifts:
            d = float(np.linalg.norm(crystal.cart_coords[j] + shift - crystal.cart_coords[i]))
            total = radii[z[i]] + radii[z[j]]
            if d < 1e-6 or d >= 1.45 * total:
                continue
            w = 1.0 if d <= 1.1 * total else np.cos(0.5 * np.pi * (d / total - 1.1) / 0.35) ** 2
            contacts[i] += w
            strength[i] += w * np.exp((total - d) / 0.37)
            bonds.append((w, d, d / total, abs(chi[i] - chi[j])))
    w, d, x, polarity = np.array(bonds).T
    return {
        "mean_contacts": contacts.mean(),
        "deviation_contacts": np.abs(contacts - contacts.mean()).mean(),
        "minimum_contacts": contacts.min(),
        "maximum_contacts": contacts.max(),
        "mean_strength": strength.mean(),
        "deviation_strength": np.abs(strength - strength.mean()).mean(),
        "ionic_energy": (w * polarity**2).sum() / 2 / n,
        "mean_contact_length": np.average(d, weights=w),
        "mean_contact_ratio": np.average(x, weights=w),
        "minimum_contact_ratio": x.min(),
        "mean_contact_polarity": np.average(polarity, weights=w),
        "log_stiffness": np.log((w * d**-3.5).sum() / n),
    }


def test_they_are_what_a_sum_over_images_finds(known):
    found = numbers(known)
    expected = written_out(known)
    assert set(NAMES) - set(expected) == {"electrostatic_energy"}
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-9, abs=1e-12), name


def test_the_electrostatic_energy_is_madelungs(textbook):
    charge = (Element("Cl").X - Element("Na").X) / 2
    distance = 5.64 / 2
    expected = -1.747564594633 * charge**2 / distance / 2  # per atom; the constant of rock salt
    assert numbers(textbook["NaCl"])["electrostatic_energy"] == pytest.approx(expected, rel=1e-9)
    assert numbers(textbook["Si"])["electrostatic_energy"] == 0.0


def test_nothing_depends_on_the_cell(known, cell, transform):
    np.testing.assert_allclose(contact_statistics(known), contact_statistics(transform(known, cell)), atol=1e-8)


def test_they_change_smoothly_where_a_contact_begins_and_ends(textbook):
    crystal = textbook["NaCl"]
    spread = np.linspace(0.8, 2.0, 400)
    path = np.stack([
        contact_statistics(Crystal(factor * crystal.lattice, crystal.frac_coords, crystal.atomic_numbers))[:7]
        for factor in spread
    ])  # fmt: skip
    step = np.abs(np.diff(path, axis=0)).max(axis=0)
    assert (path[-1] == 0.0).all()
    assert (step < 0.05 * path.max(axis=0)).all()


def rock_salt(edge: float) -> Crystal:
    return Crystal(edge * (np.ones((3, 3)) - np.eye(3)) / 2, np.array([[0.0] * 3, [0.5] * 3]), np.array([11, 17]))


def test_what_is_not_known_is_nan():
    helium = numbers(Crystal(4.0 * np.eye(3), np.zeros((1, 3)), np.array([2])))
    assert helium["mean_contacts"] == 0.0
    of_contacts = {"log_stiffness"} | {name for name in helium if "contact_" in name}
    assert {name for name, value in helium.items() if np.isnan(value)} == of_contacts | {"electrostatic_energy"}
    sparse = numbers(rock_salt(8.4))  # within the reach of two Na, of which there are none so near
    assert sparse["mean_contacts"] == sparse["ionic_energy"] == 0.0
    assert {name for name, value in sparse.items() if np.isnan(value)} == of_contacts
    side = 8
    grid = np.array(list(itertools.product(range(side), repeat=3))) / side
    large = numbers(Crystal(2.55 * side * np.eye(3), grid, np.full(side**3, 29)))
    assert side**3 > MAX_IONS
    assert [name for name, value in large.items() if np.isnan(value)] == ["electrostatic_energy"]
