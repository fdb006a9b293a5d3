"""`session(address)`: connect to a Ray cluster, or start a local one, for the duration of a `with` block."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from crystalign.errors import ConfigError, Error
from crystalign_ray.internals import silent_core, silent_shutdown
from crystalign_ray.resources import (
    LEAST_LOGICAL_CPUS,
    joining,
    local_cluster,
    package_folders,
    private_cluster,
    private_folder,
    require_cluster,
    worker_environment,
)

_START_ATTEMPTS = 3
_JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"
_SETTINGS = {
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # errors that concern the user are raised; the rest is for developers of Ray
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # tasks without a GPU still see the devices; avoids a warning
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",  # the jobs show their own
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "0",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",  # importing torch may exceed the default of 60 s on a busy laptop
    "RAY_worker_maximum_startup_concurrency": str(LEAST_LOGICAL_CPUS),  # avoids a warning about too many processes
    "RAY_USAGE_STATS_ENABLED": "0",  # no telemetry from machines that hold unpublished data
}
_SETTINGS_HERE = {
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # nobody takes this machine away; saves a process for each training
}
"""Settings of a cluster that this process starts."""


@contextmanager
def session(address: str | None = None, *, verbose: bool = False, uses_data: bool = True) -> Iterator[bool]:
    """Connect to a cluster, or start one on this machine and stop it at the end.

    If this process is already connected, nothing is started or stopped. So jobs can call each other, and a notebook or
    the tests can share one cluster.

    Args:
        address: `auto`, `host:port` or `ray://host:port`; None means the environment variable `RAY_ADDRESS`, and
            without it a cluster on this machine. Ray reads the access token itself, from `RAY_AUTH_TOKEN`,
            `RAY_AUTH_TOKEN_PATH` or `~/.ray/auth_token`.
        verbose: show the output of workers.
        uses_data: whether Ray Data is used; importing it takes a second.

    Yields:
        Whether this process owns the cluster; False if others may use it, too.

    Raises:
        ConfigError: no cluster answers at `address`, or it refuses the token.
        Error: no cluster could be started on this machine.
    """
    if ray.is_initialized():
        quieten(uses_data=uses_data)
        yield True
        return
    address = address or os.environ.get("RAY_ADDRESS")
    folder = _short_folder() if address in (None, "local") else None
    for name, value in (_SETTINGS if folder is None else _SETTINGS | _SETTINGS_HERE).items():
        os.environ.setdefault(name, value)
    quiet = {"log_to_driver": verbose, "logging_level": logging.ERROR}
    try:
        if folder is not None:
            _start(folder, quiet)
        else:
            _join(address or "auto", quiet)
        quieten(uses_data=uses_data)
        yield folder is not None
    finally:
        with silent_shutdown():
            ray.shutdown()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def quieten(*, uses_data: bool = True) -> None:
    """Let only warnings of Ray's libraries reach the terminal; the jobs show their own progress.

    Call it after connecting, because Ray Data installs its log handlers when it is first used.
    """
    if uses_data:
        context = ray.data.DataContext.get_current()  # imports Ray Data, which sets the log levels
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.raise_original_map_exception = True  # Ray's own wrapper loses the original exception
    for name in ("ray", "ray.data", "ray.train", "ray.serve"):
        logging.getLogger(name).setLevel(logging.CRITICAL if name == "ray.data" else logging.WARNING)


def _join(address: str, quiet: dict[str, Any]) -> None:
    """Connect to a running cluster."""
    require_cluster(address)
    try:
        with joining(address, ray.util.get_node_ip_address()), silent_core():
            ray.init(address=address, runtime_env=_shipped_environment(), **quiet)
    except (ConnectionError, RuntimeError) as error:
        raise ConfigError(
            f"no Ray cluster can be used at {address!r}: {error}; check the address, that the cluster runs and that "
            "RAY_AUTH_TOKEN or ~/.ray/auth_token holds its token"
        ) from error


def _start(folder: str, quiet: dict[str, Any]) -> None:
    """Start a cluster on this machine. Retry, because a busy machine may exceed Ray's limit of half a minute."""
    for attempt in range(1, _START_ATTEMPTS + 1):
        try:
            # without "local", Ray would join a cluster that another user runs on this machine
            with private_cluster(), silent_core():
                ray.init(address="local", _temp_dir=private_folder(folder), **local_cluster(), **quiet)
        except Exception as error:  # Ray raises a bare Exception here
            ray.shutdown()
            if attempt == _START_ATTEMPTS or "timed out during startup" not in str(error):
                raise Error(f"Ray did not start on this machine: {error}") from error
        else:
            return


def _shipped_environment() -> dict[str, Any]:
    """The runtime environment on a cluster that this process did not start.

    A submitted job already has a runtime environment, and Ray rejects duplicate keys. Otherwise the packages of this
    process are shipped, so that driver and workers run the same code.
    """
    job_environment = json.loads(os.environ[_JOB_CONFIG]).get("runtime_env", {}) if _JOB_CONFIG in os.environ else None
    variables = worker_environment(local=False)
    if job_environment is None:
        return {"env_vars": variables, "py_modules": package_folders()}
    job_variables = job_environment.get("env_vars", {})
    return {"env_vars": {name: value for name, value in variables.items() if name not in job_variables}}


def _short_folder() -> str:
    """A new folder with a short path: Ray creates Unix sockets in it, whose paths are limited to 107 bytes."""
    short = Path("/tmp")  # noqa: S108 (mkdtemp makes a private folder)
    return tempfile.mkdtemp(prefix="crystalign-", dir=short if short.is_dir() else None)


def node_count() -> int:
    """Number of live nodes of the connected cluster."""
    return sum(bool(node["Alive"]) for node in ray.nodes())
