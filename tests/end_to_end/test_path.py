"""The whole path as a user runs it, by the command, with every URI on S3: on moto always, on a real server if named."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from crystalign import storage

SETTINGS = """
model:
  embedding_dim: 32
  modalities:
    crystal: {encoder: gated-graph, options: {hidden: 16, layers: 1}}
    dos: {encoder: dos-transformer, options: {hidden: 16, layers: 1}}
    xrd: {encoder: xrd-resnet, options: {channels: [8, 8], hidden: 16, positions: 8, reduced: 8}}
    text: {encoder: bert, options: {hidden: 16, layers: 1, vocabulary: 300}}
    composition: {encoder: composition-transformer, options: {hidden: 16, layers: 1}}
batch_size: 64
epochs: 2
loggers: [csv]
"""


def run(*args: str, timeout: float = 280) -> str:
    """One command; its output, and its exit code must be 0."""
    done = subprocess.run(
        [sys.executable, "-m", "crystalign_jobs.cli", *args],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, f"crystalign {' '.join(args)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@contextmanager
def serving(*args: str) -> Iterator[str]:
    """`crystalign serve` on a free port, once it says that it answers; stopped as a user stops it."""
    command = [sys.executable, "-m", "crystalign_jobs.cli", "serve", *args, "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        answers = (re.search(r"answers at (\S+)", line) for line in process.stdout)  # ends if the process does
        url = next((match[1] for match in answers if match), None)
        assert url is not None, "the service ended before it answered"
        yield url
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=90) == 0


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return json.loads(answer.read())


@pytest.mark.ray
@pytest.mark.s3
@pytest.mark.timeout(900)
@pytest.mark.parametrize("base", ["moto", "real"], indirect=True)
def test_from_files_to_an_answered_query(base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).resolve().parents[2]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(str(root / name) for name in ("platform", "jobs", "serve")))
    settings = tmp_path / "run.yaml"
    settings.write_text(SETTINGS)
    data, runs, model = (
        storage.join(base, "data"),
        storage.join(base, "runs"),
        storage.join(base, "runs", "e2e", "model"),
    )

    assert "next: crystalign derive" in run("ingest", "demo", "--out", data, "--limit", "260")
    run("derive", data)
    run("pretrain", str(settings), "--data", data, "--out", runs, "--name", "e2e")
    assert "crystal → xrd" in run("evaluate", model, "--data", data)
    report = json.loads(storage.read_bytes(storage.join(base, "runs", "e2e", "evaluation", "retrieval.json")))
    assert {(p["query"], p["target"]) for p in report["pairs"]} >= {("xrd", "crystal"), ("text-masked", "crystal")}
    run("embed", model, "--data", data, "--out", storage.join(base, "embeddings"))
    run("index", storage.join(base, "embeddings"), "--out", storage.join(base, "index"))
    with serving("--index", storage.join(base, "index"), "--model", model) as url:
        info = get(f"{url}/api/info")
        assert info["index"]["rows"] == 260
        answer = json.loads(run("search", "--text", "a cubic crystal", "--k", "5", "--url", url, "--json-output"))
        assert (len(answer["results"]), answer["shards_ok"]) == (5, answer["shards_total"])
        best = answer["results"][0]["id"]
        similar = json.loads(run("similar", best, "--k", "1", "--url", url, "--json-output"))
        assert similar["results"][0]["id"] not in {best, None}
        assert get(f"{url}/api/materials/{best}")["id"] == best
