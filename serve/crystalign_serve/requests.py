"""Request models of the HTTP API. They validate requests and document the API at `/docs`."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, create_model, model_validator

from crystalign.config import Config
from crystalign.finetuning.network.config import LEVELS
from crystalign_serve.query_fields import request_fields

MAX_K = 1000
MAX_STRUCTURES = 16
MAX_IGNORED = 64
"""Largest number of conditions that a request can ignore."""

LEAST_WEIGHT, MOST_WEIGHT = 1e-6, 1e6
"""Allowed weights. A part with a weight beyond them would dominate the query, or not matter."""

MaterialId = Annotated[str, Field(max_length=500)]
Weight = Annotated[float, Field(ge=LEAST_WEIGHT, le=MOST_WEIGHT, allow_inf_nan=False)]


class SearchQuery(Config):
    """Base of the query model; `query_model` adds the parts."""

    @property
    def parts(self) -> dict[str, object]:
        """The given parts, by name."""
        return {name: value for name in type(self).model_fields if (value := getattr(self, name)) is not None}

    @property
    def material_id(self) -> str | None:
        """Id of the material that serves as a query; None if the query has no id."""
        material_id = self.parts.get("id")
        return None if material_id is None else str(material_id)


def query_model() -> type[SearchQuery]:
    """Build the query model: one optional field per query field of the registered modalities, and `id`.

    Raises:
        ConfigError: two modalities declare the same field.
    """
    parts = request_fields()
    fields: dict[str, Any] = {name: _optional(part.field.type, part.field.help) for name, part in parts.items()}
    words = sum(part.spec.is_words for part in parts.values())
    names = list(fields)
    fields["id"] = _optional(MaterialId, "Id of a material in the index. Its stored vector is the query.")
    ordered = {name: fields[name] for name in [*names[:words], "id", *names[words:]]}
    return create_model(
        "Query", __base__=SearchQuery, __doc__="The query. Several parts are fused into one vector.", **ordered
    )


def _optional(kind: Any, help_text: str) -> tuple[Any, Any]:
    return kind | None, Field(default=None, description=help_text)


class SearchOptions(Config):
    """Number of results, filter, weights and reranking."""

    k: int = Field(default=10, ge=1, le=MAX_K)
    """Number of results."""
    filter: str | None = None
    """OPTIMADE filter, evaluated before the search."""
    weights: dict[str, Weight] = Field(default_factory=dict)
    """Part or modality → weight in a fused query, from 1e-6 to 1e6; default 1."""
    rerank: int = Field(default=200, ge=0, le=MAX_K)
    """For a query by a powder pattern alone: number of candidates (at least k) to rerank by pattern match; 0: none."""
    literal: bool = False
    """Take `text` and `formula` literally: compare their words and vectors, and do not read them as conditions."""
    ignore: Annotated[tuple[Annotated[str, Field(max_length=500)], ...], Field(max_length=MAX_IGNORED)] = ()
    """Words that are not to be read as conditions, as in the field `words` of a condition in `query.understood` of a
    response. They are compared as text."""


class SearchRequest(SearchOptions):
    """A search."""

    query: SearchQuery
    """The query."""

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        if not self.query.parts:
            names = ", ".join(type(self.query).model_fields)
            raise ValueError(f"the query is empty; give at least one of {names}")
        return self


def request_model() -> type[SearchRequest]:
    """Build the request model of `/api/search` for the registered modalities."""
    query = (query_model(), Field(description="The query."))
    return create_model("SearchRequest", __base__=SearchRequest, __doc__="A search.", query=query)


class Structure(Config):
    """A crystal whose properties are predicted. Give exactly one of the fields."""

    cif: str | None = None
    """The text of a CIF."""
    poscar: str | None = None
    """The text of a VASP POSCAR."""
    id: MaterialId | None = None
    """Id of a material in the index. All its stored modalities are used."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if len(self.given) != 1:
            raise ValueError(f"give exactly one of cif, poscar and id, not {len(self.given)}")
        return self

    @property
    def given(self) -> dict[str, str]:
        """The given field, by name."""
        return {name: value for name in type(self).model_fields if (value := getattr(self, name)) is not None}


class PredictOptions(Config):
    """Which models predict, and the coverage of the intervals."""

    models: tuple[str, ...] = ()
    """Names of fine-tuned models, as listed by `/api/info`; default: all."""
    level: float = 0.9
    """Coverage of the intervals: the probability that an interval contains the value, for materials like those of the
    calibration set."""

    @model_validator(mode="after")
    def _known_level(self) -> Self:
        if self.level not in LEVELS:
            raise ValueError(f"level {self.level:g} is not calibrated; available: {', '.join(map(str, LEVELS))}")
        return self


class PredictRequest(PredictOptions):
    """A request to predict properties of crystals."""

    structures: Annotated[tuple[Structure, ...], Field(min_length=1, max_length=MAX_STRUCTURES)]
    """The crystals."""
