"""`crystalign submit` against a real Ray head with a dashboard and token authentication, on this machine alone."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from crystalign.errors import ConfigError
from crystalign_jobs import cli, submit

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "f00d" * 8
HEAD = """
import functools, sys, ray
from ray._private.parameter import RayParams
# ray.init fixes the port of the agent that starts jobs, and another Ray on this machine may hold it: any free one
RayParams.__init__ = functools.partialmethod(RayParams.__init__, dashboard_agent_listen_port=0)
port, folder = int(sys.argv[1]), sys.argv[2]
ray.init(address="local", num_cpus=2, include_dashboard=True, dashboard_host="127.0.0.1", dashboard_port=port,
         _node_ip_address="127.0.0.1", _temp_dir=folder, object_store_memory=100 * 2**20, log_to_driver=False)
print("up", flush=True)
sys.stdin.read()
ray.shutdown()
"""


class Head(NamedTuple):
    """A Ray cluster that listens on the loopback interface."""

    url: str


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """Its life ends with the pipe to its standard input, however this process ends."""
    port, folder = free_port(), tempfile.mkdtemp(prefix="ca-", dir="/tmp")
    keep = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    keep["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), keep.get("PATH", "")])  # a job runs its `python`
    env = {
        **keep,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_raylet_start_wait_time_s": "150",  # a busy machine is slow, not broken
        "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "150",
    }
    command = [sys.executable, "-c", HEAD, str(port), folder]
    log = Path(folder) / "head.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=output, text=True, env=env, cwd=folder
        )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "up", log.read_text()[-2000:]
        yield Head(f"http://127.0.0.1:{port}")
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(timeout=60)
        process.stdout.close()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)


def job_file(folder: Path, **fields: object) -> Path:
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(fields))
    return path


def run(path: Path, head: Head, *flags: str) -> int:
    try:
        return cli.main(["submit", str(path), "--address", head.url, *flags])
    except SystemExit as stop:
        return int(stop.code or 0)


@pytest.mark.ray
@pytest.mark.usefixtures("token")
def test_a_job_runs_there_and_its_log_and_exit_code_come_back(head, tmp_path, capsys):
    job = job_file(tmp_path, verb="encoders", config={"modality": "crystal", "json_lines": True})
    assert run(job, head) == 0
    out = capsys.readouterr().out
    rows = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    assert rows, out
    assert rows[0]["name"] == "cgcnn"
    assert "succeeded" in out


@pytest.mark.ray
@pytest.mark.usefixtures("token")
def test_a_failing_job_gives_its_exit_code_and_its_reason(head, tmp_path, capsys):
    job = job_file(
        tmp_path,
        verb="encoders",
        config={"modality": "smell"},
        code="image",
        env={"PYTHONPATH": os.pathsep.join(str(ROOT / name) for name in ("platform", "jobs", "serve"))},
    )
    assert run(job, head) == 2
    assert "no encoder reads 'smell'" in capsys.readouterr().out


@pytest.mark.ray
@pytest.mark.usefixtures("token")
def test_no_wait_returns_at_once_and_names_the_next_command(head, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:9")  # Ray's client would prefer it to --address
    job = job_file(tmp_path, verb="encoders", config={"modality": "dos"})
    assert run(job, head, "--no-wait") == 0
    out = capsys.readouterr().out
    assert "ray job logs --follow" in out
    job_id = out.split("job         ")[1].split()[0]
    client = submit.connect(head.url)
    deadline = time.monotonic() + 120
    while client.get_job_status(job_id) not in submit.TERMINAL and time.monotonic() < deadline:
        time.sleep(0.5)
    assert client.get_job_status(job_id) == "SUCCEEDED", client.get_job_logs(job_id)


@pytest.mark.ray
@pytest.mark.usefixtures("token")
@pytest.mark.parametrize(("token_here", "complaint"), [("wrong" * 8, "refused the"), ("", "but none is set")])
def test_a_token_that_does_not_fit_is_one_clear_line(head, tmp_path, capsys, monkeypatch, token_here, complaint):
    monkeypatch.setenv("RAY_AUTH_TOKEN", token_here)
    assert run(job_file(tmp_path, verb="encoders"), head) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert "RAY_AUTH_TOKEN" in error
    assert error.count("\n") == 1


@pytest.mark.usefixtures("token")
def test_an_address_where_nobody_answers_is_one_clear_line(tmp_path, capsys):
    nobody = Head(f"http://127.0.0.1:{free_port()}")
    assert run(job_file(tmp_path, verb="encoders"), nobody) == 2
    assert f"no Ray dashboard answers at {nobody.url}" in capsys.readouterr().err


@pytest.mark.usefixtures("token")
def test_an_address_is_required(tmp_path):
    with pytest.raises(ConfigError, match="--address"):
        submit.main(submit.Submit(job=job_file(tmp_path, verb="encoders")))


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"verb": "encodres"}, "perhaps you meant 'encoders'"),
        ({"verb": "encoders", "config": {"modallity": "dos"}}, "no field 'modallity'"),
        ({"verb": "submit", "config": {}}, "config lacks job"),
        ({"verb": "encoders", "kode": "tree"}, "kode"),
        ({"config": {}}, "verb"),
    ],
)
def test_a_wrong_job_file_is_refused_before_anything_is_sent(tmp_path, fields, complaint):
    with pytest.raises(ConfigError, match=complaint):
        submit.read_job(job_file(tmp_path, **fields))


def test_variables_are_passed_on_from_here(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    job = submit.Job(verb="encoders", code="image", env={"AWS_ENDPOINT_URL": None, "A": "b"})
    assert submit.make_runtime_env(job)["env_vars"] == {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "A": "b"}
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    with pytest.raises(ConfigError, match="AWS_ENDPOINT_URL"):
        submit.make_runtime_env(job)


def test_the_working_tree_is_shipped_only_from_its_top(tmp_path, monkeypatch):
    job = submit.Job(verb="encoders", code="tree")
    monkeypatch.chdir(ROOT)
    env = submit.make_runtime_env(job)
    assert env["working_dir"] == str(ROOT)
    assert env["env_vars"]["PYTHONPATH"] == "platform:jobs:serve"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="top folder"):
        submit.make_runtime_env(job)


def test_the_packages_that_are_shipped_are_the_ones_that_run_here():
    folders = submit.make_runtime_env(submit.Job(verb="encoders"))["py_modules"]
    assert [Path(folder).name for folder in folders] == [
        "crystalign",
        "crystalign_ray",
        "crystalign_jobs",
        "crystalign_serve",
    ]
    assert all((Path(folder) / "py.typed").is_file() for folder in folders)


@pytest.mark.usefixtures("token")
def test_the_token_is_found_where_ray_finds_it(tmp_path, monkeypatch):
    assert submit.find_token() == TOKEN
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    assert submit.find_token() is None
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("home\n")
    assert submit.find_token() == "home"
    named = tmp_path / "named"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(named))
    with pytest.raises(ConfigError, match="no such file"):
        submit.find_token()
    named.write_text("named")
    assert submit.find_token() == "named"


def test_settings_survive_the_shell():
    import shlex

    config = {"data": "s3://b/it's; rm -rf $HOME", "pairs": [["a", "b"]]}
    words = shlex.split(submit.make_entrypoint(submit.Job(verb="pretrain", config=config)))
    assert words[:4] == ["python", "-m", "crystalign_jobs.cli", "pretrain"]
    assert cli.read_source(cli.VERBS["pretrain"], words[5]) == config


@pytest.mark.parametrize("path", sorted((ROOT / "cluster").glob("*.job.yaml")), ids=lambda path: path.name)
def test_example_jobs_are_valid(path):
    assert submit.read_job(path).verb in cli.VERBS
