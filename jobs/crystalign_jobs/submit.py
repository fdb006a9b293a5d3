"""`crystalign submit`: any command as a job on a running Ray cluster, through Ray's job API.

A job file names a verb and its settings, so the same file also runs here: `crystalign pretrain --config JOB.yaml`.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import json
import logging
import os
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro
from pydantic import Field

from crystalign.config import Config
from crystalign.errors import ConfigError, StorageError
from crystalign_jobs.cli import find_verb, settings

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

PACKAGES = ("crystalign", "crystalign_jobs", "crystalign_serve")
TERMINAL = ("SUCCEEDED", "FAILED", "STOPPED")
PATIENCE = 60.0
"""Seconds within which the agent that starts jobs must have registered with a new cluster."""
_ADVICE = "put the cluster's token into RAY_AUTH_TOKEN, into the file RAY_AUTH_TOKEN_PATH or into ~/.ray/auth_token"


class Job(Config):
    """A job file."""

    verb: str
    """Which command to run, e.g. `pretrain`."""
    config: dict[str, Any] = {}
    """Its settings, as in a `--config` file; every URI must be reachable from the cluster."""
    code: Literal["packages", "tree", "image"] = "packages"
    """What runs there: the three packages installed here, the working tree (the current folder, which must be the
    repository's), or what the cluster's image already holds."""
    env: dict[str, str | None] = {}
    """Environment variables of the job; a null takes the value from the environment of the caller."""
    runtime_env: dict[str, Any] = {}
    """Further fields of Ray's runtime environment, e.g. `pip`."""
    num_cpus: float = Field(0, ge=0)
    """CPUs that the command itself reserves, beside those of the tasks and workers that it starts."""
    num_gpus: float = Field(0, ge=0)
    """GPUs that the command itself reserves."""
    resources: dict[str, float] = {}
    """Custom resources that the command itself reserves, e.g. to run it on the head node."""


class Submit(Config):
    """Send a job to a running Ray cluster, follow its log and return its exit code.

    Example: crystalign submit cluster/pretrain.job.yaml --address http://127.0.0.1:8265
    """

    job: tyro.conf.Positional[Path]
    """The job file: `verb`, `config`, and how the code gets there."""
    address: str | None = None
    """The cluster's dashboard, e.g. http://127.0.0.1:8265; RAY_API_SERVER_ADDRESS where it is not given."""
    wait: bool = True
    """Follow the log until the job ends, and exit as it did; otherwise return as soon as it is accepted."""


def main(config: Submit) -> None:
    """Submit a job.

    Raises:
        ConfigError: the job file does not validate, no cluster answers, or it refuses the token.
        SystemExit: with the job's exit code, if that is not 0.
    """
    job = read_job(config.job)
    client = connect(config.address)
    entrypoint = make_entrypoint(job)
    print(f"cluster     {client.get_address()}\nentrypoint  {entrypoint}", flush=True)
    job_id = send(client, job, entrypoint)
    print(f"job         {job_id}", flush=True)
    if not config.wait:
        print(f"next        ray job logs --follow --address {client.get_address()} {job_id}")
        return
    code = follow(client, job_id)
    if code:
        raise SystemExit(code)


def send(client: JobSubmissionClient, job: Job, entrypoint: str) -> str:
    """Ship the code and submit the job; a cluster that has only just started is given a minute to be ready for it.

    Returns:
        The job's id.

    Raises:
        ConfigError: the cluster does not accept it.
    """
    for name in ("ray.dashboard.modules.dashboard_sdk", "ray._private.runtime_env.packaging"):
        logging.getLogger(name).setLevel(logging.WARNING)  # each package that it ships is a line otherwise
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return str(
                client.submit_job(
                    entrypoint=entrypoint,
                    runtime_env=make_runtime_env(job),
                    entrypoint_num_cpus=job.num_cpus or None,
                    entrypoint_num_gpus=job.num_gpus or None,
                    entrypoint_resources=job.resources or None,
                    metadata={"crystalign_verb": job.verb},
                )
            )
        except (RuntimeError, ValueError) as error:
            starting = "No available agent" in str(error)
            if not starting or time.monotonic() > deadline:
                hint = "; does another Ray on the head node hold its agent's port (52365)?" if starting else ""
                raise ConfigError(f"the cluster did not accept the job: {error}{hint}") from error
            time.sleep(1)


def read_job(path: Path) -> Job:
    """A job file whose verb exists and whose settings the verb accepts, found out here rather than on the cluster.

    Raises:
        ConfigError: it does not.
    """
    job = Job.from_yaml(path)
    verb = find_verb(job.verb)
    cls: type[Config] = getattr(importlib.import_module(verb.module), verb.config)
    resolved = settings(verb, cls, job.config, origin=f"{path}: config")
    missing = [name for name in cls.model_fields if getattr(resolved, name) is tyro.MISSING]
    if missing:
        raise ConfigError(f"{path}: config lacks {', '.join(missing)}, which `crystalign {verb.name}` requires")
    return job


def make_entrypoint(job: Job) -> str:
    """The shell command of the job; its settings are in it, readable on the cluster's dashboard."""
    config = shlex.quote(json.dumps(job.config, default=str))
    return f"python -m crystalign_jobs.cli {job.verb} --config {config}"


def make_runtime_env(job: Job) -> dict[str, Any]:
    """Ray's runtime environment: the code that the job names, its variables, and the rest as given.

    Raises:
        ConfigError: the working tree is not here, or a variable to be passed on is not set.
    """
    variables = {name: _variable(name, value) for name, value in job.env.items()}
    env: dict[str, Any] = {"excludes": ["**/__pycache__/"], **job.runtime_env}
    if job.code == "packages":
        env["py_modules"] = [*_package_folders(), *env.get("py_modules", [])]
    elif job.code == "tree":
        if not Path("platform/crystalign").is_dir():
            raise ConfigError(f"`code: tree` ships the repository, and {Path.cwd()} is not its top folder")
        env["working_dir"] = str(Path.cwd())
        variables.setdefault("PYTHONPATH", "platform:jobs:serve")  # relative: Ray enters the folder first
    env["env_vars"] = {**variables, **env.get("env_vars", {})}
    return env


def connect(address: str | None) -> JobSubmissionClient:
    """A client of the cluster's job API, carrying the token if there is one.

    Raises:
        ConfigError: no address, nobody answers there, or the token is refused.
    """
    from ray.job_submission import JobSubmissionClient

    url = address or os.environ.get("RAY_API_SERVER_ADDRESS")
    if not url:
        raise ConfigError("which cluster? give --address http://HOST:8265 or set RAY_API_SERVER_ADDRESS")
    url = (url if "://" in url else f"http://{url}").rstrip("/")
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"{url} is not the address of a dashboard; it looks like http://HOST:8265")
    token = find_token()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    _check_reachable(url, headers)
    before = os.environ.get("RAY_API_SERVER_ADDRESS")
    os.environ["RAY_API_SERVER_ADDRESS"] = url  # Ray would let RAY_ADDRESS override the address that was asked for
    try:
        return JobSubmissionClient(url, headers=headers)
    finally:
        if before is None:
            del os.environ["RAY_API_SERVER_ADDRESS"]
        else:
            os.environ["RAY_API_SERVER_ADDRESS"] = before


