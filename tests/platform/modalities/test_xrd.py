from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from crystalign.crystal import Crystal
from crystalign.errors import FileFormatError, SpectrumError
from crystalign.material import Material, Provenance
from crystalign.modalities.xrd import MeasuredPattern, PowderPattern, XrdModality, parse_xrd
from crystalign.physics.diffraction import WAVELENGTHS, draw, lorentz_polarisation, powder_peaks
from crystalign.physics.rendering import Instrument, render
from crystalign.readers.structures.structure_file import crystal_from_cif

XRD = XrdModality()
SOURCE = Provenance("test", "CC0-1.0")


def _measure(peaks: PowderPattern, wavelength: float, last: float = 95.0) -> MeasuredPattern:
    """A scan without noise: peaks of one width in Q, weighed by the instrument, against the angle."""
    two_theta = np.arange(3.0, last, 0.01)
    theta = np.radians(two_theta / 2)
    q = 4 * np.pi * np.sin(theta) / wavelength
    centres = 2 * np.pi / peaks.d_spacings
    areas = peaks.intensities * lorentz_polarisation(centres, wavelength)
    fine = np.linspace(q[0], q[-1], 40_000)
    counts = np.interp(q, fine, draw(centres, areas, np.full(len(centres), 0.02), fine)) * np.cos(theta)
    return MeasuredPattern(two_theta, counts, wavelength)


def test_the_wavelength_of_a_measurement_drops_out(known):
    peaks = powder_peaks(known)
    copper = XRD.featurise(_measure(peaks, WAVELENGTHS["CuKa"]))
    molybdenum = XRD.featurise(_measure(peaks, WAVELENGTHS["MoKa"], 45.0))
    seen = (copper["mask"] * molybdenum["mask"]).astype(bool)
    assert seen.mean() > 0.9
    assert copper["pattern"].max() == pytest.approx(1.0, abs=1e-5)
    np.testing.assert_allclose(molybdenum["pattern"][seen], copper["pattern"][seen], atol=0.03)


def test_a_measurement_looks_like_the_rendered_peaks(known):
    peaks = powder_peaks(known)
    measured = XRD.featurise(_measure(peaks, WAVELENGTHS["CuKa"]))["pattern"]
    instrument = Instrument(displacement=0.0, caglioti=(0.0, 0.0, 0.06))
    rendered = XRD._finish(render(peaks, XRD.grid, instrument), slice(0, 1024))["pattern"]
    assert measured @ rendered / np.linalg.norm(measured) / np.linalg.norm(rendered) > 0.95


def test_real_measurements_resemble_their_own_structure_most(real_data):
    folder = real_data / "experimental_xrd"
    names = [path.stem for path in sorted(folder.glob("*.xy"))]
    assert len(names) >= 20
    measured, simulated = [], []
    for name in names:
        measured.append(XRD.featurise(parse_xrd(folder / f"{name}.xy", wavelength="CuKa1"))["pattern"])
        peaks = powder_peaks(crystal_from_cif((folder / f"{name}.cif").read_text()))
        strained = [Instrument(strain=s, caglioti=(0.0, 0.0, 0.04)) for s in np.linspace(-0.01, 0.01, 9)]
        simulated.append([XRD._finish(render(peaks, XRD.grid, i), slice(0, 1024))["pattern"] for i in strained])
    queries, pool = np.array(measured), np.array(simulated)
    queries /= np.linalg.norm(queries, axis=-1, keepdims=True)
    pool /= np.linalg.norm(pool, axis=-1, keepdims=True)
    best = np.einsum("qg,nsg->qns", queries, pool).max(axis=-1)
    assert (best.argmax(axis=1) == np.arange(len(names))).mean() >= 0.9
    assert np.median(np.diag(best)) > 0.85


def test_the_column_gives_the_peaks_back(textbook):
    peaks = powder_peaks(textbook["TiO2"])
    cell = pa.array([XRD.to_column(peaks), None], XRD.column_type())
    back = XRD.from_column(cell[0])
    np.testing.assert_array_equal(back.d_spacings, peaks.d_spacings)
    np.testing.assert_allclose(back.intensities, peaks.intensities, rtol=1e-6)
    assert not cell[1].is_valid


def test_features_are_bounded_and_stack(textbook):
    rng = np.random.default_rng(0)
    samples = [XRD.featurise(powder_peaks(c), rng=rng) for c in textbook.values() for _ in range(10)]
    batch = XRD.collate([*samples, XRD.empty_sample()])
    assert batch["pattern"].shape == batch["mask"].shape == (71, 1024)
    assert float(batch["pattern"].min()) == 0.0
    assert float(batch["pattern"].max()) <= 1.0 + 1e-6
    assert (batch["pattern"][batch["mask"] == 0] == 0).all()
    assert (batch["mask"].mean(dim=1) >= 0.29).all()


def test_without_chance_a_pattern_is_always_the_same(textbook):
    peaks = powder_peaks(textbook["NaCl"])
    np.testing.assert_array_equal(XRD.featurise(peaks)["pattern"], XRD.featurise(peaks)["pattern"])


def _material(name: str, crystal: Crystal) -> Material:
    return Material(name, crystal, SOURCE, {"xrd": powder_peaks(crystal)})


def test_duplicates_and_mirror_images_share_a_key_and_others_do_not(known, cell, transform, textbook):
    one, other = _material("a", known), _material("b", transform(known, cell))
    assert XRD.equivalence(one) == XRD.equivalence(other)
    mirror = Crystal(known.lattice, -known.frac_coords, known.atomic_numbers)
    assert XRD.equivalence(_material("c", mirror)) == XRD.equivalence(one)
    assert len({XRD.equivalence(_material(n, c)) for n, c in textbook.items()}) == len(textbook)
    assert XRD.equivalence(Material("d", known, SOURCE)) == "d"


