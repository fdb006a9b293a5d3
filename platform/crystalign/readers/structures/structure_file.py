"""Read structures from the bytes of a file in any supported format; the entry point for untrusted files.

`read_structures` returns all structures of a file, `read_structure` and `structure_of_file` the first one.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Collection, Iterator

from crystalign.crystal import Crystal
from crystalign.errors import FileFormatError, InputError
from crystalign.limits import Limits
from crystalign.readers.compression import decompress, without_suffix
from crystalign.readers.structures.decoding import decode
from crystalign.readers.structures.poscar_shape import looks_like_poscar
from crystalign.readers.structures.reading import Reading

KINDS = ("cif", "poscar", "xdatcar", "extxyz", "json", "vasprun", "chgcar")
GRIDS = frozenset({"vasprun", "chgcar"})
"""Kinds whose files hold grids beside the structure and may be large."""
Structures = Iterator[tuple[str, Reading | InputError]]
"""(suffix of the id, structure or what is wrong with it): the first has no suffix, the next `#2`, `#3`."""


def file_kind(name: str) -> str:
    """One of `KINDS` by the name of the file, or an empty string."""
    leaf = without_suffix(name.rsplit("/", 1)[-1]).lower()
    if leaf.startswith("._"):
        return ""  # a resource fork of macOS beside the file of that name
    if re.match(r"chgcar(?![a-z])", leaf):
        return "chgcar"
    if re.search(r"vasprun.*\.xml(\.\w+)?$", leaf):
        return "vasprun"
    endings = {".cif": "cif", ".mcif": "cif", ".cif.txt": "cif", ".vasp": "poscar", ".poscar": "poscar"}
    endings |= {".contcar": "poscar", ".xyz": "extxyz", ".extxyz": "extxyz", ".json": "json", ".jsonl": "json"}
    for ending, kind in endings.items():
        if leaf.endswith(ending):
            return kind
    if leaf.startswith("xdatcar"):
        return "xdatcar"
    return "poscar" if re.search(r"(?<![a-z])(poscar|contcar)(?![a-z])", leaf) else ""


def sniffed_kind(data: bytes) -> str:
    """One of `KINDS` by what a file holds, or an empty string."""
    head = data[:20_000].decode("latin-1")
    if re.search(r"^[ \t]*data_", head, re.MULTILINE | re.IGNORECASE) and "_cell_" in head.lower():
        return "cif"
    if head.lstrip("ï»¿ \t\r\n")[:1] in {"{", "["}:
        return "json"
    if "<modeling" in head:
        return "vasprun"
    lines = head.splitlines()
    if len(lines) > 1 and lines[0].strip().isdigit() and "lattice=" in lines[1].lower():
        return "extxyz"
    return "poscar" if looks_like_poscar(lines) else ""


def read_structures(data: bytes, name: str, *, kind: str = "auto", limits: Limits | None = None) -> Structures:
    """Every structure of a file.

    Args:
        data: the file, perhaps compressed.
        name: of the file, for its kind and for messages.
        kind: one of `KINDS`; `auto` decides by the name, then by the content.
        limits: bounds on sizes.

    Raises:
        InputError: the file as a whole cannot be read.
    """
    limits = limits or Limits()
    kind = kind if kind != "auto" else file_kind(name)
    plain = decompress(data, limit=limits.bytes_of(kind), name=name)
    kind = kind or sniffed_kind(plain)
    if kind not in _READERS:
        formats = "CIF, POSCAR, XDATCAR, extended XYZ, JSON, vasprun.xml and CHGCAR"
        message = f"neither name nor content of {name!r} is that of a known structure format; these are {formats}"
        raise FileFormatError(message, reason="unsupported-file")
    return _READERS[kind](plain, name, limits)


def read_structure(
    data: bytes, name: str, *, kind: str = "auto", limits: Limits | None = None, accept: Collection[str] = ()
) -> Reading:
    """Read the first structure of a file, and check that atoms do not overlap and that it agrees with its file.

    Args:
        data: the file, perhaps compressed.
        name: of the file.
        kind: one of `KINDS`, or `auto`.
        limits: bounds on sizes.
        accept: reasons of `crystalign.readers.structures.reading.OBJECTIONS` to accept.

    Raises:
        InputError: it holds no structure, or one that cannot be used.
    """
    limits = limits or Limits()
    first = next(read_structures(data, name, kind=kind, limits=limits), None)
    if first is None:
        raise FileFormatError(f"{name!r} holds no structure", reason="no-structure")
    _, reading = first
    if isinstance(reading, InputError):
        raise reading
    reading = reading.accepted(accept)
    reading.crystal.check(max_sites=limits.max_sites, min_distance=limits.min_distance)
    return reading


def crystal_from_cif(text: str, *, accept: Collection[str] = ()) -> Crystal:
    """The first structure of a CIF, compared with the formula, Z, volume, density and symmetry that it states.

    Args:
        text: the CIF.
        accept: contradictions to accept, reasons of `crystalign.readers.structures.reading.OBJECTIONS`.

    Raises:
        FileFormatError: not a CIF.
        CrystalError: there is no structure, it is broken, or it contradicts its file.
    """
    return _first_structure(text, "cif").accepted(accept).crystal


def crystal_from_poscar(text: str) -> Crystal:
    """The structure of a VASP POSCAR that names its elements.

    Raises:
        CrystalError: not a POSCAR, or its elements are not named.
    """
    return _first_structure(text, "poscar").crystal


def _first_structure(text: str, kind: str) -> Reading:
    """Return the first structure of a text, with its objections and without the usual limit on sites.

    Raises:
        InputError: there is none, or it is broken.
    """
    wide = Limits(max_sites=100_000, max_positions=10_000_000)
    _, reading = next(_READERS[kind](text.encode("utf-8", "replace"), f"the {kind.upper()}", wide))
    if isinstance(reading, InputError):
        raise reading
    return reading


def structure_of_file(data: bytes, name: str, *, kind: str = "auto", limits: Limits | None = None) -> Crystal:
    """The crystal of `read_structure`.

    Raises:
        InputError: it holds no structure, or one that cannot be used.
    """
    return read_structure(data, name, kind=kind, limits=limits).crystal


# --- one reader per kind --------------------------------------------------------------------------------------------


def _cif(data: bytes, name: str, limits: Limits) -> Structures:
    from crystalign.readers.structures.cif import read_cif

    readings = read_cif(decode(data, name), max_sites=limits.max_sites, max_positions=limits.max_positions)
    for number, (_, reading) in enumerate(readings, start=1):
        yield f"#{number}" if number > 1 else "", reading


def _poscar(data: bytes, name: str, limits: Limits) -> Structures:
    from crystalign.readers.structures.poscar import read_poscar

    yield "", _attempt(lambda: read_poscar(decode(data, name), max_sites=limits.max_sites))


def _xdatcar(data: bytes, name: str, limits: Limits) -> Structures:
    from crystalign.readers.structures.poscar import last_frame, read_poscar

    yield "", _attempt(lambda: read_poscar(last_frame(decode(data, name)), max_sites=limits.max_sites))


def _extxyz(data: bytes, name: str, limits: Limits) -> Structures:
    from crystalign.readers.structures.extxyz import read_extxyz

    yield "", _attempt(lambda: read_extxyz(decode(data, name), max_sites=limits.max_sites))


def _json(data: bytes, name: str, limits: Limits) -> Structures:
    from crystalign.readers.structures.documents import read_document
    from crystalign.readers.structures.json_entries import layout_of, scan

    text = decode(data, name)
    try:
        for number, entry in enumerate(scan(text, layout_of(text), stem="entry"), start=1):
            suffix = "" if number == 1 else f"#{number}"
            yield suffix, _attempt(functools.partial(read_document, entry.value, max_sites=limits.max_sites))
    except (ValueError, RecursionError) as error:
        message = f"{name} is not readable as JSON: {str(error)[:200]}"
        raise FileFormatError(message, reason="unreadable-json") from error


def _vasprun(data: bytes, name: str, limits: Limits) -> Structures:  # noqa: ARG001 (the signature of a reader)
    from crystalign.readers.structures.vasp import structure_of_vasprun

    yield "", _attempt(lambda: structure_of_vasprun(data))


def _chgcar(data: bytes, name: str, limits: Limits) -> Structures:
    from crystalign.readers.structures.vasp import structure_of_chgcar

    yield "", _attempt(lambda: structure_of_chgcar(data, name, max_sites=limits.max_sites))


def _attempt(read: Callable[[], Crystal | Reading]) -> Reading | InputError:
    try:
        result = read()
    except InputError as error:
        return error
    except (
        ArithmeticError,
        LookupError,
        TypeError,
        ValueError,
    ) as error:  # the other structures of the file may be readable
        return FileFormatError(f"the structure cannot be read: {type(error).__name__}: {error}", reason="unforeseen")
    return result if isinstance(result, Reading) else Reading(result)


_READERS: dict[str, Callable[[bytes, str, Limits], Structures]] = {
    "cif": _cif,
    "poscar": _poscar,
    "xdatcar": _xdatcar,
    "extxyz": _extxyz,
    "json": _json,
    "vasprun": _vasprun,
    "chgcar": _chgcar,
}
