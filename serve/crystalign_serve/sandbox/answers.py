"""Validate the answers of sandbox processes. A process that has parsed an uploaded file is not trusted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from crystalign import errors
from crystalign.crystal import MAX_ATOMIC_NUMBER, Crystal
from crystalign.errors import InputError
from crystalign.modalities import Modality
from crystalign.readers.structures.reading import Reading
from crystalign_serve.curves import MAX_DRAWN, Curve
from crystalign_serve.queries import QueryPart
from crystalign_serve.query_fields import restored, spec_of
from crystalign_serve.sandbox.tasks import CURVE, FEATURES, MAX_ERROR_CHARS, MAX_FIELD_CHARS, MAX_NOTICES, VALUE
from crystalign_serve.sandbox.wire import Message, WireError


def text_of(value: Any, limit: int | None = MAX_FIELD_CHARS) -> str:
    """A text from a process, cut to `limit` characters. Lone surrogates, which no UTF-8 has, are written out."""
    return str(value)[:limit].encode("utf-8", "backslashreplace").decode("utf-8")


def raise_refusal(answer: Message, name: str) -> None:
    """Raise the error that the process reported, if any.

    Raises:
        InputError: the file cannot be used.
    """
    fields = answer.fields
    if "refused" in fields:
        named = getattr(errors, str(fields["refused"]), None)
        cls = named if isinstance(named, type) and issubclass(named, InputError) else InputError
        raise cls(text_of(fields.get("message"), MAX_ERROR_CHARS), reason=text_of(fields.get("reason")))
    if "fault" in fields:
        fault = text_of(fields["fault"])
        raise errors.FileFormatError(
            f"the parser failed on {name!r} ({fault}); check the file, or export it again",
            reason="unreadable-file",
        )


def reading_of(answer: Message) -> Reading:
    """The crystal and the remarks of an answer.

    Raises:
        WireError: the answer does not hold a valid crystal.
    """
    try:
        sites = answer.fields["occupancies"]
        occupancies = None
        if sites is not None:
            occupancies = tuple(tuple((_atomic(z), _fraction(x)) for z, x in site) for site in sites)
        arrays = answer.arrays
        remarks = tuple(text_of(remark) for remark in answer.fields["remarks"][:MAX_NOTICES])
        return Reading(Crystal(arrays["lattice"], arrays["frac_coords"], arrays["numbers"], occupancies), remarks)
    except (KeyError, TypeError, ValueError) as error:
        raise WireError(f"not a crystal: {type(error).__name__}") from error


def _atomic(z: Any) -> int:
    if type(z) is not int or not 1 <= z <= MAX_ATOMIC_NUMBER:
        raise ValueError("not an element")
    return z


def _fraction(x: Any) -> float:
    if not isinstance(x, int | float) or not 0.0 < x < 1.1:
        raise ValueError("not a fraction")
    return float(x)


def part_of(answer: Message, modalities: Mapping[str, Modality[Any]]) -> QueryPart:
    """The query part of an answer.

    Raises:
        WireError: the answer does not hold a query part, or its features do not fit the modality.
    """
    fields = answer.fields
    try:
        modality = fields["modality"]
        features = {k.removeprefix(FEATURES): v for k, v in answer.arrays.items() if k.startswith(FEATURES)}
        modalities[modality].check_features(features)
        arrays = {k.removeprefix(VALUE): v for k, v in answer.arrays.items() if k.startswith(VALUE)}
        value = restored(spec_of(modality), arrays, fields["numbers"])
        notices = tuple(text_of(notice) for notice in fields["notices"][:MAX_NOTICES])
        return QueryPart(text_of(fields["name"]), modality, features, _curve(answer), value, notices)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise WireError(f"not a part of a query: {type(error).__name__}: {error}") from error


def _curve(answer: Message) -> Curve | None:
    if "curve" not in answer.fields:
        return None
    x, y = answer.arrays[CURVE + "x"], answer.arrays[CURVE + "y"]
    if x.ndim != 1 or x.shape != y.shape or len(x) > MAX_DRAWN or not np.isfinite([x, y]).all():
        raise ValueError("not a curve")
    labels = {key: text_of(answer.fields["curve"][key]) for key in ("kind", "x_label", "y_label")}
    return Curve(x=x.tolist(), y=y.tolist(), **labels)
