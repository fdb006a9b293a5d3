"""Detect the kind of an uploaded file and parse it. This code runs in a sandbox process, never in the service.

It imports neither PyTorch nor Ray nor a web framework, which keeps sandbox processes small and fast to start.
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
"""Atom sites of an uploaded structure; larger structures cannot be encoded in time."""
MAX_POSITIONS = 50_000
"""Sites × symmetry operations of an uploaded structure."""
MAX_BYTES = 64 * 2**20
"""Size of an uploaded file after decompression (bytes)."""
_PACKED = (".gz", ".bz2", ".xz")


def kinds() -> tuple[str, ...]:
    """Values of the request field `kind`; with `auto` the service detects the kind."""
    return ("auto", *file_kinds())


class Upload(NamedTuple):
    """An uploaded file."""

    name: str
    """File name."""
    data: bytes
    """Content, possibly compressed."""
    kind: str
    """One of `kinds()`."""
    wavelength: str | None
    """Wavelength of a powder pattern, if the user gave one: Å, or an X-ray line such as `CuKa`."""


class Content(NamedTuple):
    """A parsed file."""

    name: str
    """One of `kinds()`; `crystal` for structures in other formats."""
    modality: str
    """Modality whose encoder reads the value."""
    value: Any
    """The parsed content, as a value of the modality."""
    notices: tuple[str, ...]
    """Assumptions of the parser, for the user to check."""


def guess_kind(name: str, data: bytes) -> str:
    """Detect the kind of a file from its name, then from its content.

    Returns:
        One of `kinds()`, or another structure format that the readers know.

    Raises:
        FileFormatError: neither name nor content identifies the kind.
    """
    from crystalign.readers.structures.structure_file import file_kind

    is_utf16 = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    head = data[:4000].decode("utf-16" if is_utf16 else "utf-8", errors="replace")
    head = head.replace("\r\n", "\n").replace("\r", "\n").lower()
    kind = _named(name, file_kind(name)) or _marked(head) or _sniffed(name, head)
    if not kind:
        raise FileFormatError(
            f"cannot tell what {name!r} is; choose its kind: {', '.join(kinds()[1:])}", reason="unknown-kind"
        )
    return kind


def _named(name: str, structure: str) -> str:
    """The kind by file name. For some calculation files, such as `vasprun.xml`, a search uses the spectrum."""
    leaf = name.lower()
    for ending in _PACKED:
        leaf = leaf.removesuffix(ending)
    spectra = tables()
    spectrum_kinds = {own: kind for kind, (_, _, files) in spectra.items() for own in files.structure_kinds}
    return spectrum_kinds.get(structure, structure) or next(
        (kind for kind, (_, _, files) in spectra.items() if files.suffixes and leaf.endswith(files.suffixes)), ""
    )


def _marked(head: str) -> str:
    """The kind by keywords that occur in no other kind. Tables come first, because they may embed a structure."""
    tables_first = sorted(file_kinds().items(), key=lambda item: item[1].spec.is_structure)
    for kind, part in tables_first:
        if part.spec.files is not None and any(word in head for word in part.spec.files.marks):
            return kind
    return ""


def _sniffed(name: str, head: str) -> str:
    """The kind by the shape of the content, for files whose name does not identify it."""
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
        ((clue, kind) for kind, entry in files.items() for clue in entry.clues), key=lambda pair: -pair[0].strength
    )
    by_clue = next((kind for clue, kind in clues if re.search(clue.pattern, head)), "")
    first = re.findall(r"^[ \t]*(-?\d+(?:\.\d*)?(?:e[-+]?\d+)?)[\s,;]", head, re.MULTILINE)
    signed = next((kind for kind, entry in files.items() if entry.negative_x), "")
    return by_clue or (signed if any(number.startswith("-") for number in first) else "")


def check_kind(upload: Upload) -> None:
    """Check that the requested kind exists.

    Raises:
        QueryError: there is no such kind.
    """
    if upload.kind not in kinds():
        raise QueryError(f"no kind of file {upload.kind!r}; available: {', '.join(kinds())}", reason="unknown-kind")


def require(modality: str, modalities: Mapping[str, Any]) -> None:
    """Check that the model reads a modality.

    Raises:
        QueryError: the model does not read it.
    """
    if modality not in modalities:
        hints = [hint for name in modalities if (hint := modality_class(name).instead_of.get(modality))]
        raise QueryError(
            ". ".join([f"this model does not read {modality}; it reads {', '.join(modalities)}", *hints]),
            reason="missing-modality",
        )


def content_of(upload: Upload) -> tuple[str, str]:
    """Kind and modality of a file, detected without parsing all of it.

    Raises:
        InputError: the kind cannot be detected.
    """
    check_kind(upload)
    kind = guess_kind(upload.name, upload.data) if upload.kind == "auto" else upload.kind
    fields = file_kinds()
    return (kind, fields[kind].modality) if kind in fields else ("crystal", "crystal")


def read_file(upload: Upload) -> Content:
    """Parse a file.

    Raises:
        InputError: it cannot be parsed as its kind.
    """
    name, modality = content_of(upload)
    if modality != "crystal":
        value = _read_table(upload, name)
        return Content(name, modality, value, tuple(getattr(value, "notices", ())))
    reading = _read_crystal(upload)
    return Content(name, modality, reading.crystal, reading.remarks)


def read_crystal(upload: Upload) -> Reading:
    """Parse a file as a structure, with remarks. A calculation gives its last structure.

    Raises:
        InputError: it is not a structure, or cannot be parsed.
    """
    from crystalign.readers.structures.structure_file import file_kind

    check_kind(upload)
    if upload.kind == "auto":  # a search uses the spectrum of a vasprun.xml, a prediction its structure
        modality = "crystal" if file_kind(upload.name) else content_of(upload)[1]
    else:
        modality = content_of(upload)[1]
    if modality != "crystal":
        raise FileFormatError(
            f"{upload.name!r} holds {modality}, not a structure; send a CIF or a POSCAR", reason="unsupported-file"
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
