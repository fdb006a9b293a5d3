"""What a process of the sandbox answered, checked: who read a hostile file is not trusted afterwards."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from crystalign import errors
from crystalign.crystal import MAX_ATOMIC_NUMBER, Crystal
from crystalign.errors import InputError
from crystalign.modalities import Features, Modality
from crystalign.modalities.xrd import MeasuredPattern
from crystalign.sources.reading import Reading
from crystalign_serve.curves import MAX_DRAWN, Curve
from crystalign_serve.queries import Part
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
        message = f"the reader could not make sense of {name!r} ({told}); check the file, or export it again"
        raise errors.FileFormatError(message, reason="unreadable-file")


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
        check_features(modality, features, modalities[modality])
        value = None
        if modality == "xrd":
            arrays = (answer.arrays[VALUE + "two_theta"], answer.arrays[VALUE + "intensities"])
            value = MeasuredPattern(*arrays, fields["wavelength"])
        notices = tuple(str(notice)[:MAX_WORDS] for notice in fields["notices"][:MAX_NOTICES])
        return Part(str(fields["name"])[:MAX_WORDS], modality, features, _curve(answer), value, notices)
    except (KeyError, TypeError, ValueError) as error:
        raise WireError(f"not a part of a query: {type(error).__name__}: {error}") from error


def _curve(answer: Message) -> Curve | None:
    if "curve" not in answer.fields:
        return None
    x, y = answer.arrays[CURVE + "x"], answer.arrays[CURVE + "y"]
    if x.ndim != 1 or x.shape != y.shape or len(x) > MAX_DRAWN or not np.isfinite([x, y]).all():
        raise ValueError("not a curve")
    labels = {key: str(answer.fields["curve"][key])[:MAX_WORDS] for key in ("kind", "x_label", "y_label")}
    return Curve(x=x.tolist(), y=y.tolist(), **labels)


_GRAPH = {"x", "edge_index", "edge_length", "edge_vector", "pair_index", "pair_sums"}
"""Features whose length is that of the crystal."""
_OPTIONAL = ("species_site", "species_z", "species_weight")
_INDICES = ("edge_index", "species_site", "pair_index")
_ELEMENTS = ("x", "species_z")


@functools.lru_cache(maxsize=64)
def _example(maker: Modality[Any]) -> Features:
    return maker.stand_in()


def check_features(modality: str, features: Features, maker: Modality[Any]) -> None:
    """Refuse features that this modality would not make: an encoder reads them without looking.

    Raises:
        ValueError: they are not its own.
    """
    expected = _example(maker)
    for name, array in features.items():
        if name not in expected and not (modality == "crystal" and name in _OPTIONAL):
            raise ValueError(f"no feature {name!r}")
        known = expected.get(name)
        if known is not None and (known.dtype != array.dtype or known.ndim != array.ndim):
            raise ValueError(f"feature {name!r} is of another type")
        if known is not None and name not in _GRAPH and known.shape != array.shape:
            raise ValueError(f"feature {name!r} is of another shape")
        if not np.isfinite(array).all():
            raise ValueError(f"feature {name!r} is not finite")
    if missing := set(expected) - set(features):
        raise ValueError(f"no {min(missing)}")
    if modality == "crystal":
        _check_graph(features)


def _check_graph(features: Features) -> None:
    """Indices point to atoms, atoms are elements, and what belongs together has one length."""
    atoms = len(features["x"])
    for name, low, high in [(n, 0, atoms) for n in _INDICES] + [(n, 1, MAX_ATOMIC_NUMBER + 1) for n in _ELEMENTS]:
        array = features.get(name)
        if array is None:
            continue
        if array.dtype != np.int64 or (array.size and not low <= array.min() <= array.max() < high):
            raise ValueError(f"feature {name!r} points outside the crystal")
    edges = len(features["edge_length"])
    shapes: dict[str, tuple[int, ...]] = {"edge_index": (2, edges), "edge_vector": (edges, 3)}
    if "pair_sums" in features:
        pairs = len(features["pair_sums"])
        shapes |= {"pair_index": (2, pairs), "pair_sums": (pairs, 3)}
    if species := [name for name in _OPTIONAL if name in features]:
        shapes |= dict.fromkeys(_OPTIONAL, (len(features[species[0]]),))
    if atoms == 0 or any(name not in features or features[name].shape != shape for name, shape in shapes.items()):
        raise ValueError("parts of the graph have different lengths")
