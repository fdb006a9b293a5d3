"""HTTP fronts compared: uvicorn in the coordinator, Ray Serve's proxy, and its HAProxy mode, on one small index.

    python tests/benchmarks/bench_front.py --index URI --model URI [--seconds 8] [--haproxy]

Each front is started anew with the same deployments. Eight connections ask one after the other
(closed loop) for `/api/health` and for a text query; then 60 text queries a second arrive whether or
not they are answered (open loop). Printed: answers a second, refusals, and latencies.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[2]
CONNECTIONS = 8
FRONTS = ("uvicorn in the coordinator", "Ray's proxy", "Ray's HAProxy mode")


def text_query(port: int) -> bytes:
    """One request, ready to be sent."""
    body = json.dumps({"query": {"text": "a cubic salt of lithium"}, "k": 10}).encode()
    head = f"POST /api/search HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n"
    return head.encode() + b"content-length: %d\r\n\r\n" % len(body) + body


async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> int:
    """Send a request; gives the status."""
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    length = next((int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:")), None)
    if length is not None:
        await reader.readexactly(length)
    else:
        while size := int(await reader.readuntil(b"\r\n"), 16):
            await reader.readexactly(size + 2)
        await reader.readexactly(2)
    return int(head[9:12])


async def closed_loop(port: int, request: bytes, seconds: float) -> tuple[list[tuple[int, float]], float]:
    """Status and latency of every request of a few connections."""
    until, done = time.perf_counter() + seconds, []

    async def one() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() < until:
            began = time.perf_counter()
            try:
                status = await exchange(reader, writer, request)
            except (asyncio.IncompleteReadError, ConnectionError):  # closed instead of answered
                status = 0
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            done.append((status, time.perf_counter() - began))
        writer.close()

    await asyncio.gather(*(one() for _ in range(CONNECTIONS)))
    return done, seconds


async def open_loop(port: int, request: bytes, seconds: float, rate: float) -> tuple[list[tuple[int, float]], float]:
    """The same of requests that come at a rate, each on a connection of its own."""
    done: list[tuple[int, float]] = []

    async def one() -> None:
        began = time.perf_counter()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        done.append((await exchange(reader, writer, request), time.perf_counter() - began))
        writer.close()

    began, tasks = time.perf_counter(), []
    for number in range(int(seconds * rate)):
        tasks.append(asyncio.create_task(one()))
        await asyncio.sleep(max(0.0, began + (number + 1) / rate - time.perf_counter()))
    await asyncio.gather(*tasks, return_exceptions=True)
    return done, time.perf_counter() - began


def show(front: str, load: str, done: list[tuple[int, float]], seconds: float) -> None:
    """One row."""
    answered = sorted(latency for status, latency in done if status == 200) or [float("nan")]
    refused = sum(status == 503 for status, _ in done)
    p50, p99 = (answered[int(len(answered) * part)] * 1e3 for part in (0.5, 0.99))
    rate, slowest = (len(answered) / seconds, max(latency for _, latency in done) * 1e3)
    print(f"| {front} | {load} | {rate:.0f} | {refused} | {p50:.0f} | {p99:.0f} | {slowest:.0f} |", flush=True)


def serve_with_proxy(args: argparse.Namespace) -> None:
    """In a process of its own: the same application behind Ray's proxy."""
    from ray import serve

    from crystalign_ray.session import session
    from crystalign_serve.launch import app

    with session("local", uses_data=False):
        serve.start(http_options={"host": "127.0.0.1", "port": args.proxy}, logging_config={"log_level": "WARNING"})
        serve.run(app({"index": args.index, "model": args.model, "shards": "2", "fronts": "1"}), route_prefix="/")
        signal.sigwait({signal.SIGINT})
        serve.shutdown()


def measure(front: str, args: argparse.Namespace) -> None:
    """Start one front, load it, and stop it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    given = ["--index", args.index, "--model", args.model]
    own = ["-m", "crystalign_jobs.cli", "serve", *given, "--shards", "2", "--fronts", "1", "--port", str(port)]
    command = own if front == FRONTS[0] else [__file__, *given, "--proxy", str(port)]
    path = os.pathsep.join(str(ROOT / name) for name in ("platform", "jobs", "serve"))
    environment = {**os.environ, "PYTHONPATH": path}
    if front == FRONTS[2]:
        environment |= {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}
    process = subprocess.Popen([sys.executable, *command], env=environment, stdout=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 240
        while time.monotonic() < until and process.poll() is None:
            try:
                if httpx.get(f"http://127.0.0.1:{port}/ready", timeout=5).status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.5)
        health = f"GET /api/health HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n\r\n".encode()
        asyncio.run(closed_loop(port, text_query(port), 2.0))
        show(front, "health, 8 connections", *asyncio.run(closed_loop(port, health, args.seconds)))
        show(front, "text, 8 connections", *asyncio.run(closed_loop(port, text_query(port), args.seconds)))
        show(front, "text, 60/s", *asyncio.run(open_loop(port, text_query(port), args.seconds, 60.0)))
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(120)


def main() -> None:
    """Compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--index", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--haproxy", action="store_true", help="also Ray's HAProxy mode")
    parser.add_argument("--proxy", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.proxy:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        serve_with_proxy(args)
        return
    print("| front | load | answers/s | refused | p50 (ms) | p99 (ms) | slowest (ms) |\n|" + "---|" * 7)
    for front in FRONTS if args.haproxy else FRONTS[:2]:
        measure(front, args)


if __name__ == "__main__":
    main()
