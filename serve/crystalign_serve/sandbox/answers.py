"""What a process of the sandbox answered, checked: who read a hostile file is not trusted afterwards."""

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
from crystalign_serve.queries import Part
from crystalign_serve.query_fields import spec_of
from crystalign_serve.sandbox.tasks import CURVE, FEATURES, MAX_NOTICES, MAX_TOLD, MAX_WORDS, VALUE
from crystalign_serve.sandbox.wire import Message, WireError


def raise_refusal(answer: Message, name: str) -> None:
    """Raise what the process found wrong with a file, if it did.

    Raises:
        InputError: the file cannot be used.
    """
    fields = answer.fields
    if "refused" in fields:
        found = getattr(errors, str(fields["refused"]), None)
        cls = found if isinstance(found, type) and issubclass(found, InputError) else InputError
        raise cls(str(fields.get("message"))[:MAX_TOLD], reason=str(fields.get("reason"))[:MAX_WORDS])
    if "fault" in fields:
        told = str(fields["fault"])[:MAX_WORDS]
        raise errors.FileFormatError(
            f"the reader could not make sense of {name!r} ({told}); check the file, or export it again",
            reason="unreadable-file",
        )


def reading_of(answer: Message) -> Reading:
    """The crystal of an answer, and what its user should know.

    Raises:
        WireError: it holds none.
    """
    try:
        sites = answer.fields["occupancies"]
        occupancies = None
        if sites is not None:
            occupancies = tuple(tuple((_atomic(z), _fraction(x)) for z, x in site) for site in sites)
        arrays = answer.arrays
        remarks = tuple(str(remark)[:MAX_WORDS] for remark in answer.fields["remarks"][:MAX_NOTICES])
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


def part_of(answer: Message, modalities: Mapping[str, Modality[Any]]) -> Part:
    """The part of a query that an answer holds.

    Raises:
        WireError: it does not hold them, or features that the modality does not make.
    """
    fields = answer.fields
    try:
        modality = fields["modality"]
        features = {k.removeprefix(FEATURES): v for k, v in answer.arrays.items() if k.startswith(FEATURES)}
        modalities[modality].check_features(features)
        spec, value = spec_of(modality), None
        if spec is not None and spec.carried is not None:
            arrays = {k.removeprefix(VALUE): v for k, v in answer.arrays.items() if k.startswith(VALUE)}
            value = spec.carried(**arrays, **{name: float(number) for name, number in fields["numbers"].items()})
        notices = tuple(str(notice)[:MAX_WORDS] for notice in fields["notices"][:MAX_NOTICES])
        return Part(str(fields["name"])[:MAX_WORDS], modality, features, _curve(answer), value, notices)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise WireError(f"not a part of a query: {type(error).__name__}: {error}") from error


def _curve(answer: Message) -> Curve | None:
    if "curve" not in answer.fields:
        return None
    x, y = answer.arrays[CURVE + "x"], answer.arrays[CURVE + "y"]
    if x.ndim != 1 or x.shape != y.shape or len(x) > MAX_DRAWN or not np.isfinite([x, y]).all():
        raise ValueError("not a curve")
    labels = {key: str(answer.fields["curve"][key])[:MAX_WORDS] for key in ("kind", "x_label", "y_label")}
    return Curve(x=x.tolist(), y=y.tolist(), **labels)
