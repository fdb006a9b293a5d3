"""A file that a user sent: what kind it is, and what is in it. Runs in a process of the sandbox, never in the service.

Nothing here needs PyTorch, Ray or a web framework, so that such a process is small and quick to make.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from crystalign.errors import FileFormatError, QueryError
from crystalign.modalities import modality_class
from crystalign.modalities.query import resolved
from crystalign_serve.query_fields import file_kinds, tables

if TYPE_CHECKING:
    from crystalign.readers.structures.reading import Reading

MAX_SITES = 600
"""Atom sites of a structure that is sent: more cannot be encoded in time."""
MAX_POSITIONS = 50_000
"""Sites × symmetry operations of a structure that is sent."""
MAX_BYTES = 64 * 2**20
"""Of a file that is sent, unpacked."""
_PACKED = (".gz", ".bz2", ".xz")


def kinds() -> tuple[str, ...]:
    """What a file may be said to be; `auto` to have it guessed."""
    return ("auto", *file_kinds())


class Upload(NamedTuple):
    """A file that a user sent."""

    name: str
    data: bytes
    kind: str
    """One of `kinds()`."""
    wavelength: str | None


class Content(NamedTuple):
    """What a file is, as part of a query."""

    name: str
    """One of `kinds()`; `crystal` where the structure is in another format."""
    modality: str
    """Which encoder reads it."""
    value: Any
    """A value of the modality."""
    notices: tuple[str, ...]
    """What the reader took for granted, for the user to check."""


def guess_kind(name: str, data: bytes) -> str:
    """One of `kinds()`, or another kind of structure file, by the name of a file, then by its content.

    Raises:
        FileFormatError: neither tells.
    """
    from crystalign.readers.structures.structure_file import file_kind

    wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    head = data[:4000].decode("utf-16" if wide else "utf-8", errors="replace")
    head = head.replace("\r\n", "\n").replace("\r", "\n").lower()
    kind = _named(name, file_kind(name)) or _marked(head) or _sniffed(name, head)
    if not kind:
        raise FileFormatError(
            f"cannot tell what {name!r} is; choose its kind: {', '.join(kinds()[1:])}", reason="unknown-kind"
        )
    return kind


def _named(name: str, structure: str) -> str:
    """What the name says; of some files of calculations, such as a `vasprun.xml`, a search wants the spectrum."""
    leaf = name.lower()
    for ending in _PACKED:
        leaf = leaf.removesuffix(ending)
    spectra = tables()
    wanted = {own: kind for kind, (_, _, files) in spectra.items() for own in files.structure_kinds}
    return wanted.get(structure, structure) or next(
        (kind for kind, (_, _, files) in spectra.items() if files.suffixes and leaf.endswith(files.suffixes)), ""
    )


def _marked(head: str) -> str:
    """What words in the content say that no other kind has: tables first, for their formats may quote a structure."""
    tables_first = sorted(file_kinds().items(), key=lambda item: item[1].spec.is_structure)
    for kind, part in tables_first:
        if part.spec.files is not None and any(word in head for word in part.spec.files.marks):
            return kind
    return ""


def _sniffed(name: str, head: str) -> str:
    """What the content of a file without a telling name looks like."""
    from crystalign.readers.structures.poscar_shape import looks_like_poscar

    if head.lstrip("\ufeff \n\t").startswith(("{", "[")):
        return "json"
    if looks_like_poscar(head.split("\n", 8)):
        return "poscar"
    files = {kind: entry for kind, (_, _, entry) in tables().items()}
    for kind, entry in files.items():
        if entry.name_pattern and re.search(entry.name_pattern, name.lower()):
            return kind
    clues = sorted(
        ((clue, kind) for kind, entry in files.items() for clue in entry.clues), key=lambda found: -found[0].strength
    )
    found = next((kind for clue, kind in clues if re.search(clue.pattern, head)), "")
    first = re.findall(r"^[ \t]*(-?\d+(?:\.\d*)?(?:e[-+]?\d+)?)[\s,;]", head, re.MULTILINE)
    signed = next((kind for kind, entry in files.items() if entry.negative_x), "")
    return found or (signed if any(number.startswith("-") for number in first) else "")


def check_kind(upload: Upload) -> None:
    """Refuse a kind that does not exist.

    Raises:
        QueryError: there is none of this name.
    """
    if upload.kind not in kinds():
        raise QueryError(f"no kind of file {upload.kind!r}; there are {', '.join(kinds())}", reason="unknown-kind")


def require(modality: str, modalities: Mapping[str, Any]) -> None:
    """Refuse a modality that a model does not read.

    Raises:
        QueryError: it does not.
    """
    if modality not in modalities:
        hints = [hint for name in modalities if (hint := modality_class(name).instead_of.get(modality))]
        raise QueryError(
            ". ".join([f"this model does not read {modality}; it reads {', '.join(modalities)}", *hints]),
            reason="missing-modality",
        )


def content_of(upload: Upload) -> tuple[str, str]:
    """Name and modality of the part of a query that a file is, told without reading it whole.

    Raises:
        InputError: what it is cannot be told.
    """
    check_kind(upload)
    kind = guess_kind(upload.name, upload.data) if upload.kind == "auto" else upload.kind
    known = file_kinds()
    return (kind, known[kind].modality) if kind in known else ("crystal", "crystal")


def read_file(upload: Upload) -> Content:
    """What a file holds.

    Raises:
        InputError: it cannot be read as its kind.
    """
    name, modality = content_of(upload)
    if modality != "crystal":
        value = _read_table(upload, name)
        return Content(name, modality, value, tuple(getattr(value, "notices", ())))
    reading = _read_crystal(upload)
    return Content(name, modality, reading.crystal, reading.remarks)


def read_crystal(upload: Upload) -> Reading:
    """The crystal of a file that is, or is said to be, a structure, with remarks; of a calculation the last structure.

    Raises:
        InputError: it is none, or cannot be read.
    """
    from crystalign.readers.structures.structure_file import file_kind

    check_kind(upload)
    if upload.kind == "auto":  # a vasprun.xml is asked for its spectrum in a search, for its structure here
        modality = "crystal" if file_kind(upload.name) else content_of(upload)[1]
    else:
        modality = content_of(upload)[1]
    if modality != "crystal":
        raise FileFormatError(
            f"{upload.name!r} is not a structure but {modality}; send a CIF or a POSCAR", reason="unsupported-file"
        )
    return _read_crystal(upload)


def _read_crystal(upload: Upload) -> Reading:
    from crystalign.limits import Limits
    from crystalign.readers.structures.structure_file import read_structure

    kind = upload.kind if upload.kind in {"cif", "poscar"} else "auto"
    sizes = dict.fromkeys(("max_structure_bytes", "max_json_bytes", "max_grid_bytes"), MAX_BYTES)
    limits = Limits(max_sites=MAX_SITES, max_positions=MAX_POSITIONS, **sizes)
    return read_structure(upload.data, upload.name, kind=kind, limits=limits)


def _read_table(upload: Upload, kind: str) -> Any:
    _, _, files = tables()[kind]
    assert files.parse is not None
    options = {"wavelength": upload.wavelength or None} if files.takes_wavelength else {}
    return resolved(files.parse)(upload.data, name=upload.name, **options)
