"""Enumerate: the rows requested, none twice, the same with any number of workers and after an interruption."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import small_campaign as small
from crystalign import storage
from crystalign.crystal import SYMBOLS, Crystal
from crystalign.errors import ConfigError, DatasetError
from crystalign.index.build import build_index
from crystalign.index.search import Segment
from crystalign.material import Material, Provenance
from crystalign.physics.symmetry import symmetry
from crystalign.shards.dataset import Dataset
from crystalign.shards.manifest import Manifest
from crystalign.shards.schema import table_to_materials
from crystalign.shards.writer import commit_manifest, write_shard
from crystalign_jobs.derive import Derive
from crystalign_jobs.derive import main as derive
from crystalign_jobs.embed import Embed, embed
from crystalign_jobs.enumerate import Enumerate, main
from crystalign_jobs.enumeration.plan import Request, plan_blocks, quotas_of, shares
from crystalign_jobs.merge import Merge
from crystalign_jobs.merge import main as merge
from crystalign_ray import tasks

pytest.importorskip("smact", reason="the extra `enumerate` is not installed")
pytestmark = pytest.mark.usefixtures("ray_session")

FCC = np.array([[0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]])
ROWS = 90


def crystal(elements: str, lattice: Any, sites: list[list[float]]) -> Crystal:
    return Crystal(np.array(lattice), np.array(sites), np.array([SYMBOLS.index(e) for e in elements.split()]))


def material(name: str, one: Crystal, **changes: Any) -> Material:
    found = symmetry(one)
    provenance = Provenance("known", "CC-BY-4.0", "2026", **changes)
    return Material(name, one, provenance, spacegroup_number=found.number, prototype=found.prototype)


def known() -> list[Material]:
    """Rock salts, caesium chlorides and perovskites; and rows that are no parents."""
    half = [[0.0] * 3, [0.5] * 3]
    cage = [[0.5] * 3, [0.0] * 3, [0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5]]
    rows = {
        "NaCl": crystal("Na Cl", 5.64 * FCC, half),
        "MgO": crystal("Mg O", 4.21 * FCC, half),
        "CsBr": crystal("Cs Br", 4.29 * np.eye(3), half),
        "SrTiO3": crystal("Sr Ti O O O", 3.905 * np.eye(3), cage),
        "KMgF3": crystal("K Mg F F F", 3.99 * np.eye(3), cage),
        "Ne": crystal("Ne", 4.46 * FCC, [[0.0] * 3]),
    }
    rows["supercell"] = Crystal(
        np.diag([2, 1, 1]) @ rows["SrTiO3"].lattice,
        np.concatenate([rows["SrTiO3"].frac_coords / [2, 1, 1] + [s, 0, 0] for s in (0, 0.5)]),
        np.tile(rows["SrTiO3"].atomic_numbers, 2),
    )
    mixed = ((11, 0.5), (19, 0.5)), ((17, 1.0),)
    rows["mixed"] = Crystal(6.0 * FCC, np.array(half), np.array([11, 17]), mixed)
    made_up = material("made up", crystal("K Cl", 6.29 * FCC, half), hypothetical=True)
    return [*(material(name, one) for name, one in rows.items()), made_up]


@pytest.fixture(scope="module")
def parents(tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = str(tmp_path_factory.mktemp("parents") / "data")
    rows = known()
    commit_manifest(uri, [write_shard(uri, "a", rows[:5], rows_per_group=2), write_shard(uri, "b", rows[5:])])
    return uri


def request(parents: str, out: Path | str, **changes: Any) -> Enumerate:
    settings = {"data": parents, "out": str(out), "rows": ROWS, "rows_per_shard": 16, "max_sites": 5} | changes
    return Enumerate(**settings)


@pytest.fixture(scope="module")
def made(ray_session: None, parents: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An enumeration without interruption."""
    out = str(tmp_path_factory.mktemp("made") / "hypothetical")
    main(request(parents, out))
    return out


def rows_of(uri: str) -> list[Material]:
    return list(Dataset.open(uri).materials())


