"""Mapping in YAML that describes the columns of a Parquet table of crystals."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SerializeAsAny, model_validator

from crystalign.config import Config
from crystalign.errors import ConfigError
from crystalign.modalities import MODALITIES
from crystalign.modalities.modality import TableColumns
from crystalign.properties import PropertySpec, Quantity


class CrystalColumns(Config):
    """Columns of the structure."""

    lattice: str
    """Column of the cell."""
    lattice_format: Literal["parameters", "matrix"]
    """`parameters`: a b c α β γ in Å and degrees. `matrix`: 9 numbers, rows are vectors, Å."""
    frac_coords: str
    """Column of 3N fractional coordinates."""
    atomic_numbers: str
    """Column of N atomic numbers."""
    table: Literal["main", "join"] = "main"
    """Table that contains these columns: the main one or the joined one."""


class PropertyColumn(Config):
    """Column of a property, and how its values were obtained."""

    column: str
    """Name of the column in the table."""
    quantity: Quantity
    """Quantity, in the unit of `Quantity`."""
    method: str
    """Method: functional or experiment, e.g. `pbe`."""
    source: str = ""
    """Source database of the values; by default that of the table."""
    vintage: str = ""
    """Release of the values; by default that of the table."""
    divide_by_sites: bool = False
    """The column holds a value per cell and the quantity is per atom."""
    where: tuple[str, tuple[str, ...]] | None = None
    """(column, values): only rows whose column has one of these values."""
    table: Literal["main", "join"] = "main"
    """Table that contains the column: the main one or the joined one."""


class Join(Config):
    """A second table about the same materials."""

    table: str
    """File of the table, relative to the folder of the main table."""
    id: str
    """Column of ids in that table."""


class TableMapping(Config):
    """Meaning of the columns of a Parquet table."""

    name: str
    """`Provenance.source` of every row."""
    licence: str
    """SPDX identifier."""
    vintage: str = ""
    """Release of the geometries."""
    reference: str = "{id}"
    """Address of an entry in the database; `{id}` is its id."""
    id: str
    """Column of ids."""
    reference_columns: tuple[str, ...] = ()
    """Columns whose values are appended to the reference, e.g. the family of a structure."""
    where: tuple[str, tuple[str, ...]] | None = None
    """(column, values): only rows whose column has one of these values are part of the source."""
    crystal: CrystalColumns
    """Columns of the structure."""
    join: Join | None = None
    """A second table, matched by id in any order."""
    modalities: dict[str, SerializeAsAny[TableColumns]] = Field(default_factory=dict)
    """Other modalities in the main table: modality → columns. In YAML each is a section of its own, such as `dos:`."""
    properties: tuple[PropertyColumn, ...] = Field(default=())
    """Property columns."""

    @model_validator(mode="before")
    @classmethod
    def _modalities_by_name(cls, values: Any) -> Any:
        """Move sections such as `dos: {…}` at the top level into `modalities`, and validate each by its modality."""
        if not isinstance(values, dict):
            return values
        readable = {name: cls.columns for name, cls in MODALITIES.items() if cls.columns is not None}
        sections = dict(values.get("modalities") or {})
        for name in [name for name in readable if values.get(name) is not None]:
            if name in sections:
                raise ValueError(f"{name} is given twice, at the top and under modalities")
            sections[name] = values[name]
        unknown = set(sections) - set(readable)
        if unknown:
            raise ValueError(f"no table holds {', '.join(sorted(unknown))}; it may hold {', '.join(readable)}")
        rest = {name: value for name, value in values.items() if name not in readable}
        return rest | {"modalities": {name: readable[name].model_validate(value) for name, value in sections.items()}}

    @model_validator(mode="after")
    def _consistent(self) -> TableMapping:
        """Check that `table: join` has a `join`, and that no two columns give the same property."""
        uses = [self.crystal.table, *(p.table for p in self.properties)]
        if "join" in uses and self.join is None:
            raise ValueError("a column says `table: join` but there is no `join`")
        specs = [self.spec(p) for p in self.properties]
        if len(set(specs)) != len(specs):
            raise ValueError("two property columns have the same quantity, method, source and vintage")
        return self

    def spec(self, column: PropertyColumn) -> PropertySpec:
        """Return the property that a column fills."""
        source, vintage = column.source or self.name, column.vintage or self.vintage
        return PropertySpec(quantity=column.quantity, method=column.method, source=source, vintage=vintage)


def shipped_mappings() -> tuple[str, ...]:
    """Names of the mappings that come with the library."""
    folder = resources.files("crystalign.sources") / "tables"
    return tuple(sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml")))


def load_mapping(name: str) -> TableMapping:
    """Load a shipped mapping by name, or a YAML file by path.

    Raises:
        ConfigError: there is no such mapping or file, or it is not valid.
    """
    if name in shipped_mappings():
        with resources.as_file(resources.files("crystalign.sources") / "tables" / f"{name}.yaml") as path:
            return TableMapping.from_yaml(path)
    if not Path(name).is_file():
        raise ConfigError(f"no mapping {name!r}: neither a YAML file nor one of {', '.join(shipped_mappings())}")
    return TableMapping.from_yaml(name)
