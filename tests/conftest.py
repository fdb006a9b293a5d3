"""Fixtures shared by every suite."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOGETHER = ("jobs", "training", "serve")
"""Groups of tests that start clusters, look for processes that are left behind, time answers or drive a browser: with
several processes the tests of such a group are all run by one of them."""
TRAINING = ("test_pretrain_job", "test_worker_count", "test_micro_batches", "test_stream", "test_objective_plugin")
"""Files of `tests/jobs` that train with Ray; a group of their own, because all of `tests/jobs` would take longest."""
FIRST = ("jobs", "platform", "docs", "training")
"""The order of groups where several processes share the work; the others follow."""

if "PYTEST_XDIST_WORKER" in os.environ:  # processes that share the cores; before torch is imported
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def group_of(nodeid: str) -> str:
    """`tests/jobs/test_cli.py::test_x` → `jobs`, `tests/jobs/test_stream.py::test_x` → `training`."""
    path = Path(nodeid.partition("::")[0])
    return "training" if path.stem in TRAINING else path.parts[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where several processes share the work, the longest groups come first."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        order = {group: number for number, group in enumerate(FIRST)}
        items.sort(key=lambda item: order.get(group_of(item.nodeid), len(FIRST)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `-n N` a file is run by one process, and so is each of the groups `TOGETHER`."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid) if group_of(nodeid) in TOGETHER else nodeid.partition("::")[0]

    config.option.loadscopereorder = False  # in the order of collection
    return ByFile(config, log)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real crystals, measured patterns and spectra; tests that need it skip without it."""
    folder = Path(os.environ.get("CRYSTALIGN_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "README.md").is_file():
        pytest.skip(f"no real data at {folder}; set CRYSTALIGN_DATA to the folder that holds it")
    return folder


@pytest.fixture(scope="session")
def moto_endpoint() -> Iterator[str]:
    """An S3 server in this process.

    moto checks the condition of a write and stores it in two steps; S3 does both at once. Writes therefore come one at
    a time, or two of them could both meet the same condition.
    """
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0, verbose=False)
    from moto.s3.responses import S3Response

    put, one_at_a_time = S3Response.put_object, threading.Lock()

    def put_alone(response: S3Response) -> Any:
        with one_at_a_time:
            return put(response)

    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(S3Response, "put_object", put_alone)
        yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(params=["local", "moto", "real"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh, empty place: a folder, a bucket on moto, and a bucket on a real S3 server where one is named."""
    if request.param == "local":
        return str(tmp_path / "store")
    return request.getfixturevalue("s3" if request.param == "moto" else "real_s3") + "/store"


@pytest.fixture
def s3(moto_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URI of a fresh bucket on moto."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto_endpoint)
    return fresh_bucket(monkeypatch, "crystalign", "crystalign-secret")


@pytest.fixture
def real_s3(monkeypatch: pytest.MonkeyPatch) -> str:
    """The URI of a fresh bucket on a real server; `infra/s3_local.sh start` prints the variables that name one."""
    if "CRYSTALIGN_S3_ENDPOINT" not in os.environ:
        pytest.skip("no real S3 server: start one with infra/s3_local.sh and set CRYSTALIGN_S3_ENDPOINT")
    monkeypatch.setenv("AWS_ENDPOINT_URL", os.environ["CRYSTALIGN_S3_ENDPOINT"])
    return fresh_bucket(monkeypatch, os.environ["CRYSTALIGN_S3_ACCESS_KEY"], os.environ["CRYSTALIGN_S3_SECRET_KEY"])


def fresh_bucket(monkeypatch: pytest.MonkeyPatch, key: str, secret: str) -> str:
    """Make a bucket on the server that `AWS_ENDPOINT_URL` names."""
    import boto3

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    bucket = f"crystalign-{uuid.uuid4().hex[:12]}"
    boto3.client("s3").create_bucket(Bucket=bucket)
    return f"s3://{bucket}"