def find_token() -> str | None:
    """The authentication token, from the three places where Ray itself looks."""
    if token := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return token
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named).expanduser() if named else Path.home() / ".ray" / "auth_token"
    if path.is_file():
        return path.read_text(encoding="utf-8").strip() or None
    if named:
        raise ConfigError(f"RAY_AUTH_TOKEN_PATH names {named}, and there is no such file")
    return None


def follow(client: JobSubmissionClient, job_id: str) -> int:
    """Print the job's log as it grows; its exit code when it has ended."""
    try:
        asyncio.run(_print_log(client, job_id))
    except KeyboardInterrupt:
        print(f"\nthe job goes on; to stop it: ray job stop --address {client.get_address()} {job_id}", flush=True)
        raise
    info = client.get_job_info(job_id)
    if info.status == "SUCCEEDED":
        print(f"job         {job_id} succeeded", flush=True)
        return 0
    print(f"job         {job_id} {str(info.status).lower()}: {info.message or 'no message'}", flush=True)
    return info.driver_exit_code or 1


async def _print_log(client: JobSubmissionClient, job_id: str) -> None:
    """Follow the log through dropped connections: each one starts anew, so what was printed is skipped."""
    printed, failures = 0, 0
    while failures < 5:
        seen = 0
        try:
            async for text in client.tail_job_logs(job_id):
                seen += len(text)
                if seen > printed:
                    print(text[len(text) - (seen - printed) :], end="", flush=True)
                    printed = seen
        except (RuntimeError, OSError):
            failures += 1
        if client.get_job_status(job_id) in TERMINAL:
            return
        await asyncio.sleep(1)
    raise StorageError(f"the log of {job_id} broke off five times; `ray job status {job_id}` tells how it went")


def _check_reachable(url: str, headers: dict[str, str]) -> None:
    import requests

    try:
        answer = requests.get(f"{url}/api/version", headers=headers, timeout=20)
    except requests.RequestException as error:
        raise ConfigError(f"no Ray dashboard answers at {url} ({type(error).__name__}); is it running?") from error
    if answer.status_code == 401:
        raise ConfigError(f"{url} wants an authentication token, and there is none here: {_ADVICE}")
    if answer.status_code == 403:
        raise ConfigError(f"{url} refused the authentication token: {_ADVICE}")
    if answer.status_code != 200 or "ray_version" not in answer.text:
        raise ConfigError(f"{url} answers, but not as a Ray dashboard does (HTTP {answer.status_code})")


def _package_folders() -> list[str]:
    folders = []
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        assert spec is not None, f"{name} is not importable here"
        assert spec.submodule_search_locations, f"{name} is not a package"
        folders.append(spec.submodule_search_locations[0])
    return folders


def _variable(name: str, value: str | None) -> str:
    if value is not None:
        return value
    if name not in os.environ:
        raise ConfigError(f"the job passes {name} on from this environment, where it is not set")
    return os.environ[name]
