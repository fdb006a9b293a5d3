"""Query fields that the registered modalities declare, by name. The other modules of the service use only these."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crystalign.errors import ConfigError
from crystalign.modalities import modality_class, query_specs
from crystalign.modalities.query import QueryField, QueryFile, QuerySpec

RESERVED = frozenset(
    {"id", "filter", "k", "weights", "rerank", "wavelength", "url", "api_key_file", "json_output", "auto", "file"}
    | {"literal", "ignore"}
)
"""Names of search options, which no modality may use."""


class RequestField(NamedTuple):
    """One field of a query, with its modality."""

    modality: str
    """Name of the modality."""
    spec: QuerySpec
    """Query specification of the modality."""
    field: QueryField
    """Name, type and help text of the field."""


def request_fields() -> dict[str, RequestField]:
    """All query fields by name: text fields first, then fields for files.

    Raises:
        ConfigError: two modalities declare the same name, or one declares a reserved name.
    """
    parts: dict[str, RequestField] = {}
    for words in (True, False):
        for modality, spec in query_specs():
            for field in spec.fields if spec.is_words is words else ():
                if field.name in RESERVED or field.name in parts:
                    owner = parts[field.name].modality if field.name in parts else "every search"
                    raise ConfigError(
                        f"modality {modality!r} declares the query field {field.name!r}, which {owner} already uses; "
                        "rename its query field"
                    )
                parts[field.name] = RequestField(modality, spec, field)
    return parts


def flags() -> dict[str, RequestField]:
    """Query fields that are flags of `crystalign search` and arguments of the client: files first, then text."""
    parts = [item for item in request_fields().items() if item[1].field.flag is not None]
    return dict(sorted(parts, key=lambda item: item[1].spec.is_words))


def file_kinds() -> dict[str, RequestField]:
    """Query fields for files, by name. The names are the kinds of files that can be uploaded."""
    return {name: part for name, part in request_fields().items() if not part.spec.is_words}


def tables() -> dict[str, tuple[str, QuerySpec, QueryFile]]:
    """Kind of file → modality, query specification and file description, for tables of numbers such as spectra."""
    table_kinds = {}
    for modality, spec in query_specs():
        if spec.files is not None and not spec.is_structure:
            table_kinds[spec.fields[0].name] = (modality, spec, spec.files)
    return table_kinds


def spec_of(modality: str) -> QuerySpec | None:
    """Query specification of a modality; None if it is not searchable."""
    return modality_class(modality).query


def carried_of(spec: QuerySpec | None, value: Any) -> tuple[dict[str, NDArray[Any]], dict[str, float]]:
    """The arrays and the numbers of a query's value that the matcher needs, by name; none if nothing is carried."""
    if spec is None or spec.carried is None or value is None:
        return {}, {}
    values = {field.name: getattr(value, field.name) for field in dataclasses.fields(spec.carried)}
    arrays = {name: item for name, item in values.items() if isinstance(item, np.ndarray)}
    return arrays, {name: float(item) for name, item in values.items() if isinstance(item, int | float)}


def restored(spec: QuerySpec | None, arrays: Mapping[str, NDArray[Any]], numbers: Mapping[str, float]) -> Any:
    """The value that the arrays and numbers of `carried_of` describe; None if the modality carries none.

    Raises:
        TypeError: an array or a number is missing or not known.
        ValueError: they are no valid value.
    """
    if spec is None or spec.carried is None:
        return None
    return spec.carried(**arrays, **{name: float(number) for name, number in numbers.items()})


def described(modality: str) -> dict[str, Any] | None:
    """Query specification of a modality as JSON for `/api/info`; None if it is not searchable."""
    spec = spec_of(modality)
    if spec is None:
        return None
    files, plot = spec.files, spec.plot
    return {
        "label": spec.label,
        "structure": spec.is_structure,
        "fields": [{"name": field.name, "help": field.help} for field in spec.fields],
        "files": None
        if files is None
        else {
            "hint": files.hint,
            "suffixes": list(files.suffixes),
            "name_pattern": files.name_pattern,
            "marks": list(files.marks),
            "clues": [{"pattern": clue.pattern, "strength": clue.strength} for clue in files.clues],
            "negative_x": files.negative_x,
            "x_above": files.x_above,
            "takes_wavelength": files.takes_wavelength,
        },
        "plot": None if plot is None else {"title": plot.title, "relative": plot.relative, "zero_axis": plot.zero_axis},
    }
