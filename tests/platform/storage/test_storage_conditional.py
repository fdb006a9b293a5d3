"""A conditional write replaces what its caller knows of, or nothing; of several one wins, and what it wrote stays."""

from __future__ import annotations

import fcntl
import hashlib
import http.server
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import storage_race
from crystalign import storage, storage_local, storage_s3
from crystalign.errors import ConflictError, StorageError, VerificationError

ROUNDS = 20


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_file_is_replaced_by_who_knows_it_and_by_nobody_else(base: str) -> None:
    uri = storage.join(base, "folder", "x")
    assert storage.sha256_of(uri) is None
    entry = storage.replace_bytes(uri, b"one", expected=None)
    assert entry == storage.FileEntry(path="x", bytes=3, sha256=sha256(b"one"))
    assert storage.sha256_of(uri) == sha256(b"one")
    with pytest.raises(ConflictError, match="exists and is not replaced"):
        storage.replace_bytes(uri, b"two", expected=None)
    storage.replace_bytes(uri, b"two", expected=sha256(b"one"))
    with pytest.raises(ConflictError, match=rf"{sha256(b'one')[:12]}…, now it is {sha256(b'two')[:12]}…"):
        storage.replace_bytes(uri, b"three", expected=sha256(b"one"))
    assert storage.read_bytes(uri) == b"two"
    storage.delete(uri)
    with pytest.raises(ConflictError, match="it is gone"):
        storage.replace_bytes(uri, b"three", expected=sha256(b"two"))
    assert storage.list_files(base) == []


def test_where_there_is_no_folder_there_is_nothing_to_replace(base: str) -> None:
    with pytest.raises(ConflictError, match="it is gone"):
        storage.replace_bytes(storage.join(base, "no", "x"), b"one", expected=sha256(b""))


def test_of_many_threads_that_know_one_version_one_replaces_it(base: str) -> None:
    uri = storage.join(base, "x")
    storage.write_bytes(uri, b"old")

    def replace(number: int) -> bool:
        try:
            storage.replace_bytes(uri, b"%d" % number, expected=sha256(b"old"))
        except ConflictError:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        won = list(pool.map(replace, range(12)))
    assert won.count(True) == 1
    assert storage.read_bytes(uri) == b"%d" % won.index(True)


def test_nothing_is_lost_when_everyone_repeats_what_was_refused(base: str) -> None:
    uri = storage.join(base, "counter")
    storage.write_bytes(uri, b"00")

    def count(times: int) -> None:
        done = 0
        while done < times:
            known = storage.read_bytes(uri)
            try:
                storage.replace_bytes(uri, b"%02d" % (int(known) + 1), expected=sha256(known))
            except ConflictError:
                continue
            done += 1

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(count, [7, 7, 7]))
    assert storage.read_bytes(uri) == b"21"


def test_of_two_processes_one_wins_each_round_and_its_content_stays(base: str, tmp_path: Path) -> None:
    meeting = tmp_path / "meet"
    meeting.mkdir()
    command = [sys.executable, storage_race.__file__, base, str(meeting)]
    players = [
        subprocess.Popen([*command, name, str(ROUNDS)], stdout=subprocess.PIPE, text=True)
        for name in ("first", "other")
    ]
    told = [player.communicate(timeout=120)[0].splitlines() for player in players]
    assert [player.returncode for player in players] == [0, 0]
    outcomes = list(zip(*told, strict=True))
    assert len(outcomes) == ROUNDS
    for number, pair in enumerate(outcomes):
        assert sorted(pair) == [f"{number} lost other", f"{number} won stored"]


