"""Files of powder patterns: every reading case, every real file, and what people report elsewhere."""

from __future__ import annotations

import csv
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from crystalign.errors import InputError
from crystalign.modalities.xrd import MeasuredPattern, parse_xrd
from crystalign.readers.patterns.scans import Scan, combine
from crystalign.readers.patterns.wavelengths import find_wavelength, stated_wavelength

DATA = Path(__file__).resolve().parents[3].parent / "shared" / "data"
ANGLES = np.round(np.arange(10.0, 80.0, 0.05), 4)
COUNTS = np.round(100 + 9000 * np.exp(-(((ANGLES - 30) / 0.1) ** 2)) + 700 * np.exp(-(((ANGLES - 50) / 0.1) ** 2)))
CU = "# wavelength 1.5406\n"


def _rows(kind: str) -> list[dict[str, str]]:
    table = DATA / "reading_cases" / "expected.csv"
    if not table.is_file():
        return []
    return [row for row in csv.DictReader(table.read_text().splitlines()) if row["kind"] == kind]


def _real(pattern: str) -> list[Path]:
    return sorted(DATA.glob(pattern))


def _peak_at_copper(pattern: MeasuredPattern) -> float:
    q = pattern.q[pattern.intensities.argmax()]
    return float(np.degrees(2 * np.arcsin(q * 1.5406 / (4 * np.pi))))


def _lines(angles=ANGLES, counts=COUNTS, separator=" ", header=CU, write=str) -> bytes:
    return (header + "\n".join(separator.join(map(write, row)) for row in zip(angles, counts, strict=True))).encode()


def _check(data: bytes, name: str = "a.xy", angles=ANGLES, counts=COUNTS, wavelength=None) -> MeasuredPattern:
    pattern = parse_xrd(data, name=name, wavelength=wavelength)
    np.testing.assert_allclose(pattern.two_theta, angles, atol=2e-3)
    np.testing.assert_allclose(pattern.intensities, counts, rtol=1e-6)
    return pattern


def _reason(path: Path) -> str:
    """Why a file is refused; empty if it is read."""
    try:
        parse_xrd(path)
    except InputError as error:
        return error.reason
    return ""


def _check_refused(data: bytes, reason: str, name: str = "a.xy", wavelength=None) -> str:
    with pytest.raises(InputError) as caught:
        parse_xrd(data, name=name, wavelength=wavelength)
    assert caught.value.reason == reason, str(caught.value)
    return str(caught.value)


@pytest.mark.skipif(not _rows("pattern"), reason="no reading cases in ../shared/data")
@pytest.mark.parametrize("row", _rows("pattern"), ids=lambda row: row["path"])
def test_a_reading_case_is_read_right_or_refused(row):
    path = DATA / "reading_cases" / row["path"]
    if row["outcome"] == "refuse":
        with pytest.raises(InputError):
            parse_xrd(path)
        return
    if row["outcome"] == "either" and (found := _reason(path)):
        assert found in {"wavelength-missing", "columns-ambiguous"}
        return
    pattern = parse_xrd(path)
    assert _peak_at_copper(pattern) == pytest.approx(float(row["strongest_peak_two_theta_CuKa"]), abs=0.03)
    assert str(len(pattern.two_theta)) in row["n_points"].split("|")


@pytest.mark.skipif(not _rows("pattern"), reason="no reading cases in ../shared/data")
def test_thousands_and_attenuators_reach_the_right_height():
    folder = DATA / "reading_cases"
    assert parse_xrd(folder / "11-powder-text/t_thousand_sep.csv").intensities.max() == 1_020_000
    attenuated = parse_xrd(folder / "12-xrdml/f_attenuation.xrdml")
    tree = ET.parse(folder / "12-xrdml/f_attenuation.xrdml")
    counts, factors = (
        np.fromstring(tree.find(f".//{{*}}{n}").text, sep=" ") for n in ("counts", "beamAttenuationFactors")
    )
    np.testing.assert_array_equal(attenuated.intensities, counts * factors)
    assert any("attenuation" in notice for notice in attenuated.notices)


