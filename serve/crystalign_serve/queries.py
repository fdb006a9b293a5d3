"""From what a user sent to what an encoder reads: parse, check, featurise, remember a curve to draw.

Everything here is ordinary blocking code; the API runs it in threads.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crystalign.crystal import Crystal
from crystalign.errors import CrystalError, FileFormatError, QueryError, SpectrumError
from crystalign.index.filters import Fields, parse_filter
from crystalign.modalities import Features, Modality
from crystalign_serve.curves import Curve, dos_curve, measured_curve
from crystalign_serve.requests import DosQuery, Query, XrdQuery

MAX_ATOM_LINES = 600
"""Atom sites that a structure file may list: more cannot be encoded, and would take long to parse."""
MAX_LINES = 200_000
"""Lines of a CIF that are looked at: the limit on the body allows few more."""
MAX_POSITIONS = 50_000
"""Sites × symmetry operations of a CIF."""
KINDS = ("auto", "cif", "poscar", "dos", "xrd")
ACCEPTS: dict[str, tuple[str, ...]] = {
    "crystal": ("file", "id"),
    "dos": ("file",),
    "xrd": ("file",),
    "text": ("text",),
    "composition": ("formula",),
}
"""How a query of each modality may be given; a modality that is not here cannot be asked for."""


class Part(NamedTuple):
    """One part of a query, ready for its encoder."""

    name: str
    """As the request calls it."""
    modality: str
    """Which encoder reads it; the modality of the index for an id."""
    features: Features | None
    """None for an id, whose vector is stored."""
    curve: Curve | None
    """What to draw beside the results."""
    value: Any = None
    """What was parsed; None for an id."""


class Upload(NamedTuple):
    """A file that a user sent."""

    name: str
    data: bytes
    kind: str
    """One of `KINDS`."""
    wavelength: str | None


def parts_of(query: Query, modalities: Mapping[str, Modality[Any]], index_modality: str) -> list[Part]:
    """Every part of a JSON query, parsed and featurised.

    Raises:
        InputError: a part that cannot be used.
        QueryError: the model lacks a modality that is asked for.
    """
    parts = []
    for name, value in query.parts.items():
        if name == "id":
            parts.append(Part(name, index_modality, None, None))
            continue
        modality = _MODALITY[name]
        _require(modality, modalities)
        parsed = _READERS[name](value)
        parts.append(_part(name, modality, parsed, modalities))
    return parts


def part_of_file(upload: Upload, modalities: Mapping[str, Modality[Any]]) -> Part:
    """The query that a file is.

    Raises:
        InputError: a file that cannot be read as its kind.
        QueryError: the model lacks the modality.
    """
    kind = upload.kind if upload.kind != "auto" else guess_kind(upload.name, upload.data)
    if kind not in _FILE_READERS:
        message = f"no kind of file {kind!r}; there are {', '.join(KINDS)}"
        raise QueryError(message, reason="unknown-kind")
    _require(_MODALITY[kind], modalities)
    return _part(kind, _MODALITY[kind], _FILE_READERS[kind](upload._replace(kind=kind)), modalities)


def warm_up(fields: Fields) -> None:
    """Import what parsers need, so that the first request does not wait for it."""
    parse_filter("nelements>=1", fields)
    _composition("NaCl")
    read_crystal("poscar", "Cu\n1.0\n2.5 0 0\n0 2.5 0\n0 0 2.5\nCu\n1\ndirect\n0 0 0\n")


def _require(modality: str, modalities: Mapping[str, Modality[Any]]) -> None:
    if modality not in modalities:
        message = f"this model does not read {modality}; it reads {', '.join(modalities)}"
        if modality == "text" and "text_embedding" in modalities:
            message += (
                ". It was trained on embeddings of texts, and the language model that makes them is no part of it: to "
                "ask in words, train a model with the modality text, for example with its encoder text-multimat and "
                "that language model as `pretrained`"
            )
        raise QueryError(message, reason="missing-modality")


def _part(name: str, modality: str, value: Any, modalities: Mapping[str, Modality[Any]]) -> Part:
    features = modalities[modality].featurise(value)
    curve = _CURVES[modality](value) if modality in _CURVES else None
    return Part(name, modality, features, curve, value)


def fuse(vectors: list[NDArray[np.float32]], weights: list[float]) -> NDArray[np.float32]:
    """The direction q = Σ_m w_m q_m / ‖Σ_m w_m q_m‖, so that q·c ranks like the weighted sum of the single scores.

    Raises:
        QueryError: the parts cancel each other.
    """
    total = np.sum([w * v.astype(np.float64) for v, w in zip(vectors, weights, strict=True)], axis=0)
    length = float(np.linalg.norm(total))
    if not np.isfinite(length) or length < 1e-6:
        message = "the parts of the query cancel each other: no direction is left to search in"
        raise QueryError(message, reason="empty-direction")
    fused: NDArray[np.float32] = (total / length).astype(np.float32)
    return fused


# --- one reader per part ----------------------------------------------------------------------------------------------


def read_crystal(kind: str, text: str) -> Crystal:
    """The crystal in the text of a CIF or a POSCAR: what is too large is refused before parsing, what overlaps after.

    Raises:
        CrystalError: it is too large, or not a crystal.
    """
    lines, operations = count_cif(text) if kind == "cif" else (text.count("\n"), 1)
    if lines > MAX_ATOM_LINES or lines * operations > MAX_POSITIONS:
        message = (
            f"the structure has {lines} atom sites and {operations} symmetry operations; at most "
            f"{MAX_ATOM_LINES} sites and {MAX_POSITIONS} positions are read. Send the primitive cell"
        )
        raise CrystalError(message, reason="too-many-sites")
    return (Crystal.from_cif if kind == "cif" else Crystal.from_poscar)(text).check()


def count_cif(text: str) -> tuple[int, int]:
    """How many atom sites and symmetry operations a CIF lists, without parsing it.

    Sites are the rows of the loop that holds `_atom_site_fract_x`; an operation reads like `-x, y+1/2, z`.
    """
    sites = operations = 0
    in_sites = False
    for line in text.split("\n", MAX_LINES):
        start = line[:24].lstrip().lower()
        if start.startswith(("loop_", "data_")):
            in_sites = False
        elif start.startswith("_"):
            in_sites = start.startswith("_atom_site_fract_x") or (in_sites and start.startswith("_atom_site_"))
        elif in_sites:
            sites += bool(start)
        elif line.count(",") >= 2:
            terms = line.lower().split(",")[-3:]
            operations += all(any(axis in term for axis in "xyz") for term in terms)
    return sites, max(1, operations)


def _text(value: str) -> Any:
    from crystalign.modalities.text import Text

    return Text(value)


def _composition(value: str) -> Any:
    from crystalign.modalities.composition import parse_formula

    return parse_formula(value)


def _dos(value: DosQuery) -> Any:
    from crystalign.modalities.dos import DensityOfStates

    densities = _array(value.densities, "densities")
    return DensityOfStates(_array(value.energies, "energies"), densities, value.n_atoms, zero=value.zero)


def _xrd(value: XrdQuery) -> Any:
    from crystalign.modalities.xrd import MeasuredPattern, parse_wavelength

    if value.wavelength is None:
        message = "a powder pattern needs its wavelength: CuKa, MoKa, CoKa, … or a number in Å"
        raise SpectrumError(message, reason="wavelength-missing")
    wavelength = parse_wavelength(value.wavelength)
    return MeasuredPattern(_array(value.two_theta, "two_theta"), _array(value.intensities, "intensities"), wavelength)


def _array(values: Any, name: str) -> NDArray[np.float64]:
    try:
        return np.asarray(values, dtype=np.float64)
    except ValueError as error:
        message = f"{name} holds lists of different lengths"
        raise QueryError(message, reason="bad-shape") from error


_MODALITY = {
    "text": "text",
    "formula": "composition",
    "composition": "composition",
    "cif": "crystal",
    "poscar": "crystal",
    "dos": "dos",
    "xrd": "xrd",
}
_READERS: dict[str, Callable[[Any], Any]] = {
    "text": _text,
    "formula": _composition,
    "composition": _composition,
    "cif": functools.partial(read_crystal, "cif"),
    "poscar": functools.partial(read_crystal, "poscar"),
    "dos": _dos,
    "xrd": _xrd,
}
_CURVES: dict[str, Callable[[Any], Curve]] = {"dos": dos_curve, "xrd": measured_curve}


# --- files ------------------------------------------------------------------------------------------------------------


def guess_kind(name: str, data: bytes) -> str:
    """`cif`, `poscar`, `dos` or `xrd`, by the name of a file, then by its content.

    Raises:
        FileFormatError: neither tells.
    """
    from crystalign.sources.structures import file_kind

    named = {"cif": "cif", "poscar": "poscar", "vasprun": "dos"}.get(file_kind(name))
    suffix = name.lower().rsplit(".", 1)[-1]
    named = named or {"xy": "xrd", "xye": "xrd", "xrdml": "xrd", "xml": "dos"}.get(suffix)
    if named is not None:
        return named
    head = data[:4000].decode("utf-8", errors="replace").lower()
    marks = {
        "cif": ("_cell_length_a", "_atom_site"),
        "xrd": ("theta", "wavelength"),
        "dos": ("dos", "states/ev", "energ"),
    }
    for kind, words in marks.items():
        if any(word in head for word in words):
            return kind
    first = re.findall(r"^\s*(-?\d+(?:\.\d*)?(?:e[-+]?\d+)?)[\s,;]", head, re.MULTILINE)
    if any(number.startswith("-") for number in first):
        return "dos"
    message = f"cannot tell what {name!r} is; choose its kind: {', '.join(KINDS[1:])}"
    raise FileFormatError(message, reason="unknown-kind")


def read_structure_file(upload: Upload) -> Crystal:
    """The crystal of a file that is, or is said to be, a CIF or a POSCAR.

    Raises:
        InputError: it is neither, or cannot be read.
    """
    from crystalign.sources.structures import decode

    kind = guess_kind(upload.name, upload.data) if upload.kind == "auto" else upload.kind
    if kind not in {"cif", "poscar"}:
        message = f"{upload.name!r} is not a structure but {kind}; send a CIF or a POSCAR"
        raise FileFormatError(message, reason="unsupported-file")
    return read_crystal(kind, decode(upload.data, upload.name))


def _dos_file(upload: Upload) -> Any:
    from crystalign.modalities.dos import parse_dos

    return parse_dos(upload.data, name=upload.name)


def _xrd_file(upload: Upload) -> Any:
    from crystalign.modalities.xrd import parse_xrd

    return parse_xrd(upload.data, name=upload.name, wavelength=upload.wavelength or None)


_FILE_READERS: dict[str, Callable[[Upload], Any]] = {
    "cif": read_structure_file,
    "poscar": read_structure_file,
    "dos": _dos_file,
    "xrd": _xrd_file,
}
