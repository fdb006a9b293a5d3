"""From what a user sent as JSON to what an encoder reads: parse, check, featurise, remember a curve to draw.

Everything here is ordinary blocking code of little cost; the API runs it in threads. Structures and
files are read elsewhere, in `crystalign_serve.sandbox`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crystalign.errors import FileFormatError, QueryError, SpectrumError
from crystalign.index.filters import Fields, parse_filter
from crystalign.modalities import Features, Modality
from crystalign_serve.curves import Curve, curve_of
from crystalign_serve.files import Upload, require
from crystalign_serve.requests import DosQuery, Query, XrdQuery

STRUCTURES = ("cif", "poscar")
"""Parts of a query that are the text of a file."""
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
    """What was parsed; None for an id, and for what is of no use after it became features."""
    notices: tuple[str, ...] = ()
    """What a reader took for granted, for the user to check."""


def parts_of(query: Query, modalities: Mapping[str, Modality[Any]], index_modality: str) -> list[Part]:
    """Every part of a JSON query but its structures, parsed and featurised.

    Raises:
        InputError: a part that cannot be used.
        QueryError: the model lacks a modality that is asked for.
    """
    parts = []
    for name, value in query.parts.items():
        if name == "id":
            parts.append(Part(name, index_modality, None, None))
            continue
        if name in STRUCTURES:
            continue
        modality = _MODALITY[name]
        require(modality, modalities)
        parsed = _READERS[name](value)
        features = modalities[modality].featurise(parsed)
        notices = _formula_notes(value) if modality == "composition" else tuple(getattr(parsed, "notices", ()))
        parts.append(Part(name, modality, features, curve_of(modality, parsed), parsed, notices))
    return parts


def structures_of(query: Query) -> dict[str, Upload]:
    """The structures of a JSON query, as the files that they are the text of.

    Raises:
        FileFormatError: it is no text.
    """
    return {name: text_file(name, str(text)) for name, text in query.parts.items() if name in STRUCTURES}


def text_file(kind: str, text: str) -> Upload:
    """The text of a `cif` or `poscar` as a file.

    Raises:
        FileFormatError: it is no text.
    """
    try:
        return Upload(f"the {kind.upper()}", text.encode(), kind, None)
    except UnicodeEncodeError as error:
        message = f"the {kind.upper()} holds half a character at place {error.start}; send it as UTF-8"
        raise FileFormatError(message, reason="not-text") from error


def warm_up(fields: Fields) -> None:
    """Import what parsers need, so that the first request does not wait for it."""
    parse_filter("nelements>=1", fields)
    _composition("NaCl")


def fuse(vectors: list[NDArray[np.float32]], weights: list[float]) -> NDArray[np.float32]:
    """The direction q = Σ_m w_m q_m / ‖Σ_m w_m q_m‖, so that q·c ranks like the weighted sum of the single scores.

    Raises:
        QueryError: the parts cancel each other.
    """
    total = np.sum([w * v.astype(np.float64) for v, w in zip(vectors, weights, strict=True)], axis=0)
    length = float(np.linalg.norm(total))
    if not np.isfinite(length) or length < 1e-6 * sum(weights):
        message = "the parts of the query cancel each other: no direction is left to search in"
        raise QueryError(message, reason="empty-direction")
    fused: NDArray[np.float32] = (total / length).astype(np.float32)
    return fused


# --- one reader per part ----------------------------------------------------------------------------------------------


def _text(value: str) -> Any:
    from crystalign.modalities.text import Text

    return Text(value)


def _composition(value: str) -> Any:
    from crystalign.modalities.composition import parse_formula

    return parse_formula(value)


def _formula_notes(value: str) -> tuple[str, ...]:
    """How a formula was read, where there was a choice."""
    from crystalign.formula import read_formula

    return read_formula(value).notes


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
    "dos": "dos",
    "xrd": "xrd",
}
_READERS: dict[str, Callable[[Any], Any]] = {
    "text": _text,
    "formula": _composition,
    "composition": _composition,
    "dos": _dos,
    "xrd": _xrd,
}
