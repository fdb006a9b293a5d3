"""A spelling names one place: what would be dropped or read in two ways is refused, everything else comes back."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

import pytest

from crystalign import storage
from crystalign.config import Config
from crystalign.errors import StorageError
from crystalign.storage_uri import Place, absolute, join, name_of, parse

# fmt: off
NAMES = (
    "run#1", "run#2", "a?x", "a?y", "a%20b", "a b", "a%", "a%2Fb", "a+b", "a&b", "a<b>", "a'b", 'a"b', "a\\b", "a=b",
    "a;b", "a@b", "a~b", "a$b", "a,b", "a*b", "a|b", "[x]", "{x}", "^`x", "...", "a..b", "-x", "~x", "file:x", "s3:x",
    " lead", "trail ", "\u00e9", "e\u0301", "\U0001f600",
)
# fmt: on
"""Each a name of its own; é stands here as one code point and as two."""


def test_a_name_of_any_characters_is_a_place_of_its_own_and_comes_back(base: str) -> None:
    for name in NAMES:
        storage.write_bytes(join(base, "names", name), name.encode())
    assert storage.list_names(base) == sorted(f"names/{name}" for name in NAMES)
    for uri in storage.list_files(base):
        assert storage.read_bytes(uri) == name_of(uri).encode()
    storage.delete(join(base, "names", "run#1"))
    assert not storage.exists(join(base, "names", "run#1"))
    assert storage.read_bytes(join(base, "names", "run#2")) == b"run#2"


def test_a_folder_of_any_characters_lists_what_it_holds(base: str) -> None:
    for name in NAMES:
        storage.write_bytes(join(base, name, "file"), name.encode())
    folders = storage.list_folders(base)
    assert sorted(map(name_of, folders)) == sorted(NAMES)
    for folder in folders:
        (place,) = storage.list_files(folder)
        assert storage.read_bytes(place) == name_of(folder).encode()


def test_conditional_and_plain_writes_mean_the_same_object(base: str) -> None:
    for name in NAMES:
        storage.write_bytes(join(base, name), b"one", if_absent=True)
        storage.replace_bytes(join(base, name), b"two", expected=storage.sha256_of(join(base, name)))
        assert storage.read_bytes(join(base, name)) == b"two"
    assert storage.list_names(base) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_uri_and_a_path_meet_on_disk(tmp_path: Path, name: str) -> None:
    folder = f"file://{quote(str(tmp_path))}"
    storage.write_bytes(join(folder, name), name.encode())
    assert (tmp_path / name).read_bytes() == name.encode()
    (listed,) = storage.list_files(folder)
    assert listed == join(folder, name)
    assert storage.read_bytes(listed) == name.encode()
    assert absolute(listed) == str(tmp_path / name)
    assert storage.read_bytes((tmp_path / name).as_uri()) == name.encode()


@pytest.mark.parametrize(
    ("uri", "place"),
    [
        ("file:///a/b", Place("file", "", "/a/b")),
        ("file://localhost/a/b/", Place("file", "", "/a/b")),
        ("file:///a%20b/%C3%A9%23%3F%25", Place("file", "", "/a b/é#?%")),
        ("file:///a//b/../c", Place("file", "", "/a/c")),
        ("//a//b/./c/../d/", Place("file", "", "/a/b/d")),
        ("/a#b?c%20d", Place("file", "", "/a#b?c%20d")),
        ("/~x", Place("file", "", "/~x")),
        ("s3://bucket", Place("s3", "bucket", "")),
        ("s3://bucket/", Place("s3", "bucket", "")),
        ("s3://bucket/a%20b#1?x/", Place("s3", "bucket", "a%20b#1?x")),
        ("gs://bucket/run#1", Place("gs", "bucket", "run#1")),
        ("gs://anonymous@bucket/a%20b", Place("gs", "anonymous@bucket", "a%20b")),
    ],
)
def test_what_a_spelling_means(uri: str, place: Place) -> None:
    assert parse(uri) == place
    assert parse(absolute(uri)) == place


def test_a_relative_path_starts_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for path in ("a/b", "./a/b", "a//b/", "x/../a/b"):
        assert absolute(path) == str(tmp_path / "a" / "b")
    storage.write_bytes("a/b", b"1")
    assert storage.list_files("a") == [str(tmp_path / "a" / "b")]


REFUSED = {
    "file:///a/run#1": r"write %23 for # .* or a plain path: /a/run#1",
    "file:///a/run?1": "write %23",
    "file://run/a": "names the host 'run'.* write file:///run/a",
    "file://run": "names the host 'run'",
    "file:///a%zz": "write %25 for %",
    "file:///a%": "write %25 for %",
    "file:///a%2Fb": "slash within a name",
    "file:///a%2fb": "slash within a name",
    "file:///a%00": "write %25 for %",
    "file:///a%ff": "does not decode to UTF-8",
    "file:/a": "write file:///path",
    "s3:bucket/a": "write s3://bucket",
    "s3:/bucket/a": "write s3://bucket",
    "gs:bucket": "write gs://bucket",
    "": "the path is empty",
    "~/runs": r"write the full path, or \./~/runs",
    "~user/runs": "only a shell expands",
    "a\0b": "null character",
    "a\udcff": "not UTF-8",
    "s3://": "names no bucket",
    "s3:///bucket/a": "names no bucket",
    "s3://bucket#1/a": "not a valid bucket name",
    "s3://bucket?region=x": "endpoint, region and keys",
    "s3://key:secret@bucket/a": "not a valid bucket name",
    "s3://bucket//a": "no empty, . or .. folders",
    "s3://bucket/a//b": "no empty",
    "s3://bucket/a/../b": "no empty",
    "s3://bucket/./b": "no empty",
    "s3://bucket/a\nb": "control character",
    "gs://bucket/a/../b": "no empty",
    "ftp://host/x": "scheme 'ftp' is not supported",
    "S3://bucket/x": "write s3:// in lower case",
    "C:\\\\data": "a Windows path",
    "c:/data": "a Windows path",
    "memory://x": "scheme 'memory' is not supported",
}


@pytest.mark.parametrize("uri", REFUSED)
def test_what_would_be_dropped_or_read_in_two_ways_is_refused(uri: str) -> None:
    for use in (absolute, storage.filesystem, storage.read_bytes, storage.delete, storage.list_files):
        with pytest.raises(StorageError, match=REFUSED[uri]):
            use(uri)


def test_a_setting_that_names_no_place_is_refused_before_anything_starts() -> None:
    class Settings(Config):
        out: storage.Uri

    assert Settings(out="file:///a%20b/").out == "/a b"
    assert Settings(out="s3://bucket/a#b/").out == "s3://bucket/a#b"
    assert Settings(out="x").out == os.path.join(os.getcwd(), "x")
    with pytest.raises(StorageError, match="write %23"):
        Settings(out="file:///a#b")


def test_parts_are_joined_as_names() -> None:
    assert join("/", "a") == "/a"
    assert join("a/", "/b/", "c") == "a/b/c"
    assert join("s3://bucket/", "a#b", "c d") == "s3://bucket/a#b/c d"
    assert join("file:///a%20b", "c#1", "d/e%20") == "file:///a%20b/c%231/d/e%2520"
    assert join("file:///", "a") == "file:///a"
    assert (name_of("s3://b/x%20y/"), name_of("file:///x%20y"), name_of("/x%20y")) == ("x%20y", "x y", "x%20y")


def test_google_keys_reach_the_store_as_they_are() -> None:
    pytest.importorskip("pyarrow._gcsfs")
    for name in ("run#1", "a%20b", "a?b"):
        assert storage.filesystem(f"gs://anonymous@bucket/{name}")[1] == f"bucket/{name}"