def holding(path: Path) -> subprocess.Popen[str]:
    """A process that holds the lock of a file and waits."""
    code = (
        "import sys, time; from pathlib import Path; from crystalign import storage_local\n"
        "with storage_local._locked(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    return holder


def test_a_holder_of_the_lock_that_was_killed_blocks_nobody(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")
    holder = holding(path)
    waiting = threading.Thread(
        target=storage.replace_bytes, args=(str(path), b"new"), kwargs={"expected": sha256(b"old")}
    )
    waiting.start()
    waiting.join(0.3)
    assert waiting.is_alive()
    assert path.read_bytes() == b"old"
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    waiting.join(10)
    assert path.read_bytes() == b"new"
    assert [place.name for place in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("again", [False, True], ids=["removed", "made again"])
def test_a_lock_file_that_its_holder_removed_meanwhile_is_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    place, flock = tmp_path / ".x.lock", fcntl.flock

    def late(handle: int, how: int) -> None:
        place.unlink()
        if again:
            place.touch()
        flock(handle, how)

    monkeypatch.setattr("fcntl.flock", late)
    assert storage_local._try_lock(place) is None


def test_a_holder_that_does_not_let_go_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_local, "LOCK_SECONDS", 0.2)
    path = tmp_path / "x"
    path.write_bytes(b"old")
    holder = holding(path)
    try:
        with pytest.raises(StorageError, match=r"another process has held .*\.x\.lock"):
            storage.replace_bytes(str(path), b"new", expected=sha256(b"old"))
    finally:
        holder.kill()
        holder.wait()
    assert path.read_bytes() == b"old"


def test_a_file_system_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", unsupported)
    (tmp_path / "x").write_bytes(b"old")
    with pytest.raises(StorageError, match="file system without locks"):
        storage.replace_bytes(str(tmp_path / "x"), b"new", expected=sha256(b"old"))
    assert storage.replace_bytes(str(tmp_path / "y"), b"new", expected=None).bytes == 3, "creating needs no lock"


def test_a_link_whose_answer_was_lost_was_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def repeated(source: str, target: str) -> None:
        link(source, target)
        raise FileExistsError(17, "File exists")  # as a client of NFS has it that sends the request again

    monkeypatch.setattr("os.link", repeated)
    storage.write_bytes(str(tmp_path / "x"), b"mine", if_absent=True)
    assert (tmp_path / "x").read_bytes() == b"mine"
    monkeypatch.undo()
    with pytest.raises(ConflictError):
        storage.write_bytes(str(tmp_path / "x"), b"mine", if_absent=True)


# --- servers ----------------------------------------------------------------------------------------------------------


class Server(http.server.BaseHTTPRequestHandler):
    """A small S3 that keeps objects with who wrote them, and honours the conditions in `honours`.

    It loses the replies to the first `lose` uploads, and calls `between` before each; uploads on which conditions are
    tried do not count.
    """

    protocol_version = "HTTP/1.1"
    honours = ("If-None-Match", "If-Match")
    lose = 0
    objects: dict[str, tuple[bytes, str]] = {}
    puts: list[str] = []
    between: Callable[[], None] | None = None

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        trial = ".conditions-" in self.path
        if self.between and not trial:
            self.between()
        found = self.objects.get(self.path)
        met = not (self.headers["If-None-Match"] and found and "If-None-Match" in self.honours)
        if "If-Match" in self.honours and self.headers["If-Match"]:
            met = met and found is not None and self.headers["If-Match"] == etag(found[0])
        if met:
            self.objects[self.path] = (body, self.headers["x-amz-meta-crystalign-writer"] or "")
        self.puts += [] if trial else [self.path]
        if not trial and len(self.puts) <= self.lose:
            self.close_connection = True  # the reply is lost
            return
        self.answer(200 if met else 412, etag(body))

    def do_GET(self) -> None:
        found = self.objects.get(self.path)
        self.answer(200 if found else 404, etag(found[0]) if found else "", *(found or ()))

    do_HEAD = do_GET  # noqa: N815

    def do_DELETE(self) -> None:
        self.objects.pop(self.path, None)
        self.answer(204, "")

    def answer(self, status: int, tag: str, content: bytes = b"", writer: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", tag)
        self.send_header("Last-Modified", "Sat, 01 Jan 2028 00:00:00 GMT")
        self.send_header("x-amz-meta-crystalign-writer", writer)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def etag(content: bytes) -> str:
    return f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Server]]:
    handler = type("Handler", (Server,), {"objects": {}, "puts": []})
    listener = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{listener.server_port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    yield handler
    listener.shutdown()
    listener.server_close()


@pytest.mark.parametrize("expected", [None, sha256(b"old")], ids=["created", "replaced"])
def test_a_write_whose_reply_was_lost_has_succeeded(server: type[Server], expected: str | None) -> None:
    if expected is not None:
        server.objects["/bucket/x"] = (b"old", "")
    server.lose = 1
    storage.replace_bytes("s3://bucket/x", b"mine", expected=expected)
    assert server.objects["/bucket/x"][0] == b"mine"
    assert len(server.puts) == 2, "boto3 sent it again, and was told 412"


@pytest.mark.parametrize("content", [b"theirs", b"mine"], ids=["other", "equal"])
def test_what_another_one_wrote_after_our_request_was_lost_is_not_ours(server: type[Server], content: bytes) -> None:
    def come_first() -> None:
        server.objects.setdefault("/bucket/x", (content, "another"))

    server.between, server.lose = staticmethod(come_first), 1
    with pytest.raises(ConflictError, match="exists and is not replaced"):
        storage.replace_bytes("s3://bucket/x", b"mine", expected=None)
    assert server.objects["/bucket/x"] == (content, "another")


def test_a_write_between_reading_and_replacing_is_noticed_by_the_server(server: type[Server]) -> None:
    server.objects["/bucket/x"] = (b"old", "")

    def come_between() -> None:
        server.objects["/bucket/x"] = (b"theirs", "another")

    server.between = staticmethod(come_between)
    with pytest.raises(ConflictError, match="another process changed it"):
        storage.replace_bytes("s3://bucket/x", b"mine", expected=sha256(b"old"))
    assert server.objects["/bucket/x"][0] == b"theirs"


@pytest.mark.parametrize("ignored", ["If-None-Match", "If-Match"])
def test_a_server_that_ignores_conditions_is_refused_unless_nobody_else_writes(
    server: type[Server], ignored: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.honours = tuple({"If-None-Match", "If-Match"} - {ignored})
    server.objects["/bucket/x"] = (b"old", "")
    with pytest.raises(StorageError, match=rf"does not honour {ignored}, .*CRYSTALIGN_S3_UNCONDITIONAL=1"):
        storage.replace_bytes("s3://bucket/x", b"mine", expected=sha256(b"old"))
    assert server.objects == {"/bucket/x": (b"old", "")}, "and the object that it was tried on is gone"
    monkeypatch.setenv("CRYSTALIGN_S3_UNCONDITIONAL", "1")
    with pytest.raises(ConflictError, match="exists"):
        storage._compare("s3://bucket/x", None)


def test_a_server_is_tried_once_per_bucket(server: type[Server], monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    real = storage_s3._try_conditions
    monkeypatch.setattr(
        storage_s3,
        "_try_conditions",
        lambda client, bucket, folder: tried.append(bucket) or real(client, bucket, folder),
    )
    for name in ("a/x", "b/y", "z"):
        storage.write_bytes(f"s3://bucket/{name}", b"1", if_absent=True)
    assert tried == ["bucket"]
    assert set(server.objects) == {"/bucket/a/x", "/bucket/b/y", "/bucket/z"}


def test_a_winner_is_not_told_it_lost_because_a_later_write_replaced_its_own(
    server: type[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = storage_s3.s3_client(storage_s3.environment())
    read = client.get_object

    def later(**asked: str) -> object:
        server.objects["/bucket/x"] = (b"later", "another")
        return read(**asked)

    monkeypatch.setattr(client, "get_object", later)
    storage.write_bytes("s3://bucket/x", b"mine", if_absent=True)
    server.objects.clear()

    def damaged(**asked: str) -> object:
        content, writer = server.objects["/bucket/x"]
        server.objects["/bucket/x"] = (content[:2], writer)
        return read(**asked)

    monkeypatch.setattr(client, "get_object", damaged)
    with pytest.raises(VerificationError, match="holds 2 bytes"):
        storage.write_bytes("s3://bucket/x", b"mine", if_absent=True)
