"""What can be added, removed, undone and deleted, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from crystalign import storage
from crystalign.errors import ConfigError, DatasetError, QueryError, VerificationError
from crystalign.index.build import build_index
from crystalign.index.calibration import Calibration
from crystalign.index.compaction import compact, to_rewrite
from crystalign.index.embeddings import EmbeddingManifest
from crystalign.index.index import Index
from crystalign.index.live import add, remove, rollback
from crystalign.index.manifest import IndexManifest
from crystalign.index.prune import delete_superfluous, superfluous
from crystalign.index.search import Segment
from crystalign.index.versions import history
from crystalign.properties import PropertySpec, Quantity
from crystalign_jobs import cli
from live_index import Held, opened, part_of, require_same
from small_calibration import calibration_of

N, FIRST = 90, 60
BULK = PropertySpec(quantity=Quantity.BULK_MODULUS_VRH, method="pbe", source="mp", vintage="2026")


@pytest.fixture(scope="module")
def few(make):
    return make(N, 8, seed=5)


@pytest.fixture
def uri(few, write, tmp_path):
    made = str(tmp_path / "index")
    build_index(write(str(tmp_path / "first"), part_of(few, range(FIRST))), made, rows_per_segment=25)
    return made


@pytest.fixture
def more(few, write, tmp_path):
    return write(str(tmp_path / "more"), part_of(few, range(FIRST, N)))


def altered(uri, **values):
    """Change the manifest of embeddings."""
    path = Path(uri) / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return uri


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"model_sha256": "b" * 64}, "are of model bbbbbbbbbbbb, the index is of model aaaaaaaaaaaa"),
        ({"modality": "xrd"}, "are of modality xrd, the index is of modality crystal"),
        ({"dimension": 9}, "are of dimension 9, the index is of dimension 8"),
        ({"rows": 31}, "hold 30 rows, their manifest says 31"),
    ],
)
def test_vectors_that_cannot_be_compared_are_not_added(uri, more, values, says):
    start = storage.read_bytes(f"{uri}/manifest.json")
    with pytest.raises((ConfigError, DatasetError), match=says):
        add(uri, altered(more, **values))
    assert storage.read_bytes(f"{uri}/manifest.json") == start


def test_an_id_that_the_index_has_is_added_only_in_place_of_the_other(few, uri, write, tmp_path):
    turned = part_of(few, range(4))
    turned = turned._replace(vectors=-turned.vectors)
    again = write(str(tmp_path / "again"), turned)
    with pytest.raises(ConfigError, match=rf"already has 4 \({few.ids[0]}, .*--replace"):
        add(uri, again)
    made = add(uri, again, replace=True).manifest
    assert (made.rows, made.change.rows_added, made.change.rows_removed) == (FIRST, 4, 4)
    index = Index.open(uri)
    found = index.search(-few.vectors[2:3].astype(np.float32), 1)[0][0]
    assert found["id"] == few.ids[2]
    assert found["score"] > 0.99
    assert len(index) == FIRST
    assert index.search(few.vectors[2:3].astype(np.float32), 1)[0][0]["id"] != few.ids[2], "the old row is gone"


def test_a_row_that_was_removed_can_be_added_again(few, uri, write, tmp_path):
    remove(uri, ids=[few.ids[3]])
    add(uri, write(str(tmp_path / "again"), part_of(few, [3, 70, 71])))
    held = Held(few, [*range(FIRST), 70, 71])
    require_same(opened(uri, IndexManifest.read(uri), 1), held, np.random.default_rng(0))
    assert Index.open(uri).segment.row_of(few.ids[3]) == FIRST, "the first of the added rows, not the removed one"


def test_an_id_that_the_index_lacks_is_not_removed_in_silence(few, uri):
    with pytest.raises(ConfigError, match="does not have 'nowhere'; nothing was removed"):
        remove(uri, ids=[few.ids[0], "nowhere"])
    assert IndexManifest.read(uri).number == 1
    with pytest.raises(ConfigError, match="remove all 60 rows"):
        remove(uri, filter_text="nelements>=1")
    with pytest.raises(QueryError):
        remove(uri, filter_text="nelements>=")
    with pytest.raises(ConfigError, match="either by ids or by a filter"):
        remove(uri)


def test_the_content_of_a_version_alone_determines_its_identity(few, uri, more):
    built = IndexManifest.read(uri)
    added = add(uri, more).manifest
    assert added.version != built.version
    back = rollback(uri, 1).manifest
    assert (back.version, back.number) == (built.version, 3)
    assert [version.number for version in history(uri)] == [3, 2, 1]
    assert Index.open(uri, version=2).manifest == added
    with pytest.raises(ConfigError, match="has no version 9; it has versions 1 to 3"):
        rollback(uri, 9)


def test_a_version_that_was_altered_is_not_gone_back_to(uri, more):
    add(uri, more)
    (file,) = Path(uri, "versions").glob("000001.*")
    file.write_text(file.read_text().replace('"rows": 25', '"rows": 26'))
    with pytest.raises(VerificationError, match="manifest says"):
        rollback(uri, 1)


def test_a_version_whose_files_are_gone_is_not_gone_back_to(uri, few):
    remove(uri, ids=few.ids[:5])
    compact(uri)
    Path(uri, IndexManifest.read(uri).segments[0].path).read_bytes()
    lost = next(version for version in history(uri) if version.number == 1).segments[0]
    Path(uri, lost.path).unlink()
    with pytest.raises(VerificationError, match="is missing"):
        rollback(uri, 1)


def test_a_bitmap_that_does_not_fit_its_segment_is_refused(uri, few):
    manifest = remove(uri, ids=few.ids[:1]).manifest
    (entry,) = [entry for entry in manifest.segments if entry.removed is not None]
    wrong = entry.model_copy(update={"removed_rows": 2})
    with pytest.raises(VerificationError, match="does not fit"):
        Segment.load(uri, manifest, [wrong])


def test_a_property_that_one_side_lacks_is_unknown_there(few, uri, write, tmp_path):
    table = few.table.append_column(BULK.column, pa.array(np.arange(N, dtype=float)))
    other = few._replace(table=table, properties=(few.properties[0], BULK))
    add(uri, write(str(tmp_path / "more"), part_of(other, range(FIRST, N))))
    for _ in range(2):
        index = Index.open(uri)
        known, unknown = few.properties[1].column, BULK.column
        assert index.count(f"_crystalign_{unknown} IS KNOWN") == N - FIRST
        assert index.count(f"_crystalign_{unknown}>=70") == 20
        assert index.count(f"_crystalign_{known} IS UNKNOWN") == N - FIRST
        manifest = index.manifest
        assert (
            sum(Segment.load(uri, manifest, [e]).count(f"_crystalign_{unknown}>=70") for e in manifest.segments) == 20
        )
        compact(uri, everything=True)


def test_materials_of_another_dataset_say_which(few, uri, more):
    assert "dataset" not in Index.open(uri).search(few.vectors[:1].astype(np.float32), 1)[0][0]
    add(uri, altered(more, dataset_sha256="e" * 64, dataset_uri="elsewhere"))
    for _ in range(2):
        index = Index.open(uri)
        assert [dataset.uri for dataset in index.manifest.added_datasets] == ["elsewhere"]
        for place, number in ((2, 0), (70, 1)):
            record = index.search(few.vectors[place : place + 1].astype(np.float32), 1)[0][0]
            assert (record["id"], record["dataset"]) == (few.ids[place], number)
        compact(uri, everything=True, rows_per_segment=100)
    assert len(index.manifest.segments) == 2, "a segment belongs to one dataset"


def test_a_compacted_index_is_left_as_it_is(few, uri, more):
    assert to_rewrite(IndexManifest.read(uri), 25) == ()
    add(uri, more, rows_per_segment=7)
    made = compact(uri)
    assert made.made
    assert len(made.manifest.segments) == 4
    assert not compact(uri).made
    remove(uri, ids=few.ids[:1])
    assert compact(uri).made
    assert not compact(uri).made
    assert IndexManifest.read(uri).number == 5
    assert all(entry.removed is None for entry in IndexManifest.read(uri).segments)


def test_pruning_lists_first_and_keeps_what_kept_versions_need(few, uri, more):
    for number in range(4):
        remove(uri, ids=[few.ids[number]])
    add(uri, more)
    compact(uri)
    Path(uri, "notes.txt").write_text("mine")
    Path(uri, "segments", "segment-00099.0123456789ab.parquet").write_bytes(b"of a job that failed")
    before = storage.list_names(uri)
    found = superfluous(uri, 2)
    assert found.versions == (1, 2, 3, 4, 5)
    assert storage.list_names(uri) == before
    delete_superfluous(uri, found)
    assert [version.number for version in history(uri)] == [7, 6]
    assert Path(uri, "notes.txt").exists()
    assert not Path(uri, "segments", "segment-00099.0123456789ab.parquet").exists()
    held = Held(few, range(4, N))
    for version in history(uri):
        require_same(opened(uri, version, 2), held, np.random.default_rng(6))
    assert superfluous(uri, 2) == ((), ())
    with pytest.raises(ConfigError, match="no version 3; it has versions 6 to 7"):
        rollback(uri, 3)
    rollback(uri, 6)
    with pytest.raises(ConfigError, match="keep 0 versions"):
        superfluous(uri, 0)


def test_a_calibration_of_an_earlier_version_stays_in_use_and_says_so(uri, more):
    manifest = IndexManifest.read(uri)
    calibration = calibration_of(manifest)
    calibration.write(uri)
    added = add(uri, more).manifest
    assert Calibration.read(uri, added) == calibration
    assert not calibration.is_of(added)
    assert calibration.is_of(rollback(uri, 1).manifest)
    calibration.model_copy(update={"index_version": "f" * 64}).write(uri)
    with pytest.raises(DatasetError, match="no version before it is that one"):
        Calibration.read(uri, IndexManifest.read(uri))


def test_a_calibration_stays_known_when_its_version_was_pruned(uri, few):
    before = IndexManifest.read(uri)
    for place in (3, 4, 5):
        remove(uri, ids=[few.table["id"][place].as_py()])
    delete_superfluous(uri, superfluous(uri, 1))
    manifest = IndexManifest.read(uri)
    assert [version.number for version in history(uri)] == [4]
    assert manifest.earlier[0] == before.version
    assert len(manifest.earlier) == 3


def test_a_filter_removes_what_its_search_finds(few, write, tmp_path):
    marks = pa.array(np.arange(N) % 3 == 0)
    rows = few._replace(table=few.table.append_column("hypothetical", marks))
    uri = str(tmp_path / "index")
    build_index(write(str(tmp_path / "all"), rows), uri, rows_per_segment=40)
    found = Segment.load(uri, IndexManifest.read(uri)).count("nelements<=2")
    assert 0 < found < few.table.num_rows
    assert remove(uri, filter_text="nelements<=2").manifest.rows == N - found
    left = Segment.load(uri, IndexManifest.read(uri))
    assert left.count("nelements<=2") == 0
    assert left.count("nelements<=2 AND _crystalign_hypothetical=TRUE") > 0
    assert int(left.live_mask().sum()) == N - found


def test_a_property_that_is_spelled_differently_is_not_added(few, uri, write, tmp_path):
    known = IndexManifest.read(uri).properties[0]
    more = write(str(tmp_path / "spelled"), part_of(few, range(FIRST, N)))
    other = known.model_copy(update={"method": known.method.upper()}).model_dump(mode="json")
    before = storage.read_bytes(f"{uri}/manifest.json")
    with pytest.raises(ConfigError, match="spell a property differently"):
        add(uri, altered(more, properties=[other]))
    assert storage.read_bytes(f"{uri}/manifest.json") == before


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"rows": 20}, VerificationError),
        ({"rows": -1}, ConfigError),
        ({"removed_rows": 26}, ConfigError),
        ({"dataset": 1}, ConfigError),
        ({"dataset": -1}, ConfigError),
        ({"path": "./segments/x.parquet"}, ConfigError),
    ],
)
def test_a_manifest_that_does_not_fit_its_files_is_refused(uri, values, error):
    path = Path(uri) / "manifest.json"
    content = json.loads(path.read_text())
    content["segments"][0] |= values
    path.write_text(json.dumps(content))
    with pytest.raises(error):
        Segment.load(uri, IndexManifest.read(uri))


def test_the_commands_change_an_index(few, write, tmp_path, capsys):
    uri = str(tmp_path / "small")
    build_index(write(str(tmp_path / "first"), part_of(few, range(FIRST))), uri)
    more = write(str(tmp_path / "more"), part_of(few, range(FIRST, N)))
    ids = tmp_path / "ids.txt"
    ids.write_text(f"{few.ids[1]}\n\n {few.ids[2]} \n")
    said = {}
    for command in (
        f"add {uri} {more}",
        f"remove {uri} {few.ids[0]} --file {ids}",
        f"describe {uri}",
        f"verify {uri}",
        f"compact {uri}",
        f"rollback {uri} 1",
        f"versions {uri}",
        f"prune {uri} --keep 1",
        f"prune {uri} --keep 1 --yes",
        f"verify {uri}",
    ):
        assert cli.main(["index", *command.split()]) == 0, capsys.readouterr().err
        said[command.partition(" ")[0]] = capsys.readouterr().out
    assert "version 2 of" in said["add"]
    assert "87 rows are searched" in said["remove"]
    assert "3 rows were removed" in said["describe"]
    assert "rewrote 2 of 2 segments" in said["compact"]
    assert [line.split()[0] for line in said["versions"].splitlines()[1:6]] == ["5", "4", "3", "2", "1"]
    assert "deleted" in said["prune"]
    assert IndexManifest.read(uri).rows == FIRST
    assert cli.main(["index", "remove", uri, "nowhere"]) == 2
    assert "does not have 'nowhere'" in capsys.readouterr().err
    assert EmbeddingManifest.read(more).rows == N - FIRST
