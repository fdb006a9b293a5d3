"""Ask a running service every kind of damaged request, while a client with an honest question asks every second.

    python tests/benchmarks/fuzz_service.py --minutes 10 --schemathesis OTHER_ENVIRONMENT/bin/python

Makes a small index, starts `crystalign serve` with fine-tuned models, and asks for so many minutes: files that are
truncated, flipped, spliced, misnamed or bombs (hypothesis, from `reading_cases` where they are), damaged JSON, filters
and addresses (hypothesis), requests from the description of the API (schemathesis), requests that are sent by halves or
byte by byte. It fails if an answer is a 5xx other than a 503 with `Retry-After`, if the honest client waits for more
than two seconds, or if the memory of all processes of the service (PSS) does not come back to within a tenth.

schemathesis is no dependency of this project: `python -m venv st; st/bin/pip install "schemathesis>=4,<5"`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import psutil
from hypothesis import HealthCheck, Phase, given, seed, settings

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
sys.path.insert(0, str(Path(__file__).parent))
import fuzz_requests
from fuzz_requests import Attack

import small_service

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 300
PATIENCE = 2.0
"""Seconds within which the honest client must be answered."""
MEMORY_SHARE = 0.10
SETTLE_SECONDS = 20
BATCH = 100


class Tally:
    """What was asked and answered, from several threads."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.statuses: dict[str, Counter[str]] = {}
        self.faults: list[str] = []
        self.waits: list[float] = []
        self.late: list[str] = []
        self.slowest: list[tuple[float, str]] = []

    def count(self, kind: str, status: str, wait: float = 0.0, told: str = "") -> None:
        """One answer."""
        with self.lock:
            self.statuses.setdefault(kind, Counter())[status] += 1
            self.slowest = sorted([*self.slowest, (wait, told[:160])], reverse=True)[:5]

    def fault(self, told: str) -> None:
        """One answer that should not be."""
        with self.lock:
            self.faults.append(told)

    @property
    def total(self) -> int:
        """All requests."""
        return sum(sum(counts.values()) for counts in self.statuses.values())


def main() -> int:
    """Run, and print what happened; 1 if something should not have."""
    options = parse()
    with tempfile.TemporaryDirectory(prefix="crystalign-fuzz-") as folder:
        mark = f"crystalign-fuzz-{uuid.uuid4().hex}"
        process, url = start(options, Path(folder), mark)
        try:
            return attack(options, url, mark)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(120)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cases = ROOT.parent / "shared" / "data" / "reading_cases"
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--schemathesis", help="a Python that has schemathesis; without it that part is left out")
    parser.add_argument("--cases", type=Path, default=cases if cases.is_dir() else None, help="files to begin with")
    parser.add_argument("--slow", type=int, default=40, help="connections that send by halves at the same time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--log", help="where the output of the service goes; default: nowhere")
    return parser.parse_args()


# --- the service ------------------------------------------------------------------------------------------------------


def start(options: argparse.Namespace, folder: Path, mark: str) -> tuple[subprocess.Popen[str], str]:
    """A service of a small index and two models, and its address."""
    index, model, models = small_index(folder)
    path = os.pathsep.join(str(ROOT / name) for name in ("platform", "jobs", "serve"))
    environment = {**os.environ, "PYTHONPATH": path, "CRYSTALIGN_FUZZ_MARK": mark, "OMP_NUM_THREADS": "1"}
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, "-m", "crystalign_jobs.cli", "serve", "--index", index, "--model", model, "--port", "0"]
    log = folder / "log" if options.log is None else Path(options.log)
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, "--predictors", models, "--shards", str(options.shards)],
            env=environment, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if found := re.search(r"answers at (http://\S+)", log.read_text()):
            return process, found.group(1)
        time.sleep(0.2)
    process.kill()
    raise SystemExit(f"the service did not start:\n{log.read_text()}")


def small_index(folder: Path) -> tuple[str, str, str]:
    """Index, model and fine-tuned models of the forty salts that the tests of the service use."""
    places = small_service.build(folder, small_service.salts())
    return places.index, places.model, small_service.fine_tune(places.dataset, folder, ("by-formula", "by-pattern"))


def processes(mark: str) -> list[psutil.Process]:
    """Those of the service: marked in their environment, or children of such a one."""
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get("CRYSTALIGN_FUZZ_MARK") == mark:
                found |= {one.pid: one for one in [process, *process.children(recursive=True)]}
        except psutil.Error:
            continue
    return list(found.values())


