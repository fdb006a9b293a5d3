"""A screening replaces and deletes nothing that is not its own."""

from __future__ import annotations

import pytest

from crystalign.errors import ConfigError
from crystalign_serve.screening.places import Places


@pytest.fixture
def places(tmp_path):
    return Places(str(tmp_path / "hits.parquet"))


@pytest.mark.parametrize("name", ["hits.parquet", "hits.queries.parquet", "hits.parts/notes.txt", "hits.parts/a/b"])
def test_files_of_others_are_refused(places, tmp_path, name):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(ConfigError, match="choose another --out"):
        places.check_free()


def test_an_interrupted_screening_is_continued(places, tmp_path):
    folder = tmp_path / "hits.parts" / "0123456789abcdef"
    folder.mkdir(parents=True)
    for name in ("hits-00000.parquet", "answers-00000-00001.rows.parquet", ".ids-00003.parquet.x7f"):
        (folder / name).write_text("")
    for name in ("driver.json", ".driver.json.lock"):
        (folder.parent / name).write_text("")
    for name in ("hits.parquet", "hits.queries.parquet"):
        (tmp_path / name).write_text("")
    places.check_free()
    places.delete_parts()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hits.parquet", "hits.queries.parquet"]


def test_a_lock_alone_does_not_make_the_hits_ours(places, tmp_path):
    (tmp_path / "hits.parts").mkdir()
    (tmp_path / "hits.parts" / "driver.json").write_text("")
    places.check_free()
    (tmp_path / "hits.parquet").write_text("mine")
    with pytest.raises(ConfigError, match="without a receipt"):
        places.check_free()


@pytest.mark.parametrize("name", ["notes.txt", "other/file"])
def test_what_others_put_beside_the_parts_stays(places, tmp_path, name):
    own, other = tmp_path / "hits.parts" / "0123456789abcdef", tmp_path / "hits.parts" / name
    own.mkdir(parents=True)
    (own / "hits-00000.parquet").write_text("")
    other.parent.mkdir(exist_ok=True)
    other.write_text("mine")
    places.delete_parts()
    assert other.read_text() == "mine"
    assert not own.exists()


@pytest.mark.parametrize(
    "read", ["hits.parquet", "hits.queries.parquet", "hits.receipt.json", "hits.parts", "hits.parts/a", ""]
)
def test_what_is_read_is_not_written(places, tmp_path, read):
    with pytest.raises(ConfigError, match="which is read"):
        places.check_apart(str(tmp_path / "elsewhere"), str(tmp_path / read))


def test_links_are_followed(tmp_path):
    (tmp_path / "queries").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "queries")
    with pytest.raises(ConfigError, match="which is read"):
        Places(str(tmp_path / "link" / "hits.parquet")).check_apart(str(tmp_path / "queries"))


def test_neighbours_of_what_is_read_are_written(places, tmp_path):
    places.check_apart(str(tmp_path / "hits"), str(tmp_path / "queries"), "s3://bucket/hits.parquet")
    Places("s3://bucket/hits.parquet").check_apart("s3://bucket/hit", "s3://other/hits.parquet")
