"""What a search request may say, validated; the same models document the API at `/docs`."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, create_model, model_validator

from crystalign.config import Config
from crystalign.finetuning.network.config import LEVELS
from crystalign_serve.query_fields import request_fields

MAX_K = 1000
MAX_STRUCTURES = 16

LEAST_WEIGHT, MOST_WEIGHT = 1e-6, 1e6
"""Beyond them a part would decide alone, or not at all."""

MaterialId = Annotated[str, Field(max_length=500)]
Weight = Annotated[float, Field(ge=LEAST_WEIGHT, le=MOST_WEIGHT, allow_inf_nan=False)]


class SearchQuery(Config):
    """What to look for, in the parts that `query_model` adds."""

    @property
    def parts(self) -> dict[str, object]:
        """What is there, by name."""
        return {name: value for name in type(self).model_fields if (value := getattr(self, name)) is not None}

    @property
    def material_id(self) -> str | None:
        """The material of the index that is asked for, if one is."""
        found = self.parts.get("id")
        return None if found is None else str(found)


def query_model() -> type[SearchQuery]:
    """The model of a query: one optional field for each name that a modality declares, and `id`.

    Raises:
        ConfigError: the declarations contradict each other.
    """
    parts = request_fields()
    fields: dict[str, Any] = {name: _optional(part.field.type, part.field.help) for name, part in parts.items()}
    words = sum(part.spec.is_words for part in parts.values())
    names = list(fields)
    fields["id"] = _optional(MaterialId, "A material of the index: its stored vector.")
    ordered = {name: fields[name] for name in [*names[:words], "id", *names[words:]]}
    return create_model(
        "Query", __base__=SearchQuery, __doc__="What to look for; several parts make one fused query.", **ordered
    )


def _optional(kind: Any, help_text: str) -> tuple[Any, Any]:
    return kind | None, Field(default=None, description=help_text)


class SearchOptions(Config):
    """How many results, and among which rows."""

    k: int = Field(default=10, ge=1, le=MAX_K)
    """Results wanted."""
    filter: str | None = None
    """OPTIMADE filter, evaluated before the search."""
    weights: dict[str, Weight] = Field(default_factory=dict)
    """Part or modality → weight in a fused query, from 1e-6 to 1e6; 1 where none is given."""
    rerank: int = Field(default=200, ge=0, le=MAX_K)
    """Candidates of a powder pattern, asked alone, that a match of patterns looks at again, at least k; 0: none."""


class SearchRequest(SearchOptions):
    """A search."""

    query: SearchQuery
    """What to look for."""

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        if not self.query.parts:
            names = ", ".join(type(self.query).model_fields)
            raise ValueError(f"the query is empty; give at least one of {names}")
        return self


def request_model() -> type[SearchRequest]:
    """The model of a search over what the modalities declare."""
    query = (query_model(), Field(description="What to look for."))
    return create_model("SearchRequest", __base__=SearchRequest, __doc__="A search.", query=query)


class Structure(Config):
    """A crystal whose properties are wanted: one of the three."""

    cif: str | None = None
    """The text of a CIF."""
    poscar: str | None = None
    """The text of a VASP POSCAR."""
    id: MaterialId | None = None
    """A material of the index, with all that is known about it."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if len(self.given) != 1:
            raise ValueError(f"give exactly one of cif, poscar and id, not {len(self.given)}")
        return self

    @property
    def given(self) -> dict[str, str]:
        """What is there, by name."""
        return {name: value for name in type(self).model_fields if (value := getattr(self, name)) is not None}


class PredictOptions(Config):
    """By which models, and how sure."""

    models: tuple[str, ...] = ()
    """Names of fine-tuned models, as `/api/info` lists them; by default all."""
    level: float = 0.9
    """Probability that an interval holds the value, for materials like those that it was calibrated on."""

    @model_validator(mode="after")
    def _known_level(self) -> Self:
        if self.level not in LEVELS:
            raise ValueError(f"level {self.level:g} is not calibrated; there are {', '.join(map(str, LEVELS))}")
        return self


class PredictRequest(PredictOptions):
    """Properties of some crystals."""

    structures: Annotated[tuple[Structure, ...], Field(min_length=1, max_length=MAX_STRUCTURES)]
    """The crystals."""