def memory(mark: str) -> dict[str, float]:
    """MB of PSS by the name of the process."""
    sizes: Counter[str] = Counter()
    for process in processes(mark):
        try:
            name = " ".join(process.cmdline())
            known = re.search(
                r"ray::\w+:\w+:[\w-]+|ray::\w+|sandbox\.server|gcs_server|raylet/raylet|crystalign_jobs|ray/dashboard|ray/_private/\w+",
                name,
            )
            sizes[known.group() if known else name[:40].rsplit("/", 1)[-1]] += process.memory_full_info().pss / 2**20
        except psutil.Error:
            continue
    return dict(sizes)


# --- the attack -------------------------------------------------------------------------------------------------------


def attack(options: argparse.Namespace, url: str, mark: str) -> int:
    """All of it at once."""
    tally, calm, seeds = Tally(), Tally(), fuzz_requests.valid_files(options.cases)
    random.Random(options.seed).shuffle(seeds)  # hypothesis likes the first of a list
    honest(url, calm, time.monotonic() + 10)
    run_hypothesis(fuzz_requests.files(seeds), url, Tally(), time.monotonic() + 20, 10**6)  # what is made on first use
    time.sleep(SETTLE_SECONDS / 2)
    print(f"before: {np.median(calm.waits) * 1e3:.0f} ms median for a text query", flush=True)
    before, until = memory(mark), time.monotonic() + 60 * options.minutes
    work: list[Callable[[], None]] = [lambda: honest(url, tally, until), lambda: slow(url, tally, until, options)]
    strategies = [fuzz_requests.files(seeds)] * 2 + [fuzz_requests.bodies(), fuzz_requests.addresses()]
    for number, strategy in enumerate(strategies):
        start_at = options.seed + 10**7 * number
        work.append(lambda s=strategy, n=start_at: run_hypothesis(s, url, tally, until, n))  # type: ignore[misc]
    if options.schemathesis:
        work.append(lambda: described(options, url, tally, until))
    threads = [threading.Thread(target=one) for one in work]
    for thread in threads:
        thread.start()
    peak: dict[str, float] = {}
    while any(thread.is_alive() for thread in threads):
        peak = max(peak, memory(mark), key=lambda sizes: sum(sizes.values()))
        time.sleep(2)
    time.sleep(SETTLE_SECONDS)
    return report(options, tally, before, peak, memory(mark))


def honest(url: str, tally: Tally, until: float) -> None:
    """A text query every second, each on a connection of its own, as a new user would."""
    number = 0
    while time.monotonic() < until:
        began, number = time.monotonic(), number + 1
        try:
            body = {"query": {"text": f"a cubic salt, number {number}"}, "k": 3}
            answer = httpx.post(f"{url}/api/search", json=body, timeout=30)
            status, told = str(answer.status_code), answer.text[:200]
        except httpx.HTTPError as error:
            status, told = type(error).__name__, str(error)
        wait = time.monotonic() - began
        tally.waits.append(wait)
        if wait > PATIENCE or status != "200":
            tally.late.append(f"after {wait:.2f} s: {status} {told if status != '200' else ''}")
        time.sleep(max(0.0, 1.0 - wait))


def run_hypothesis(strategy: Any, url: str, tally: Tally, until: float, number: int) -> None:
    """Batches of requests of one kind, each from its own seed, until the time is over."""
    with httpx.Client(base_url=url, timeout=150) as client:
        while time.monotonic() < until:
            number += 1

            @seed(number)
            @settings(
                max_examples=BATCH,
                deadline=None,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(strategy)
            def batch(one: Attack) -> None:
                if time.monotonic() < until:
                    send(client, one, tally)

            batch()  # fmt: skip


def send(client: httpx.Client, one: Attack, tally: Tally) -> None:
    """One request, and what its answer is worth."""
    began = time.monotonic()
    names = (
        [name for _, (name, _) in one.options["files"]]
        if "files" in one.options
        else one.options.get("content", b"")[:200]
    )
    told = f"{one.method} {one.path[:100]} {str(names)[:200]} {one.options.get('data', '')}"
    try:
        answer = client.request(one.method, one.path, **one.options)
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError, ValueError) as error:
        own = not isinstance(error, httpx.TransportError)  # it could not even be sent
        tally.count(one.kind, "not sent" if own else type(error).__name__)
        if not own:
            tally.fault(f"{type(error).__name__} {told}")
        return
    wait = time.monotonic() - began
    tally.count(one.kind, str(answer.status_code), wait, told)
    if answer.status_code >= 500 and not (answer.status_code == 503 and "retry-after" in answer.headers):
        tally.fault(f"{answer.status_code} {told}: {answer.text[:300]}")


