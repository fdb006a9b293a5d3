"""The schema of a shard: one row per material, one nullable column per modality and per property."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

from crystalign.crystal import SYMBOLS
from crystalign.material import HYPOTHETICAL, Material, Provenance
from crystalign.modalities import MODALITIES, modality_class
from crystalign.properties import PropertySpec
from crystalign.shards.splits import GROUP as GROUP  # noqa: PLC0414 (schema is where readers look for it)
from crystalign.shards.splits import fraction

SCHEMA_VERSION = 3
"""Changes by version:

2: column `remarks`; formulas of disordered crystals do not depend on the choice of cell.
3: structure groups in separate files instead of the unused column `structure_key`; charge densities and pictures in a
unique setting of the crystal.
"""
ONE_FORMULA = 2
"""The first version in which the formula of a disordered crystal does not depend on its cell."""
READABLE = (1, 2, 3)
"""Versions that this release opens."""
REMARK_SEPARATOR = " | "
ADDED_LATER = frozenset({"remarks", HYPOTHETICAL})
"""Columns that some shards lack; they are read as null."""

DESCRIPTION = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("licence", pa.string(), nullable=False),
        pa.field("vintage", pa.string()),
        pa.field("reference", pa.string()),
        pa.field("formula", pa.string(), nullable=False),
        pa.field("chemsys", pa.string(), nullable=False),
        pa.field("elements", pa.list_(pa.string()), nullable=False),
        pa.field("n_sites", pa.int32(), nullable=False),
        pa.field("spacegroup_number", pa.int16()),
        pa.field("prototype", pa.string()),
        pa.field("remarks", pa.string()),
        pa.field(HYPOTHETICAL, pa.bool_()),
        pa.field("split_formula", pa.float64(), nullable=False),
        pa.field("split_material", pa.float64(), nullable=False),
        pa.field("split_chemsys", pa.float64(), nullable=False),
        pa.field("split_prototype", pa.float64()),
    ]
)
"""The columns that describe a material; small enough to read for a whole dataset."""


def sibling_modalities() -> tuple[str, ...]:
    """Large modalities, which are stored in separate files."""
    return tuple(name for name in MODALITIES if modality_class(name).sibling)


def main_modalities() -> tuple[str, ...]:
    """Modalities that are stored in the shard itself, the crystal first."""
    return tuple(name for name in MODALITIES if not modality_class(name).sibling)


def shard_schema(properties: Sequence[PropertySpec] = ()) -> pa.Schema:
    """The schema of a shard with these property columns."""
    modalities = [pa.field(name, modality_class(name).column_type()) for name in main_modalities()]
    return pa.schema([*DESCRIPTION, *modalities, *(pa.field(p.column, pa.float64()) for p in properties)])


def with_added_fields(table: pa.Table) -> pa.Table:
    """The table with the fields of modality columns that earlier releases did not write, as nulls.

    A column that differs in any other way stays as it is.
    """
    for position, field in enumerate(table.schema):
        kind = modality_class(field.name).column_type() if field.name in MODALITIES else field.type
        if kind == field.type or not pa.types.is_struct(kind) or not pa.types.is_struct(field.type):
            continue
        wanted = {child.name: child.type for child in kind}
        if all(wanted.get(child.name) == child.type for child in field.type):
            chunks = [_with_fields(chunk, kind) for chunk in table.column(position).chunks]
            table = table.set_column(position, field.with_type(kind), pa.chunked_array(chunks, kind))
    return table


def _with_fields(chunk: pa.StructArray, kind: pa.StructType) -> pa.StructArray:
    stored = [child.name for child in chunk.type]
    children = [chunk.field(child.name) if child.name in stored else pa.nulls(len(chunk), child.type) for child in kind]
    return pa.StructArray.from_arrays(children, fields=list(kind), mask=chunk.is_null())


def sibling_schema(modality: str) -> pa.Schema:
    """The schema of a file with one large modality; it has the same rows as its shard, in the same order."""
    return pa.schema([pa.field("id", pa.string(), nullable=False), (modality, modality_class(modality).column_type())])


def materials_to_table(materials: Sequence[Material], properties: Sequence[PropertySpec] = ()) -> pa.Table:
    """A table with `shard_schema(properties)`, without large modalities; see `sibling_table` for those.

    The column `hypothetical` is left out if no row is hypothetical.
    """
    rows = [_describe(m) for m in materials]
    columns: dict[str, Any] = {
        field.name: pa.array([row[field.name] for row in rows], field.type) for field in DESCRIPTION
    }
    for name in main_modalities():
        columns[name] = _modality_column(name, materials)
    for spec in properties:
        columns[spec.column] = pa.array([m.properties.get(spec) for m in materials], pa.float64())
    table = pa.table(columns, schema=shard_schema(properties))
    return table if any(m.provenance.hypothetical for m in materials) else table.drop_columns([HYPOTHETICAL])


def sibling_table(materials: Sequence[Material], modality: str) -> pa.Table:
    """A table with `sibling_schema(modality)`."""
    ids = pa.array([m.id for m in materials], pa.string())
    return pa.table({"id": ids, modality: _modality_column(modality, materials)}, schema=sibling_schema(modality))


def table_to_materials(
    table: pa.Table, properties: Sequence[PropertySpec] = (), *, modalities: Sequence[str] | None = None
) -> list[Material]:
    """The materials of a table's rows.

    Args:
        table: description columns and `crystal`, and any modalities and properties.
        properties: properties to read; those not in the table are skipped.
        modalities: modalities to read; None reads all that are in the table.
    """
    requested = [
        m for m in (MODALITIES if modalities is None else modalities) if m in table.column_names and m != "crystal"
    ]
    described_by = [*(f.name for f in DESCRIPTION if f.name != "elements"), GROUP]
    light = [name for name in described_by if name in table.column_names]
    described = table.select(light).to_pylist()
    cells = {name: _cells(table, name) for name in ("crystal", *requested)}
    values = {p: table.column(p.column).to_pylist() for p in properties if p.column in table.column_names}
    materials = []
    for i, row in enumerate(described):
        materials.append(
            Material(
                id=row["id"],
                crystal=cells["crystal"][i],
                provenance=Provenance(
                    row["source"],
                    row["licence"],
                    row.get("vintage") or "",
                    row.get("reference") or "",
                    bool(row.get(HYPOTHETICAL)),
                ),
                modalities={name: cells[name][i] for name in requested if cells[name][i] is not None},
                properties={p: column[i] for p, column in values.items() if column[i] is not None},
                spacegroup_number=row.get("spacegroup_number"),
                prototype=row.get("prototype"),
                structure_group=row.get(GROUP),
                remarks=tuple((row.get("remarks") or "").split(REMARK_SEPARATOR)) if row.get("remarks") else (),
            )
        )
    return materials


def _cells(table: pa.Table, name: str) -> list[Any]:
    read = modality_class(name).from_column
    return [read(cell) if cell.is_valid else None for cell in table.column(name)]


def _modality_column(name: str, materials: Iterable[Material]) -> pa.Array[Any]:
    cls = modality_class(name)
    cells = [None if (value := m.value(name)) is None else cls.to_column(value) for m in materials]
    return pa.array(cells, cls.column_type())


def _describe(material: Material) -> dict[str, Any]:
    crystal, formula, chemsys = material.crystal, material.crystal.formula, material.crystal.chemsys
    return {
        "id": material.id,
        "source": material.provenance.source,
        "licence": material.provenance.licence,
        "vintage": material.provenance.vintage,
        "reference": material.provenance.reference,
        "formula": formula,
        "chemsys": chemsys,
        "elements": sorted(SYMBOLS[z] for z in crystal.composition),
        "n_sites": len(crystal),
        "spacegroup_number": material.spacegroup_number,
        "prototype": material.prototype,
        "remarks": REMARK_SEPARATOR.join(material.remarks) or None,
        HYPOTHETICAL: material.provenance.hypothetical,
        "split_formula": fraction(formula),
        "split_material": fraction(material.id),
        "split_chemsys": fraction(chemsys),
        "split_prototype": None if material.prototype is None else fraction(material.prototype),
    }


def count_present(column: pa.ChunkedArray[Any]) -> int:
    """The number of values that are not null."""
    return int(len(column) - column.null_count)
