"""What the modalities declare about searches, by the names of requests; every other module of the service asks here."""

from __future__ import annotations

from typing import Any, NamedTuple

from crystalign.errors import ConfigError
from crystalign.modalities import modality_class, query_specs
from crystalign.modalities.query import QueryField, QueryFile, QuerySpec

RESERVED = frozenset(
    {"id", "filter", "k", "weights", "rerank", "wavelength", "url", "api_key_file", "json_output", "auto", "file"}
)
"""Names that a search needs for itself."""


class RequestField(NamedTuple):
    """A name of a request, with the modality that it asks for."""

    modality: str
    """Name."""
    spec: QuerySpec
    """How it is asked."""
    field: QueryField
    """The name, its type and what it is."""


def request_fields() -> dict[str, RequestField]:
    """Every name by which a search asks for a modality: what is typed first, then what is in files.

    Raises:
        ConfigError: two modalities want the same name, or one wants a name that the service needs.
    """
    parts: dict[str, RequestField] = {}
    for words in (True, False):
        for modality, spec in query_specs():
            for field in spec.fields if spec.is_words is words else ():
                if field.name in RESERVED or field.name in parts:
                    owner = parts[field.name].modality if field.name in parts else "every search"
                    raise ConfigError(
                        f"modality {modality!r} is asked for by {field.name!r}, which is a name of {owner} already; "
                        "rename its query field"
                    )
                parts[field.name] = RequestField(modality, spec, field)
    return parts


def flags() -> dict[str, RequestField]:
    """Those that are flags of `crystalign search` and arguments of the client: files first, then words."""
    parts = [item for item in request_fields().items() if item[1].field.flag is not None]
    return dict(sorted(parts, key=lambda item: item[1].spec.is_words))


def file_kinds() -> dict[str, RequestField]:
    """Kinds of files that may be sent, by name."""
    return {name: part for name, part in request_fields().items() if not part.spec.is_words}


def tables() -> dict[str, tuple[str, QuerySpec, QueryFile]]:
    """Of each kind of file that is a table of numbers: its modality, how it is asked, what its files are like."""
    found = {}
    for modality, spec in query_specs():
        if spec.files is not None and not spec.is_structure:
            found[spec.fields[0].name] = (modality, spec, spec.files)
    return found


def spec_of(modality: str) -> QuerySpec | None:
    """How a modality is asked; None where it cannot be."""
    return modality_class(modality).query


def described(modality: str) -> dict[str, Any] | None:
    """How a modality is asked, as `/api/info` tells the page; None where it cannot be."""
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
