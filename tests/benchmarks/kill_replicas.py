"""What users see when a process of the service is killed, and when the service is stopped under load.

    python tests/benchmarks/kill_replicas.py --index URI --model URI [--seconds 20] [--rate 10] [--replicas 1]

Starts `crystalign serve`, notes its answers, and sends RATE requests a second, each on a connection of
its own (a text query, a formula, a look-up by id, in turn). A shard, the encoders and the coordinator
are killed with SIGKILL, one after the other. Printed for each: how long until the first complete
answer, how many requests were answered in full, in part (flagged `shards_ok < shards_total`), refused
(503) or not at all, the slowest, and how many were wrong: different from before without saying so.
Last, SIGTERM (or SIGINT to the whole process group with --interrupt) under the same load: every
request whose connection was accepted must be answered.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import httpx
import psutil

ROOT = Path(__file__).resolve().parents[2]
DEADLINES = {"query": 8.0, "id": 8.0}
"""Seconds: a shard's deadline, and room for a queue."""


class Outcome(NamedTuple):
    """What became of one request."""

    sent: float
    seconds: float
    kind: str
    """full, part, refused, none or wrong; `lost` if the connection was accepted and nothing came."""


def requests_for(identity: str) -> list[dict[str, object]]:
    """The queries that are repeated."""
    texts = ("a cubic salt", "an oxide of lithium", "a layered sulfide")
    return [{"text": t} for t in texts] + [{"formula": f} for f in ("NaCl", "LiF", "MgO")] + [{"id": identity}]


async def ask(url: str, query: dict[str, object], known: dict[str, object]) -> Outcome:
    """Send one query and judge the answer."""
    started = time.monotonic()
    kind = "none"
    async with httpx.AsyncClient(timeout=30, verify=False, trust_env=False) as client:
        try:
            response = await client.post(f"{url}/api/search", json={"query": query, "k": 10})
        except httpx.ConnectError:
            kind = "none"
        except httpx.TransportError as error:
            print(f"lost after {time.monotonic() - started:.2f} s: {error!r}", file=sys.stderr)
            kind = "lost"
        else:
            kind = judge(response, known.get(json.dumps(query)))
    return Outcome(started, time.monotonic() - started, kind)


def judge(response: httpx.Response, expected: object) -> str:
    """full, part, refused or wrong."""
    if response.status_code == 503 and "retry-after" in response.headers:
        return "refused"
    if response.status_code != 200:
        return f"wrong {response.status_code}"
    answer = response.json()
    if answer["shards_ok"] < answer["shards_total"]:
        return "part"
    found = [(r["id"], round(r["score"], 5)) for r in answer["results"]]
    return "full" if expected is None or found == expected else "wrong"


async def load(url: str, rate: float, until: asyncio.Event, known: dict[str, object], queries: list[dict]) -> list:
    """RATE requests a second until told to stop; every outcome."""
    tasks, number = [], 0
    began = time.monotonic()
    while not until.is_set():
        tasks.append(asyncio.create_task(ask(url, queries[number % len(queries)], known)))
        number += 1
        await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
    return await asyncio.gather(*tasks)


def replica(parent: int, name: str) -> psutil.Process:
    """The process of a deployment."""
    pattern = re.compile(rf"ServeReplica:crystalign:{name}\b|SERVE_REPLICA::crystalign#{name}#")
    for process in psutil.Process(parent).children(recursive=True):
        if pattern.search(" ".join(process.cmdline())):
            return process
    raise SystemExit(f"no process of {name}")


async def kill_one(url: str, pid: int, name: str, args: argparse.Namespace, known: dict, queries: list) -> None:
    """Kill one replica under load, and print what was seen."""
    stop = asyncio.Event()
    running = asyncio.create_task(load(url, args.rate, stop, known, queries))
    await asyncio.sleep(2.0)
    killed = time.monotonic()
    replica(pid, name).kill()
    await asyncio.sleep(args.seconds)
    stop.set()
    outcomes = await running
    after = [o for o in outcomes if o.sent >= killed - 1.0]
    bad = [o.sent + o.seconds for o in after if o.kind != "full"]
    recovery = max(bad) - killed if bad else 0.0
    first_bad = min((o.sent for o in after if o.kind != "full"), default=killed)
    show(name, after, f"{recovery:.1f}", f"{max(0.0, first_bad - killed):.2f}")


