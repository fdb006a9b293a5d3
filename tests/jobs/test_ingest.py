"""Ingest through Ray: whatever is given ends in the dataset or in quarantine, and the manifest is last."""

from __future__ import annotations

import contextlib
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from crystalign import storage
from crystalign.crystal import Crystal
from crystalign.errors import ConfigError, ConflictError, DatasetError
from crystalign.limits import Limits
from crystalign.shards.dataset import Dataset
from crystalign.shards.manifest import Manifest
from crystalign.shards.order import EpochOrder
from crystalign.shards.selection import Selection
from crystalign.shards.splits import SplitRule
from crystalign.sources import Item
from crystalign_jobs import ingest
from crystalign_jobs.ingest import Ingest, main, share_out
from crystalign_ray import driver_lock
from crystalign_ray.driver_lock import driving

pytestmark = pytest.mark.usefixtures("ray_session")


def poscar(a: float) -> str:
    return Crystal([[a, 0, 0], [0, a, 0], [0, 0, a]], [[0, 0, 0], [0.5, 0.5, 0.5]], [55, 17]).to_poscar()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "crystals"
    root.mkdir()
    for number in range(9):
        (root / f"good{number}.vasp").write_text(poscar(4.0 + 0.01 * number))
    (root / "empty.cif").write_text("")
    (root / "huge.vasp").write_text(poscar(4.0).replace("1 1", "1000000000 1"))
    (root / "unknown.vasp").write_text(poscar(4.0).replace("Cs", "Qq"))
    (root / "notes.txt").write_text("no crystal")
    with zipfile.ZipFile(root / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.cif", bytes(8 << 20))
    return root


def test_every_file_is_a_row_or_a_reject(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "data")
    manifest = main(Ingest(source=str(folder), out=out, licence="CC0-1.0", rows_per_shard=4))
    dataset = Dataset.open(out)
    dataset.verify()
    refused = dataset.quarantine().to_pylist()
    assert manifest.rows == 9
    assert manifest.quarantined == len(refused) == 5
    assert all(entry["reason"] and entry["message"] for entry in refused)
    assert {e["id"]: e["reason"] for e in refused}["huge"] == "too-many-sites"
    assert {material.id for material in dataset.materials()} == {f"good{n}" for n in range(9)}
    assert all(material.spacegroup_number == 221 for material in dataset.materials())
    assert max(entry.rows for entry in manifest.shards) <= 4
    said = capsys.readouterr().out
    assert "9 crystals" in said
    assert "5 quarantined" in said
    assert f"next: crystalign derive {out}" in said


def test_the_shards_do_not_depend_on_the_run(folder: Path, tmp_path: Path) -> None:
    first, second = (
        main(Ingest(source=str(folder), out=str(tmp_path / name), licence="CC0-1.0", rows_per_shard=4)) for name in "ab"
    )
    assert first.sha256 == second.sha256


def test_a_dataset_is_replaced_only_when_asked(folder: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "data")
    main(Ingest(source=str(folder), out=out, limit=3))
    kept = Dataset.open(out).manifest
    with pytest.raises(ConfigError, match="--overwrite"):
        main(Ingest(source=str(folder), out=out))
    assert Dataset.open(out).manifest == kept
    main(Ingest(source=str(folder), out=out, overwrite=True))
    dataset = Dataset.open(out)
    assert dataset.manifest.rows == 9
    assert set(storage.list_names(out)) == dataset.manifest.files | {"manifest.json"}


def test_a_dataset_that_cannot_be_replaced_stays_whole(folder: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "data")
    kept = main(Ingest(source=str(folder), out=out))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "notes.txt").write_text("no crystal")
    with pytest.raises(DatasetError, match="nothing to write"):
        main(Ingest(source=str(tmp_path / "notes"), out=out, overwrite=True))
    assert Dataset.open(out).manifest == kept
    Dataset.open(out).verify()


def test_a_second_ingest_into_one_place_is_refused_while_the_first_runs(folder: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "data")
    with driving(out), pytest.raises(ConfigError, match=f"{out} is locked by process"):
        main(Ingest(source=str(folder), out=out))
    assert main(Ingest(source=str(folder), out=out)).rows == 9


