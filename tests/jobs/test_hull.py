"""Energies above the hull: pymatgen's, for each method, source and vintage on its own; unknown stays unknown."""

from __future__ import annotations

import itertools
import os
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from crystalign import storage
from crystalign.crystal import SYMBOLS, Crystal
from crystalign.errors import ConfigError
from crystalign.material import Material, Provenance
from crystalign.modalities.charge_density import ChargeDensity
from crystalign.properties import PropertySpec, Quantity
from crystalign.shards.dataset import Dataset
from crystalign.shards.writer import commit_manifest, write_shard
from crystalign_jobs import cli, hull
from crystalign_jobs.hull import Hull, chosen, elements, hull_spec, main

DATA = Path(os.environ.get("CRYSTALIGN_DATA", "../shared/data"))
FORMATION = PropertySpec(
    quantity=Quantity.FORMATION_ENERGY_PER_ATOM, method="pbe", source="materials_project", vintage="mp2019"
)
OLDER = FORMATION.model_copy(update={"vintage": "megnet2018"})
TOTAL = PropertySpec(quantity=Quantity.ENERGY_PER_ATOM, method="scan", source="alexandria", vintage="1")


def material(name: str, formula: dict[str, int], values: dict[PropertySpec, float]) -> Material:
    numbers = [SYMBOLS.index(symbol) for symbol, count in formula.items() for _ in range(count)]
    edge = 3.0 * len(numbers)
    coords = np.zeros((len(numbers), 3))
    coords[:, 0] = np.arange(len(numbers)) / len(numbers)
    crystal = Crystal(np.diag([edge, 4.0, 4.0]), coords, np.array(numbers))
    return Material(name, crystal, Provenance("t", "CC0-1.0"), {}, values)


def pymatgen_values(rows: dict[str, tuple[dict[str, int], float]], *, zero: bool) -> dict[str, float]:
    """Energy above the hull by one phase diagram of everything, the oracle."""
    from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
    from pymatgen.core import Composition

    entries = {name: PDEntry(Composition(c), e * sum(c.values())) for name, (c, e) in rows.items()}
    symbols = sorted({s for c, _ in rows.values() for s in c})
    references = [PDEntry(Composition(symbol), 0.0) for symbol in symbols] if zero else []
    diagram = PhaseDiagram([*entries.values(), *references])
    return {name: float(diagram.get_e_above_hull(entry)) for name, entry in entries.items()}


def rows_of(symbols: str, count: int, seed: int) -> dict[str, tuple[dict[str, int], float]]:
    rng = np.random.default_rng(seed)
    rows = {}
    for number in range(count):
        counts = rng.integers(0, 3, len(symbols.split()))
        formula = {s: int(n) for s, n in zip(symbols.split(), counts, strict=True) if n}
        if formula:
            rows[f"m{seed}-{number}"] = (formula, float(rng.normal(-1.0, 0.6)))
    return rows


def dataset_of(uri: str, rows: dict[PropertySpec, dict[str, tuple[dict[str, int], float]]]) -> Dataset:
    materials = [
        material(name, formula, {spec: energy})
        for spec, held in rows.items()
        for name, (formula, energy) in held.items()
    ]
    materials.append(material("without-energy", {"Li": 1, "O": 1}, {}))
    half = len(materials) // 2
    shards = [
        write_shard(uri, "a", materials[:half], list(rows), rows_per_group=16),
        write_shard(uri, "b", materials[half:], list(rows), rows_per_group=16),
    ]
    commit_manifest(uri, shards, list(rows))
    return Dataset.open(uri)


def values_of(uri: str, spec: PropertySpec) -> dict[str, float | None]:
    table = Dataset.open(uri).table(["id", spec.column])
    return dict(zip(table["id"].to_pylist(), table[spec.column].to_pylist(), strict=True))


