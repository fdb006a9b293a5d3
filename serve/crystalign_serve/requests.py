"""What a search request may say, validated; the same models document the API at `/docs`."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from crystalign.config import Config
from crystalign.finetuning.network_config import LEVELS

MAX_K = 1000
MAX_TEXT = 20_000
MAX_POINTS = 100_000
MAX_STRUCTURES = 16

LEAST_WEIGHT, MOST_WEIGHT = 1e-6, 1e6
"""Beyond them a part would decide alone, or not at all."""

Numbers = Annotated[list[float], Field(max_length=MAX_POINTS)]
Wavelength = Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)] | Annotated[str, Field(max_length=40)]
Weight = Annotated[float, Field(ge=LEAST_WEIGHT, le=MOST_WEIGHT, allow_inf_nan=False)]


class DosQuery(Config):
    """A density of states to look for."""

    energies: Numbers
    """eV, ascending."""
    densities: Numbers | Annotated[list[Numbers], Field(max_length=2)]
    """states/eV, one value per energy; or two such lists, spin up and down (both positive)."""
    n_atoms: int = Field(default=1, ge=1, le=100_000)
    """Atoms that the densities belong to; 1 if they are per atom."""
    zero: Literal["fermi", "vbm"] = "fermi"
    """What the energies are counted from."""


class XrdQuery(Config):
    """A measured powder pattern to look for."""

    two_theta: Numbers
    """Degrees, ascending."""
    intensities: Numbers
    """Any unit, background included."""
    wavelength: Wavelength | None = None
    """Å, or `CuKa`, `CoKa`, `MoKa`, …; needed, because angles alone say nothing."""


class Query(Config):
    """What to look for; several parts make one fused query."""

    text: str | None = Field(default=None, max_length=MAX_TEXT)
    """A description."""
    formula: str | None = Field(default=None, max_length=500)
    """A chemical formula: a query by composition."""
    composition: str | None = Field(default=None, max_length=500)
    """The same."""
    id: str | None = Field(default=None, max_length=500)
    """A material of the index: its stored vector."""
    cif: str | None = None
    """The text of a CIF."""
    poscar: str | None = None
    """The text of a VASP POSCAR."""
    dos: DosQuery | None = None
    """A density of states."""
    xrd: XrdQuery | None = None
    """A measured powder pattern."""

    @property
    def parts(self) -> dict[str, object]:
        """What is there, by name."""
        return {name: value for name in type(self).model_fields if (value := getattr(self, name)) is not None}


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

    query: Query
    """What to look for."""

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        if not self.query.parts:
            raise ValueError(f"the query is empty; give at least one of {', '.join(Query.model_fields)}")
        return self


class Structure(Config):
    """A crystal whose properties are wanted: one of the three."""

    cif: str | None = None
    """The text of a CIF."""
    poscar: str | None = None
    """The text of a VASP POSCAR."""
    id: str | None = Field(default=None, max_length=500)
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
