"""Description of a modality as a query: request fields, files, plot and example.

A modality that can be used as a query has a `QuerySpec` in its class attribute `query`. HTTP requests, the guess of
what a file is, the flags of `crystalign search`, the arguments of the Python client, the OpenAPI document and the web
page (through `/api/info`) are derived from it; no other code lists the modalities.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from crystalign.errors import QueryError

MAX_POINTS = 100_000
"""Numbers of an array in a JSON query."""
Numbers = Annotated[list[float], Field(max_length=MAX_POINTS)]
"""An array in a JSON query."""
Wavelength = Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)] | Annotated[str, Field(max_length=40)]
"""Wavelength in Å, or the name of an X-ray line: `CuKa`."""


@dataclass(frozen=True, slots=True)
class QueryField:
    """A field of a search request for a modality."""

    name: str
    """Key in the JSON of a search."""
    type: Any
    """Type that checks the value: a `Config` class, or any type pydantic understands."""
    help: str
    """Description for the HTTP API."""
    flag: str | None = None
    """Description for `crystalign search --NAME` and `Client.search(NAME=…)`; None if the field is only in JSON.
    Both take the path of a file if the modality is read from files."""


class Clue(NamedTuple):
    """Pattern in the header of a numeric table that hints at a modality."""

    pattern: str
    """Regular expression on the lower-case header, valid in both Python and JavaScript."""
    strength: int
    """The strongest clue in a header counts."""


@dataclass(frozen=True, slots=True)
class QueryFile:
    """Files of a modality that a search accepts: how they are recognised and parsed."""

    parse: Callable[..., Any] | str | None
    """`(data: bytes, *, name: str)` → the value, and `wavelength` where `takes_wavelength` says so; itself, or
    `module:function`, imported in the sandbox alone. None for the crystal, which is read within limits of its own."""
    hint: str
    """Description of the usual files for the user: "DOS (.csv, .dat, vasprun.xml)"."""
    suffixes: tuple[str, ...] = ()
    """Lower-case file endings of the modality, without the ending of a compression."""
    name_pattern: str = ""
    """Regular expression on the lower-case name; weaker evidence than an ending or a mark."""
    marks: tuple[str, ...] = ()
    """Lower-case words that occur only in the head of such files."""
    clues: tuple[Clue, ...] = ()
    """Clues in the headers of tables."""
    structure_kinds: tuple[str, ...] = ()
    """Kinds of `crystalign.readers.structures` that a search reads as this modality, not as a structure."""
    negative_x: bool = False
    """Whether a table without other evidence is of this modality if its first column has negative numbers."""
    x_above: float | None = None
    """A table without other evidence is of this modality if its first column ends above this. Only the web page uses
    this, because there the user can correct the guess."""
    takes_wavelength: bool = False
    """Whether a file may lack its wavelength, so that the user has to give it."""


class PlottedCurve(NamedTuple):
    """One curve of a plot."""

    x: NDArray[np.float64]
    """(M,) ascending."""
    y: NDArray[np.float64]
    """(M,)."""
    x_label: str
    """Quantity and unit."""
    y_label: str
    """Quantity and unit."""


@dataclass(frozen=True, slots=True)
class Plot:
    """How values of a modality are plotted."""

    title: str
    """Heading on the page."""
    draw: Callable[[Any, str], PlottedCurve]
    """Function from a value and a wavelength (Å or an X-ray line; not always needed) to its curve."""
    relative: bool = False
    """Whether curves are scaled to a maximum of 1 when they are overlaid."""
    zero_axis: str | None = None
    """Label of the x axis, with unit, for curves with different zeros; x = 0 is then marked."""


class QueryExample(NamedTuple):
    """Example query for a button on the web page."""

    label: str
    """Label of the button."""
    query: dict[str, Any]
    """Query as in the JSON of a search."""


@dataclass(frozen=True, slots=True)
class QuerySpec:
    """Description of a modality as a query.

    There are three kinds. Free text has `read` and no `files`. Numeric data has both. A structure has `files` and no
    `read`, because it is parsed in the sandbox even if it is given as text in JSON.
    """

    label: str
    """Short, for a tag on the page: "DOS"."""
    fields: tuple[QueryField, ...]
    """Fields of a request. The first is also the name of the file kind; the others are alternatives."""
    read: Callable[[Any], Any] | None = None
    """Function from a field's validated value to a value of the modality, which may have `notices` for the user."""
    files: QueryFile | None = None
    """Accepted files, if any."""
    plot: Plot | None = None
    """How its values are plotted; None for no plot."""
    example: Callable[[Mapping[str, Any]], QueryExample] | None = None
    """A query made from a row of the index."""
    phrases: tuple[str, ...] = ()
    """For words: further examples; a service offers those whose conditions its index satisfies."""
    matcher: Callable[..., Any] | str | None = None
    """A class, or `module:Class`, that reranks the first candidates by comparing the query's value with stored ones,
    such as `crystalign.modalities.profile_match:ProfileMatcher`; None for no reranking."""
    understand: Callable[..., Any] | str | None = None
    """For words: `(text, fields, *, ignore)` → an `Understanding`, whose conditions filter and order the results;
    itself, or `module:function`. None takes the words literally."""
    held_out: Callable[..., Any] | str | None = None
    """A class, or `module:Class`, that makes queries with known answers, to calibrate how sure an answer is; see
    `crystalign.evaluation.held_out_queries`. None asks with the stored values."""
    carried: type[Any] | None = None
    """Dataclass (arrays and numbers) of a file's value that the `matcher` needs; the sandbox returns it beside the
    features."""

    @property
    def is_words(self) -> bool:
        """Whether the query is free text."""
        return self.files is None

    @property
    def is_structure(self) -> bool:
        """Whether the query is a crystal structure, in any format."""
        return self.files is not None and self.read is None


def resolved(target: Callable[..., Any] | str) -> Any:
    """Import the object that `module:attribute` names; return anything else unchanged."""
    if not isinstance(target, str):
        return target
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


def array_of(values: Any, name: str) -> NDArray[np.float64]:
    """Convert the numbers of a request to an array.

    Raises:
        QueryError: lists of different lengths.
    """
    try:
        return np.asarray(values, dtype=np.float64)
    except ValueError as error:
        raise QueryError(f"{name} holds lists of different lengths", reason="bad-shape") from error