@pytest.mark.skipif(not _real("measured_mixtures/**/*.xrdml"), reason="no measured mixtures in ../shared/data")
@pytest.mark.parametrize("path", _real("measured_mixtures/**/*.xrdml"), ids=lambda path: path.stem)
def test_a_measured_mixture_is_what_its_xml_says(path):
    root = ET.parse(path).getroot()
    points = root.find(".//{*}dataPoints")
    counts = np.array(points.find("{*}counts").text.split(), float)
    axis = next(p for p in points.findall("{*}positions") if p.get("axis") == "2Theta")
    first, last = float(axis.find("{*}startPosition").text), float(axis.find("{*}endPosition").text)
    pattern = parse_xrd(path)
    assert pattern.intensities.sum() == counts.sum()
    assert (pattern.two_theta[0], pattern.two_theta[-1], len(pattern.two_theta)) == (first, last, len(counts))
    assert pattern.wavelength == float(root.find(".//{*}kAlpha1").text)


@pytest.mark.skipif(not _real("experimental_xrd/*.xy"), reason="no measured minerals in ../shared/data")
@pytest.mark.parametrize("path", _real("experimental_xrd/*.xy"), ids=lambda path: path.stem)
def test_a_measured_mineral_is_read_to_the_point(path):
    expected = np.loadtxt(path)
    pattern = parse_xrd(path, wavelength="CuKa1")
    inside = (expected[:, 0] >= pattern.two_theta[0]) & (expected[:, 0] <= pattern.two_theta[-1])
    np.testing.assert_array_equal(pattern.intensities, expected[inside, 1])
    assert not expected[~inside, 1].any()


@pytest.mark.skipif(not _real("experimental_xrd/*.xy"), reason="no measured minerals in ../shared/data")
def test_a_measured_mineral_asks_for_its_wavelength():
    _check_refused(_real("experimental_xrd/*.xy")[0].read_bytes(), "wavelength-missing")


# --- how numbers are written ------------------------------------------------------------------------------------------


def _comma(value: float) -> str:
    return f"{value:.2f}".replace(".", ",")


@pytest.mark.parametrize(
    ("data", "factor"),
    [
        (_lines(write=_comma, separator="\t"), 1),
        (_lines(write=_comma, separator="; "), 1),
        (_lines(write=_comma, separator="   "), 1),
        (_lines(separator=", "), 1),
        (_lines(separator=" , "), 1),
        (_lines(separator="|"), 1),
        (_lines(separator=";", write=lambda v: f'"{v}"'), 1),
        (_lines(separator="\t", write=lambda v: f"{v:.6E}".replace("E", "D")), 1),
        (_lines(separator=";", write=lambda v: f"{v:,.2f}"), 1),
        (_lines(separator=";", write=lambda v: f"{v:,.2f}".translate(str.maketrans(",.", ".,"))), 1),
        (_lines(separator=";", write=lambda v: f"{v:,.2f}".replace(",", "\u202f")), 1),
        (_lines().replace(b"\n", b"\r"), 1),
        (_lines(separator="\t").decode().encode("utf-16"), 1),
        (_lines(separator="\t").decode().encode("utf-16-le"), 1),
        ("# Meßzeit 5 s, wavelength 1.5406 Å\n".encode("latin-1") + _lines(header=""), 1),
        (_lines() + b"\n\x1a", 1),
        (_lines() + b"\n; end of scan\n", 1),
    ],
)
def test_numbers_are_read_however_they_are_written(data, factor):
    _check(data, counts=COUNTS * factor, wavelength="1.5406")


def test_a_compressed_file_is_read():
    import gzip

    _check(gzip.compress(_lines()), "scan.xy.gz")


def test_commas_that_can_mean_two_things_are_refused():
    both = "\n".join(f"{a:.2f},{c:.2f}".replace(".", ",") for a, c in zip(ANGLES, COUNTS, strict=True))
    assert "semicolons" in _check_refused(CU.encode() + both.encode(), "columns-ambiguous")
    mixed = "\n".join(
        f"{a:.2f};{c:.1f}".replace(".", ",", i % 2) for i, (a, c) in enumerate(zip(ANGLES, COUNTS, strict=True))
    )
    _check_refused(CU.encode() + mixed.encode(), "columns-ambiguous")


def test_rows_without_a_number_are_dropped_with_a_notice_and_many_are_refused():
    text = _lines().decode().splitlines()
    broken = text.copy()
    broken[100] = f"{ANGLES[99]} nan"
    broken[200] = f"{ANGLES[199]} --"
    pattern = parse_xrd("\n".join(broken).encode(), name="a.xy")
    assert len(pattern.two_theta) == len(ANGLES) - 2
    assert any(notice.startswith("2 of 1400 rows") for notice in pattern.notices)
    for at in range(100, 400):
        broken[at] = f"{ANGLES[at - 1]} nan"
    _check_refused("\n".join(broken).encode(), "nan")