def test_there_are_as_many_rows_as_requested_in_shards_that_verify(made: str) -> None:
    dataset = Dataset.open(made)
    dataset.verify()
    assert len(dataset) == ROWS
    assert len(dataset.manifest.shards) > 3
    assert max(shard.rows for shard in dataset.manifest.shards) <= 16
    assert set(dataset.manifest.files) == {
        f"shards/{name}" for name in storage.list_names(storage.join(made, "shards"))
    }
    assert storage.list_names(storage.join(made, "enumerate")) == []
    assert {(source.name, source.licence) for source in dataset.manifest.sources} == {
        ("crystalign-enumerate", "CC-BY-4.0")
    }


def test_no_formula_and_prototype_occurs_twice_also_not_among_the_known(made: str) -> None:
    rows = rows_of(made)
    for one, other in [*itertools.combinations(rows, 2), *itertools.product(rows, known())]:
        assert (one.prototype, one.crystal.formula) != (other.prototype, other.crystal.formula), (one, other)
    assert {row.prototype for row in rows_of(made)} == {row.prototype for row in known()[:5]}


def test_only_ordered_real_crystals_that_are_small_enough_are_parents(made: str) -> None:
    named = {row.provenance.reference.split()[1] for row in rows_of(made)}
    assert named == {"NaCl", "MgO", "CsBr", "SrTiO3", "KMgF3"}


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_the_result_does_not_depend_on_the_number_of_workers(
    workers: int, made: str, parents: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks.os, "cpu_count", lambda: workers)
    main(request(parents, tmp_path / "out"))
    assert Manifest.read(str(tmp_path / "out")).sha256 == Manifest.read(made).sha256


def test_another_seed_gives_other_crystals(made: str, parents: str, tmp_path: Path) -> None:
    main(request(parents, tmp_path / "out", seed=1))
    assert {row.id for row in rows_of(str(tmp_path / "out"))} != {row.id for row in rows_of(made)}


class KilledError(Exception):
    """The driver is gone."""


