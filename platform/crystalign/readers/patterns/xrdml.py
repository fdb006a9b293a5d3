"""PANalytical's XRDML, schema 1.x and 2.x.

`<counts>` are what the detector counted: they are multiplied by the beam attenuation factors. `<intensities>` were
already multiplied by the instrument and are taken as they stand. (Both elements occur in files of either
schema; multiplying `<intensities>` again makes spikes of the strongest peaks.)
"""

from __future__ import annotations

import io
import itertools
import re
from typing import NamedTuple
from xml.etree import ElementTree as ET

import numpy as np
from numpy.typing import NDArray

from crystalign.errors import FileFormatError, SpectrumError
from crystalign.physics.diffraction import WAVELENGTHS
from crystalign.readers.patterns.scans import MAX_SCANS, PowderScan, Scan, combine, without_negative_angles
from crystalign.readers.patterns.wavelengths import Stated, mean_of_lines, of_anode, settle
from crystalign.readers.text.columns import MAX_BYTES

Array = NDArray[np.float64]

MAX_ELEMENTS, MAX_DEPTH = 200_000, 100
_POWDER_AXES = {"gonio", "2theta", "2theta-omega", "omega-2theta", "2theta-theta", "theta-2theta"}
_TILTS = ("Omega", "Psi", "Chi")
"""Axes that, if fixed, must have the same position in all scans that are added."""


class _MeasuredScan(NamedTuple):
    scan: Scan
    tilts: dict[str, float]
    temperature: float | None
    notices: tuple[str, ...]


def read_xrdml(data: bytes, wavelength: str | float | None = None) -> PowderScan:
    """All completed scans over 2θ, repeated ones added and ranges joined.

    The wavelength is Kα₁, Kβ or the mean of Kα₁ and Kα₂, as the file says is intended.

    Raises:
        FileFormatError: not XRDML, cut, too large.
        SpectrumError: no completed scan over 2θ, or scans that do not belong together.
    """
    root = parse_xml(data, "XRDML")
    if local(root) != "xrdMeasurements":
        raise FileFormatError(f"the XML is no XRDML: it begins with <{local(root)[:40]}>", reason="unreadable-xrdml")
    measurements = root.findall("{*}xrdMeasurement")
    measured: list[_MeasuredScan] = []
    left: list[str] = []
    wavelengths: list[Stated] = []
    for measurement in measurements:
        scans = measurement.findall("{*}scan")
        if len(measured) + len(scans) > MAX_SCANS:
            raise FileFormatError(f"the XRDML holds more than {MAX_SCANS} scans", reason="too-large")
        usable = [one for scan in scans if (one := _scan(scan, left)) is not None]
        measured += usable
        wavelengths += [_wavelength(measurement)] if usable else []
    if not measured:
        what = f" ({'; '.join(dict.fromkeys(left))})" if left else ""
        raise SpectrumError(f"the XRDML holds no completed scan over 2θ{what}", reason="no-scan")
    _check_together(measured, wavelengths, len(measurements))
    angle, counts, joined = combine([one.scan for one in measured])
    angle, counts, cut = without_negative_angles(angle, counts)
    stated = settle(wavelengths[0], wavelength)
    notices = [notice for one in measured for notice in one.notices]
    return PowderScan(
        angle, counts, stated.value, tuple(dict.fromkeys([*stated.notices, *notices, *left, *joined, *cut]))
    )


def local(element: ET.Element) -> str:
    """The name of an element without its namespace."""
    return element.tag.rpartition("}")[2]


def parse_xml(data: bytes, kind: str) -> ET.Element:
    """Parse an untrusted XML file: entities are refused, size and depth are limited.

    Raises:
        FileFormatError: it is too large, cut, or defines entities.
    """
    start = data.replace(b"\x00", b"")
    if len(data) > MAX_BYTES or b"<!DOCTYPE" in start or b"<!ENTITY" in start:
        raise FileFormatError(f"the {kind} is too large or defines entities; export it again", reason="unsafe-xml")
    _check_encoding(start[:200], kind)
    elements = depth = 0
    root: ET.Element | None = None
    try:
        parser = ET.iterparse(io.BytesIO(data), events=("start", "end"))  # noqa: S314 - entities are refused above
        for event, element in parser:
            depth += 1 if event == "start" else -1
            elements += event == "start"
            root = element if root is None else root
            if elements > MAX_ELEMENTS or depth > MAX_DEPTH:
                raise FileFormatError(f"the {kind} has too many elements", reason="too-large")
    except (ET.ParseError, LookupError, UnicodeError, ValueError) as error:
        if isinstance(error, FileFormatError):
            raise
        cut = "no element found" in str(error) or "unclosed" in str(error)
        message = (
            f"the {kind} is {'cut: it ends too early' if cut else 'not readable as XML'} ({error}); export it again"
        )
        raise FileFormatError(message, reason=f"unreadable-{kind.lower()}") from error
    assert root is not None, "a document without an element does not parse"
    return root