def test_a_count_that_overflowed_is_refused_because_it_was_the_highest():
    text = _lines().decode().splitlines()
    text[401] = f"{ANGLES[400]} ********"
    assert "line 402" in _check_refused("\n".join(text).encode(), "overflow")


def test_a_last_line_that_was_cut_is_left_out_and_reported():
    pattern = parse_xrd(_lines() + b"\n80.0", name="a.xy")
    assert len(pattern.two_theta) == len(ANGLES)
    assert any("1 of 1401 rows" in notice for notice in pattern.notices)


# --- which column is what ---------------------------------------------------------------------------------------------


def test_columns_are_found_by_their_names_in_any_order():
    rows = "\n".join(f"{i},{c},{np.sqrt(c):.3f},{a}" for i, (a, c) in enumerate(zip(ANGLES, COUNTS, strict=True)))
    pattern = _check(f"{CU}point,Counts,Sigma,2Theta (deg)\n{rows}".encode(), "a.csv")
    assert any("column 4" in notice for notice in pattern.notices)


def test_a_running_number_without_a_header_is_stepped_over():
    rows = "\n".join(f"{i} {a} {c}" for i, (a, c) in enumerate(zip(ANGLES, COUNTS, strict=True)))
    assert any("numbers the rows" in notice for notice in _check((CU + rows).encode()).notices)


@pytest.mark.parametrize(
    ("header", "positions"),
    [
        ("# 2theta(rad) I wavelength 1.5406\n", np.radians(ANGLES)),
        ("# --> q_A^-1 I sigma, wavelength: 1.5406e-10 m\n", 4 * np.pi / 1.5406 * np.sin(np.radians(ANGLES / 2))),
        ("# wavelength 1.5406\nQ [1/nm];I\n", 40 * np.pi / 1.5406 * np.sin(np.radians(ANGLES / 2))),
        ("# lambda = 1.5406\n# d-spacing (nm)  Intensity\n", 0.15406 / 2 / np.sin(np.radians(ANGLES / 2))),
        ("wavelength 1.5406\nd (\u00c5)\tcounts\n", 1.5406 / 2 / np.sin(np.radians(ANGLES / 2))),
        (
            "# wavelength 1.5406\nMomentum transfer (inverse Angstrom), I\n",
            4 * np.pi / 1.5406 * np.sin(np.radians(ANGLES / 2)),
        ),
    ],
)
def test_positions_become_two_theta_by_what_the_header_calls_them(header, positions):
    separator = ";" if ";" in header else "\t"
    pattern = _check(_lines(positions, header=header, separator=separator, write=lambda v: f"{v:.7f}"))
    assert pattern.wavelength == pytest.approx(1.5406)
    assert any("converted" in notice for notice in pattern.notices)


def test_q_without_a_wavelength_is_placed_right_and_says_what_was_taken():
    q = np.linspace(0.7, 12.0, 3000)
    counts = 50 + 1000 * np.exp(-(((q - 2.0) / 0.01) ** 2))
    pattern = parse_xrd(_lines(q, counts, header="q (1/A)  I\n"), name="a.chi")
    assert pattern.q[pattern.intensities.argmax()] == pytest.approx(2.0, abs=0.004)
    assert any("no wavelength is stated" in notice for notice in pattern.notices)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("Energy (keV)  Counts\n", "axis-unsupported"),
        ("TOF  Intensity\n", "axis-unsupported"),
        ("theta,intensity\n", "axis-unclear"),
        ("q  I\n", "axis-unit-missing"),
        ("2theta  log(I)\n", "intensity-scaled"),
        ("r  G(r)\n", "axis-unsupported"),
        ("Raman shift (cm-1),Intensity\n", "axis-unsupported"),
    ],
)
def test_axes_that_are_no_two_theta_are_refused(header, reason):
    _check_refused(_lines(header=header, separator="," if "," in header else "  "), reason, wavelength="CuKa")


