"""From what a user sent as JSON to what an encoder reads: parse, check, featurise, remember a curve to draw.

Everything here is ordinary blocking code of little cost; the API runs it in threads. Structures and
files are read elsewhere, in `crystalign_serve.sandbox`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crystalign.errors import FileFormatError, InputError, QueryError
from crystalign.index.filters import Fields, parse_filter
from crystalign.modalities import Features, Modality, query_specs
from crystalign_serve.curves import Curve, curve_of
from crystalign_serve.files import Upload, require
from crystalign_serve.query_fields import request_fields
from crystalign_serve.requests import SearchQuery


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


def parts_of(query: SearchQuery, modalities: Mapping[str, Modality[Any]], index_modality: str) -> list[Part]:
    """Every part of a JSON query but its structures, parsed and featurised.

    Raises:
        InputError: a part that cannot be used.
        QueryError: the model lacks a modality that is asked for.
    """
    known, parts = request_fields(), []
    for name, value in query.parts.items():
        if name == "id":
            parts.append(Part(name, index_modality, None, None))
            continue
        modality, spec, _ = known[name]
        if spec.read is None:
            continue
        require(modality, modalities)
        read = spec.read(value)
        features, notices = modalities[modality].featurise(read), tuple(getattr(read, "notices", ()))
        parts.append(Part(name, modality, features, curve_of(modality, read), read, notices))
    return parts


def structures_of(query: SearchQuery) -> dict[str, Upload]:
    """The structures of a JSON query, as the files that they are the text of.

    Raises:
        FileFormatError: it is no text.
    """
    known = request_fields()
    structures = {name: text for name, text in query.parts.items() if name in known and known[name].spec.is_structure}
    return {name: text_file(name, str(text)) for name, text in structures.items()}


def text_file(kind: str, text: str) -> Upload:
    """The text of a `cif` or `poscar` as a file.

    Raises:
        FileFormatError: it is no text.
    """
    try:
        return Upload(f"the {kind.upper()}", text.encode(), kind, None)
    except UnicodeEncodeError as error:
        raise FileFormatError(
            f"the {kind.upper()} holds half a character at place {error.start}; send it as UTF-8", reason="not-text"
        ) from error


def warm_up(fields: Fields) -> None:
    """Import what parsers need, so that the first request does not wait for it."""
    parse_filter("nelements>=1", fields)
    for _, spec in query_specs():
        if spec.is_words and spec.read is not None:
            with contextlib.suppress(InputError):
                spec.read("NaCl")


def fuse(vectors: list[NDArray[np.float32]], weights: list[float]) -> NDArray[np.float32]:
    """The direction q = Σ_m w_m q_m / ‖Σ_m w_m q_m‖, so that q·c ranks like the weighted sum of the single scores.

    Raises:
        QueryError: the parts cancel each other.
    """
    total = np.sum([w * v.astype(np.float64) for v, w in zip(vectors, weights, strict=True)], axis=0)
    length = float(np.linalg.norm(total))
    if not np.isfinite(length) or length < 1e-6 * sum(weights):
        raise QueryError(
            "the parts of the query cancel each other: no direction is left to search in", reason="empty-direction"
        )
    fused: NDArray[np.float32] = (total / length).astype(np.float32)
    return fused
