"""A file that a user sent: what kind it is, and what is in it. Runs in a process of the sandbox, never in the service.

Nothing here needs PyTorch, Ray or a web framework, so that such a process is small and quick to make.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from crystalign.errors import FileFormatError, QueryError

if TYPE_CHECKING:
    from crystalign.sources.reading import Reading

KINDS = ("auto", "cif", "poscar", "dos", "xrd")
MAX_SITES = 600
"""Atom sites of a structure that is sent: more cannot be encoded in time."""
MAX_POSITIONS = 50_000
"""Sites × symmetry operations of a structure that is sent."""
MAX_BYTES = 64 * 2**20
"""Of a file that is sent, unpacked."""
SPECTRA = {
    "xrd": (".xy", ".xye", ".xrdml", ".ras", ".chi", ".fxye", ".fxy", ".brml", ".raw", ".uxd", ".udf", ".gsa", ".gsas"),
    "dos": (".dos", ".tdos"),
}
"""Endings of files of curves; others are told by what they hold."""
_PACKED = (".gz", ".bz2", ".xz")
_MARKS = {
    "xrd": ("<xrdmeasurement", "*ras_data_start"),
    "dos": ("<modeling",),
    "cif": ("_cell_length_a", "_atom_site"),
}
_WORDS = (
    ("xrd", re.compile(r"theta|2[ _-]?th(?![a-z])|tth(?![a-z])|2θ|wavelength|(?<![a-z])angles?(?![a-z])")),
    ("dos", re.compile(r"(?<![a-z])[lpt]?dos(?![a-z])|states */ *ev")),
    ("xrd", re.compile(r"(?:beam|photon) energ|(?<![a-z])kev(?![a-z])")),
    ("dos", re.compile(r"(?<![a-z])energ")),
)
"""What the header of a table of numbers says; the first that is found counts."""


class Upload(NamedTuple):
    """A file that a user sent."""

    name: str
    data: bytes
    kind: str
    """One of `KINDS`."""
    wavelength: str | None


class Content(NamedTuple):
    """What a file is, as part of a query."""

    name: str
    """`cif`, `poscar`, `dos` or `xrd`; `crystal` where the structure is in another format."""
    modality: str
    """Which encoder reads it."""
    value: Any
    """A `Crystal`, a `DensityOfStates` or a `MeasuredPattern`."""
    notices: tuple[str, ...]
    """What the reader took for granted, for the user to check."""


def guess_kind(name: str, data: bytes) -> str:
    """`cif`, `poscar`, `dos`, `xrd` or another kind of structure file, by the name of a file, then by its content.

    Raises:
        FileFormatError: neither tells.
    """
    from crystalign.sources.structures import file_kind

    wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    head = data[:4000].decode("utf-16" if wide else "utf-8", errors="replace")
    head = head.replace("\r\n", "\n").replace("\r", "\n").lower()
    found = next((kind for kind, words in _MARKS.items() if any(word in head for word in words)), "")
    kind = _named(name, file_kind(name)) or found or _sniffed(name, head)
    if not kind:
        message = f"cannot tell what {name!r} is; choose its kind: {', '.join(KINDS[1:])}"
        raise FileFormatError(message, reason="unknown-kind")
    return kind


def _named(name: str, structure: str) -> str:
    """What the name says; a `vasprun.xml` is asked for its spectrum."""
    leaf = name.lower()
    for ending in _PACKED:
        leaf = leaf.removesuffix(ending)
    spectrum = next((kind for kind, ends in SPECTRA.items() if leaf.endswith(ends)), "")
    return {"vasprun": "dos"}.get(structure, structure) or spectrum


def _sniffed(name: str, head: str) -> str:
    """What the content of a file without a telling name looks like."""
    from crystalign.sources.poscar_shape import looks_like_poscar

    if head.lstrip("\ufeff \n\t").startswith(("{", "[")):
        return "json"
    if looks_like_poscar(head.split("\n", 8)):
        return "poscar"
    if re.match(r"doscar\b|.*\.xml$", name.lower().rsplit("/", 1)[-1]):
        return "dos"
    found = next((kind for kind, words in _WORDS if words.search(head)), "")
    first = re.findall(r"^[ \t]*(-?\d+(?:\.\d*)?(?:e[-+]?\d+)?)[\s,;]", head, re.MULTILINE)
    return found or ("dos" if any(number.startswith("-") for number in first) else "")


def check_kind(upload: Upload) -> None:
    """Refuse a kind that does not exist.

    Raises:
        QueryError: there is none of this name.
    """
    if upload.kind not in KINDS:
        message = f"no kind of file {upload.kind!r}; there are {', '.join(KINDS)}"
        raise QueryError(message, reason="unknown-kind")


def require(modality: str, modalities: Mapping[str, Any]) -> None:
    """Refuse a modality that a model does not read.

    Raises:
        QueryError: it does not.
    """
    if modality not in modalities:
        message = f"this model does not read {modality}; it reads {', '.join(modalities)}"
        if modality == "text" and "text_embedding" in modalities:
            message += (
                ". It was trained on embeddings of texts, and the language model that makes them is no part of it: to "
                "ask in words, train a model with the modality text, for example with its encoder text-multimat and "
                "that language model as `pretrained`"
            )
        raise QueryError(message, reason="missing-modality")


def content_of(upload: Upload) -> tuple[str, str]:
    """Name and modality of the part of a query that a file is, told without reading it whole.

    Raises:
        InputError: what it is cannot be told.
    """
    check_kind(upload)
    kind = guess_kind(upload.name, upload.data) if upload.kind == "auto" else upload.kind
    if kind in SPECTRA:
        return kind, kind
    return (kind if kind in KINDS else "crystal"), "crystal"


def read_file(upload: Upload) -> Content:
    """What a file holds.

    Raises:
        InputError: it cannot be read as its kind.
    """
    name, modality = content_of(upload)
    if modality in SPECTRA:
        value = _read_spectrum(upload, modality)
        return Content(name, modality, value, tuple(getattr(value, "notices", ())))
    reading = _read_crystal(upload)
    return Content(name, modality, reading.crystal, reading.remarks)


def read_crystal(upload: Upload) -> Reading:
    """The crystal of a file that is, or is said to be, a structure, with remarks; of a calculation the last structure.

    Raises:
        InputError: it is none, or cannot be read.
    """
    from crystalign.sources.structures import file_kind

    check_kind(upload)
    if upload.kind == "auto":  # a vasprun.xml is asked for its spectrum in a search, for its structure here
        modality = "crystal" if file_kind(upload.name) else content_of(upload)[1]
    else:
        modality = upload.kind if upload.kind in SPECTRA else "crystal"
    if modality != "crystal":
        message = f"{upload.name!r} is not a structure but {modality}; send a CIF or a POSCAR"
        raise FileFormatError(message, reason="unsupported-file")
    return _read_crystal(upload)


def _read_crystal(upload: Upload) -> Reading:
    from crystalign.sources.limits import Limits
    from crystalign.sources.structures import read_structure

    kind = upload.kind if upload.kind in {"cif", "poscar"} else "auto"
    sizes = dict.fromkeys(("max_structure_bytes", "max_json_bytes", "max_grid_bytes"), MAX_BYTES)
    limits = Limits(max_sites=MAX_SITES, max_positions=MAX_POSITIONS, **sizes)
    return read_structure(upload.data, upload.name, kind=kind, limits=limits)


def _read_spectrum(upload: Upload, modality: str) -> Any:
    if modality == "dos":
        from crystalign.modalities.dos import parse_dos

        return parse_dos(upload.data, name=upload.name)
    from crystalign.modalities.xrd import parse_xrd

    return parse_xrd(upload.data, name=upload.name, wavelength=upload.wavelength or None)
