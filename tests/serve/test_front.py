"""The HTTP server on a loopback port: whoever is slow, rude or too many harms nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from crystalign.index.manifest import IndexManifest
from crystalign.model import load
from crystalign.model_description import read_description
from crystalign_serve.admission import Limits, QueueLimits, kind_of
from crystalign_serve.api import build_api
from crystalign_serve.backend import LocalBackend
from crystalign_serve.front import ConnectionLimits, Front
from crystalign_serve.security import access_of
from crystalign_serve.service import open_service

QUERY = {"query": {"formula": "NaCl"}, "k": 3}


class Served:
    """A front in a thread with an event loop of its own."""

    def __init__(self, app: Any, patience: ConnectionLimits | None = None) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.front = Front(app, ("127.0.0.1", 0), patience)
        self.run(self.front.start())
        self.address = ("127.0.0.1", self.front.port)
        self.url = f"http://127.0.0.1:{self.front.port}"
        bounds = httpx.Limits(max_connections=200, max_keepalive_connections=0)
        self.client = httpx.Client(base_url=self.url, verify=False, trust_env=False, timeout=30, limits=bounds)

    def run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(40)

    def close(self) -> None:
        if self.thread.is_alive():
            self._close()

    def _close(self) -> None:
        self.run(self.front.drain())
        self.client.close()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)

    def post(self, body: Any = None, **options: Any) -> httpx.Response:
        return self.client.post("/api/search", json=body or QUERY, **options)

    def get(self, path: str) -> httpx.Response:
        return self.client.get(path)


class Slow(LocalBackend):
    """Encodes one query at a time, each in a fifth of a second; counts them."""

    seconds = 0.2

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.begun = self.ended = 0
        self._one = asyncio.Semaphore(1)

    async def encode(self, modality, features):
        self.begun += 1
        async with self._one:
            await asyncio.sleep(self.seconds)
            vector = await super().encode(modality, features)
        self.ended += 1
        return vector


@pytest.fixture(scope="module")
def parts(places, segments):
    described = read_description(places.model)
    manifest = IndexManifest.read(places.index)
    service = open_service(manifest, described.config, described.card, dataset_uri=None, shards=len(segments))
    return service, load(places.model), segments


@contextlib.contextmanager
def serving(
    parts, kind=LocalBackend, patience: ConnectionLimits | None = None, **limits: Any
) -> Iterator[tuple[Served, Any]]:
    service, model, segments = parts
    backend = kind(model, segments)
    access = access_of("127.0.0.1", None, ())
    served = Served(build_api(service, backend, None, access, Limits(**limits)), patience)
    try:
        yield served, backend
    finally:
        served.close()


@pytest.fixture(scope="module")
def served(parts) -> Iterator[Served]:
    """Impatient, for tests that end without harm."""
    patience = ConnectionLimits(
        header_seconds=1.0, idle_seconds=2.0, write_seconds=1.0, header_bytes=8192, connections=150
    )
    with serving(parts, LocalBackend, patience, body_seconds=4.0) as (running, _):
        yield running


def read_all(connection: socket.socket, seconds: float = 10.0) -> bytes:
    connection.settimeout(seconds)
    got = b""
    with contextlib.suppress(ConnectionError):
        while chunk := connection.recv(65536):
            got += chunk
    return got


def problem_of(answer: bytes) -> dict[str, str]:
    (entry,) = json.loads(answer.partition(b"\r\n\r\n")[2])["errors"]
    return entry


def half_a_body(served: Served) -> socket.socket:
    connection = socket.create_connection(served.address)
    head = f"POST /api/search HTTP/1.1\r\nhost: localhost:{served.front.port}\r\ncontent-type: application/json\r\n"
    connection.sendall(head.encode() + b'content-length: 100\r\n\r\n{"query"')
    return connection


# --- slow ones --------------------------------------------------------------------------------------------------------


def test_a_hundred_and_ten_half_sent_bodies_delay_nobody_and_end_by_themselves(served):
    began = time.monotonic()
    connections = [half_a_body(served) for _ in range(110)]
    assert served.post().status_code == 200
    assert time.monotonic() - began < 4.0
    answers = [read_all(connection) for connection in connections]
    assert {problem_of(answer)["status"] for answer in answers} == {"408"}


def test_headers_that_do_not_end_are_cut_off(served):
    with socket.create_connection(served.address) as silent, socket.create_connection(served.address) as half:
        half.sendall(b"GET /live HTTP/1.1\r\nhost: localhost\r\nx-a")
        began = time.monotonic()
        assert read_all(silent) == b""
        assert problem_of(read_all(half))["status"] == "408"
        assert time.monotonic() - began < 8


def test_headers_that_trickle_are_cut_off_on_an_open_connection_too(served):
    with socket.create_connection(served.address) as connection:
        connection.sendall(b"GET /live HTTP/1.1\r\nhost: localhost\r\n\r\n")
        first = connection.recv(65536)
        while not first.endswith(b"}"):  # headers and body may arrive apart
            first += connection.recv(65536)
        assert first.startswith(b"HTTP/1.1 200")
        began, got = time.monotonic(), b""
        connection.settimeout(0.1)
        connection.sendall(b"GET /live HTTP/1.1\r\nx-a: ")
        with pytest.raises(ConnectionError):  # noqa: PT012 (the byte that meets the closed connection)
            while time.monotonic() - began < 8:
                connection.sendall(b"a")
                with contextlib.suppress(TimeoutError):
                    got += connection.recv(65536)
        with contextlib.suppress(ConnectionError):  # an answer that came before the last byte went is still there
            got += connection.recv(65536)
        assert got.startswith(b"HTTP/1.1 408 ")


def test_headers_without_end_are_too_large(served):
    with socket.create_connection(served.address) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(b"GET /live HTTP/1.1\r\nhost: localhost\r\nx-a: " + b"a" * 20_000)
        assert problem_of(read_all(connection))["status"] == "431"


def test_what_is_not_http_is_refused_in_the_shape_of_every_error(served):
    with socket.create_connection(served.address) as connection:
        connection.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")
        assert problem_of(read_all(connection))["status"] == "400"


def test_an_idle_connection_makes_room_for_a_new_one(parts):
    with serving(parts, LocalBackend, ConnectionLimits(connections=5)) as (served, _):
        idle = [socket.create_connection(served.address) for _ in range(5)]
        assert served.post().status_code == 200
        assert read_all(idle[0], 5) == b""
        for connection in idle:
            connection.close()


def test_whoever_does_not_read_the_answer_holds_no_place(parts):
    """Forty megabytes for a reader that takes none; the only place of its kind is free meanwhile."""
    from crystalign_serve.admission import Admission

    async def app(scope, receive, send):
        await receive()
        body = b"x" * (40 * 2**20 if scope["path"] == "/api/large" else 1)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})

    served = Served(Admission(app, Limits(lookups=QueueLimits(1, 0, 0.1, 5.0))), ConnectionLimits(write_seconds=1.0))
    try:
        with socket.create_connection(served.address) as lazy:
            lazy.sendall(b"GET /api/large HTTP/1.1\r\nhost: localhost\r\n\r\n")
            time.sleep(0.3)
            assert served.get("/api/small").status_code == 200
            time.sleep(1.5)
            assert len(read_all(lazy)) < 40 * 2**20, "the answer was kept for ever"
    finally:
        served.close()


# --- too many ---------------------------------------------------------------------------------------------------------


def test_more_than_can_be_answered_are_refused_at_once_and_the_rest_is_answered(parts):
    """Twelve a second where five can be answered: throughput stays, and nobody waits long."""
    with (
        serving(parts, Slow, queries=QueueLimits(2, 3, 1.0, 10.0)) as (served, backend),
        ThreadPoolExecutor(60) as pool,
    ):
        began = time.monotonic()

        def ask(number: int) -> tuple[httpx.Response, float]:
            time.sleep(max(0.0, began + number / 20 - time.monotonic()))
            sent = time.monotonic()
            return served.post(), time.monotonic() - sent

        answers = list(pool.map(ask, range(60)))
        lasted = time.monotonic() - began
        codes = [response.status_code for response, _ in answers]
        assert set(codes) == {200, 503}
        assert max(seconds for _, seconds in answers) < 5.0
        assert codes.count(200) > 0.6 * lasted / backend.seconds
        refused = [response for response, _ in answers if response.status_code == 503]
        assert all(int(response.headers["retry-after"]) >= 1 for response in refused)
        assert all("try again" in response.json()["errors"][0]["detail"] for response in refused)


def test_how_the_service_is_can_be_asked_while_its_queues_are_full(parts):
    class Slower(Slow):
        seconds = 2.0

    room = QueueLimits(1, 1, 9.0, 20.0)
    with serving(parts, Slower, queries=room) as (served, _), ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(served.post) for _ in range(8)]
        time.sleep(0.1)
        for path in ("/live", "/ready", "/api/health", "/"):
            assert served.get(path).status_code == 200
        assert not any(one.done() and one.result().status_code == 200 for one in asked)
        assert {one.result().status_code for one in asked} == {200, 503}


def test_files_that_wait_do_not_delay_texts(parts):
    class Stuck(Slow):
        async def encode(self, modality, features):
            await asyncio.sleep(4.0 if modality == "dos" else 0)
            return await LocalBackend.encode(self, modality, features)

    energies = [n / 20 - 10 for n in range(401)]
    dos = {"query": {"dos": {"energies": energies, "densities": [1.0] * 401}}}
    with serving(parts, Stuck, files=QueueLimits(2, 2, 0.5, 10.0)) as (served, _), ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(served.post, dos) for _ in range(8)]
        time.sleep(0.3)
        assert served.post().status_code == 200
        assert not any(one.done() and one.result().status_code == 200 for one in asked)
        assert sorted({one.result().status_code for one in asked}) == [200, 503]


def test_whoever_hangs_up_leaves_the_queue(parts):
    with serving(parts, Slow, queries=QueueLimits(1, 10, 5.0, 10.0)) as (served, backend):
        for _ in range(8):
            with pytest.raises(httpx.ReadTimeout):
                served.post(timeout=0.1)
        assert served.post().status_code == 200
        assert backend.ended < 5


def test_an_answer_that_takes_too_long_is_refused(parts):
    class Endless(Slow):
        seconds = 60.0

    with serving(parts, Endless, queries=QueueLimits(1, 0, 0.1, 0.3)) as (served, _):
        for _ in range(2):  # the place of the first is free again
            response = served.post()
            assert response.status_code == 503
            assert "retry-after" in response.headers


def test_large_bodies_together_have_a_limit(parts):
    with serving(parts, LocalBackend, held_bytes=1000) as (served, _):
        assert served.post({"query": {"text": "x" * 2000}}).status_code == 503
        assert served.post().status_code == 200


# --- the end ----------------------------------------------------------------------------------------------------------


def test_whoever_was_accepted_is_answered_and_whoever_comes_later_is_refused(parts):
    with serving(parts, Slow, queries=QueueLimits(4, 20, 10.0, 10.0)) as (served, _), ThreadPoolExecutor(10) as pool:
        body = json.dumps(QUERY).encode()
        late = half_a_body(served)
        asked = [pool.submit(served.post) for _ in range(8)]
        time.sleep(0.5)
        ending = pool.submit(served.close)
        time.sleep(0.5)
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(served.address)
        rest = b': {"formula": "NaCl"}}'
        late.sendall(rest + b" " * (100 - len(b'{"query"') - len(rest)))
        assert [one.result().status_code for one in asked] == [200] * 8
        assert read_all(late).startswith(b"HTTP/1.1 200"), body
        ending.result()


def test_a_new_connection_may_still_send_its_first_request(parts):
    with serving(parts) as (served, _), socket.create_connection(served.address) as connection:
        time.sleep(0.2)
        stopping = threading.Thread(target=served.run, args=(served.front.drain(),))
        stopping.start()
        time.sleep(1.2)
        connection.sendall(b"GET /live HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert read_all(connection).startswith(b"HTTP/1.1 200")
        stopping.join()


def test_a_connection_that_waits_in_the_kernel_has_been_accepted(parts):
    with serving(parts) as (served, _):
        connections = [socket.create_connection(served.address) for _ in range(20)]
        stopping = threading.Thread(target=served.run, args=(served.front.drain(),))
        stopping.start()
        for connection in connections:
            connection.sendall(b"GET /live HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert all(read_all(connection).startswith(b"HTTP/1.1 200") for connection in connections)
        stopping.join()


def test_headers_behind_an_answer_that_nobody_takes_are_bounded_too(served):
    with socket.create_connection(served.address, 10) as connection:
        connection.sendall(b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 4)
        connection.sendall(b"GET / HTTP/1.1\r\nX: ")
        sent = 0
        with pytest.raises(OSError):  # noqa: PT011, PT012 (reset or broken pipe, at whichever write)
            while sent < 20 * 2**20:
                sent += connection.send(b"a" * 65_536)
        assert sent < 20 * 2**20


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"query": {"text": "caf\\u00e9"}}', "queries"),
        (b'{"query": {"cif": "data_"}}', "files"),
        (b'{"query": {"c\\u0069f": "data_"}}', "files"),
        (b'{"query": {"\\u0064os": {}}, "k": 3}', "files"),
        (b'{"query": {"text": "say \\u0022cif\\u0022: "}}', "queries"),
        (b'{"query": {"text": "' + b"\\u00e9" * 20_000 + b'"}}', "files"),
        (b'{"query": ["\\u0063if"]}', "queries"),
    ],
)
def test_a_query_waits_with_files_where_it_holds_one_however_its_names_are_written(body, kind):
    assert kind_of("POST", "/api/search", body) == kind


def test_bodies_of_many_names_or_another_encoding_are_refused_before_they_are_parsed(served):
    names = "{" + ",".join(f'"{n}":1' for n in range(100_000)) + "}"
    began = time.process_time()
    many = served.client.post("/api/search", content='{"query":' + names + "}")
    assert time.process_time() - began < 1.0
    assert many.status_code == 422
    assert "more than 2000 keys" in many.text
    for encoding in ("utf-16", "utf-16-le", "utf-32"):
        answer = served.client.post("/api/search", content=json.dumps(QUERY).encode(encoding))
        assert answer.status_code == 422
        assert "UTF-8" in answer.text
    form = served.client.post("/api/search/file", data={"query": names}, files={"file": ("a.cif", b"data_")})
    assert form.status_code == 422


def test_a_refusal_reaches_a_client_that_is_still_sending(parts):
    closed = Served(build_api(parts[0], parts[1], None, access_of("127.0.0.1", None, [])))
    try:
        body = b"x" * (9 * 2**20)
        foreign = {"Origin": "http://evil.example"}
        for headers, status in ((foreign, 403), ({}, 413)):
            with socket.create_connection(closed.address, 10) as connection:
                lines = {"Host": "127.0.0.1", "Content-Length": str(len(body)), "Content-Type": "text/plain", **headers}
                head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
                connection.sendall(f"POST /api/search HTTP/1.1\r\n{head}\r\n".encode())
                connection.sendall(body)  # without a look at what has been answered
                assert connection.recv(64).startswith(f"HTTP/1.1 {status}".encode())
    finally:
        closed.close()
