"""Bruker's `.uxd` (text) and `.brml` (a zip of XML)."""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from collections.abc import Iterator
from xml.etree import ElementTree as ET

import numpy as np
from numpy.typing import NDArray

from crystalign.errors import FileFormatError, SpectrumError
from crystalign.readers.patterns.scans import MAX_SCANS, PowderScan, Scan, combine, without_negative_angles
from crystalign.readers.patterns.wavelengths import Stated, find_wavelength, settle
from crystalign.readers.patterns.xrdml import local, parse_xml
from crystalign.readers.text.columns import MAX_BYTES, read_table

Array = NDArray[np.float64]

MAX_ENTRIES, MAX_MEMBERS = 2_000, 100
"""Files of a `.brml`, and how many of them are read."""
_BLOCK = re.compile(r"^_(2THETA)?(COUNTS|CPS)[ \t]*=?[^\n]*$", re.MULTILINE | re.IGNORECASE)
_COUPLED = ("COUPLED", "LOCKED COUPLED", "TTHETA", "2THETA", "THETA-2THETA", "UNCOUPLED COUPLED")
_RAW = re.compile(r"(?:^|/)Experiment\d+/RawData\d+\.xml$", re.IGNORECASE)


def read_uxd(text: str, wavelength: str | float | None = None) -> PowderScan:
    """All ranges of a `.uxd`.

    Raises:
        FileFormatError: no points, or fewer than announced.
        SpectrumError: a range over something else than 2θ.
    """
    blocks = list(_BLOCK.finditer(text))
    if not blocks:
        raise FileFormatError("the .uxd holds no _COUNTS; export it again", reason="no-scan")
    if len(blocks) > MAX_SCANS:
        raise FileFormatError(f"the .uxd holds more than {MAX_SCANS} ranges", reason="too-large")
    scans: list[Scan] = []
    fields: dict[str, str] = {}
    before = 0
    for number, block in enumerate(blocks, 1):
        stop = blocks[number].start() if number < len(blocks) else len(text)
        own = _fields(text[before : block.start()])
        for key in ("START", "2THETA", "STEPCOUNT"):  # each range must state its own start and length
            fields.pop(key, None)
        fields |= own
        body = text[block.end() : stop]
        after = re.search(r"^[ \t]*[;_]", body, re.MULTILINE)
        before = block.end() + (after.start() if after else len(body))
        rows = body[: after.start()] if after else body
        scans.append(_range(rows, fields, angles=bool(block[1]), rate=block[2].upper() == "CPS", number=number))
    angle, counts, joined = combine(scans)
    angle, counts, cut = without_negative_angles(angle, counts)
    stated = settle(find_wavelength("\n".join(_BLOCK.split(text[: blocks[0].start()])[:1])), wavelength)
    return PowderScan(angle, counts, stated.value, (*stated.notices, *joined, *cut))


def _fields(text: str) -> dict[str, str]:
    return {k.upper(): v.strip(" '\"\r") for k, v in re.findall(r"^_(\w+)[ \t]*=[ \t]*(.*)$", text, re.MULTILINE)}


def _range(rows: str, fields: dict[str, str], *, angles: bool, rate: bool, number: int) -> Scan:
    drive = fields.get("DRIVE", "COUPLED").upper()
    if drive not in _COUPLED:
        message = f"range {number} of the .uxd moves {drive.lower()}, not 2θ: not a powder pattern"
        raise SpectrumError(message, reason="not-a-powder-scan")
    seconds = None
    if rate:
        seconds = 1.0
    elif "STEPTIME" in fields:
        seconds = _number(fields, "STEPTIME", number)
    values = read_table(rows, at_least=2 if angles else 1).values
    if angles:
        positions, counts = values[:, 0], values[:, 1]
    else:
        counts = values.ravel()[np.isfinite(values.ravel())]
        start = _number(fields, "START" if "START" in fields else "2THETA", number)
        positions = np.asarray(start + _number(fields, "STEPSIZE", number) * np.arange(len(counts)), np.float64)
    if "STEPCOUNT" in fields and len(counts) < int(_number(fields, "STEPCOUNT", number)):
        message = (
            f"range {number} of the .uxd announces {fields['STEPCOUNT']} points and holds {len(counts)}; it is cut"
        )
        raise FileFormatError(message, reason="truncated")
    if not np.isfinite(positions).all() or not np.isfinite(counts).all():
        raise SpectrumError(f"range {number} of the .uxd holds nan", reason="nan")
    return Scan(positions, counts, None if seconds is None else np.full(len(counts), seconds))


def _number(fields: dict[str, str], key: str, number: int) -> float:
    try:
        value = float(fields[key])
    except (KeyError, ValueError) as error:
        message = f"range {number} of the .uxd does not state _{key}"
        raise FileFormatError(message, reason="bad-header") from error
    if key in {"STEPTIME", "STEPSIZE"} and not value > 0:
        raise FileFormatError(f"range {number} of the .uxd states _{key} = {value}", reason="bad-header")
    return value


