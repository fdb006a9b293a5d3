"""How a search asks by a modality: names and types of the request, files, curve, example.

A modality that can be asked for has a `QuerySpec` in its class attribute `query`. HTTP requests, the guess of what a
file is, the flags of `crystalign search`, the arguments of the Python client, the OpenAPI document and the web page
(through `/api/info`) follow from it; nothing else names modalities.
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
"""Å, or the name of a tube's line: `CuKa`."""


@dataclass(frozen=True, slots=True)
class QueryField:
    """One name by which a request asks for a modality."""

    name: str
    """Key in the JSON of a search."""
    type: Any
    """What the value must be: a `Config`, or a type that pydantic knows."""
    help: str
    """What it is, for the description of the HTTP API."""
    flag: str | None = None
    """What it is, for `crystalign search --NAME` and `Client.search(NAME=…)`; None where JSON alone has it. A modality
    with files takes the path of one there."""


class Clue(NamedTuple):
    """What the header of a table of numbers may say."""

    pattern: str
    """Regular expression over lower case, of a form that Python and JavaScript read alike."""
    strength: int
    """Of several clues in one header the strongest counts."""


@dataclass(frozen=True, slots=True)
class QueryFile:
    """Files that a search takes for a modality: by what they are recognised, and what reads them."""

    parse: Callable[..., Any] | str | None
    """`(data: bytes, *, name: str)` → the value, and `wavelength` where `takes_wavelength` says so; itself, or
    `module:function`, imported in the sandbox alone. None for the crystal, which is read within limits of its own."""
    hint: str
    """The usual files, for people: "DOS (.csv, .dat, vasprun.xml)"."""
    suffixes: tuple[str, ...] = ()
    """Lower-case endings of names that tell the modality, before a compression's."""
    name_pattern: str = ""
    """Regular expression over the lower-case name; a weaker sign than an ending or a mark."""
    marks: tuple[str, ...] = ()
    """Lower-case words of which the head of such a file alone has one."""
    clues: tuple[Clue, ...] = ()
    """What headers of tables say."""
    structure_kinds: tuple[str, ...] = ()
    """Kinds of `crystalign.readers.structures` that a search reads as this modality, not as a structure."""
    negative_x: bool = False
    """Whether a table without other signs is one where its first column has negative numbers."""
    x_above: float | None = None
    """A table without other signs is one where its first column ends above this. The page alone, which shows its
    guess for correction, goes by it."""
    takes_wavelength: bool = False
    """Whether a file may leave out the wavelength it was measured with, so that the user has to give it."""


class PlottedCurve(NamedTuple):
    """One line of a plot."""

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
    """How values of a modality are drawn."""

    title: str
    """Heading on the page."""
    draw: Callable[[Any, str], PlottedCurve]
    """A value, of a query or of a material, and a wavelength (Å or a tube's line), which only some need → its curve."""
    relative: bool = False
    """Whether each curve is scaled to a maximum of 1 when several lie over one another."""
    zero_axis: str | None = None
    """Label of the x axis, with the unit, for curves counted from different zeros; x = 0 is then marked."""


class QueryExample(NamedTuple):
    """A query that works, for a button of the page."""

    label: str
    """For people."""
    query: dict[str, Any]
    """As in the JSON of a search."""


@dataclass(frozen=True, slots=True)
class QuerySpec:
    """How a search asks by a modality.

    There are three ways. Words have `read` and no `files`; a table of numbers has both; a structure, which is read in
    the sandbox even where it is a text in JSON, has `files` and no `read`.
    """

    label: str
    """Short, for a tag on the page: "DOS"."""
    fields: tuple[QueryField, ...]
    """Names in a request; the first is also the name of a file's kind. More are other ways to say the same."""
    read: Callable[[Any], Any] | None = None
    """What a field's validated value is as a value of the modality, which may have `notices` for the user."""
    files: QueryFile | None = None
    """Files that are taken, if any are."""
    plot: Plot | None = None
    """How its values are drawn; None where nothing is."""
    example: Callable[[Mapping[str, Any]], QueryExample] | None = None
    """A query made from a row of the index."""
    matcher: Callable[..., Any] | str | None = None
    """A class, or `module:Class`, that compares a query's value with stored ones in a second look at the first
    candidates, as `crystalign.modalities.profile_match:ProfileMatcher` does; None for no second look."""
    carried: type[Any] | None = None
    """Dataclass of arrays and numbers that a file's value is and that the `matcher` needs; it leaves the sandbox
    beside the features."""

    @property
    def is_words(self) -> bool:
        """Whether a person types it."""
        return self.files is None

    @property
    def is_structure(self) -> bool:
        """Whether it is a crystal, in whatever format."""
        return self.files is not None and self.read is None


def resolved(target: Callable[..., Any] | str) -> Any:
    """What `module:attribute` names, imported now; anything else as it is."""
    if not isinstance(target, str):
        return target
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


def array_of(values: Any, name: str) -> NDArray[np.float64]:
    """Numbers of a request, in as many dimensions as they have.

    Raises:
        QueryError: lists of different lengths.
    """
    try:
        return np.asarray(values, dtype=np.float64)
    except ValueError as error:
        raise QueryError(f"{name} holds lists of different lengths", reason="bad-shape") from error
