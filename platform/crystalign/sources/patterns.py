"""Files of curves that people measure and export: columns of text, and PANalytical's `.xrdml`."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import numpy as np
from numpy.typing import NDArray

from crystalign.errors import FileFormatError, SpectrumError
from crystalign.physics.diffraction import WAVELENGTHS, parse_wavelength

Array = NDArray[np.float64]

MAX_BYTES = 32_000_000
_COMMENT = re.compile(r"^\s*(#|!|;|%|//|'|\"|\*|[A-Za-z_@/\[])")
_NUMBER = r"([-+]?\d*\.?\d+(?:[eE][-+]?\d+)?)"
_WAVELENGTH = re.compile(rf"(?:wave\s*-?length|lambda|λ|k-?alpha1?)\b[^0-9\n]{{0,24}}?{_NUMBER}", re.IGNORECASE)
_TUBE = re.compile(r"\b(Cu|Mo|Co|Fe|Cr|Ag)\s*-?\s*K[-\s]?(?:α|alpha|a)\s*([12]?)(?![0-9A-Za-z])", re.IGNORECASE)


def read_columns(data: bytes, *, at_least: int = 2) -> tuple[Array, str]:
    """The numbers of a text file and its other lines.

    Columns are separated by blanks, commas, semicolons or tabs. Comments, and what stands before
    the first row of numbers, are the header.

    Args:
        data: the file.
        at_least: columns that it must have.

    Returns:
        (M, columns), and the header.

    Raises:
        FileFormatError: empty, too large, not text, or rows that are not numbers.
    """
    if len(data) > MAX_BYTES:
        message = f"the file has {len(data) / 1e6:.0f} MB; a spectrum has less than {MAX_BYTES / 1e6:.0f} MB"
        raise FileFormatError(message, reason="too-large")
    if b"\x00" in data[:4096] and not data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise FileFormatError("the file is binary; export it as two columns of text", reason="not-text")
    text = data.decode("utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig", errors="replace")
    header, rows = [], []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        if _COMMENT.match(line) and not re.match(r"\s*(nan|inf)\b", line, re.IGNORECASE):
            header.append(line.strip())
            continue
        row = _row(line)
        if row is not None:
            rows.append(row)
        elif rows:
            message = f"line {number} is not a row of numbers: {line.strip()[:60]!r}"
            raise FileFormatError(message, reason="bad-row")
        else:
            header.append(line.strip())
    if not rows:
        raise FileFormatError("the file holds no row of numbers", reason="empty-file")
    width = min(len(row) for row in rows)
    if width < at_least:
        message = f"the file has {width} column of numbers; at least {at_least} are needed"
        raise FileFormatError(message, reason="too-few-columns")
    return np.array([row[:width] for row in rows]), "\n".join(header)


def _row(line: str) -> list[float] | None:
    """The numbers of a line; None if it holds anything else."""
    try:
        return [float(word) for word in re.split(r"[\s;,]+", line.strip()) if word]
    except ValueError:
        return None


def read_pattern(data: bytes, name: str) -> tuple[Array, Array, float | None]:
    """2θ in degrees, intensities, and the wavelength in Å if the file states one.

    Raises:
        FileFormatError: not such a file.
        SpectrumError: it holds no powder scan.
    """
    if name.lower().endswith((".xrdml", ".xml")) or data.lstrip()[:5] == b"<?xml":
        return read_xrdml(data)
    columns, header = read_columns(data)
    return columns[:, 0], columns[:, 1], stated_wavelength(header)


def stated_wavelength(header: str) -> float | None:
    """Å, where a header says `wavelength = 1.5406` or names a tube such as `Cu Kα`; None if it does not."""
    for found in _WAVELENGTH.finditer(header):
        value = float(found.group(1))
        if 0.1 <= value <= 3.0:
            return value
    tube = _TUBE.search(header)
    return None if tube is None else WAVELENGTHS.get(f"{tube.group(1).title()}Ka{tube.group(2)}")


def read_xrdml(data: bytes) -> tuple[Array, Array, float | None]:
    """The first completed scan of a PANalytical XRDML file.

    The wavelength is Kα₁, or the mean (2 Kα₁ + Kα₂) / 3 where the file says Kα₂ was there.

    Raises:
        FileFormatError: not XRDML.
        SpectrumError: no 2θ scan in it.
    """
    if len(data) > MAX_BYTES or b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        raise FileFormatError("the XRDML is too large or defines entities; export it again", reason="unsafe-xml")
    try:
        root = ET.fromstring(data)  # noqa: S314 - entities, the danger, are refused above
    except ET.ParseError as error:
        message = f"not readable as XRDML: {error}"
        raise FileFormatError(message, reason="unreadable-xrdml") from error
    points = root.find(".//{*}scan/{*}dataPoints")
    if points is None:
        raise SpectrumError("the XRDML holds no scan", reason="no-scan")
    counts = _floats(points, ("counts", "intensities"))
    axis = next((p for p in points.findall("{*}positions") if p.get("axis") == "2Theta"), None)
    if axis is None or counts is None:
        raise SpectrumError("the XRDML holds no scan of 2Theta with intensities", reason="no-scan")
    listed, ends = (
        _floats(axis, ("listPositions",)),
        (_floats(axis, ("startPosition",)), _floats(axis, ("endPosition",))),
    )
    if listed is not None:
        return listed, counts, _xrdml_wavelength(root)
    if ends[0] is None or ends[1] is None:
        raise SpectrumError("the XRDML does not say where its scan starts and ends", reason="no-scan")
    return np.linspace(ends[0][0], ends[1][0], len(counts)), counts, _xrdml_wavelength(root)


def _floats(parent: ET.Element, names: tuple[str, ...]) -> Array | None:
    """The numbers of the first child of one of these names."""
    for name in names:
        child = parent.find(f"{{*}}{name}")
        if child is not None and child.text and child.text.strip():
            try:
                return np.array([float(word) for word in child.text.split()])
            except ValueError as error:
                message = f"<{name}> of the XRDML is not a list of numbers"
                raise FileFormatError(message, reason="unreadable-xrdml") from error
    return None


def _xrdml_wavelength(root: ET.Element) -> float | None:
    used = root.find(".//{*}usedWavelength")
    if used is None:
        return None
    first, second = _floats(used, ("kAlpha1",)), _floats(used, ("kAlpha2",))
    if first is None:
        return None
    both = second is not None and second[0] > 0 and used.get("intended") == "K-Alpha"
    return parse_wavelength(float((2 * first[0] + second[0]) / 3 if both and second is not None else first[0]))
