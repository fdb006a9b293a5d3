"""Columns of powder patterns: thousands, quotes, and scales that are no 2theta."""

from __future__ import annotations

import numpy as np
import pytest

from crystalign.errors import InputError
from crystalign.modalities.xrd import MeasuredPattern, parse_xrd
from crystalign.readers.patterns.wavelengths import stated_wavelength

ANGLES = np.round(np.arange(10.0, 80.0, 0.05), 4)
COUNTS = np.round(100 + 9000 * np.exp(-(((ANGLES - 30) / 0.1) ** 2)) + 700 * np.exp(-(((ANGLES - 50) / 0.1) ** 2)))
CU = "# wavelength 1.5406\n"


def _lines(angles=ANGLES, counts=COUNTS, separator=" ", header=CU, write=str) -> bytes:
    return (header + "\n".join(separator.join(map(write, row)) for row in zip(angles, counts, strict=True))).encode()


def _check(data: bytes, name: str = "a.xy", angles=ANGLES, counts=COUNTS, wavelength=None) -> MeasuredPattern:
    pattern = parse_xrd(data, name=name, wavelength=wavelength)
    np.testing.assert_allclose(pattern.two_theta, angles, atol=2e-3)
    np.testing.assert_allclose(pattern.intensities, counts, rtol=1e-6)
    return pattern


def _check_refused(data: bytes, reason: str, name: str = "a.xy", wavelength=None) -> str:
    with pytest.raises(InputError) as caught:
        parse_xrd(data, name=name, wavelength=wavelength)
    assert caught.value.reason == reason, str(caught.value)
    return str(caught.value)


def _comma(value: float) -> str:
    return f"{value:.2f}".replace(".", ",")


# --- thousands and quotes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "thousands"),
    [('"{}","{}"', ","), ('{},"{}"', ","), ("{},{}", ","), ("{} {}", " "), ("\u201c{}\u201d;\u201c{}\u201d", ",")],
)
def test_thousands_are_read_whatever_separates_the_columns(pattern, thousands):
    rows = (
        pattern.format(f"{a:.2f}", f"{c:,.0f}".replace(",", thousands)) for a, c in zip(ANGLES, COUNTS, strict=True)
    )
    pattern = _check((CU + "\n".join(rows)).encode(), "a.csv")
    assert any("thousands" in notice for notice in pattern.notices)


@pytest.mark.parametrize("count", [",".join, " ".join])
def test_thousands_in_all_rows_are_known_by_their_zeros(count):
    rows = (count([f"{a:.2f}", *f"{c + 1000:,.0f}".split(",")]) for a, c in zip(ANGLES, COUNTS, strict=True))
    _check((CU + "\n".join(rows)).encode(), "a.csv", counts=COUNTS + 1000)


def test_quotes_tell_decimal_commas_from_separators():
    rows = (f'"{_comma(a)}","{_comma(c)}"' for a, c in zip(ANGLES, COUNTS, strict=True))
    _check((CU + "\n".join(rows)).encode(), "a.csv")
    rows = (f'"{_comma(a)}",{c:.0f}' for a, c in zip(ANGLES, COUNTS, strict=True))
    _check((CU + "\n".join(rows)).encode(), "a.csv")


def test_a_first_row_with_thousands_is_no_header():
    counts = np.minimum(COUNTS, 999)
    counts[0] = 1050
    rows = (f"{a:.2f},{c:,.0f}" for a, c in zip(ANGLES, counts, strict=True))
    _check((CU + "\n".join(rows)).encode(), "a.csv", counts=counts)