@pytest.mark.parametrize(
    "header",
    [
        "# D. Smith, 12 May\n",
        "d Smith\n",
        "Temperature 25C\n",
        "# Energy 8.04keV\n",
        "# Q: standard\n",
        "# Theta/2Theta scan\n",
        "# Energy 8.04 keV\n",
        "# t (s) = 1.5\n",
        "# d = 2023-05-01\n",
    ],
)
def test_names_and_values_in_a_header_are_no_axes(header):
    _check(_lines(header=header), wavelength=None if "keV" in header else "CuKa1")


def test_a_label_of_two_words_is_one_name():
    _check(_lines(header=f"{CU}2-Theta Angle (Degrees)\nIntensity\n       1400\n"), "a.chi")
    _check(_lines(header=f"{CU}2-Theta Angle (Degrees)\n"))


def test_empty_columns_of_a_spreadsheet_are_stepped_over():
    rows = "\n".join(f",{a},,{c}" for a, c in zip(ANGLES, COUNTS, strict=True))
    _check(f"{CU},2theta,,counts\n{rows}".encode(), "a.csv")


def test_a_list_of_peaks_is_no_scan():
    rng = np.random.default_rng(0)
    angles = np.cumsum(rng.exponential(0.8, 100)) + 10
    _check_refused(_lines(angles, rng.random(100)), "peak-list")
    rows = "\n".join(f"1 1 {at} {20 + at} {at * 7}" for at in range(80))
    _check_refused(f"{CU}h k l 2theta I\n{rows}".encode(), "peak-list")
    rounded = np.round(np.arange(10, 40, 0.0151), 2)
    _check(_lines(rounded, np.arange(len(rounded)) + 5.0), angles=rounded, counts=np.arange(len(rounded)) + 5.0)


def test_two_scans_one_after_the_other_in_one_table_are_refused():
    data = _lines() + b"\n" + _lines(header="")
    assert "up and down" in _check_refused(data, "non-monotonic")


def test_a_scan_that_only_states_start_step_and_end_is_read():
    counts = "\n".join(" ".join(str(int(c)) for c in COUNTS[at : at + 10]) for at in range(0, len(COUNTS) - 3, 10))
    kept = COUNTS[: len(COUNTS) // 10 * 10]
    data = f"{ANGLES[0]} 0.05 {ANGLES[len(kept) - 1]} NaCl Cu Ka1\n{counts}".encode()
    _check(data, "a.dat", ANGLES[: len(kept)], kept)


# --- the wavelength ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ('"wavelength": 7.749e-11', 0.7749),
        ("Wavelength: CuKa1 1.5406", 1.5406),
        ("_WL1=1.540600\n_WL2=1.544390\n_WL3=1.392220\n_WLRATIO=0.5", 1.5406),
        ("Kalpha1 1.5406 Kalpha2 1.5444 ratio 0.5", 1.5406),
        ("Ratio K-Alpha2/K-Alpha1,0.5\nAnode material,Co", 1.79026),
        ("Wellenl\u00e4nge: 1,5406", 1.5406),
        ("Energy = 20 keV", 12.398419843 / 20),
        ("energy: 8047 eV", 12.398419843 / 8.047),
        ("tension 40 kV, discriminator energy 5.4 keV", None),
        ("date 2023-05-01, 1.5 s, 300 K", None),
        ("Cu Ka time 1.5 s", 1.54184),
        ("wavelength 15406", None),
        ("target material: Mo", 0.71073),
        ("Cu target, Ni filter", 1.54184),
        ("lambda scan 1.5", None),
    ],
)
def test_a_header_states_its_wavelength_and_other_numbers_are_none(header, expected):
    assert stated_wavelength(header) == (expected if expected is None else pytest.approx(expected))


def test_an_anode_alone_is_reported_as_a_mean():
    assert "mean" in find_wavelength("Anode: Cu").notices[0]
    assert parse_xrd(_lines(header="# Anode: Cu\n"), name="a.xy", wavelength="1.5406").wavelength == 1.5406


@pytest.mark.parametrize(("given", "told"), [("1.5406", False), ("CuKa", False), ("MoKa", True), (1.79, True)])
def test_the_wavelength_of_a_file_wins_and_a_contrary_one_is_reported(given, told):
    pattern = parse_xrd(_lines(header="# wavelength 1.5405\n"), name="a.xy", wavelength=given)
    assert pattern.wavelength == 1.5405
    assert any("you gave was not" in notice for notice in pattern.notices) == told


