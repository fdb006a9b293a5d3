"""An index is built by independent tasks: in any order, after any interruption, in bounded memory."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from crystalign import storage
from crystalign.errors import DatasetError
from crystalign.index import id_runs
from crystalign.index.build import build_index, embedding_rows
from crystalign.index.embeddings import EmbeddingManifest
from crystalign.index.id_runs import PlacedId, common, merge_runs, require_distinct, save_run
from crystalign.index.manifest import IndexManifest
from crystalign.index.predictions import PredictionColumns
from crystalign.index.segment_writer import BUILDING, SegmentWriter, run_here

N, R = 600, 70
KINDS = ("exact-fp16", "ivf-sq8")


@pytest.fixture(scope="module")
def few(make):
    return make(N, 16, seed=8)


@pytest.fixture(scope="module")
def embeddings(few, write, tmp_path_factory):
    return write(str(tmp_path_factory.mktemp("parallel") / "embeddings"), few)


def shuffled(rows, work):
    """Tasks that end in another order."""
    return run_here(random.Random(3).sample(list(rows), len(rows)), work)


class StoppedError(Exception):
    """The job ends here."""


def stopping(after):
    """Tasks of a job that ends after some of them."""

    def run(rows, work):
        for done, row in enumerate(rows):
            if done == after:
                raise StoppedError
            yield json.loads(work(row)["result"])

    return run


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_the_tasks_does_not_change_the_index(embeddings, tmp_path, kind):
    one = build_index(embeddings, str(tmp_path / "one"), rows_per_segment=R, kind=kind)
    other = build_index(embeddings, str(tmp_path / "other"), rows_per_segment=R, kind=kind, run=shuffled)
    assert one.version == other.version
    assert one.segments == other.segments
    assert not storage.list_names(str(tmp_path / "one" / BUILDING)), "the receipts are gone"


@pytest.mark.parametrize("kind", KINDS)
def test_a_stopped_build_goes_on_where_it_ended(embeddings, tmp_path, kind):
    whole = build_index(embeddings, str(tmp_path / "whole"), rows_per_segment=R, kind=kind)
    out = tmp_path / "index"
    with pytest.raises(StoppedError):
        build_index(embeddings, str(out), rows_per_segment=R, kind=kind, run=stopping(4))
    assert not (out / "manifest.json").exists()
    before = {path: path.stat().st_mtime_ns for path in out.glob("s*/**/*") if path.is_file()}
    assert sum(path.suffix == ".parquet" for path in before) == 4
    again = build_index(embeddings, str(out), rows_per_segment=R, kind=kind)
    assert again.version == whole.version
    assert {path: path.stat().st_mtime_ns for path in before} == before, "what was whole is not written again"


def test_a_damaged_segment_of_a_stopped_build_is_written_again(embeddings, tmp_path):
    out = tmp_path / "index"
    with pytest.raises(StoppedError):
        build_index(embeddings, str(out), rows_per_segment=R, run=stopping(4))
    damaged = sorted(out.glob("segments/*.parquet"))[2]
    damaged.write_bytes(damaged.read_bytes()[:-5])
    manifest = build_index(embeddings, str(out), rows_per_segment=R)
    for entry in manifest.files():
        storage.verify(str(out / entry.path), entry)
    assert manifest == IndexManifest.read(str(out))


def test_a_task_reads_only_the_files_that_hold_its_rows(embeddings, tmp_path, monkeypatch):
    rows, read = embedding_rows(embeddings, EmbeddingManifest.read(embeddings), PredictionColumns((), "")), []
    download = storage.download
    monkeypatch.setattr(storage, "download", lambda uri, *a, **k: (read.append(uri[-20:]), download(uri, *a, **k)))
    found = rows.read(N // 3, N // 3 + 5, tmp_path)  # the second of three files
    assert len(read) == 1
    assert found.table["row"].to_pylist() == list(range(N // 3, N // 3 + 5))
    rows.read(N // 3 - 1, N // 3 + 1, tmp_path)
    assert len(read) == 3


def test_an_id_in_two_files_is_refused_with_both_names(few, write, tmp_path):
    ids = list(few.ids)
    ids[5], ids[N - 5] = "mp-149", "mp-149"
    twice = few._replace(table=few.table.set_column(0, "id", pa.array(ids)))
    uri = write(str(tmp_path / "embeddings"), twice)
    files = [entry.path for entry in EmbeddingManifest.read(uri).files]
    with pytest.raises(DatasetError, match="twice") as refused:
        build_index(uri, str(tmp_path / "index"), rows_per_segment=R)
    assert all(name in str(refused.value) for name in ("'mp-149'", files[0], files[2]))
    assert not (tmp_path / "index" / "manifest.json").exists()


def runs_of(folder: Path, lists: list[list[str]]) -> list[Path]:
    paths = []
    for number, ids in enumerate(lists):
        paths.append(folder / f"{number}.arrow")
        paths[-1].write_bytes(save_run([PlacedId(name, f"file-{number}") for name in ids]))
    return paths


@pytest.mark.parametrize("batch", [1, 2, 1024])
@pytest.mark.parametrize("fan_in", [2, 3, 64])
def test_runs_are_merged_in_order_whatever_is_held_at_a_time(tmp_path, monkeypatch, batch, fan_in):
    monkeypatch.setattr(id_runs, "BATCH", batch)
    monkeypatch.setattr(id_runs, "FAN_IN", fan_in)
    rng = np.random.default_rng(0)
    ids = [f"Å-{i}" if i % 3 else f"z{i}" for i in rng.permutation(200).tolist()]
    lists = [ids[a:b] for a, b in ((0, 0), (0, 1), (1, 50), (50, 51), (51, 120), (120, 121), (121, 200))]
    paths = runs_of(tmp_path, lists)
    assert [entry.id for entry in merge_runs(paths, tmp_path)] == sorted(ids)
    assert require_distinct(paths, tmp_path) == 200
    assert common(["z0", "Å-1", "none"], paths) == {"z0", "Å-1"}
    again = runs_of(tmp_path, [*lists, [ids[77]]])
    with pytest.raises(DatasetError, match=rf"'{ids[77]}' is in the embeddings twice.*file-4 and file-7"):
        require_distinct(again, tmp_path)


@pytest.mark.parametrize(("ids", "count"), [([], 0), ([["a"]], 1), ([["a", "b"]], 2)])
def test_few_ids_are_counted(tmp_path, ids, count):
    assert require_distinct(runs_of(tmp_path, ids), tmp_path) == count


def test_the_folder_of_receipts_follows_from_what_determines_the_files(embeddings):
    rows = embedding_rows(embeddings, EmbeddingManifest.read(embeddings), PredictionColumns((), ""))
    one = SegmentWriter(rows, "index", "exact-fp16", R)
    others = [
        replace(one, rows_per_segment=R + 1),
        replace(one, kind="ivf-sq8"),
        replace(one, first=1),
        replace(one, trained=(storage.entry_of("store/trained.faiss", b"x"),)),
        replace(one, source=rows._replace(columns=rows.columns[:-1])),
    ]
    assert len({writer.folder for writer in (one, *others)}) == len(others) + 1