def _check_encoding(start: bytes, kind: str) -> None:
    """Refuse encodings that could hide an entity definition.

    Raises:
        FileFormatError: such an encoding.
    """
    match = re.search(rb"""encoding\s*=\s*["']([\w.:-]{1,40})["']""", start)
    name = match[1].decode() if match else "utf-8"
    try:
        plain = name.lower().startswith(("utf-16", "utf-32", "ucs-")) or "<!DOCTYPE".encode(name) == b"<!DOCTYPE"
    except (LookupError, UnicodeError):
        plain = False
    if not plain:
        message = f"the {kind} is encoded as {name}, which is not read; save it as UTF-8"
        raise FileFormatError(message, reason="unsafe-xml")


def _scan(scan: ET.Element, left: list[str]) -> _MeasuredScan | None:
    """Read a scan over 2θ. If it is left out, return None and append the reason to `left`."""
    status, swept = scan.get("status", "Completed"), scan.get("scanAxis", "Gonio")
    if status != "Completed":
        left.append(f"a scan of status {status[:20]!r} was left out")
        return None
    points = scan.find("{*}dataPoints")
    raw = None if points is None else _floats(points, "counts")
    given = None if points is None else _floats(points, "intensities")
    counts = raw if raw is not None else given
    if points is None or counts is None or len(counts) < 2:
        left.append("a scan without points was left out")
        return None
    angle = _positions(points, len(counts))
    if swept.replace(" ", "").lower() not in _POWDER_AXES or angle is None:
        left.append(f"a scan over {swept[:20]} at fixed 2θ is not a powder pattern" if angle is None else
                    f"a scan over {swept[:20]} is not a powder pattern")  # fmt: skip
        return None
    notices: list[str] = []
    factor = _attenuation(points, len(counts))
    if factor is not None and raw is not None:
        counts = counts * factor
        notices.append("counts were multiplied by the beam attenuation factors")
    elif factor is not None:
        notices.append("beam attenuation factors were not applied: <intensities> already contain them")
    divergence = _per_point(points, ("divergenceCorrections", "commonDivergenceCorrection"), len(counts))
    if raw is not None and divergence is not None and (divergence != divergence[0]).any():
        notices.append("divergence corrections were not applied to the counts")
    seconds = _per_point(points, ("countingTimes", "commonCountingTime"), len(counts))
    if seconds is not None and not (seconds > 0).all():
        raise SpectrumError("a counting time of the XRDML is not positive", reason="bad-counting-time")
    if _unit(points) == "cps":
        seconds = np.ones(len(counts))
    return _MeasuredScan(Scan(angle, counts, seconds), _tilts(points), _temperature(points), tuple(notices))


def _positions(points: ET.Element, count: int) -> Array | None:
    """Return 2θ (degrees) of each point; None if it is constant or not given.

    Raises:
        FileFormatError: another number of positions than of points.
    """
    axes = [axis for axis in points.findall("{*}positions") if (axis.get("axis") or "").lower() == "2theta"]
    if not axes:
        return None
    listed, start, end = (_floats(axes[0], name) for name in ("listPositions", "startPosition", "endPosition"))
    scale = 180.0 / np.pi if axes[0].get("unit", "deg").lower().startswith("rad") else 1.0
    if listed is not None:
        if len(listed) != count:
            message = f"the XRDML lists {len(listed)} positions for {count} intensities; it is damaged, export it again"
            raise FileFormatError(message, reason="unreadable-xrdml")
        return listed * scale if len(set(listed)) > 1 else None
    if start is None or end is None or start[0] == end[0]:
        return None
    angle: Array = np.linspace(start[0], end[0], count) * scale
    return angle


def _attenuation(points: ET.Element, count: int) -> Array | None:
    """Return the attenuation factors; None if no attenuator was in the beam."""
    names = ("beamAttenuationFactors", "commonBeamAttenuationFactor", "beamAttenuationFactor")
    factor = _per_point(points, names, count)
    if factor is None or (factor == 1.0).all():
        return None
    if not (factor > 0).all():
        raise SpectrumError("a beam attenuation factor of the XRDML is not positive", reason="bad-attenuation")
    return factor


def _per_point(points: ET.Element, names: tuple[str, ...], count: int) -> Array | None:
    """Return the numbers (count,) of the first of these elements that exists; one number holds for all points."""
    numbers = next((values for name in names if (values := _floats(points, name)) is not None), None)
    if numbers is None:
        return None
    if len(numbers) not in {1, count}:
        message = f"the XRDML holds {len(numbers)} <{names[0]}> for {count} points; it is damaged, export it again"
        raise FileFormatError(message, reason="unreadable-xrdml")
    return np.broadcast_to(numbers, (count,)).astype(np.float64)