@pytest.mark.parametrize("damage", [False, True])
def test_an_interrupted_job_continues_and_gives_the_same(
    damage: bool, made: str, parents: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    whole = tasks.map_rows

    def two(*args: Any) -> Iterator[Any]:
        yield from itertools.islice(whole(*args), 2)
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(tasks, "map_rows", two)
        with pytest.raises(KilledError):
            main(request(parents, out))
    finished = sorted((out / "enumerate").glob("00-*.json"))
    assert len(finished) >= 2
    assert not (out / "manifest.json").exists()
    if damage:
        victim = min((out / "shards").glob("*.parquet"))
        victim.write_bytes(victim.read_bytes()[:-1])
    before = {path.name: path.stat().st_mtime_ns for path in finished}
    leftover = out / "shards" / "00-00000-000.0123456789ab.parquet"  # of a run with another request
    leftover.write_bytes(b"old")
    ran: list[str] = []
    monkeypatch.setattr(
        tasks, "map_rows", lambda rows, work: whole(ran.extend(r["receipt"] for r in rows) or rows, work)
    )
    main(request(parents, out))
    again = set(ran) & set(before)
    assert len(again) == (1 if damage else 0)
    assert Manifest.read(str(out)).sha256 == Manifest.read(made).sha256
    Dataset.open(str(out)).verify()
    assert not leftover.exists()


def test_prototypes_that_are_exhausted_leave_their_rows_to_others(
    parents: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(request(parents, tmp_path / "some", rows=900))
    manifest = Manifest.read(str(tmp_path / "some"))
    counts = {
        p: sum(row.prototype == p for row in rows_of(str(tmp_path / "some"))) for p in {r.prototype for r in known()}
    }
    assert manifest.rows == 900
    assert max(counts.values()) > 900 * 2 / 5 + 100  # the perovskites are two of five parents
    capsys.readouterr()
    main(request(parents, tmp_path / "all", rows=100_000, rows_per_shard=4096))
    told = capsys.readouterr().out
    rows = rows_of(str(tmp_path / "all"))
    assert 900 < len(rows) < 100_000
    assert f"{100_000 - len(rows):,} fewer than requested" in told
    assert len({(row.crystal.formula, row.prototype) for row in rows}) == len(rows)


def test_the_mark_survives_merge_derive_embed_and_index(made: str, parents: str, tmp_path: Path) -> None:
    both = str(tmp_path / "both")
    merge(Merge(datasets=(parents, made), out=both))
    derive(Derive(data=both, modalities=("composition",)))
    rows = rows_of(both)
    assert {row.id for row in rows if row.provenance.hypothetical} == {
        "made up",
        *(row.id for row in rows_of(made)),
    }
    assert all(row.value("composition") is not None for row in rows)
    table = Dataset.open(both).table(["id", "hypothetical"])
    assert sum(bool(x) for x in table["hypothetical"].to_pylist()) == ROWS + 1
    embeddings, index = str(tmp_path / "embeddings"), str(tmp_path / "index")
    embed(Embed(model=small.write_model(tmp_path / "model"), data=both, out=embeddings, modality="composition"))
    segment = Segment.load(index, build_index(embeddings, index))
    real = len(known()) - 1
    assert (segment.count(), segment.count("_crystalign_hypothetical = TRUE")) == (real, ROWS + 1)
    (found,) = segment.search(np.ones((1, segment.dimension)), ROWS)
    assert set(found.ids) == {row.id for row in known()} - {"made up"}


def test_a_dataset_without_hypothetical_rows_has_no_such_column(parents: str) -> None:
    from crystalign.shards.schema import materials_to_table

    assert "hypothetical" not in materials_to_table(known()[:5]).column_names
    assert "hypothetical" in materials_to_table(known()).column_names
    assert [row.provenance for row in table_to_materials(materials_to_table(known()))] == [
        row.provenance for row in known()
    ]


def test_what_cannot_be_enumerated_is_refused(made: str, parents: str, tmp_path: Path, monkeypatch: Any) -> None:
    with pytest.raises(ConfigError, match="holds a dataset already"):
        main(request(parents, made))
    with pytest.raises(DatasetError, match=r"no crystal of .* can be a parent: .*more than 1 sites"):
        main(request(made, tmp_path / "none", max_sites=1))
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="crystalign\\[enumerate\\]"):
        main(request(parents, tmp_path / "without"))


# --- the plan -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("weights", "total"), [([1, 1, 1], 10), ([0, 5, 0, 2], 3), ([7], 0), ([3, 9, 1], 1000)])
def test_shares_add_up_and_are_proportional(weights: list[int], total: int) -> None:
    found = shares(weights, total)
    assert sum(found) == total
    assert all(abs(f - w * total / sum(weights)) < 1 for f, w in zip(found, weights, strict=True))


def test_every_block_fits_a_shard_and_reads_one_bucket() -> None:
    families = {f"AB:{n}:a": 1 + n % 7 for n in range(500)} | {"huge": 3000}
    settings = Request(dataset_sha256="d", rows=9000, max_sites=16, seed=0, rows_per_shard=256)
    blocks = plan_blocks(families, 3, settings)
    assert [block.number for block in blocks] == list(range(len(blocks)))
    units = [unit for block in blocks for unit in block.units]
    assert sum(unit.quota for unit in units) == 9000
    assert max(sum(unit.quota for unit in block.units) for block in blocks) <= 256
    assert {unit.prototype for unit in units} == set(families)
    assert len({(unit.prototype, unit.unit) for unit in units}) == len(units)
    assert len([unit for unit in units if unit.prototype == "huge"]) > 10
    first = quotas_of(blocks, set(), 9000, 0, 256)
    assert first == {(b.number, n): u.quota for b in blocks for n, u in enumerate(b.units) if u.quota}
    later = quotas_of(blocks, {(0, 0)}, 300, 1, 256)
    assert sum(later.values()) == 300
    assert (0, 0) not in later
    assert len({block for block, _ in later}) <= 4 < len(blocks)
    assert quotas_of(blocks, {(b.number, n) for b in blocks for n in range(len(b.units))}, 5, 1, 256) == {}
