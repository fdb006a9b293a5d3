"""GSAS powder data: a title, a `BANK` line that describes the points, and the points in hundredths of a degree."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from crystalign.errors import FileFormatError, SpectrumError
from crystalign.readers.patterns.scans import PowderScan, ascending, without_negative_angles
from crystalign.readers.patterns.wavelengths import find_wavelength, settle
from crystalign.readers.text.columns import decode_text, read_table

Array = NDArray[np.float64]

BANK = re.compile(r"^BANK\s+\d{1,9}\s+\d{1,9}(?=\s)", re.MULTILINE | re.IGNORECASE)
_MAX_POINTS = 1_000_000


def is_gsas(text: str) -> bool:
    """Whether a text has the `BANK` line of a GSAS file."""
    return BANK.search(text) is not None


def read_gsas(data: bytes, wavelength: str | float | None = None) -> PowderScan:
    """A GSAS file of constant wavelength: bins `CONST`, points `STD`, `ESD`, `FXY` or `FXYE`.

    The layout of `STD` and `ESD` is that of the GSAS manual (Larson & Von Dreele, LAUR 86-748): ten
    groups (I2, F6.0) of detectors and mean counts in a line, or five pairs (2F8.0) of intensity and its error.

    Raises:
        FileFormatError: fewer points than announced.
        SpectrumError: several banks, times of flight, or another kind of points.
    """
    text = decode_text(data)
    banks = list(BANK.finditer(text))
    if len(banks) != 1:
        message = f"the GSAS file holds {len(banks)} banks; write one of them to a file of its own"
        raise SpectrumError(message, reason="several-banks")
    header, rest = text[: banks[0].start()], text[banks[0].start() :]
    bank, _, body = rest.partition("\n")
    words = bank.split()
    binning, points = (words[4].upper() if len(words) > 4 else ""), int(words[2])
    kind = words[-1].upper() if re.fullmatch(r"[A-Z]+", words[-1].upper()) and len(words) > 5 else "STD"
    if not 1 <= points <= _MAX_POINTS:
        raise FileFormatError(
            f"the BANK line announces {points} points; 1 to {_MAX_POINTS:,} can be read", reason="bad-header"
        )
    if binning not in {"CONST", "CONS"} or kind not in {"STD", "ESD", "FXY", "FXYE"}:
        message = (
            f"the GSAS file holds points of kind {binning} {kind}; CONST with STD, ESD, FXY or FXYE (angles at one "
            "wavelength) can be read. Export 2θ and intensity as two columns"
        )
        raise SpectrumError(message, reason="axis-unsupported")
    body = "\n".join(line for line in body.splitlines() if not line.lstrip().startswith(("#", "!")))
    angle, counts = _listed(body) if kind in {"FXY", "FXYE"} else _stepped(body, words, kind, points)
    if len(angle) < points:
        message = f"the GSAS file announces {points} points and holds {len(angle)}; it is cut, export it again"
        raise FileFormatError(message, reason="truncated")
    angle, counts, turned = ascending(angle[:points] / 100.0, counts[:points])
    angle, counts, cut = without_negative_angles(angle, counts)
    stated = settle(find_wavelength(header), wavelength)
    notice = "angles were read in hundredths of a degree, as GSAS writes them"
    return PowderScan(angle, counts, stated.value, (*stated.notices, notice, *turned, *cut))


def _listed(body: str) -> tuple[Array, Array]:
    table = read_table(body).without_gaps((0, 1))
    return table.values[:, 0], table.values[:, 1]


def _stepped(body: str, words: list[str], kind: str, points: int) -> tuple[Array, Array]:
    """Read intensities in fields of fixed width; angles follow from start and step in the BANK line."""
    try:
        start, step = float(words[5]), float(words[6])
    except (IndexError, ValueError) as error:
        raise FileFormatError("the BANK line does not say start and step", reason="bad-header") from error
    if step <= 0:
        raise FileFormatError(f"the step of the BANK line is {step}; it must be positive", reason="bad-header")
    numbers: list[float] = []
    detectors: set[str] = set()
    full = True
    for line in body.splitlines():
        fields = [line[at : at + 8] for at in range(0, min(len(line.rstrip()), 80), 8)]
        for field in fields:
            number = field[2:] if kind == "STD" else field
            detectors.add(field[:2].strip())
            full &= len(number.strip()) == 6 and number.strip().isdecimal()
            try:
                numbers.append(float(number))
            except ValueError as error:
                message = f"{field!r} in the GSAS file is no number of kind {kind}"
                raise FileFormatError(message, reason="bad-row") from error
    if kind == "STD" and ((full and numbers) or ("" in detectors and len(detectors) > 1)):
        message = (
            "the counts of the GSAS file fill their fields of 6 characters, so that a digit may have gone into the "
            "number of detectors before them; export 2θ and intensity as two columns"
        )
        raise FileFormatError(message, reason="overflow")
    counts = np.array(numbers[::2] if kind == "ESD" else numbers)
    angle = np.asarray(start + step * np.arange(min(len(counts), points)), np.float64)
    return angle, counts[:points]
