"""Tables through a mapping, JSON, VASP output, prototypes: what is read is what was written."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from crystalign.crystal import Crystal
from crystalign.errors import ConfigError, CrystalError
from crystalign.material import Material
from crystalign.properties import Quantity
from crystalign.rejects import Reject
from crystalign.sources import Source, open_source
from crystalign.sources.mapping import TableMapping, load_mapping, shipped_mappings
from crystalign.sources.prototypes import PrototypeSource, library, substitute, volume_scale
from crystalign.sources.source import sample
from crystalign.sources.table import TableSource, cell_matrix

CSCL = Crystal(np.eye(3) * 4.1, np.array([[0.0, 0, 0], [0.5, 0.5, 0.5]]), np.array([55, 17]))


def read_all(source: Source, limit: int | None = None) -> tuple[dict[str, Material], list[Reject]]:
    materials, rejects = {}, []
    for item in sample(source.items(), limit, seed=0):
        for found in source.read(item):
            if isinstance(found, Reject):
                rejects.append(found)
            else:
                materials[found.id] = found
    return materials, rejects


def row(name: str | None, **changes: Any) -> dict[str, Any]:
    values = {
        "id": name,
        "lattice": [4.1, 4.1, 4.1, 90.0, 90.0, 90.0],
        "xyz": CSCL.frac_coords.ravel().tolist(),
        "z": [55, 17],
        "gap": 5.5,
        "origin": "a",
        "moment": 4.0,
    }
    return values | changes


MAPPING = TableMapping.model_validate(
    {
        "name": "test",
        "licence": "CC0-1.0",
        "vintage": "1",
        "id": "id",
        "crystal": {"lattice": "lattice", "lattice_format": "parameters", "frac_coords": "xyz", "atomic_numbers": "z"},
        "properties": [
            {"column": "gap", "quantity": "band_gap", "method": "pbe", "vintage": "a", "where": ["origin", ["a"]]},
            {"column": "gap", "quantity": "band_gap", "method": "pbe", "vintage": "b", "where": ["origin", ["b"]]},
            {"column": "moment", "quantity": "total_magnetization_per_atom", "method": "pbe", "divide_by_sites": True},
        ],
    }
)


def table(tmp_path: Path, rows: list[dict[str, Any]], name: str = "table.parquet", group: int = 3) -> str:
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / name, row_group_size=group)
    return str(tmp_path / name)


def test_a_row_becomes_the_crystal_it_describes(tmp_path: Path) -> None:
    materials, rejects = read_all(TableSource(table(tmp_path, [row("x")]), MAPPING))
    assert not rejects
    np.testing.assert_allclose(materials["x"].crystal.lattice, CSCL.lattice, atol=1e-12)
    assert materials["x"].spacegroup_number == 221
    assert materials["x"].provenance.licence == "CC0-1.0"


def test_values_of_different_provenance_never_share_a_column(tmp_path: Path) -> None:
    source = TableSource(
        table(tmp_path, [row("x"), row("y", origin="b", gap=2.0), row("z", gap=float("nan"))]), MAPPING
    )
    materials, _ = read_all(source)
    gaps = {
        name: {spec.vintage: value for spec, value in m.properties.items() if spec.quantity is Quantity.BAND_GAP}
        for name, m in materials.items()
    }
    assert gaps == {"x": {"a": 5.5}, "y": {"b": 2.0}, "z": {}}
    moments = [v for s, v in materials["x"].properties.items() if s.quantity is Quantity.TOTAL_MAGNETIZATION_PER_ATOM]
    assert moments == [2.0]
    assert {spec for m in materials.values() for spec in m.properties} <= set(source.properties())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"lattice": [4.1, float("nan"), 4.1, 90.0, 90.0, 90.0]}, "bad-lattice"),
        ({"lattice": [4.1, 4.1, 4.1, 90.0, 90.0, 200.0]}, "bad-lattice"),
        ({"lattice": [4.1] * 5}, "bad-lattice"),
        ({"lattice": None}, "missing-values"),
        ({"xyz": [0.0] * 6}, "overlapping-atoms"),
        ({"xyz": [0.0] * 5}, "bad-sites"),
        ({"z": [55, 119]}, "unknown-element"),
        ({"z": [55, None]}, "missing-values"),
        ({"id": None}, "no-id"),
        ({"id": "good"}, "duplicate-id"),
        ({"id": "x" * 1000}, "bad-id"),
        ({"id": ".."}, "bad-id"),
    ],
)
def test_a_bad_row_is_rejected_and_its_neighbours_are_read(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    rows = [row("good"), row("bad", **changes) if "id" not in changes else row(changes["id"]), row("last")]
    materials, rejects = read_all(TableSource(table(tmp_path, rows), MAPPING))
    assert set(materials) == {"good", "last"}
    assert [r.reason for r in rejects] == [reason]


def test_a_sample_is_random_reproducible_and_spread_over_the_table(tmp_path: Path) -> None:
    source = TableSource(table(tmp_path, [row(f"m{i:03d}") for i in range(100)], group=30), MAPPING)
    first, second = (set(read_all(source, limit=20)[0]) for _ in range(2))
    assert first == second
    assert len(first) == 20
    assert max(first) > "m080"


def test_a_second_table_is_joined_by_id_in_any_order(tmp_path: Path) -> None:
    names = [f"m{i}" for i in range(7)]
    table(tmp_path, [{"name": n, "energy": float(n[1:])} for n in reversed(names[1:])], "labels.parquet", group=2)
    mapping = MAPPING.model_copy(update={"properties": ()}).model_dump() | {
        "join": {"table": "labels.parquet", "id": "name"},
        "properties": [{"column": "energy", "quantity": "formation_energy_per_atom", "method": "pbe", "table": "join"}],
    }
    source = TableSource(table(tmp_path, [row(n) for n in names]), TableMapping.model_validate(mapping))
    materials, rejects = read_all(source)
    assert not rejects
    assert {n: list(m.properties.values()) for n, m in materials.items()} == {
        "m0": [],
        **{n: [float(n[1:])] for n in names[1:]},
    }


def test_a_filter_selects_rows_and_an_unknown_column_is_an_error(tmp_path: Path) -> None:
    path = table(tmp_path, [row("x"), row("y", origin="b")])
    kept = MAPPING.model_copy(update={"where": ("origin", ("b",))})
    assert set(read_all(TableSource(path, kept))[0]) == {"y"}
    with pytest.raises(ConfigError, match="no column nothing"):
        TableSource(path, MAPPING.model_copy(update={"id": "nothing"})).items()


def test_lattice_parameters_are_those_of_the_matrix() -> None:
    given = np.array([3.0, 4.0, 5.0, 80.0, 95.0, 110.0])
    matrix = cell_matrix(given)
    lengths = np.linalg.norm(matrix, axis=1)
    unit = matrix / lengths[:, None]
    angles = np.degrees(np.arccos([unit[1] @ unit[2], unit[0] @ unit[2], unit[0] @ unit[1]]))
    np.testing.assert_allclose([*lengths, *angles], given, atol=1e-10)
    with pytest.raises(CrystalError):
        cell_matrix(np.array([1.0, 1.0, 1.0, 10.0, 90.0, 170.0]))


def test_every_shipped_mapping_is_valid() -> None:
    assert "materials_project" in shipped_mappings()
    for name in shipped_mappings():
        assert load_mapping(name).licence


def test_a_table_without_a_mapping_is_an_error_that_says_so() -> None:
    with pytest.raises(ConfigError, match="--mapping"):
        open_source("x.parquet")


def structure(**extra: Any) -> dict[str, Any]:
    return CSCL.to_pymatgen().as_dict() | extra


@pytest.mark.parametrize(
    ("document", "ids"),
    [
        (structure(), {"file"}),
        ([structure(), structure()], {"file-000000", "file-000001"}),
        ({"a": structure(), "b": structure()}, {"a", "b"}),
        ([{"material_id": "mp-1", "structure": structure()}], {"mp-1"}),
    ],
)
@pytest.mark.parametrize("ending", [".json", ".json.gz"])
def test_json_is_one_structure_a_list_or_a_mapping(tmp_path: Path, document: Any, ids: set[str], ending: str) -> None:
    data = json.dumps(document).encode()
    (tmp_path / f"file{ending}").write_bytes(gzip.compress(data) if ending.endswith("gz") else data)
    materials, rejects = read_all(open_source(str(tmp_path / f"file{ending}")))
    assert not rejects
    assert set(materials) == ids
    np.testing.assert_allclose(next(iter(materials.values())).crystal.frac_coords, CSCL.frac_coords)


def test_json_that_breaks_off_gives_what_came_before(tmp_path: Path) -> None:
    text = json.dumps({f"m{i}": structure() for i in range(600)})
    (tmp_path / "cut.json").write_text(text[:-100])
    materials, rejects = read_all(open_source(str(tmp_path / "cut.json")))
    assert len(materials) == 599
    assert [r.reason for r in rejects] == ["unreadable-json"]


def test_json_entries_are_rejected_one_by_one(tmp_path: Path) -> None:
    bad = structure()
    bad["lattice"] = {"matrix": [[float("nan"), 0, 0], [0, 4, 0], [0, 0, 4]]}
    odd = structure(sites=[{"species": [{"element": "Qq", "occu": 1}], "abc": [0, 0, 0]}])
    again = '{"ok": %s, "nan": %s, "odd": %s, "ok": %s, "word": "x"}'
    (tmp_path / "mixed.json").write_text(again % tuple(json.dumps(d) for d in (structure(), bad, odd, structure())))
    materials, rejects = read_all(open_source(str(tmp_path / "mixed.json")))
    assert set(materials) == {"ok"}
    assert sorted(r.reason for r in rejects) == [
        "bad-lattice",
        "duplicate-id",
        "unknown-element",
        "unreadable-structure",
    ]


def test_a_sample_of_a_json_reads_the_right_entries(tmp_path: Path) -> None:
    (tmp_path / "many.json").write_text(json.dumps({f"m{i:03d}": structure() for i in range(300)}))
    materials, rejects = read_all(open_source(str(tmp_path / "many.json")), limit=30)
    assert (len(materials), rejects) == (30, [])
    assert len({name[:2] for name in materials}) == 3


def vasprun(energies: np.ndarray, dos: np.ndarray) -> str:
    rows = "".join(f"<r> {e:.4f} {d:.6f} {i:.6f} </r>" for e, d, i in zip(energies, dos, dos.cumsum(), strict=True))
    cell = '<crystal><varray name="basis"><v>4.1 0 0</v><v>0 4.1 0</v><v>0 0 4.1</v></varray></crystal>'
    sites = '<varray name="positions"><v>0 0 0</v><v>0.5 0.5 0.5</v></varray>'
    atoms = "<rc><c>Cs</c><c>1</c></rc><rc><c>Cl</c><c>2</c></rc>"
    return (
        f'<?xml version="1.0"?><modeling><atominfo><array name="atoms"><set>{atoms}</set></array></atominfo>'
        f'<structure name="initialpos">{cell}{sites}</structure><calculation><structure>{cell}{sites}</structure>'
        f'<dos><i name="efermi">2.0</i><total><array><set><set comment="spin 1">{rows}</set></set></array>'
        f"</total></dos>"
        f'</calculation><structure name="finalpos">{cell}{sites}</structure></modeling>'
    )


def chgcar(crystal: Crystal = CSCL, n: int = 4) -> str:
    values = np.linspace(1.0, 2.0, n**3) * crystal.volume
    lines = "\n".join(" ".join(f"{v:.6f}" for v in values[i : i + 5]) for i in range(0, n**3, 5))
    return f"{crystal.to_poscar().rstrip()}\n\n {n} {n} {n}\n{lines}\n"


def test_a_folder_of_vasp_output_is_one_material(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "relaxed"
    run.mkdir(parents=True)
    energies = np.linspace(-10.0, 12.0, 300)
    (run / "vasprun.xml").write_text(vasprun(energies, np.ones(300)))
    (run / "CHGCAR").write_text(chgcar())
    (run / "POSCAR").write_text(CSCL.to_poscar())
    (run / "INCAR").write_text("ENCUT = 400")
    materials, rejects = read_all(open_source(str(tmp_path / "runs"), licence="CC0-1.0"))
    material = materials["relaxed"]
    assert material.crystal.formula == "ClCs"
    density = material.modalities["charge_density"]
    assert density.rho.mean() == pytest.approx(1.5, rel=1e-3)
    # a hand-made vasprun.xml may lack what a complete run holds: then the reject says so
    assert ("dos" in material.modalities) != any(r.stage == "dos" for r in rejects)


def test_a_truncated_vasprun_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "vasprun.xml").write_text(vasprun(np.linspace(-10, 10, 50), np.ones(50))[:-200])
    materials, rejects = read_all(open_source(str(tmp_path)))
    assert not materials
    assert [r.reason for r in rejects] == ["unreadable-vasprun"]


def test_a_chgcar_of_another_structure_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vasprun.xml").write_text(vasprun(np.linspace(-10, 10, 50), np.ones(50)))
    (tmp_path / "CHGCAR").write_text(chgcar(Crystal(CSCL.lattice * 1.1, CSCL.frac_coords, CSCL.atomic_numbers)))
    materials, rejects = read_all(open_source(str(tmp_path)))
    assert len(materials) == 1
    assert "different-structure" in [r.reason for r in rejects]


def test_prototypes_are_reproducible_different_and_named_as_what_they_are() -> None:
    materials, rejects = read_all(PrototypeSource(count=128, seed=0))
    again, _ = read_all(PrototypeSource(count=128, seed=0))
    assert (len(materials), rejects, set(again)) == (128, [], set(materials))
    assert len({m.crystal.formula for m in materials.values()}) > 100
    for material in materials.values():
        assert "hypothetical, not relaxed" in material.provenance.reference
        assert material.provenance.licence == "Apache-2.0"


def test_the_volume_is_that_of_pymatgens_predictor() -> None:
    from pymatgen.core.structure_prediction.volume_predictor import DLSVolumePredictor

    index = next(i for i, (label, _) in enumerate(library()) if label == "AB_cP2_221_b_a")
    parent = library()[index][1]
    scale = volume_scale(index, {z: z for z in parent.composition})
    assert scale is not None
    predicted = DLSVolumePredictor(min_scaling=None, max_scaling=None).predict(parent.to_pymatgen())
    scaled = substitute(parent, {z: z for z in parent.composition}, scale)
    assert scaled.volume == pytest.approx(predicted, rel=1e-9)


def test_the_demo_has_a_dos_for_two_hundred_of_at_least_a_thousand() -> None:
    source = open_source("demo")
    items = source.items()
    assert sum(item.count for item in items) >= 1000
    found = [m for item in items[:1] for m in source.read(item)]
    assert len(found) == 200
    assert all(isinstance(m, Material) and {"dos", "charge_density"} <= set(m.modalities) for m in found)


def test_real_tables_are_read(real_data: Path) -> None:
    path = real_data / "materials_project" / "crystals.parquet"
    materials, rejects = read_all(open_source(str(path), mapping="materials_project"), limit=50)
    assert (len(materials), rejects) == (50, [])
    assert any(m.properties for m in materials.values())
    path = real_data / "electronic" / "dos_charge_density.parquet"
    materials, _ = read_all(open_source(str(path), mapping="multimat_electronic"), limit=10)
    assert any("dos" in m.modalities for m in materials.values())


def test_moduli_stand_beside_the_geometries_of_their_time(real_data: Path) -> None:
    """Joined by id: the values are those of the other table, and none but those whose source is an id."""
    path = real_data / "materials_project_2019" / "crystals.parquet"
    materials, rejects = read_all(open_source(str(path), mapping="materials_project_2019_elastic"), limit=400)
    assert not rejects
    labels = pq.read_table(real_data / "materials_project" / "properties.parquet")
    known = dict(zip(labels["material_id"].to_pylist(), labels.to_pylist(), strict=True))
    moduli = 0
    for name, material in materials.items():
        row = known.get(name, {})
        expected = row.get("bulk_modulus_vrh") if row.get("bulk_modulus_vrh_source") == "mp_elastic" else None
        found = {spec.quantity: (value, spec.vintage) for spec, value in material.properties.items()}
        assert found[Quantity.BAND_GAP][1] == "2019"
        assert found.get(Quantity.BULK_MODULUS_VRH) == (None if expected is None else (expected, "elastic"))
        moduli += expected is not None
    assert moduli > 20