ANGLES = np.arange(10.0, 80.0, 0.05)
COUNTS = 100 + 1000 * np.exp(-(((ANGLES - 30) / 0.1) ** 2))


def _text(separator: str = " ", header: str = "", extra: str = "") -> bytes:
    rows = [f"{a:.3f}{separator}{c:.2f}{extra}" for a, c in zip(ANGLES, COUNTS, strict=True)]
    return "\n".join([*([header] if header else []), *rows]).encode()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (_text(header="##WAVELENGTH=1.541838"), 1.541838),
        (_text(header="# Cu Kα radiation"), 1.54184),
        (_text(header="! Wavelength (Å): 0.7093"), 0.7093),
        (_text(header="radiation: Co Ka1"), 1.78896),
        (_text(",", header="2theta,intensity,lambda 1.5406"), 1.5406),
        (_text("\t", extra="\t3.2", header="' anode Mo-Kalpha"), 0.71073),
        (_text(";", header="# CuKa2").replace(b"\n", b"\r\n"), 1.54439),
    ],
)
def test_text_files_say_their_wavelength_in_many_ways(data, expected):
    pattern = parse_xrd(data, name="scan.xy")
    assert pattern.wavelength == expected
    np.testing.assert_allclose(pattern.two_theta, ANGLES, atol=1e-3)
    np.testing.assert_allclose(pattern.intensities, COUNTS, atol=0.01)


def test_the_wavelength_of_the_file_wins_and_a_missing_one_is_asked_for():
    pattern = parse_xrd(_text(header="# Cu Ka"), name="a.xy", wavelength="MoKa")
    assert pattern.wavelength == 1.54184
    assert any("0.71073" in notice for notice in pattern.notices)
    assert parse_xrd(_text(), name="a.xy", wavelength="MoKa").wavelength == 0.71073
    with pytest.raises(SpectrumError, match="give one") as caught:
        parse_xrd(_text(), name="a.xy")
    assert caught.value.reason == "wavelength-missing"


XRDML = """<?xml version="1.0" encoding="UTF-8"?>
<xrdMeasurements xmlns="http://www.xrdml.com/XRDMeasurement/1.5"><xrdMeasurement>
<usedWavelength intended="{intended}"><kAlpha1 unit="Angstrom">1.5405980</kAlpha1>
<kAlpha2 unit="Angstrom">1.5444260</kAlpha2></usedWavelength>
<scan><dataPoints><positions axis="2Theta" unit="deg"><startPosition>10.0</startPosition>
<endPosition>79.95</endPosition></positions><positions axis="Omega"><startPosition>5</startPosition>
<endPosition>40</endPosition></positions><intensities unit="counts">{counts}</intensities></dataPoints></scan>
</xrdMeasurement></xrdMeasurements>"""


@pytest.mark.parametrize(
    ("intended", "expected"), [("K-Alpha 1", 1.540598), ("K-Alpha", (2 * 1.540598 + 1.544426) / 3)]
)
def test_xrdml_is_read_with_its_wavelength(intended, expected):
    text = XRDML.format(intended=intended, counts=" ".join(str(round(c)) for c in COUNTS))
    pattern = parse_xrd(text.encode(), name="scan.xrdml")
    assert pattern.wavelength == pytest.approx(expected)
    np.testing.assert_allclose(pattern.two_theta, ANGLES)
    assert pattern.two_theta[pattern.intensities.argmax()] == pytest.approx(30.0, abs=0.05)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"# only words\n",
        b"\x00\x01\x02\x03" * 30,
        b"1 2\n3 x\n",
        b"1\n2\n3\n",
        b"<?xml version='1.0'?><a",
        b"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>",
    ],
)
def test_what_is_no_such_file_is_refused(data):
    with pytest.raises(FileFormatError):
        parse_xrd(data, name="scan.xy", wavelength="CuKa")


def _broken(change) -> tuple[np.ndarray, np.ndarray]:
    angles, counts = ANGLES.copy(), COUNTS.copy()
    change(angles, counts)
    return angles, counts


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda _, c: c.__setitem__(3, np.nan), "nan"),
        (lambda a, _: a.__setitem__(3, a[2]), "non-monotonic"),
        (lambda a, _: a.__isub__(20), "bad-angles"),
        (lambda _, c: c.fill(7.0), "no-signal"),
        (lambda _, c: c.fill(0.0), "no-signal"),
    ],
)
def test_broken_measurements_are_refused_with_a_reason(change, reason):
    with pytest.raises(SpectrumError) as caught:
        MeasuredPattern(*_broken(change), 1.54184)
    assert caught.value.reason == reason


def test_a_range_outside_the_trained_one_says_what_to_measure():
    narrow = MeasuredPattern(np.linspace(20, 30, 500), np.random.default_rng(0).random(500), 1.54184)
    with pytest.raises(SpectrumError, match=r"measure most of 5\.6° … 88\.8°") as caught:
        XRD.featurise(narrow)
    assert caught.value.reason == "range-not-covered"
    far = MeasuredPattern(np.linspace(100, 170, 500), np.random.default_rng(0).random(500), 0.7)
    with pytest.raises(SpectrumError):
        XRD.featurise(far)


def test_zeros_that_pad_the_ends_are_not_measured():
    counts = COUNTS.copy()
    counts[:200] = 0.0
    features = XRD.featurise(MeasuredPattern(ANGLES, counts, 1.54184))
    first = 4 * np.pi * np.sin(np.radians(20.0 / 2)) / 1.54184
    assert XRD.grid[features["mask"].astype(bool)][0] == pytest.approx(first, abs=0.02)
    assert features["pattern"][features["mask"] == 0].max() == 0.0