def test_two_wavelengths_of_different_tubes_are_refused():
    _check_refused(_lines(header="# lambda 0.41 A\n# wavelength 1.5406\n"), "wavelength-contradictory")
    _check_refused(_lines(header="# energy 30 keV wavelength 1.5406\n"), "wavelength-contradictory")


# --- XRDML ------------------------------------------------------------------------------------------------------------

USED = '<usedWavelength intended="K-Alpha 1"><kAlpha1 unit="Angstrom">1.5406</kAlpha1></usedWavelength>'


def _span(axis: str, first: float, last: float) -> str:
    ends = f"<startPosition>{first}</startPosition><endPosition>{last}</endPosition>"
    return f'<positions axis="{axis}" unit="deg">{ends}</positions>'


def _scan(counts, first=10.0, last=79.95, time=None, more="", tag="counts", axis="Gonio", status="Completed") -> str:
    seconds = "" if time is None else f"<commonCountingTime>{time}</commonCountingTime>"
    numbers = " ".join(f"{c:g}" for c in counts)
    points = f'{_span("2Theta", first, last)}{seconds}{more}<{tag} unit="counts">{numbers}</{tag}>'
    return f'<scan scanAxis="{axis}" status="{status}"><dataPoints>{points}</dataPoints></scan>'


def _xrdml(*scans: str, version: str = "1.5", used: str = USED) -> bytes:
    space = f"http://www.xrdml.com/XRDMeasurement/{version}"
    inner = f"<xrdMeasurement>{used}{''.join(scans)}</xrdMeasurement>"
    return f'<?xml version="1.0"?><xrdMeasurements xmlns="{space}">{inner}</xrdMeasurements>'.encode()


def test_repeated_scans_are_added():
    pattern = _check(_xrdml(_scan(COUNTS, time=10), _scan(2 * COUNTS, time=20)), "a.xrdml", counts=3 * COUNTS)
    assert pattern.notices == ("2 scans of the file were added",)


def test_ranges_counted_for_other_times_are_joined_as_rates():
    half = len(ANGLES) // 2
    parts = (_scan(COUNTS[:half], 10.0, ANGLES[half - 1], 1), _scan(8 * COUNTS[half:], ANGLES[half], 79.95, 8))
    pattern = _check(_xrdml(*parts, version="2.3"), "a.xrdml")
    assert any("counts per second" in notice for notice in pattern.notices)


def test_ranges_that_overlap_are_joined_without_a_step():
    parts = (_scan(COUNTS[:900], 10.0, ANGLES[899], 2), _scan(3 * COUNTS[600:], ANGLES[600], 79.95, 6))
    _check(_xrdml(*parts), "a.xrdml", counts=COUNTS / 2)


def test_intensities_already_hold_the_attenuation_and_counts_do_not():
    factors = np.where(np.abs(ANGLES - 30) < 1, 10, 1)
    more = f"<beamAttenuationFactors>{' '.join(map(str, factors))}</beamAttenuationFactors>"
    told = _check(_xrdml(_scan(COUNTS, more=more, tag="intensities")), "a.xrdml").notices
    assert any("not applied" in notice for notice in told)
    _check(_xrdml(_scan(COUNTS, more=more)), "a.xrdml", counts=COUNTS * factors)
    common = "<commonBeamAttenuationFactor>100</commonBeamAttenuationFactor>"
    half = len(ANGLES) // 2
    two = (_scan(COUNTS[:half] / 100, 10, ANGLES[half - 1], more=common), _scan(COUNTS[half:], ANGLES[half], 79.95))
    _check(_xrdml(*two), "a.xrdml")


def test_listed_and_falling_positions_are_read():
    listed = f'<positions axis="2Theta"><listPositions>{" ".join(map(str, ANGLES[::-1]))}</listPositions></positions>'
    text = _xrdml(_scan(COUNTS[::-1])).decode().replace(_span("2Theta", 10.0, 79.95), listed)
    _check(text.encode(), "a.xrdml")
    _check_refused(text.replace(">79.95 ", ">").encode(), "unreadable-xrdml", "a.xrdml")


def test_an_intended_beta_line_is_the_wavelength():
    used = USED.replace("K-Alpha 1", "K-Beta").replace("</used", "<kBeta>1.39222</kBeta></used")
    assert parse_xrd(_xrdml(_scan(COUNTS), used=used), name="a.xrdml").wavelength == 1.39222