def _floats(parent: ET.Element, name: str) -> Array | None:
    """The numbers of the first child of this name."""
    child = parent.find(f"{{*}}{name}")
    if child is None or not child.text or not child.text.strip():
        return None
    try:
        values = np.array([float(word) for word in child.text.split()])
    except ValueError as error:
        raise FileFormatError(f"<{name}> of the XRDML is not a list of numbers", reason="unreadable-xrdml") from error
    if not np.isfinite(values).all():
        raise FileFormatError(f"<{name}> of the XRDML holds a number that is not finite", reason="unreadable-xrdml")
    return values


def _unit(points: ET.Element) -> str:
    child = points.find("{*}counts")
    child = points.find("{*}intensities") if child is None else child
    return "" if child is None else child.get("unit", "").lower()


def _tilts(points: ET.Element) -> dict[str, float]:
    """Positions of the fixed axes."""
    tilts = {}
    for axis in points.findall("{*}positions"):
        common = _floats(axis, "commonPosition")
        if axis.get("axis") in _TILTS and common is not None:
            tilts[str(axis.get("axis"))] = float(common[0])
    return tilts


def _temperature(points: ET.Element) -> float | None:
    """The mean of the temperatures that the points state."""
    values = []
    for element in points.iter():
        if "temperature" in local(element).lower() or element.get("type", "").lower() == "temperature":
            try:
                values += [float(word) for word in (element.text or "").split()]
            except ValueError:
                continue
    return float(np.mean(values)) if values else None


def _check_together(scans: list[_MeasuredScan], wavelengths: list[Stated], measurements: int) -> None:
    """Refuse scans that are no repetitions or ranges of one measurement.

    Raises:
        SpectrumError: tilts, temperatures, wavelengths or samples differ.
    """
    advice = "export each scan to its own file"
    values = {stated.value for stated in wavelengths}
    if len(values) > 1:
        raise SpectrumError(f"the XRDML was measured at several wavelengths; {advice}", reason="several-measurements")
    for name in _TILTS:
        places = [one.tilts[name] for one in scans if name in one.tilts]
        if places and max(places) - min(places) > 0.01:
            span = f"{name} from {min(places):g}° to {max(places):g}°"
            message = f"the scans of the XRDML were made at {span}; {advice}"
            raise SpectrumError(message, reason="several-measurements")
    heat = [one.temperature for one in scans if one.temperature is not None]
    if heat and max(heat) - min(heat) > 5.0:
        message = f"the scans of the XRDML were made at temperatures from {min(heat):g} to {max(heat):g}; {advice}"
        raise SpectrumError(message, reason="several-measurements")
    spans = sorted((one.scan.two_theta.min(), one.scan.two_theta.max()) for one in scans)
    overlap = any(second[0] < first[1] for first, second in itertools.pairwise(spans))
    if measurements > 1 and overlap:
        message = f"the XRDML holds {measurements} measurements that overlap; {advice}"
        raise SpectrumError(message, reason="several-measurements")


def _wavelength(measurement: ET.Element) -> Stated:
    """Return the wavelength used; the mean of Kα₁ and Kα₂ if the file only names the anode."""
    used = measurement.find("{*}usedWavelength")
    lines = {} if used is None else {name: _line(used, name) for name in ("kAlpha1", "kAlpha2", "kBeta")}
    intended = "" if used is None else used.get("intended", "").replace(" ", "").lower()
    first, second, beta = (lines.get(name) for name in ("kAlpha1", "kAlpha2", "kBeta"))
    if intended == "k-beta" and beta:
        return Stated(beta)
    if intended == "k-alpha2" and second:
        return Stated(second)
    if first and second and intended == "k-alpha":
        assert used is not None
        ratio = _floats(used, "ratioKAlpha2KAlpha1")
        weight = 0.5 if ratio is None or not 0 < ratio[0] <= 1 else float(ratio[0])
        return Stated(mean_of_lines(first, second, weight))
    if first:
        return Stated(first)
    anode = measurement.find("{*}incidentBeamPath/{*}xRayTube/{*}anodeMaterial")
    symbol = "" if anode is None else (anode.text or "").strip()
    return of_anode(symbol) if f"{symbol.title()}Ka" in WAVELENGTHS else Stated(None)


def _line(used: ET.Element, name: str) -> float | None:
    """Return the wavelength (Å) of one line; None if it is missing or zero."""
    values = _floats(used, name)
    if values is None or values[0] <= 0:
        return None
    child = used.find(f"{{*}}{name}")
    unit = "" if child is None else child.get("unit", "").lower()
    value = float(values[0]) * (10.0 if unit in {"nm", "nanometer"} else 1.0)
    if not 0.05 <= value <= 5.0:
        raise SpectrumError(f"the XRDML states a wavelength {name} of {value} Å", reason="bad-wavelength")
    return value
