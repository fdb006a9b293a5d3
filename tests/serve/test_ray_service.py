"""The real thing: `crystalign serve` as a process, asked over HTTP, stopped by a signal."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import psutil
import pytest

from crystalign.errors import QueryError
from crystalign_serve.client import Client, ServiceError
from crystalign_serve.errors import MAX_BODY_BYTES

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 420
STOP_SECONDS = 120

pytestmark = pytest.mark.timeout(600)


class Running(NamedTuple):
    """A service and what it printed."""

    process: subprocess.Popen[str]
    url: str
    mark: str
    lines: list[str]


@pytest.fixture(scope="module")
def service(places, models) -> Iterator[Running]:
    mark = f"crystalign-test-{uuid.uuid4().hex}"
    path = os.pathsep.join(str(ROOT / name) for name in ("platform", "jobs", "serve"))
    environment = {**os.environ, "PYTHONPATH": path, "CRYSTALIGN_TEST_MARK": mark, "OMP_NUM_THREADS": "1"}
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, "-m", "crystalign_jobs.cli", "serve", "--index", places.index, "--port", "0"]
    process = subprocess.Popen(
        [*command, "--model", places.model, "--shards", "3", "--shard-deadline", "60", "--predictors", models],
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(process.stdout), daemon=True)
    reader.start()
    try:
        yield Running(process, wait_for_url(process, lines), mark, lines)
    finally:
        stop(process)
        reader.join(10)
        process.stdout.close()


def stop(process: subprocess.Popen[str]) -> None:
    """With a signal, and if that does not help by force: a failed test shall leave nothing behind either."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def wait_for_url(process: subprocess.Popen[str], lines: list[str]) -> str:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        found = re.search(r"answers at (http://\S+)", "".join(list(lines)))
        if found:
            return found.group(1)
        time.sleep(0.2)
    pytest.fail(f"the service did not start:\n{''.join(lines)}")


@pytest.fixture(scope="module")
def client(service) -> Iterator[Client]:
    with Client(service.url) as connection:
        yield connection


def processes_of(mark: str) -> list[tuple[int, str]]:
    """Number and command line of living processes whose environment holds the mark."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes():
                found.append((int(folder.name), (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()))
        except OSError:
            continue  # gone, or not ours
    return [(pid, command) for pid, command in found if command.strip()]


def processes_with(mark: str) -> list[str]:
    return [command for _, command in processes_of(mark)]


def test_shards_and_encoders_answer_like_one_process(client, http, materials):
    cif = materials[3].crystal.to_cif()
    text = "a cubic salt of lithium"
    own = http.post("/api/search", json={"query": {"cif": cif, "text": text}, "k": 40}).json()
    answer = client.search(cif=cif, text=text, k=40)
    assert (answer.raw["shards_ok"], answer.raw["shards_total"]) == (3, 3)
    assert [hit.id for hit in answer] == [result["id"] for result in own["results"]]
    assert [hit.score for hit in answer] == pytest.approx([result["score"] for result in own["results"]], abs=1e-5)


def test_the_client_takes_structures_of_every_kind(client, materials, tmp_path):
    crystal = materials[8].crystal
    (tmp_path / "one.cif").write_text(crystal.to_cif())
    (tmp_path / "POSCAR").write_text(crystal.to_poscar())
    kinds = [crystal, crystal.to_pymatgen(), crystal.to_cif(), tmp_path / "one.cif", str(tmp_path / "POSCAR")]
    assert [client.find_similar(kind, top=1)[0].id for kind in kinds] == [materials[8].id] * len(kinds)
    assert materials[8].id not in {hit.id for hit in client.find_similar(materials[8].id, top=40)}
    assert client.crystal(materials[8].id).formula == crystal.formula


def test_concurrent_requests_are_batched_and_not_mixed_up(client, http, materials):
    from concurrent.futures import ThreadPoolExecutor

    formulas = [material.crystal.formula for material in materials]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda formula: client.search(formula=formula, k=3), formulas))
    for formula, answer in zip(formulas, answers, strict=True):
        own = http.post("/api/search", json={"query": {"formula": formula}, "k": 3}).json()
        assert [h.score for h in answer] == pytest.approx([r["score"] for r in own["results"]], abs=1e-5)


def test_fine_tuned_models_answer_like_one_process(client, beside, materials):
    asked = [materials[7].id, materials[3].crystal]
    own = beside.post(
        "/api/predict", json={"structures": [{"id": asked[0]}, {"cif": asked[1].to_cif()}], "level": 0.8}
    ).json()["results"]
    found = client.predict(asked, level=0.8)
    assert [[one["model"] for one in result["predictions"]] for result in found] == [
        ["by-formula", "by-pattern", "by-spectrum"],
        ["by-formula", "by-pattern"],
    ]
    for mine, theirs in zip(own, found, strict=True):
        assert mine["problems"] == theirs["problems"]
        values = [[one["value"] for one in result["predictions"]] for result in (mine, theirs)]
        assert values[0] == pytest.approx(values[1], abs=1e-4)


def test_mistakes_are_told_and_the_next_request_is_served(client, service):
    for options in (
        {"text": "x", "filter": "colour>3"},
        {"id": "nowhere"},
        {"cif": "no\ncrystal"},
        {"text": "x", "k": 0},
    ):
        with pytest.raises(QueryError, match=r"nelements|nowhere|CIF|k"):
            client.search(**options)
    with pytest.raises(QueryError, match=str(MAX_BODY_BYTES)):
        client.search(text="x" * (MAX_BODY_BYTES + 1))
    with httpx.Client() as raw:
        try:
            status = raw.post(f"{service.url}/api/search", content=b"x" * 100 * 2**20).status_code
        except httpx.TransportError:  # the server hung up before it had received it all
            status = 413
    assert status == 413
    assert len(client.search(formula="NaCl")) == 10


def test_what_is_served_is_told_once_it_answers(service, places):
    told = [line for line in service.lines if line.startswith(("Starting", "Serving", "Crystalign answers"))]
    assert [line.split()[0] for line in told] == ["Starting", "Serving", "Crystalign"]
    assert f"{places.index} and " in told[1]
    assert told[1].strip().endswith(service.url)
    assert httpx.get(f"{service.url}/ready").json()["shards_ok"] == 3


def test_nothing_listens_beyond_this_machine_and_the_session_is_private(service):
    found = [psutil.Process(pid) for pid, _ in processes_of(service.mark)]
    open_ports = {c.laddr for p in found for c in p.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    assert len(open_ports) > 5
    assert {port.ip for port in open_ports} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    folders = {
        m[1] for _, command in processes_of(service.mark) for m in re.finditer(r"(/\S+/crystalign-\w{8})/r", command)
    }
    assert len(folders) == 1
    assert Path(folders.pop()).stat().st_mode & 0o777 == 0o700


def test_a_page_of_another_site_cannot_use_it(service):
    foreign = {"origin": "http://evil.example"}
    assert httpx.post(f"{service.url}/api/search/file", files={"file": ("a", b"x")}, headers=foreign).status_code == 403
    assert httpx.get(f"{service.url}/", headers={"host": "evil.example"}).status_code == 403


def test_a_killed_shard_is_left_out_within_a_second_and_comes_back(service, client):
    whole = client.search(formula="NaCl", k=40)
    shard = next(pid for pid, command in processes_of(service.mark) if re.search(r"crystalign[:#]shard-1\b", command))
    os.kill(shard, signal.SIGKILL)
    began = time.monotonic()
    part = client.search(formula="NaCl", k=40)
    assert time.monotonic() - began < 3
    assert (part.raw["shards_ok"], part.raw["shards_total"]) == (2, 3)
    assert [hit.id for hit in part] == [h.id for h in whole if h.id in {hit.id for hit in part}]
    unready = httpx.get(f"{service.url}/ready")
    assert unready.status_code == 503
    assert "retry-after" in unready.headers
    assert httpx.get(f"{service.url}/live").status_code == 200
    end = time.monotonic() + 120
    while httpx.get(f"{service.url}/ready").status_code != 200:
        assert time.monotonic() < end, "the shard did not come back"
        time.sleep(0.5)
    assert [hit.id for hit in client.search(formula="NaCl", k=40)] == [hit.id for hit in whole]


def test_the_page_and_the_documentation_are_served(service):
    assert "<html" in httpx.get(service.url).text
    assert httpx.get(f"{service.url}/docs").status_code == 200
    assert httpx.get(f"{service.url}/assets/app.js").status_code == 200


def test_the_command_prints_a_table(service, capsys):
    from crystalign_serve.search import Search, Similar, main

    main(Search(formula="NaCl", filter='elements HAS "Cl"', url=service.url))
    printed = capsys.readouterr().out
    assert "NaCl" in printed
    assert "all that pass the filter" in printed
    main(Similar(material="salt/08", k=3, url=service.url))
    assert "3 of 39 rows" in capsys.readouterr().out


def ask_until_refused(url: str, told: threading.Event, outcomes: list[int]) -> None:
    """One request after the other, each on its own connection, until none is accepted: 200, 0 for refused, -1 lost."""
    while True:
        try:
            with httpx.Client(verify=False, trust_env=False, timeout=30) as client:
                outcomes.append(client.post(f"{url}/api/search", json={"query": {"formula": "NaCl"}}).status_code)
        except httpx.ConnectError:
            outcomes.append(0)
            if told.is_set():
                return
        except httpx.TransportError:
            outcomes.append(-1)
            return


def test_a_signal_ends_it_and_nothing_is_left_behind(service):
    assert len(processes_with(service.mark)) > 3
    outcomes: list[int] = []
    told = threading.Event()
    asking = [threading.Thread(target=ask_until_refused, args=(service.url, told, outcomes)) for _ in range(4)]
    for thread in asking:
        thread.start()
    time.sleep(1.0)
    service.process.send_signal(signal.SIGTERM)
    told.set()
    for thread in asking:
        thread.join(60)
    assert set(outcomes) == {200, 0}, "a request that was accepted was not answered"
    assert service.process.wait(STOP_SECONDS) == 0
    deadline = time.monotonic() + 20
    while processes_with(service.mark) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert processes_with(service.mark) == []
    with Client(service.url) as client, pytest.raises(ServiceError, match="crystalign serve"):
        client.health()