def show(name: str, outcomes: list[Outcome], recovery: str, noticed: str = "") -> None:
    """One row of the table."""
    kinds = ("full", "part", "refused", "none", "lost")
    counts = [sum(o.kind == kind for o in outcomes) for kind in kinds]
    wrong = sum(o.kind.startswith("wrong") for o in outcomes)
    answered = [o.seconds for o in outcomes if o.kind not in {"none", "lost"}] or [0.0]
    late = sum(seconds > DEADLINES["query"] for seconds in answered)
    refused = max([o.seconds for o in outcomes if o.kind == "refused"] or [0.0])
    cells = [name, len(outcomes), *counts, wrong, late, f"{max(answered):.2f}", f"{refused:.2f}", noticed, recovery]
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


async def stop_under_load(url: str, process: subprocess.Popen, args: argparse.Namespace, known: dict, queries: list):
    """End the service under load, and print whether a request was lost."""
    stop = asyncio.Event()
    running = asyncio.create_task(load(url, args.rate * 3, stop, known, queries))
    await asyncio.sleep(3.0)
    told = time.monotonic()
    if args.interrupt:
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.send_signal(signal.SIGTERM)
    while process.poll() is None and time.monotonic() - told < 90:  # noqa: ASYNC110 (a process sets no event)
        await asyncio.sleep(0.1)
    stop.set()
    name = "SIGINT to the group" if args.interrupt else "SIGTERM"
    show(f"{name} (exit {process.returncode})", await running, f"ended after {time.monotonic() - told:.1f}")


async def run(url: str, process: subprocess.Popen, args: argparse.Namespace) -> None:
    """Every event in turn."""
    async with httpx.AsyncClient(timeout=60) as client:
        first = (await client.post(f"{url}/api/search", json={"query": {"formula": "NaCl"}, "k": 1})).json()
        queries = requests_for(first["results"][0]["id"])
        known: dict[str, object] = {}
        for query in queries:
            answer = (await client.post(f"{url}/api/search", json={"query": query, "k": 10})).json()
            known[json.dumps(query)] = [(r["id"], round(r["score"], 5)) for r in answer["results"]]
    print("| killed | requests | full | part | refused | no connection | lost | wrong | late | slowest (s) "
          "| slowest refusal (s) | first effect (s) | recovered (s) |\n|" + "---|" * 13)  # fmt: skip
    for name in [] if args.only_stop else ["shard-0", "encoders", "coordinator"]:
        await kill_one(url, process.pid, name, args, known, queries)
    await stop_under_load(url, process, args, known, queries)


def main() -> None:
    """Start, hurt, and stop a service."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--index", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--seconds", type=float, default=20.0, help="after each kill")
    parser.add_argument("--rate", type=float, default=10.0, help="requests a second")
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--interrupt", action="store_true", help="SIGINT to the process group instead of SIGTERM")
    parser.add_argument("--only-stop", action="store_true", help="kill nothing")
    args = parser.parse_args()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    path = os.pathsep.join(str(ROOT / name) for name in ("platform", "jobs", "serve"))
    command = [sys.executable, "-m", "crystalign_jobs.cli", "serve", "--index", args.index, "--model", args.model]
    command += ["--port", str(port), "--shards", "2", "--replicas", str(args.replicas)]
    with tempfile.TemporaryFile("w+") as log:
        environment = {**os.environ, "PYTHONPATH": path}
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            url = f"http://127.0.0.1:{port}"
            while process.poll() is None:
                try:
                    if httpx.get(f"{url}/ready", timeout=5).status_code == 200:
                        break
                except httpx.TransportError:
                    time.sleep(0.5)
            else:
                log.seek(0)
                raise SystemExit(f"the service did not start:\n{log.read()}")
            asyncio.run(run(url, process, args))
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                process.wait(120)
            log.seek(0)
            if process.returncode:
                print(log.read()[-3000:])


if __name__ == "__main__":
    main()