@pytest.mark.parametrize("place", ["ingest._commit", "Manifest.write"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_of_two_ingests_that_meet_all_the_same_one_wins_and_its_files_stay(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool, place: str
) -> None:
    """As if each took the other's driver for dead; the second runs from start to end before the first one's commit."""
    out = str(tmp_path / "data")
    if overwrite:
        main(Ingest(source=str(folder), out=out, limit=5))
    (tmp_path / "more").mkdir()
    for number in range(30):
        (tmp_path / "more" / f"m{number}.vasp").write_text(poscar(5.0 + 0.01 * number))
    monkeypatch.setattr(driver_lock, "driving", lambda _: contextlib.nullcontext(lambda: True))
    holder, name = (Manifest, "write") if place == "Manifest.write" else (ingest, "_commit")
    goes_on, won = getattr(holder, name), []

    def come_between(*values: Any, **named: Any) -> Any:
        if not won:
            won.append(None)
            won.append(main(Ingest(source=str(tmp_path / "more"), out=out, overwrite=overwrite)))
        return goes_on(*values, **named)

    monkeypatch.setattr(holder, name, come_between)
    with pytest.raises(ConflictError, match=r"is left as it is: another job .* Run the command again"):
        main(Ingest(source=str(folder), out=out, overwrite=overwrite))
    dataset = Dataset.open(out)
    assert dataset.manifest == won[1]
    assert {material.id for material in dataset.materials()} == {f"m{number}" for number in range(30)}
    dataset.verify()


def test_a_wrong_source_leaves_the_old_dataset_alone(folder: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "data")
    main(Ingest(source=str(folder), out=out, limit=3))
    with pytest.raises(storage.StorageError, match="nothing at"):
        main(Ingest(source=str(tmp_path / "missing"), out=out, overwrite=True))
    assert Dataset.open(out).manifest.rows <= 3


def test_a_file_that_takes_too_long_is_given_up_inside_a_task(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    crowded = Crystal(np.eye(3) * 40, rng.random((990, 3)), np.full(990, 11))
    (tmp_path / "crowded.cif").write_text(crowded.to_cif())
    out = str(tmp_path / "data")
    with pytest.raises(DatasetError, match="1 were quarantined"):
        main(Ingest(source=str(tmp_path / "crowded.cif"), out=out, limits=Limits(max_seconds=0.02)))
    [found] = [pq.read_table(path).to_pylist() for path in Path(out, "quarantine").iterdir()]
    assert [entry["reason"] for entry in found] == ["too-slow"]


def test_work_is_shared_out_completely_and_in_the_order_of_the_source_within_a_chunk() -> None:
    items = [Item(key=str(n), rows=tuple(range(n % 5))) for n in range(50)]
    items += [Item(key=str(50 + n), rows=(0, 1, 2), stop=9) for n in range(5)]  # slices of a text, to be parsed
    chunks = share_out(items, 7)
    dealt = [(int(item.key), row) for chunk in chunks for item in chunk for row in item.rows or (None,)]
    assert sorted(dealt, key=str) == sorted(((int(i.key), row) for i in items for row in i.rows or (None,)), key=str)
    assert all(sum(item.count for item in chunk) <= 7 for chunk in chunks)
    assert all([int(item.key) for item in chunk] == sorted({int(item.key) for item in chunk}) for chunk in chunks)
    assert all(len(item.rows) == 3 for chunk in chunks for item in chunk if item.stop)
    assert share_out(items, 7) == chunks


def test_a_long_source_is_dealt_out_stretch_by_stretch() -> None:
    items = [Item(key=str(n), rows=tuple(range(16))) for n in range(100)]
    chunks = share_out(items, 10)  # stretches of 640 rows: 40 items
    first = [int(item.key) for chunk in chunks[:64] for item in chunk]
    assert max(first) == 39
    assert all(len(chunk) > 5 for chunk in chunks[:64]), "ten rows of one chunk come from many places"


def test_batches_of_a_sorted_table_look_as_if_drawn_at_random(tmp_path: Path) -> None:
    """χ² of the kinds in each batch; windows of two shards of ten, and a source in which kinds stand together."""
    rows, kinds, batch = 2000, 10, 100
    kind = np.arange(rows) * kinds // rows
    table = pa.table(
        {
            "material_id": [f"m{row}" for row in range(rows)],
            "lattice": [[4.0 + 1e-4 * row] * 3 + [90.0] * 3 for row in range(rows)],
            "frac_coords": [[0.0, 0, 0, 0.5, 0.5, 0.5]] * rows,
            "atomic_numbers": [[55, 31 + int(k)] for k in kind],
        }
    )
    pq.write_table(table, tmp_path / "crystals.parquet")
    columns = {"lattice": "lattice", "lattice_format": "parameters", "frac_coords": "frac_coords"}
    columns["atomic_numbers"] = "atomic_numbers"
    mapping = {"name": "sorted", "licence": "CC0-1.0", "id": "material_id", "crystal": columns}
    (tmp_path / "mapping.yaml").write_text(yaml.safe_dump(mapping))
    out = str(tmp_path / "data")
    source = str(tmp_path / "crystals.parquet")
    main(Ingest(source=source, mapping=str(tmp_path / "mapping.yaml"), out=out, rows_per_shard=200))
    dataset = Dataset.open(out)
    assert len(dataset.manifest.shards) == 10
    everything = Selection.build(dataset, SplitRule(train=1.0, validation=0.0), "train")
    order = EpochOrder(everything, seed=0, epoch=0, batch_size=batch, window_rows=400)
    second = [dataset.read(n, columns=["crystal"]).column("crystal").to_pylist() for n in range(10)]
    found = []
    for step in range(order.steps):
        elements = [second[shard][row]["atomic_numbers"][1] for shard, _, row in order.rows(step).tolist()]
        seen = np.bincount(np.array(elements) - 31, minlength=kinds)
        found.append(float(((seen - batch / kinds) ** 2 / (batch / kinds)).sum()))
    # 9 degrees of freedom; the mean over 20 batches has a standard error of sqrt(18 / 20) = 0.95
    assert 5.5 < np.mean(found) < 12.5


def test_real_files_are_read_or_refused_with_a_reason(real_data: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "data")
    manifest = main(Ingest(source=str(real_data / "cif" / "oxides"), out=out, licence="CC0-1.0"))
    files = len(list((real_data / "cif" / "oxides").glob("*.cif")))
    assert manifest.rows + manifest.quarantined >= files
    assert manifest.rows > 0.9 * files


def test_a_real_table_is_sampled(real_data: Path, tmp_path: Path) -> None:
    table = str(real_data / "materials_project" / "crystals.parquet")
    out = str(tmp_path / "data")
    manifest = main(Ingest(source=table, mapping="materials_project", out=out, limit=100))
    assert manifest.rows + manifest.quarantined == 100
    assert sum(manifest.property_counts.values()) > 0
    assert manifest.licences == ("CC-BY-4.0",)