def test_an_anode_without_a_wavelength_is_its_mean():
    used = "<incidentBeamPath><xRayTube><anodeMaterial>Co</anodeMaterial></xRayTube></incidentBeamPath>"
    pattern = parse_xrd(_xrdml(_scan(COUNTS), used=used), name="a.xrdml")
    assert pattern.wavelength == 1.79026
    assert any("anode Co" in notice for notice in pattern.notices)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (_xrdml(_scan(COUNTS, axis="Phi")), "no-scan"),
        (_xrdml(_scan(COUNTS, status="Aborted")), "no-scan"),
        (_xrdml(_scan([])), "no-scan"),
        (_xrdml(_scan(COUNTS))[:-300], "unreadable-xrdml"),
        (_xrdml(_scan(COUNTS), _scan(COUNTS, time=2)), "counting-time-missing"),
        (_xrdml(_scan(COUNTS, more="<beamAttenuationFactors>1 2</beamAttenuationFactors>")), "unreadable-xrdml"),
        (_xrdml(_scan(COUNTS).replace("100", "-1e999", 1)), "unreadable-xrdml"),
        (
            _xrdml(
                *(
                    _scan(COUNTS, more=f'<positions axis="Psi"><commonPosition>{p}</commonPosition></positions>')
                    for p in (0, 30)
                )
            ),
            "several-measurements",
        ),
        (b"<?xml version='1.0'?><svg/>", "unreadable-xrdml"),
        (b"<?xml version='1.0'?>" + b"<a>" * 5000, "too-large"),
        ("<?xml version='1.0' encoding='utf-16'?><!DOCTYPE a><a/>".encode("utf-16"), "unsafe-xml"),
    ],
)
def test_xrdml_that_is_no_single_powder_pattern_is_refused(data, reason):
    _check_refused(data, reason, "a.xrdml")


def test_rates_do_not_depend_on_how_a_measurement_is_divided():
    rng = np.random.default_rng(0)
    rate, time = rng.random(200) + 1, 3.0
    angle = np.linspace(10, 20, 200)
    pieces = [
        Scan(angle[a:b], rate[a:b] * t, np.full(b - a, t))
        for a, b, t in ((0, 120, 1.0), (80, 200, 4.0), (0, 200, time))
    ]
    two_theta, joined, _ = combine(pieces)
    np.testing.assert_allclose(two_theta, angle)
    np.testing.assert_allclose(joined, rate)


@pytest.mark.parametrize("shift", [0.01, 0.012, 0.0124])
def test_shifted_scans_do_not_chain_into_one_point(shift):
    scans = (_scan(COUNTS, 10.0 + shift * n, 79.95 + shift * n, time=1) for n in range(5))
    pattern = parse_xrd(_xrdml(*scans), name="a.xrdml")
    assert len(pattern.two_theta) > len(ANGLES)
    assert pattern.two_theta[pattern.intensities.argmax()] == pytest.approx(30.0 + 2 * shift, abs=0.06)
    assert any("shifted against each other" in notice for notice in pattern.notices)
    assert not any("counting times differ" in notice for notice in pattern.notices)


def test_a_scan_between_two_others_is_not_their_bridge():
    fine = [Scan(20 + 0.02 * n + np.arange(0, 10, 0.1), np.full(100, 7.0), np.ones(100)) for n in range(5)]
    angle, counts, _ = combine([Scan(np.arange(10, 40, 0.1), np.full(300, 7.0), np.ones(300)), *fine])
    assert np.diff(angle).max() < 0.11
    np.testing.assert_allclose(counts, 7.0)


@pytest.mark.parametrize("encoding", ["cp037", "cp500"])
def test_entities_do_not_hide_behind_an_encoding(encoding):
    body = f'<!DOCTYPE a [<!ENTITY x "y">]>{_xrdml(_scan(COUNTS)).decode()[21:]}'
    data = f'<?xml version="1.0" encoding="{encoding}"?>'.encode() + body.encode(encoding, "replace")
    _check_refused(data, "unsafe-xml", "a.xrdml")


# --- limits -----------------------------------------------------------------------------------------------------------


def test_hostile_headers_do_not_take_long():
    import time

    start = time.perf_counter()
    for line in ("ratio " * 30_000, "K-alpha " * 20_000, "x" * 200_000, "energy " * 25_000, "unit: " * 30_000):
        assert find_wavelength(line).value is None
        _check((f"# {line}\n" + CU).encode() + _lines(header=""))
    assert time.perf_counter() - start < 10