def read_brml(data: bytes, wavelength: str | float | None = None) -> PowderScan:
    """The scans over 2θ of a `.brml`.

    Raises:
        FileFormatError: no such archive, or too large.
        SpectrumError: nothing in it is surely a scan of 2θ and counts.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            roots = [parse_xml(content, "BRML") for content in _contents(archive, _members(archive))]
    except FileFormatError:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, OSError, ValueError) as error:
        raise FileFormatError(f"not readable as .brml: {error}; export it as .xy", reason="unreadable-brml") from error
    scans = [scan for root in roots for route in root.iter() if local(route) == "DataRoute"
             if (scan := _route(route)) is not None]  # fmt: skip
    if not scans:
        message = "the .brml holds no scan that is certainly 2θ and counts; export it as .xy"
        raise SpectrumError(message, reason="no-scan")
    angle, counts, joined = combine(scans)
    angle, counts, cut = without_negative_angles(angle, counts)
    stated = settle(_tube(roots[0]), wavelength)
    return PowderScan(angle, counts, stated.value, (*stated.notices, *joined, *cut))


def _members(archive: zipfile.ZipFile) -> list[str]:
    names = [entry.filename for entry in archive.infolist()]
    members = sorted({name for name in names if _RAW.search(name)})
    if not members:
        raise FileFormatError("the archive holds no RawData0.xml: it is no .brml", reason="unreadable-brml")
    experiments = {name.rpartition("/")[0] for name in members}
    if len(names) > MAX_ENTRIES or len(experiments) > 1:
        message = f"the .brml holds {len(experiments)} experiments in {len(names)} files; export one of them as .xy"
        raise FileFormatError(message, reason="several-measurements")
    if len(members) > MAX_MEMBERS:
        message = f"the .brml holds {len(members)} measurements; at most {MAX_MEMBERS} are read"
        raise FileFormatError(message, reason="too-large")
    return members


def _contents(archive: zipfile.ZipFile, names: list[str]) -> Iterator[bytes]:
    """Yield the contents of the files, at most `MAX_BYTES` in total."""
    left = MAX_BYTES
    for name in names:
        with archive.open(name) as stream:
            content = stream.read(left + 1)
        left -= len(content)
        if left < 0:
            raise FileFormatError(f"the .brml unpacks to more than {MAX_BYTES} bytes", reason="too-large")
        yield content


def _route(route: ET.Element) -> Scan | None:
    """Read a scan with points `time, absorber, positions ..., counts`; None if it is not a scan over 2θ.

    The column of 2θ is the one that runs from the stated start to the stated end. The absorber must be 1 at all
    points, because the meaning of other values is not documented.
    """
    axis = next((a for a in route.iter() if local(a) == "ScanAxisInfo" and _is_two_theta(a)), None)
    lines = [datum.text or "" for datum in route.iter() if local(datum) == "Datum"]
    if axis is None or len(lines) < 2:
        return None
    try:
        rows = [[float(word) for word in line.split(",")] for line in lines]
        start, stop, zero = (_text(axis, name) for name in ("Start", "Stop", "Reference"))
        ends = [float(start) + float(zero or 0), float(stop) + float(zero or 0)]
    except ValueError as error:
        message = "a <Datum> or an end of a scan in the .brml is not a number"
        raise FileFormatError(message, reason="unreadable-brml") from error
    counter = _counter(route, len(rows[0]))
    if len({len(row) for row in rows}) != 1 or len(rows[0]) < 4 or counter is None:
        return None
    values = np.array(rows)
    if not np.isfinite(values).all():
        raise FileFormatError("a <Datum> of the .brml holds nan", reason="unreadable-brml")
    near = [column for column in range(2, values.shape[1]) if column != counter and _spans(values[:, column], ends)]
    if len(near) != 1:
        return None
    if not (values[:, 1] == 1.0).all():
        message = "the .brml was measured with an absorber that changes; export it as .xy, with the absorber applied"
        raise SpectrumError(message, reason="bad-attenuation")
    seconds = values[:, 0] if (values[:, 0] > 0).all() else None
    return Scan(values[:, near[0]], values[:, counter], seconds)


def _is_two_theta(axis: ET.Element) -> bool:
    return bool({axis.get("AxisId"), axis.get("AxisName")} & {"TwoTheta", "2Theta"})


def _text(parent: ET.Element, name: str) -> str:
    return next((child.text or "" for child in parent if local(child) == name), "")


def _spans(column: Array, ends: list[float]) -> bool:
    """Whether a column rises from one end of the scan to the other."""
    steps = np.diff(column)
    slack = 0.01 + float(np.median(np.abs(steps)))
    return bool((steps > 0).all()) and abs(column[0] - ends[0]) < slack and abs(column[-1] - ends[1]) < slack


def _counter(route: ET.Element, width: int) -> int | None:
    """Return the column of the counts: the one named a counter, or the last if none is named; None if unclear."""
    views = [(view, " ".join(str(e.get("LogicName")) for e in view.iter())) for view in route.iter()
             if local(view) == "RawDataView"]  # fmt: skip
    counters = [view for view, name in views if "counter" in name.lower()]
    if not views:
        return width - 1
    if len(counters) != 1 or counters[0].get("Length") != "1" or not str(counters[0].get("Start")).isdecimal():
        return None
    at = int(str(counters[0].get("Start")))
    return at if 2 <= at < width else None


def _tube(root: ET.Element) -> Stated:
    for name in ("WaveLengthAlpha1", "WaveLengthAverage"):
        for element in root.iter():
            value = element.get("Value", "") if local(element) == name else ""
            if re.fullmatch(r"\d*\.\d+", value) and 0.05 <= float(value) * _length(element) <= 5.0:
                return Stated(float(value) * _length(element))
    return Stated(None)


def _length(element: ET.Element) -> float:
    return 10.0 if element.get("Unit", "").lower() == "nm" else 1.0
