from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from crystalign import storage
from crystalign.errors import ConfigError, ConflictError, DatasetError, VerificationError
from crystalign.index import segment_writer
from crystalign.index.build import build_index
from crystalign.index.embeddings import EmbeddingManifest, EmbeddingProvenance, embedding_table, write_embeddings
from crystalign.index.manifest import IndexManifest
from crystalign.index.search import Segment, merge


@pytest.fixture
def embeddings(rows, tmp_path, write):
    return write(str(tmp_path / "embeddings"), rows)


def test_an_index_holds_every_row_once_and_finds_it(rows, embeddings, tmp_path):
    out = str(tmp_path / "index")
    seen = []
    manifest = build_index(embeddings, out, rows_per_segment=700, on_rows=seen.append)
    assert [entry.rows for entry in manifest.segments] == seen == [700, 700, 700, 700, 200]
    assert manifest == IndexManifest.read(out)
    segments = [Segment.load(out, manifest, [entry]) for entry in manifest.segments]
    assert sorted(i for s in segments for i in s.table["id"].to_pylist()) == sorted(rows.ids)
    query = rows.vectors[11].astype(np.float32)
    answers = [segment.search(query[None], 10, 'elements HAS "O"')[0] for segment in segments]
    mask = np.array(["O" in e for e in rows.elements])
    found = merge(answers, 10)
    assert list(zip(found.ids, found.scores.tolist(), strict=True)) == rows.oracle(query, 10, mask)


def test_a_row_points_back_at_its_place_in_the_dataset(rows, embeddings, tmp_path):
    manifest = build_index(embeddings, str(tmp_path / "index"), rows_per_segment=1000)
    segment = Segment.load(str(tmp_path / "index"), manifest)
    place = rows.ids.index("m-1234")
    record = segment.records(np.array([segment.row_of("m-1234")]))[0]
    assert record["row"] == place
    assert record["shard"] == place // (len(rows.ids) // 3)


def test_equal_embeddings_make_an_equal_version(embeddings, tmp_path):
    first = build_index(embeddings, str(tmp_path / "one"))
    second = build_index(embeddings, str(tmp_path / "two"))
    assert first.version == second.version
    assert build_index(embeddings, str(tmp_path / "one")).created == first.created  # and again: nothing happens


def test_an_index_is_never_overwritten(rows, embeddings, tmp_path, write):
    out = str(tmp_path / "index")
    build_index(embeddings, out)
    before = {path: storage.read_bytes(path) for path in storage.list_files(out)}
    other = write(str(tmp_path / "other"), rows, vectors=-rows.vectors.astype(np.float32))
    with pytest.raises(ConfigError, match="choose another --out"):
        build_index(other, out)
    assert {path: storage.read_bytes(path) for path in storage.list_files(out)} == before


