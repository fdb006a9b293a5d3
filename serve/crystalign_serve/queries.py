"""Parse a JSON query and turn its parts into features for the encoders and curves for the plot.

This is cheap blocking code; the API runs it in threads. Structures and files are read in
`crystalign_serve.sandbox` instead.
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
from crystalign.modalities.query import resolved
from crystalign.text_query.chips import Understanding
from crystalign_serve.curves import Curve, curve_of
from crystalign_serve.files import Upload, require
from crystalign_serve.query_fields import request_fields
from crystalign_serve.requests import SearchQuery


class QueryPart(NamedTuple):
    """One part of a query, ready for its encoder."""

    name: str
    """Name of the part in the request."""
    modality: str
    """Modality whose encoder reads the part; the modality of the index for an id."""
    features: Features | None
    """Input of the encoder; None for an id, whose vector is stored in the index."""
    curve: Curve | None
    """Curve to plot beside the results."""
    value: Any = None
    """The parsed value; None for an id, and for modalities that need only the features."""
    notices: tuple[str, ...] = ()
    """Assumptions of the parser, for the user to check."""
    understood: Understanding | None = None
    """What was understood of typed words; None for other parts and for a literal search."""
    typed: str = ""
    """The typed words; empty for other parts."""


class Interpreter(NamedTuple):
    """How typed words are interpreted."""

    fields: Fields
    """Fields of the index."""
    ignore: tuple[str, ...] = ()
    """Words that the user does not want to be interpreted."""


def parts_of(
    query: SearchQuery,
    modalities: Mapping[str, Modality[Any]],
    index_modality: str,
    interpret: Interpreter | None = None,
) -> list[QueryPart]:
    """Parse and featurise all parts of a JSON query except its structures.

    Args:
        query: the query.
        modalities: the modalities that the model reads.
        index_modality: modality of the index, whose vectors an id stands for.
        interpret: how words are interpreted; None takes them literally.

    Raises:
        InputError: a part cannot be used.
        QueryError: the model does not read a requested modality.
    """
    fields, parts = request_fields(), []
    for name, value in query.parts.items():
        if name == "id":
            parts.append(QueryPart(name, index_modality, None, None))
            continue
        modality, spec, _ = fields[name]
        if spec.read is None:
            continue
        require(modality, modalities)
        parsed = spec.read(value)
        features, notices = modalities[modality].featurise(parsed), tuple(getattr(parsed, "notices", ()))
        understood = None
        if interpret is not None and spec.understand is not None:
            understood = resolved(spec.understand)(str(value), interpret.fields, ignore=interpret.ignore)
        typed = str(value) if spec.understand is not None else ""
        curve = curve_of(modality, parsed)
        parts.append(QueryPart(name, modality, features, curve, parsed, notices, understood, typed))
    return parts


def structures_of(query: SearchQuery) -> dict[str, Upload]:
    """The structures of a JSON query as files, by part name.

    Raises:
        FileFormatError: the text cannot be encoded as UTF-8.
    """
    fields = request_fields()
    structures = {name: text for name, text in query.parts.items() if name in fields and fields[name].spec.is_structure}
    return {name: text_file(name, str(text)) for name, text in structures.items()}


def text_file(kind: str, text: str) -> Upload:
    """The text of a `cif` or `poscar` as a file.

    Raises:
        FileFormatError: the text cannot be encoded as UTF-8.
    """
    try:
        return Upload(f"the {kind.upper()}", text.encode(), kind, None)
    except UnicodeEncodeError as error:
        raise FileFormatError(
            f"the {kind.upper()} has a lone surrogate at position {error.start}; send it as UTF-8", reason="not-text"
        ) from error


def warm_up(fields: Fields) -> None:
    """Run each text parser once, so that the first request does not wait for imports."""
    parse_filter("nelements>=1", fields)
    for _, spec in query_specs():
        if spec.is_words and spec.read is not None:
            with contextlib.suppress(InputError):
                spec.read("NaCl")
        if spec.understand is not None:
            resolved(spec.understand)("NaCl", fields)


def fuse(vectors: list[NDArray[np.float32]], weights: list[float]) -> NDArray[np.float32]:
    """Fuse the parts' unit vectors: q = Σ_m w_m q_m / ‖Σ_m w_m q_m‖.

    q·c ranks candidates c like the weighted sum of the single scores q_m·c.

    Args:
        vectors: (D,) unit vector of each part.
        weights: one positive weight per part.

    Raises:
        QueryError: the weighted vectors cancel.
    """
    total = np.sum([w * v.astype(np.float64) for v, w in zip(vectors, weights, strict=True)], axis=0)
    length = float(np.linalg.norm(total))
    if not np.isfinite(length) or length < 1e-6 * sum(weights):
        raise QueryError(
            "the weighted parts of the query cancel each other; change the weights or leave out a part",
            reason="empty-direction",
        )
    fused: NDArray[np.float32] = (total / length).astype(np.float32)
    return fused
