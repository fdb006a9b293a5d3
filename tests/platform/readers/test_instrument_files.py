"""Powder patterns in the files of Rigaku, Bruker and GSAS."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest

from crystalign.errors import FileFormatError, InputError
from crystalign.modalities.xrd import MeasuredPattern, parse_xrd

ANGLES = np.round(np.arange(10.0, 80.0, 0.05), 4)
COUNTS = np.round(100 + 9000 * np.exp(-(((ANGLES - 30) / 0.1) ** 2)) + 700 * np.exp(-(((ANGLES - 50) / 0.1) ** 2)))


def _check(data: bytes, name: str) -> MeasuredPattern:
    pattern = parse_xrd(data, name=name)
    np.testing.assert_allclose(pattern.two_theta, ANGLES, atol=2e-3)
    np.testing.assert_allclose(pattern.intensities, COUNTS, rtol=1e-6)
    return pattern


def _check_refused(data: bytes, reason: str, name: str) -> str:
    with pytest.raises(InputError) as caught:
        parse_xrd(data, name=name)
    assert caught.value.reason == reason, str(caught.value)
    return str(caught.value)


def _ras(*scans: tuple[np.ndarray, np.ndarray, np.ndarray], header: str = "") -> bytes:
    text = '*RAS_DATA_START\n*HW_XG_WAVE_LENGTH_ALPHA1 "1.540593"\n' + header
    for angles, counts, factor in scans:
        rows = "\n".join(f"{a:.4f} {c:.4f} {f:.4f}" for a, c, f in zip(angles, counts, factor, strict=True))
        text += f"*RAS_INT_START\n{rows}\n*RAS_INT_END\n"
    return (text + "*RAS_DATA_END\n").encode()


def test_the_attenuators_of_a_ras_are_applied_and_its_scans_joined():
    factor = np.where(np.abs(ANGLES - 30) < 1, 8.0, 1.0)
    pattern = _check(_ras((ANGLES, COUNTS / factor, factor)), "a.ras")
    assert any("attenuators" in notice for notice in pattern.notices)
    ones = np.ones(len(ANGLES))
    _check(_ras((ANGLES[:700], COUNTS[:700], ones[:700]), (ANGLES[700:], COUNTS[700:], ones[700:])), "a.ras")
    _check_refused(_ras((ANGLES, COUNTS, ones))[:-60], "truncated", "a.ras")
    _check_refused(_ras((ANGLES, COUNTS, ones), header='*MEAS_SCAN_AXIS_X "Omega"\n'), "not-a-powder-scan", "a.ras")


def test_gsas_points_are_read_by_the_manual_and_others_refused():
    head = "title Cu Ka1 wavelength 1.5406".ljust(80) + "\n"
    count = len(ANGLES)
    bank = f"BANK 1 {count} {count // 5} CONST {ANGLES[0] * 100:.2f} 5.00 0 0 "
    pairs = [f"{c:8.1f}{np.sqrt(c):8.2f}" for c in COUNTS]
    esd = "\n".join("".join(pairs[at : at + 5]) for at in range(0, count, 5))
    _check(f"{head}{bank}ESD\n{esd}\n".encode(), "a.gsa")
    std = "\n".join("".join(f" 1{c:6.0f}" for c in COUNTS[at : at + 10]) for at in range(0, count, 10))
    _check(f"{head}{bank}STD\n{std}\n".encode(), "a.gsa")
    _check_refused(f"{head}{bank}ESD\n{esd[:-400]}\n".encode(), "truncated", "a.gsa")
    _check_refused(f"{head}BANK 1 900 90 RALF 1000 2 1000 2 ALT\n{std}".encode(), "axis-unsupported", "a.gsa")
    _check_refused(f"{head}{bank}ESD\n{esd}\n{bank}ESD\n{esd}\n".encode(), "several-banks", "a.gsa")


def test_ranges_of_a_uxd_are_joined_as_rates():
    def part(first: int, last: int, time: int) -> str:
        rows = "\n".join(
            " ".join(f"{c * time:.0f}" for c in COUNTS[at : min(at + 8, last)]) for at in range(first, last, 8)
        )
        keys = (
            f"_DRIVE='COUPLED'\n_STEPTIME={time}\n_STEPSIZE=0.05\n_STEPCOUNT={last - first}\n_START={ANGLES[first]}\n"
        )
        return f"; Data for range\n{keys}_COUNTS\n{rows}\n"

    head = "; C:\\x.raw\n_FILEVERSION=2\n_ANODE='Cu'\n_WL1=1.540600\n_WL2=1.544390\n_WLRATIO=0.5\n"
    pattern = _check((head + part(0, 704, 1) + part(704, 1400, 4)).encode(), "a.uxd")
    assert pattern.wavelength == 1.5406
    rocking = (head + part(0, 1400, 1)).replace("COUPLED", "THETA")
    _check_refused(rocking.encode(), "not-a-powder-scan", "a.uxd")
    _check_refused((head + part(0, 1400, 1)).replace("STEPCOUNT=1400", "STEPCOUNT=1500").encode(), "truncated", "a.uxd")


def test_each_range_of_a_uxd_begins_where_it_says():
    def part(key: str, first: int, last: int) -> str:
        rows = "\n".join(f"{c:.0f}" for c in COUNTS[first:last])
        return f"_DRIVE='COUPLED'\n_STEPTIME=1\n_STEPSIZE=0.05\n{key}_COUNTS\n{rows}\n"

    head = "_FILEVERSION=2\n_WL1=1.540600\n"
    second = part(f"_2THETA={ANGLES[700]}\n", 700, 1400)
    _check(f"{head}{part('_START=10.0' + chr(10), 0, 700)}{second}".encode(), "a.uxd")
    missing = f"{head}{part('_START=10.0' + chr(10), 0, 700)}{part('', 700, 1400)}"
    _check_refused(missing.encode(), "bad-header", "a.uxd")


def test_gsas_counts_that_fill_their_fields_are_refused():
    head = "title wavelength 1.5406".ljust(80) + "\n"
    bank = f"BANK 1 {len(ANGLES)} 140 CONST {ANGLES[0] * 100:.2f} 5.00 0 0 STD\n"
    for counts in (COUNTS * 300, COUNTS + 2_000_000):
        rows = "\n".join("".join(f"{c:8.0f}" for c in counts[at : at + 10]) for at in range(0, len(counts), 10))
        _check_refused((head + bank + rows + "\n").encode(), "overflow", "a.gsa")


def test_the_files_of_a_brml_share_one_budget(monkeypatch):
    content = zipfile.ZipFile(io.BytesIO(_brml())).read("Experiment0/RawData0.xml")

    def archive(count: int) -> bytes:
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as target:
            for number in range(count):
                target.writestr(f"Experiment0/RawData{number}.xml", content)
        return stream.getvalue()

    assert parse_xrd(archive(2), name="a.brml").intensities.max() == 2 * COUNTS.max()
    _check_refused(archive(101), "too-large", "a.brml")
    monkeypatch.setattr("crystalign.readers.patterns.bruker.MAX_BYTES", int(1.5 * len(content)))
    _check_refused(archive(2), "too-large", "a.brml")


def _brml(absorber: float = 1.0, axis: str = "TwoTheta", length: int = 1) -> bytes:
    rows = zip(ANGLES, COUNTS, strict=True)
    data = "".join(f"<Datum>0.5,{absorber},{a},{a / 2},{c:.0f},25.1</Datum>" for a, c in rows)
    data += f'<RawDataView Start="4" Length="{length}"><Recording LogicName="Counter_1D" /></RawDataView>'
    info = f'<ScanAxisInfo AxisId="{axis}"><Start>{ANGLES[0]}</Start><Stop>{ANGLES[-1]}</Stop></ScanAxisInfo>'
    tube = '<WaveLengthAlpha1 Unit="\u00c5" Value="1.5406"/>'
    text = f"<RawData>{tube}<DataRoutes><DataRoute>{info}{data}</DataRoute></DataRoutes></RawData>"
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("Experiment0/RawData0.xml", text)
    return stream.getvalue()


def test_a_brml_is_read_where_it_is_clear_and_refused_where_not():
    assert _check(_brml(), "a.brml").wavelength == 1.5406
    _check_refused(_brml(absorber=7.5), "bad-attenuation", "a.brml")
    _check_refused(_brml(axis="Phi"), "no-scan", "a.brml")
    _check_refused(_brml(length=192), "no-scan", "a.brml")
    _check_refused(b"PK\x03\x04 broken", "unreadable-brml", "a.brml")


@pytest.mark.parametrize(
    "data", [b"RAW1.01\x00" + bytes(900), b"RAW4.00\x00" + bytes(900), b"V3RDsomething" + bytes(900)]
)
def test_a_binary_file_says_how_to_export_it(data):
    with pytest.raises(FileFormatError, match="export it as") as caught:
        parse_xrd(data, name="a.raw", wavelength="CuKa")
    assert caught.value.reason == "unsupported-file"