def test_a_changed_segment_is_not_searched(embeddings, tmp_path):
    manifest = build_index(embeddings, str(tmp_path / "index"))
    path = Path(tmp_path / "index" / manifest.segments[0].path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(VerificationError, match="manifest says"):
        Segment.load(str(tmp_path / "index"), manifest)


def test_an_index_without_a_manifest_does_not_exist(embeddings, tmp_path):
    build_index(embeddings, str(tmp_path / "index"))
    (tmp_path / "index" / "manifest.json").unlink()
    with pytest.raises(DatasetError, match="crystalign index"):
        IndexManifest.read(str(tmp_path / "index"))


@pytest.mark.parametrize(("what", "says"), [("nan", "not finite"), ("long", "length")])
def test_vectors_that_are_none_are_refused(rows, tmp_path, what, says, write):
    vectors = rows.vectors.astype(np.float32)
    vectors[7] = np.nan if what == "nan" else 3 * vectors[7]
    broken = write(str(tmp_path / "embeddings"), rows, vectors=vectors)
    with pytest.raises(DatasetError, match=says):
        build_index(broken, str(tmp_path / "index"))
    assert not storage.exists(str(tmp_path / "index" / "manifest.json"))


def test_an_id_names_one_material(rows, tmp_path, write):
    twice = rows._replace(table=rows.table.set_column(0, "id", pa.array(["same"] * len(rows.ids))))
    with pytest.raises(DatasetError, match="twice"):
        build_index(write(str(tmp_path / "embeddings"), twice), str(tmp_path / "index"))


def test_unknown_numbers_are_not_compared(rows, tmp_path, write):
    column = rows.properties[1].column
    values = [float("nan")] * 10 + rows.table[column].to_pylist()[10:]
    place = rows.table.column_names.index(column)
    holed = rows._replace(table=rows.table.set_column(place, column, pa.array(values)))
    manifest = build_index(write(str(tmp_path / "embeddings"), holed), str(tmp_path / "index"))
    segment = Segment.load(str(tmp_path / "index"), manifest)
    assert segment.allowed("_crystalign_band_gap_pbe IS UNKNOWN").n == 10
    assert segment.allowed("NOT _crystalign_band_gap_pbe<0").n == len(rows.ids) - 10


MOMENTS = {
    "before its first segment": (segment_writer.SegmentWriter, "_segment"),
    "before its manifest": (IndexManifest, "write"),
}


def overtaken(monkeypatch, moment, act):
    """Let something happen once, while an index is built."""
    place, name = MOMENTS[moment]
    goes_on, waiting = getattr(place, name), [act]

    def interrupted(*values):
        if waiting:
            waiting.pop()()
        return goes_on(*values)

    monkeypatch.setattr(place, name, interrupted)


@pytest.mark.parametrize("moment", MOMENTS)
def test_of_two_indices_that_are_built_in_one_place_the_first_stays_whole(
    rows, embeddings, tmp_path, monkeypatch, moment, write
):
    out = str(tmp_path / "index")
    other = write(str(tmp_path / "other"), rows, vectors=-rows.vectors.astype(np.float32))
    built = []
    overtaken(monkeypatch, moment, lambda: built.append(build_index(other, out)))
    with pytest.raises(ConfigError, match=r"already holds index .* choose another --out"):
        build_index(embeddings, out)
    assert IndexManifest.read(out) == built[0]
    segment = Segment.load(out, built[0])  # checks every file against the manifest
    assert segment.search(-rows.vectors[:1].astype(np.float32), 1)[0].ids == [rows.ids[0]]


@pytest.mark.parametrize("moment", MOMENTS)
def test_two_jobs_that_build_the_same_index_agree(embeddings, tmp_path, monkeypatch, moment):
    out = str(tmp_path / "index")
    built = []
    overtaken(monkeypatch, moment, lambda: built.append(build_index(embeddings, out)))
    assert build_index(embeddings, out) == built[0] == IndexManifest.read(out)


def test_an_index_whose_segments_have_other_names_is_recognised(embeddings, tmp_path):
    out = str(tmp_path / "index")
    manifest = build_index(embeddings, out)
    (entry,) = manifest.segments
    (tmp_path / "index" / entry.path).rename(tmp_path / "index" / "segments" / "segment-00000.parquet")
    old = manifest.model_copy(
        update={"segments": (entry.model_copy(update={"path": "segments/segment-00000.parquet"}),)}
    )
    (tmp_path / "index" / "manifest.json").write_text(old.model_dump_json())
    assert build_index(embeddings, out) == old


def test_two_models_never_share_an_embedding_file_and_one_writes_it_once(rows, tmp_path):
    uri = str(tmp_path / "embeddings")
    making = EmbeddingProvenance(model_sha256="a" * 64, dataset_sha256="d" * 64, modality="crystal")
    table = rows.table.append_column("split_formula", pa.array(np.linspace(0, 0.999, len(rows.ids))))
    place = {"shard": 0, "positions": range(len(rows.ids)), "properties": rows.properties}
    one, other = (embedding_table(table, s * rows.vectors.astype(np.float32), **place) for s in (1, -1))
    first = write_embeddings(uri, "part", one, making)
    assert write_embeddings(uri, "part", other, making) == first, "a second job of the same making takes it"
    second = write_embeddings(uri, "part", other, making.model_copy(update={"model_sha256": "b" * 64}))
    assert {first.path, second.path} == set(storage.list_names(uri))
    for entry in (first, second):
        storage.verify(storage.join(uri, entry.path), entry)
    damaged = Path(uri, first.path)
    damaged.write_bytes(damaged.read_bytes()[:-9])
    assert write_embeddings(uri, "part", one, making) == first


def test_embeddings_are_never_overwritten(rows, embeddings, write):
    with pytest.raises(ConflictError, match="exists"):
        write(embeddings, rows, model="b" * 64)
    assert EmbeddingManifest.read(embeddings).model_sha256 == "a" * 64
