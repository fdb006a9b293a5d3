"""Rigaku's `.ras`: scans of angle, counts and attenuator, each with a header of `*KEY "value"` lines."""

from __future__ import annotations

import re

import numpy as np

from crystalign.errors import FileFormatError, SpectrumError
from crystalign.readers.patterns.scans import MAX_SCANS, PowderScan, Scan, combine, without_negative_angles
from crystalign.readers.patterns.wavelengths import Stated, find_wavelength, settle
from crystalign.readers.text.columns import decode_text, read_table

_START, _END = "*RAS_INT_START", "*RAS_INT_END"
_SWEPT = re.compile(r"2\s*-?_?\s*theta|twotheta|2\u03b8|theta\s*/\s*2|^$", re.IGNORECASE)


def read_ras(data: bytes, wavelength: str | float | None = None) -> PowderScan:
    """All scans of a `.ras`, each counted intensity multiplied by its attenuator.

    Raises:
        FileFormatError: a scan that is cut, or without rows of numbers.
        SpectrumError: a scan over something else than 2θ.
    """
    text = decode_text(data)
    parts = text.split(_START)
    if len(parts) < 2:
        raise FileFormatError(f"the .ras holds no {_START}; export it again", reason="no-scan")
    if len(parts) - 1 > MAX_SCANS:
        raise FileFormatError(f"the .ras holds more than {MAX_SCANS} scans", reason="too-large")
    headers, scans, notices = [parts[0]], [], []
    for number, part in enumerate(parts[1:], 1):
        rows, marker, after = part.partition(_END)
        if not marker:
            message = f"scan {number} of the .ras has no {_END}: the file is cut; export it again"
            raise FileFormatError(message, reason="truncated")
        scan, scan_notices = _scan(rows, _fields(headers[-1]), number)
        scans.append(scan)
        notices += scan_notices
        headers.append(after)
    stated = _wavelength(headers)
    angle, counts, joined = combine(scans)
    angle, counts, cut = without_negative_angles(angle, counts)
    stated = settle(stated, wavelength)
    return PowderScan(angle, counts, stated.value, (*stated.notices, *dict.fromkeys(notices), *joined, *cut))


def _fields(header: str) -> dict[str, str]:
    """Return the values of a header by upper-case key."""
    return {key.upper(): value.strip(' "\r') for key, value in re.findall(r"^\*(\w+)[ \t]+(.*)$", header, re.MULTILINE)}


def _scan(rows: str, fields: dict[str, str], number: int) -> tuple[Scan, list[str]]:
    swept = fields.get("MEAS_SCAN_AXIS_X_INTERNAL", fields.get("MEAS_SCAN_AXIS_X", ""))
    if not _SWEPT.search(swept):
        message = f"scan {number} of the .ras runs over {swept}, not over 2θ: not a powder pattern"
        raise SpectrumError(message, reason="not-a-powder-scan")
    table = read_table(rows).without_gaps((0, 1))
    values = table.values
    notices = list(table.notices)
    factor = values[:, 2] if values.shape[1] > 2 else np.ones(len(values))
    if not (np.isfinite(factor).all() and (factor > 0).all()):
        message = f"scan {number} of the .ras has attenuators that are not positive numbers"
        raise SpectrumError(message, reason="bad-attenuation")
    if (factor != 1).any():
        notices.append("counts were multiplied by the attenuators in the third column")
    return Scan(values[:, 0], values[:, 1] * factor, _seconds(fields, len(values))), notices


def _seconds(fields: dict[str, str], points: int) -> np.ndarray | None:
    """Return the counting time of each point, 1 for counts per second; None if it is not stated."""
    unit = fields.get("MEAS_SCAN_UNIT_Y", "").lower()
    if "cps" in unit or "/s" in unit:
        return np.ones(points)
    try:
        step, speed = float(fields["MEAS_SCAN_STEP"]), float(fields["MEAS_SCAN_SPEED"])
    except (KeyError, ValueError):
        return None
    if not (0 < step < 10 and speed > 0):
        return None
    stepwise = "sec" in fields.get("MEAS_SCAN_SPEED_UNIT", "").lower()
    return np.full(points, speed if stepwise else 60.0 * step / speed)


def _wavelength(headers: list[str]) -> Stated:
    """Return the wavelength of the first header that states one; the others must agree.

    Raises:
        SpectrumError: scans at different wavelengths.
    """
    stating = [stated for header in headers if (stated := find_wavelength(header)).value is not None]
    values = [stated.value for stated in stating if stated.value is not None]
    if values and max(values) > 1.001 * min(values):
        message = (
            f"the scans of the .ras were measured at {min(values):.5f} and {max(values):.5f} Å; export one of them"
        )
        raise SpectrumError(message, reason="wavelength-contradictory")
    return stating[0] if stating else Stated(None)