def slow(url: str, tally: Tally, until: float, options: argparse.Namespace) -> None:
    """Many connections that send a part of a request and wait, or a byte now and then."""
    place = urlsplit(url)
    draw = random.Random(options.seed)
    body = b'{"query": {"text": "a salt"}}'
    head = f"POST /api/search HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Type: application/json\r\n".encode()
    wholes = (head + b"Content-Length: %d\r\n\r\n" % len(body) + body, head + b"Content-Length: 5000000\r\n\r\n" + body)
    wholes += (
        head + b"Transfer-Encoding: chunked\r\n\r\n5\r\n",
        head,
        b"GET / HTTP/1.1\r\nX: " + b"a" * 500_000,
        b"\x16\x03\x01\x02",
    )
    held: dict[socket.socket, bytes] = {}
    while time.monotonic() < until:
        while len(held) < options.slow:
            try:
                one = socket.create_connection((place.hostname or "", place.port or 80), 5)
            except OSError:
                tally.count("slow", "not connected")
                break
            one.settimeout(0.05)
            whole = draw.choice(wholes)
            held[one] = whole[: draw.randrange(1, len(whole))]
        held = {one: rest for one, left in held.items() if (rest := drip(one, left, tally, draw)) is not None}
        time.sleep(0.5)
    for one in held:
        one.close()


def drip(connection: socket.socket, rest: bytes, tally: Tally, draw: random.Random) -> bytes | None:
    """Send a little more, and see whether the service has answered; what is left to send, None where it is over."""
    size = draw.choice((1, 1, 50, len(rest)))
    try:
        connection.sendall(rest[:size])
        answer = connection.recv(4096)
    except TimeoutError:
        gone = draw.random() < 0.02
        if gone:
            connection.close()
            tally.count("slow", "left by the client")
        return None if gone else rest[size:]
    except OSError as error:
        connection.close()
        tally.count("slow", f"closed: {type(error).__name__}")
        return None
    status = answer[9:12].decode("latin-1") if answer.startswith(b"HTTP/1.1 ") else "closed"
    tally.count("slow", status)
    if status.startswith("5") and b"retry-after" not in answer.lower():
        tally.fault(f"{status} to a slow request: {answer[:200]!r}")
    connection.close()
    return None


def described(options: argparse.Namespace, url: str, tally: Tally, until: float) -> None:
    """Requests from the description of the API, made by schemathesis in its own environment."""
    script = Path(__file__).parent / "fuzz_schema.py"
    seconds = str(max(1.0, until - time.monotonic()))
    done = subprocess.run(
        [options.schemathesis, str(script), url, seconds, str(options.seed)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        tally.fault(f"schemathesis did not run: {done.stderr[-500:]}")
        return
    told = json.loads(done.stdout.strip().splitlines()[-1])
    tally.statuses["schema"] = Counter(told["statuses"])
    for fault in told["faults"]:
        tally.fault(f"schemathesis: {fault}")


def report(
    options: argparse.Namespace, tally: Tally, before: dict[str, float], peak: dict[str, float], after: dict[str, float]
) -> int:
    """Tables for people; 1 if something should not have been."""
    print(f"\n{tally.total} requests in {options.minutes:g} minutes\n\n| kind | requests | answers |\n|---|---|---|")
    for kind, counts in tally.statuses.items():
        told = ", ".join(f"{status}: {n}" for status, n in sorted(counts.items()))
        print(f"| {kind} | {sum(counts.values())} | {told} |")
    waits = np.array(tally.waits)
    print(f"\nhonest client: {len(waits)} queries, median {np.median(waits) * 1e3:.0f} ms, slowest {waits.max():.2f} s")
    print("slowest answers of the others: " + "; ".join(f"{wait:.1f} s {told}" for wait, told in tally.slowest))
    print("\n| process | PSS before, MB | at the peak | after |\n|---|---|---|---|")
    for name in sorted({*before, *peak, *after}):
        print(f"| {name} | " + " | ".join(f"{sizes.get(name, 0.0):.0f}" for sizes in (before, peak, after)) + " |")
    totals = [sum(sizes.values()) for sizes in (before, peak, after)]
    print("| all | " + " | ".join(f"{total:.0f}" for total in totals) + " |\n")
    wrong = [*tally.faults, *(f"honest client: {late}" for late in tally.late)]
    if totals[2] > totals[0] * (1 + MEMORY_SHARE):
        wrong.append(f"memory grew from {totals[0]:.0f} to {totals[2]:.0f} MB")
    files = sum(tally.statuses.get("file", Counter()).values())
    if options.minutes >= 10 and (tally.total < 5000 or files < 1000):
        wrong.append(f"only {tally.total} requests, {files} of them files")
    for told in wrong[:40]:
        print(f"WRONG: {told}")
    print(f"{len(wrong)} things went wrong" if wrong else "nothing went wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
