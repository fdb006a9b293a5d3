"""Storage: what is written is what is read, on disk and on S3, and a lie is an error."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from crystalign import storage
from crystalign.errors import StorageError, VerificationError
from crystalign.storage import FileEntry


def test_bytes_come_back_with_their_size_and_checksum(base: str) -> None:
    uri = storage.join(base, "a", "b.bin")
    entry = storage.write_bytes(uri, b"crystal" * 1000)
    assert storage.read_bytes(uri) == b"crystal" * 1000
    assert entry == FileEntry(path="b.bin", bytes=7000, sha256=hashlib.sha256(b"crystal" * 1000).hexdigest())


def test_an_empty_file_is_a_file(base: str) -> None:
    storage.write_bytes(storage.join(base, "empty"), b"")
    assert storage.read_bytes(storage.join(base, "empty")) == b""


def test_writing_again_replaces_unless_told_not_to(base: str) -> None:
    uri = storage.join(base, "x")
    storage.write_bytes(uri, b"one")
    storage.write_bytes(uri, b"two")
    with pytest.raises(StorageError, match="exists and is not replaced"):
        storage.write_bytes(uri, b"three", if_absent=True)
    assert storage.read_bytes(uri) == b"two"


def test_of_many_who_write_where_nothing_is_one_wins(base: str) -> None:
    uri = storage.join(base, "claim")

    def claim(i: int) -> bool:
        try:
            storage.write_bytes(uri, b"%d" % i, if_absent=True)
        except StorageError:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        won = list(pool.map(claim, range(8)))
    assert won.count(True) == 1
    assert storage.read_bytes(uri) == b"%d" % won.index(True)


def test_a_large_upload_arrives_whole(base: str, tmp_path: Path) -> None:
    content = np.random.default_rng(0).bytes(23 * 2**20 + 1)  # more than one part of a multipart upload
    (tmp_path / "large").write_bytes(content)
    entry = storage.upload(tmp_path / "large", storage.join(base, "large"))
    assert entry.sha256 == hashlib.sha256(content).hexdigest()
    assert storage.fingerprint(storage.join(base, "large")) == (len(content), entry.sha256)


def test_files_are_listed_recursively_and_deleted_as_a_folder(base: str) -> None:
    names = ["1", "folder/2", "folder/deep/3"]
    for name in names:
        storage.write_bytes(storage.join(base, name), b"x")
    assert storage.list_files(base) == sorted(storage.join(base, name) for name in names)
    storage.delete(storage.join(base, "folder"))
    assert storage.list_files(base) == [storage.join(base, "1")]
    storage.delete(storage.join(base, "never-there"))


def test_a_missing_file_is_named(base: str) -> None:
    uri = storage.join(base, "missing")
    assert not storage.exists(uri)
    with pytest.raises(StorageError, match="missing"):
        storage.read_bytes(uri)


def test_more_than_the_limit_is_refused(base: str) -> None:
    storage.write_bytes(storage.join(base, "large"), b"x" * 101)
    with pytest.raises(StorageError, match="101 bytes; at most 100"):
        storage.read_bytes(storage.join(base, "large"), limit=100)


def test_a_directory_is_uploaded_with_its_manifest_last(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "model"
    (source / "text").mkdir(parents=True)
    for name in ("a.json", "z.bin", "text/t.json"):
        (source / name).write_text(name)
    sent: list[str] = []
    upload = storage.upload
    monkeypatch.setattr(storage, "upload", lambda local, uri: (sent.append(uri), upload(local, uri))[1])
    entries = storage.upload_directory(source, base, manifest="a.json")
    assert [e.path for e in entries] == ["text/t.json", "z.bin", "a.json"]
    assert sent[-1].endswith("/a.json")
    storage.download(storage.join(base, "z.bin"), tmp_path / "back", expect=entries[1])
    assert (tmp_path / "back").read_text() == "z.bin"


def test_a_download_that_was_altered_is_refused(base: str, tmp_path: Path) -> None:
    entry = storage.write_bytes(storage.join(base, "x"), b"right")
    storage.write_bytes(storage.join(base, "x"), b"wrong")
    with pytest.raises(VerificationError, match="altered or truncated"):
        storage.download(storage.join(base, "x"), tmp_path / "x", expect=entry)


def test_a_local_write_that_fails_leaves_the_old_file_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.write_bytes(str(tmp_path / "x"), b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        storage.write_bytes(str(tmp_path / "x"), b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_bytes() == b"old"


@pytest.mark.parametrize("uri", ["ftp://host/x", "s3://"])
def test_what_cannot_be_spoken_is_an_error(uri: str) -> None:
    with pytest.raises(StorageError):
        storage.read_bytes(uri)


class Liar(http.server.BaseHTTPRequestHandler):
    """Accepts every upload; keeps nothing, or half."""

    keep = 0.0
    objects: dict[str, bytes] = {}

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        there = self.path.partition("?")[0] in self.objects
        if (self.headers["If-None-Match"] and there) or (self.headers["If-Match"] or '"0"') != '"0"':
            self.answer(412)
            return
        self.objects[self.path.partition("?")[0]] = body[: int(len(body) * self.keep)]
        self.answer(200)

    def do_DELETE(self) -> None:
        self.answer(204)

    def do_HEAD(self) -> None:
        self.answer(200 if self.keep else 404, self.objects.get(self.path, b""))

    def do_GET(self) -> None:
        self.answer(200 if self.keep else 404, self.objects.get(self.path, b""), body=True)

    def answer(self, status: int, content: bytes = b"", *, body: bool = False) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", '"0"')
        self.send_header("Last-Modified", "Sat, 01 Jan 2028 00:00:00 GMT")
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def lying_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Liar]]:
    handler = type("Handler", (Liar,), {"objects": {}})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    yield handler
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("keep", [0.0, 0.5], ids=["drops", "truncates"])
@pytest.mark.parametrize("how", ["bytes", "file", "if absent"])
def test_a_server_that_accepts_and_loses_is_found_out(
    lying_server: type[Liar], keep: float, how: str, tmp_path: Path
) -> None:
    lying_server.keep = keep
    data, uri = b"weights" * 100, "s3://bucket/checkpoint"
    (tmp_path / "weights").write_bytes(data)
    write = {
        "bytes": lambda: storage.write_bytes(uri, data),
        "file": lambda: storage.upload(tmp_path / "weights", uri),
        "if absent": lambda: storage.write_bytes(uri, data, if_absent=True),
    }[how]
    with pytest.raises(VerificationError, match=uri):
        write()
    assert lying_server.objects, "the upload reached the server, which answered 200"
