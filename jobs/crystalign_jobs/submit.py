"""`crystalign submit`: run a command as a job on a running Ray cluster, through Ray's job API.

A job file contains a verb and its settings, so it can also be run locally: `crystalign pretrain --config JOB.yaml`.
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
from crystalign_ray.internals import upload_loggers
from crystalign_ray.resources import package_folders

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

TERMINAL = ("SUCCEEDED", "FAILED", "STOPPED")
PATIENCE = 60.0
"""Seconds to wait until a new cluster is ready to start jobs."""
_ADVICE = "set RAY_AUTH_TOKEN to the cluster's token, or write it to the file RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token"


class Job(Config):
    """The content of a job file."""

    verb: str
    """Command to run, e.g. `pretrain`."""
    config: dict[str, Any] = {}
    """Its settings, as in a `--config` file; every URI must be reachable from the cluster."""
    code: Literal["packages", "tree", "image"] = "packages"
    """The code that runs on the cluster. `packages`: the packages installed here. `tree`: the working tree in the
    current folder, which must be the top folder of the repository. `image`: the packages in the cluster's image."""
    env: dict[str, str | None] = {}
    """Environment variables of the job; null takes the value from the environment of this command."""
    runtime_env: dict[str, Any] = {}
    """Further fields of Ray's runtime environment, e.g. `pip`."""
    num_cpus: float = Field(0, ge=0)
    """CPUs reserved for the command itself, in addition to those of its tasks and workers."""
    num_gpus: float = Field(0, ge=0)
    """GPUs reserved for the command itself."""
    resources: dict[str, float] = {}
    """Custom resources reserved for the command itself, e.g. to run it on the head node."""


class Submit(Config):
    """Send a job to a running Ray cluster, follow its log and return its exit code.

    Example: crystalign submit cluster/pretrain.job.yaml --address http://127.0.0.1:8265
    """

    job: tyro.conf.Positional[Path]
    """The job file, with `verb`, `config` and `code`."""
    address: str | None = None
    """Dashboard of the cluster, e.g. http://127.0.0.1:8265; default: RAY_API_SERVER_ADDRESS."""
    wait: bool = True
    """Follow the log until the job ends, and exit with its exit code; if false, return once the job is accepted."""


def main(config: Submit) -> None:
    """Submit a job.

    Raises:
        ConfigError: the job file is not valid, no cluster answers, or the cluster refuses the token.
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
    """Ship the code and submit the job; waits up to a minute for a cluster that has just started.

    Returns:
        The job's id.

    Raises:
        ConfigError: the cluster does not accept the job.
    """
    for name in upload_loggers():
        logging.getLogger(name).setLevel(logging.WARNING)  # avoids a line per shipped package
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
                hint = "; perhaps another Ray on the head node uses the port of its agent (52365)" if starting else ""
                raise ConfigError(f"the cluster did not accept the job: {error}{hint}") from error
            time.sleep(1)


def read_job(path: Path) -> Job:
    """Read a job file, and check its verb and settings before it is submitted.

    Raises:
        ConfigError: the verb does not exist, or the settings are not valid.
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
    """The shell command of the job. It contains the settings, so they can be read on the cluster's dashboard."""
    config = shlex.quote(json.dumps(job.config, default=str))
    return f"python -m crystalign_jobs.cli {job.verb} --config {config}"


def make_runtime_env(job: Job) -> dict[str, Any]:
    """Ray's runtime environment: the code, the environment variables, and `runtime_env` of the job.

    Raises:
        ConfigError: the current folder is not the repository, or a variable to be passed on is not set.
    """
    variables = {name: _variable(name, value) for name, value in job.env.items()}
    env: dict[str, Any] = {"excludes": ["**/__pycache__/"], **job.runtime_env}
    if job.code == "packages":
        env["py_modules"] = [*package_folders(), *env.get("py_modules", [])]
    elif job.code == "tree":
        if not Path("platform/crystalign").is_dir():
            raise ConfigError(f"`code: tree` ships the repository, but {Path.cwd()} is not its top folder")
        env["working_dir"] = str(Path.cwd())
        variables.setdefault("PYTHONPATH", "platform:jobs:serve")  # relative to the shipped folder, where the job runs
    env["env_vars"] = {**variables, **env.get("env_vars", {})}
    return env


def connect(address: str | None) -> JobSubmissionClient:
    """A client of the cluster's job API, with the token if there is one.

    Raises:
        ConfigError: there is no address, nothing answers there, or the token is refused.
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
    previous = os.environ.get("RAY_API_SERVER_ADDRESS")
    os.environ["RAY_API_SERVER_ADDRESS"] = url  # otherwise RAY_ADDRESS would override this address
    try:
        return JobSubmissionClient(url, headers=headers)
    finally:
        if previous is None:
            del os.environ["RAY_API_SERVER_ADDRESS"]
        else:
            os.environ["RAY_API_SERVER_ADDRESS"] = previous


def find_token() -> str | None:
    """The authentication token, from the same three places as Ray itself."""
    if token := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return token
    configured = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(configured).expanduser() if configured else Path.home() / ".ray" / "auth_token"
    if path.is_file():
        return path.read_text(encoding="utf-8").strip() or None
    if configured:
        raise ConfigError(f"RAY_AUTH_TOKEN_PATH is {configured}, but there is no such file")
    return None


def follow(client: JobSubmissionClient, job_id: str) -> int:
    """Print the log of a job until it ends; returns its exit code."""
    try:
        asyncio.run(_print_log(client, job_id))
    except KeyboardInterrupt:
        print(
            f"\nthe job is still running; to stop it: ray job stop --address {client.get_address()} {job_id}",
            flush=True,
        )
        raise
    info = client.get_job_info(job_id)
    if info.status == "SUCCEEDED":
        print(f"job         {job_id} succeeded", flush=True)
        return 0
    print(f"job         {job_id} {str(info.status).lower()}: {info.message or 'no message'}", flush=True)
    return info.driver_exit_code or 1


async def _print_log(client: JobSubmissionClient, job_id: str) -> None:
    """Follow the log, and reconnect if the connection drops; each connection starts at the beginning of the log."""
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
    raise StorageError(
        f"the connection to the log of {job_id} dropped five times; `ray job status {job_id}` shows its state"
    )


def _check_reachable(url: str, headers: dict[str, str]) -> None:
    import requests

    try:
        answer = requests.get(f"{url}/api/version", headers=headers, timeout=20)
    except requests.RequestException as error:
        raise ConfigError(f"no Ray dashboard answers at {url} ({type(error).__name__}); is it running?") from error
    if answer.status_code == 401:
        raise ConfigError(f"{url} requires an authentication token, but none is set: {_ADVICE}")
    if answer.status_code == 403:
        raise ConfigError(f"{url} refused the authentication token: {_ADVICE}")
    if answer.status_code != 200 or "ray_version" not in answer.text:
        raise ConfigError(f"{url} answers, but not as a Ray dashboard does (HTTP {answer.status_code})")


def _variable(name: str, value: str | None) -> str:
    if value is not None:
        return value
    if name not in os.environ:
        raise ConfigError(f"the job needs the variable {name} of this environment, but it is not set")
    return os.environ[name]