@pytest.mark.usefixtures("ray_session")
def test_every_vintage_has_the_hull_of_its_own_phases(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uri = str(tmp_path / "data")
    rows = {FORMATION: rows_of("Li Fe P O", 70, 1), OLDER: rows_of("Li Fe P O", 40, 2)}
    dataset_of(uri, rows)
    assert cli.main(["hull", uri]) == 0
    dataset = Dataset.open(uri)
    dataset.verify()
    for spec, held in rows.items():
        target = hull_spec(spec)
        assert target.column == f"energy_above_hull_pbe_hull_of_materials_project_{spec.vintage}"
        found = values_of(uri, target)
        expected = pymatgen_values(held, zero=True)
        assert {name for name, value in found.items() if value is not None} == set(expected)
        np.testing.assert_allclose([found[name] for name in expected], list(expected.values()), atol=1e-7)
        assert dataset.manifest.property_counts[target.column] == len(expected)
        on_hull = sum(value == 0.0 for value in found.values())
        assert on_hull == sum(value < 1e-8 for value in expected.values()) > 2
    assert "have no formation_energy_per_atom_pbe_materials_project_mp2019" in capsys.readouterr().out
    assert [m.id for m in dataset.materials()] == [name for held in rows.values() for name in held] + ["without-energy"]
    assert set(storage.list_names(uri)) == dataset.manifest.files | {"manifest.json"}


@pytest.mark.usefixtures("ray_session")
def test_total_energies_need_every_element_as_a_phase(tmp_path: Path) -> None:
    uri = str(tmp_path / "data")
    rows = {
        name: (formula, energy - 4.0 * sum(formula.values()) / 3)
        for name, (formula, energy) in rows_of("Li Fe O", 40, 3).items()
    }
    rows |= {s: ({s: 1}, -3.0 - n) for n, s in enumerate(("Li", "Fe", "O"))}
    without = {"NaO": ({"Na": 1, "O": 1}, -4.0), "LiNaO": ({"Li": 1, "Na": 1, "O": 1}, -4.5)}
    dataset_of(uri, {TOTAL: {**rows, **without}})
    main(Hull(data=uri))
    found = values_of(uri, hull_spec(TOTAL))
    expected = pymatgen_values(rows, zero=False)
    np.testing.assert_allclose([found[name] for name in expected], list(expected.values()), atol=1e-7)
    assert [found[name] for name in (*without, "without-energy")] == [None] * 3


@pytest.mark.usefixtures("ray_session")
def test_other_columns_files_and_a_second_run_stay_the_same(tmp_path: Path) -> None:
    uri = str(tmp_path / "data")
    dense = material("dense", {"Li": 1, "O": 1}, {FORMATION: -2.0})
    density = ChargeDensity(np.full((12, 12, 12), 2.0), dense.crystal.lattice)
    dense = Material("dense", dense.crystal, dense.provenance, {"charge_density": density}, dense.properties)
    mixed = Crystal(np.eye(3) * 3, [[0, 0, 0]], [3], ((((3, 0.5), (11, 0.5))),))
    others = [
        Material("mixed", mixed, dense.provenance, {}, {FORMATION: -0.5}),
        material("higher", {"Li": 2, "O": 2}, {FORMATION: -1.75}),
    ]
    commit_manifest(uri, [write_shard(uri, "a", [dense, *others], [FORMATION])], [FORMATION])
    old = Dataset.open(uri).read(0)
    first = main(Hull(data=uri))
    new = Dataset.open(uri).read(0)
    assert new.drop_columns([hull_spec(FORMATION).column]).equals(old)
    assert values_of(uri, hull_spec(FORMATION)) == {"dense": 0.0, "mixed": None, "higher": 0.25}
    assert "charge_density" in next(iter(Dataset.open(uri).materials(["charge_density"]))).modalities
    second = main(Hull(data=uri, property=(FORMATION.column,)))
    assert second.properties == first.properties
    assert values_of(uri, hull_spec(FORMATION)) == {"dense": 0.0, "mixed": None, "higher": 0.25}


def test_energies_are_chosen_and_refused_by_name() -> None:
    total = FORMATION.model_copy(update={"quantity": Quantity.ENERGY_PER_ATOM})
    gap = FORMATION.model_copy(update={"quantity": Quantity.BAND_GAP})
    assert chosen([gap, total, FORMATION, TOTAL], (), "d") == [TOTAL, FORMATION]
    assert chosen([FORMATION, total], (total.column,), "d") == [total]
    with pytest.raises(ConfigError, match="'band_gap_pbe_materials_project_mp2019' is not a column of energies"):
        chosen([gap, FORMATION], (gap.column,), "d")
    with pytest.raises(ConfigError, match="neither formation energies nor total energies"):
        chosen([gap], (), "d")
    with pytest.raises(ConfigError, match="would fill one column"):
        chosen([FORMATION, total], (total.column, FORMATION.column), "d")


@pytest.mark.parametrize(("formula", "counts"), [("O2Ti", {"O": 2, "Ti": 1}), ("Si", {"Si": 1}), ("C12H22O11", None)])
def test_a_reduced_formula_gives_its_amounts(formula: str, counts: dict[str, int] | None) -> None:
    assert elements(formula) == (counts or {"C": 12, "H": 22, "O": 11})


@pytest.mark.usefixtures("ray_session")
def test_real_formation_energies_give_the_distances_of_pymatgen(tmp_path: Path) -> None:
    folder = DATA / "materials_project_2019"
    if not folder.is_dir():
        pytest.skip("needs the real crystals of shared/data/materials_project_2019")
    table = pq.read_table(
        folder / "crystals.parquet", columns=["material_id", "atomic_numbers", "formation_energy_per_atom"]
    )
    columns = (table[name].to_pylist() for name in table.column_names)
    rows: dict[str, tuple[dict[str, int], float]] = {}
    for name, numbers, energy in zip(*columns, strict=True):
        counts: dict[str, int] = defaultdict(int)
        for z in numbers:
            counts[SYMBOLS[z]] += 1
        if energy is not None and set(counts) <= {"Li", "Fe", "O", "P", "Mn", "S"}:
            rows[name] = (dict(counts), energy)
    assert len(rows) > 200
    uri = str(tmp_path / "data")
    dataset_of(uri, {FORMATION: rows})
    main(Hull(data=uri))
    found, expected = values_of(uri, hull_spec(FORMATION)), pymatgen_values(rows, zero=True)
    np.testing.assert_allclose([found[name] for name in expected], list(expected.values()), atol=1e-7)


def test_many_elements_do_not_enumerate_every_subset() -> None:
    many = [SYMBOLS[z] for z in range(3, 33)]
    stable = {"-".join(sorted(pair)): [("x", 0.0)] for pair in itertools.pairwise(many)}
    assert len(hull.SystemHulls(stable)._subsystems(sorted(many))) == len(stable)
    assert hull.SystemHulls(stable)._subsystems(["Be", "Li"]) == []