@pytest.mark.parametrize(
    "rows",
    [
        [f"{a:.2f},{c:.0f}{',7.5' * (i == 400)}" for i, (a, c) in enumerate(zip(ANGLES, COUNTS, strict=True))],
        [f"{a:.2f},{c:.0f}{',7.5' * (i == 0)}" for i, (a, c) in enumerate(zip(ANGLES, COUNTS, strict=True))],
        [f"{a:.2f},{c:,.0f},{np.sqrt(c):.2f}" for a, c in zip(ANGLES, COUNTS, strict=True)],
        [f"{a:.2f},{c / 50 + 1200:,.0f}" for a, c in zip(ANGLES, COUNTS, strict=True)],
        [f"{a:.2f}\t{c:,.0f}".replace(",", ".") for a, c in zip(ANGLES, COUNTS, strict=True)],
        [f"{i % 7},{i % 10},{c:.0f}" if i % 9 else f"{i},{c:.0f}" for i, c in enumerate(COUNTS)],
    ],
)
def test_rows_that_can_be_two_or_three_numbers_are_refused(rows):
    _check_refused((CU + "\n".join(rows)).encode(), "columns-ambiguous", "a.csv")


def test_long_cells_are_refused_in_no_time():
    import time

    start = time.perf_counter()
    for cell in ("1" * 10_000 + "x", "1" * 10_000 + ".-", "9" * 10_000 + "d"):
        rows = [f"{a:.2f};{c:.0f}" for a, c in zip(ANGLES, COUNTS, strict=True)]
        rows[500] = f"{ANGLES[500]};{cell}"
        with pytest.raises(InputError):
            parse_xrd((CU + "\n".join(rows)).encode(), name="a.csv")
    assert time.perf_counter() - start < 2


def test_more_columns_than_are_read_are_refused():
    _check_refused("\n".join(" ".join(["7"] * 300) for _ in range(60)).encode(), "too-many-columns", wavelength="CuKa")


# --- scales that are no 2theta ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [
        "1/d (A^-1) Intensity",
        "d* (A^-1) Intensity",
        "d^-1 (A)  I",
        "sin(theta)/lambda (A^-1) I",
        "# s = 2 sin(theta)/lambda (A^-1)",
        "# s = 2 sin(theta)/lambda",
        "Q^2 (A^-2) I",
        "# q (10 nm^-1) I",
        "q/2pi (1/A)  I",
        "log(q)  I",
        "1/d^2  I",
        "s (A^-1)  I",
        "k (1/nm)  I",
        "x (mm)  counts",
        "stol  I",
    ],
)
def test_reciprocal_scales_are_refused_by_name(header):
    values = np.linspace(0.5, 4.0, len(COUNTS))
    _check_refused(_lines(values, header=f"{CU}{header}\n"), "axis-unclear")


@pytest.mark.parametrize("header", ["# silica sample\n", "# Single scan\n", "# S. Smith\n", "Angle (deg)  I\n"])
def test_words_that_begin_like_a_scale_are_none(header):
    _check(_lines(header=CU + header))


def test_a_column_of_d_without_a_header_is_known_by_braggs_law():
    d = 1.5406 / 2 / np.sin(np.radians(ANGLES / 2))
    for columns in ((ANGLES, d, COUNTS), (d, ANGLES, COUNTS)):
        rows = "\n".join(f"{a:.3f} {b:.3f} {c:.0f}" for a, b, c in zip(*columns, strict=True))
        assert any("is d of the angles" in notice for notice in _check((CU + rows).encode()).notices)
    rows = "\n".join(f"{a} {a / 2} {c}" for a, c in zip(ANGLES, COUNTS, strict=True))
    _check_refused((CU + rows).encode(), "columns-ambiguous")
    _check_refused(_lines(ANGLES, d), "no-intensity")


@pytest.mark.parametrize("counts", [-COUNTS, 500 - COUNTS])
def test_negative_intensities_are_refused(counts):
    _check_refused(_lines(counts=counts), "negative-intensities")


def test_the_energy_of_a_fluorescence_is_no_wavelength():
    assert stated_wavelength("fluorescence energy 6.4 keV") is None
    assert stated_wavelength("beam energy 20 keV\nabsorption edge energy 7.112 keV") == pytest.approx(0.61992, abs=1e-4)
    _check_refused(_lines(header="# energy 20 keV\n# photon energy 12 keV\n"), "wavelength-contradictory")
