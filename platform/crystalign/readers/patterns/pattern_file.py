"""Files of powder patterns that people measure and export: which reader a file belongs to."""

from __future__ import annotations

from crystalign.errors import FileFormatError
from crystalign.readers.compression import decompress, without_suffix
from crystalign.readers.patterns.bruker import read_brml, read_uxd
from crystalign.readers.patterns.gsas import is_gsas, read_gsas
from crystalign.readers.patterns.powder import read_text_pattern
from crystalign.readers.patterns.rigaku import read_ras
from crystalign.readers.patterns.scans import PowderScan
from crystalign.readers.patterns.wavelengths import stated_wavelength
from crystalign.readers.patterns.xrdml import read_xrdml
from crystalign.readers.text.columns import MAX_BYTES, decode_text, read_columns

__all__ = ["MAX_BYTES", "PowderScan", "read_columns", "read_pattern", "stated_wavelength"]

_EXPORT = {
    b"RAW1.01": "Bruker's binary .raw",
    b"RAW4.00": "Bruker's binary .raw",
    b"RAW2": "Bruker's binary .raw",
    b"RAW ": "Siemens' binary .raw",
    b"FI\x00\x00": "Rigaku's binary .raw",
    b"HR-XRDScan": "PANalytical's binary .rd",
    b"V3RD": "Philips' binary .rd",
    b"V5RD": "Philips' binary .rd",
}
"""First bytes of binary files that no kept library reads."""


def read_pattern(data: bytes, name: str, wavelength: str | float | None = None) -> PowderScan:
    """The powder pattern of a file.

    Args:
        data: the file.
        name: its name; the content decides where it shows what the file is.
        wavelength: what the user says it is, for a file that does not.

    Raises:
        FileFormatError: not such a file.
        SpectrumError: it holds no powder scan.
    """
    data = decompress(data, limit=MAX_BYTES, name=name or "the file")
    leaf, head = without_suffix(name).lower(), data[:4096].replace(b"\x00", b"").lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n")
    for mark, kind in _EXPORT.items():
        if data.startswith(mark):
            raise FileFormatError(f"{kind} cannot be read; export it as .xy, .csv or .xrdml", reason="unsupported-file")
    if data.startswith(b"PK\x03\x04"):
        if leaf.endswith(".rasx"):
            raise FileFormatError(".rasx cannot be read; export it as .ras or .xy", reason="unsupported-file")
        return read_brml(data, wavelength)
    if leaf.endswith(".xrdml") or head.startswith(b"<?xml") or b"<xrdMeasurement" in head:
        return read_xrdml(data, wavelength)
    if leaf.endswith(".brml"):
        raise FileFormatError("the .brml is no zip archive: it is damaged; export it again", reason="unreadable-brml")
    if head.startswith(b"*RAS_") or b"*RAS_INT_START" in data[:2_000_000]:
        return read_ras(data, wavelength)
    text = decode_text(data)
    if "_FILEVERSION" in text[:4096].upper() or "_2THETACOUNTS" in text or "_2THETACPS" in text:
        return read_uxd(text, wavelength)
    if is_gsas(text):
        return read_gsas(data, wavelength)
    return read_text_pattern(data, wavelength)
