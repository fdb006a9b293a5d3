"""`session(address)`: a Ray cluster for the length of a `with` block, the same on a laptop and elsewhere."""

from __future__ import annotations

import importlib
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

import crystalign
from crystalign.errors import ConfigError
from crystalign.resources import (
    LEAST_LOGICAL_CPUS,
    joining,
    local_cluster,
    private_cluster,
    private_folder,
    require_cluster,
    worker_environment,
)

_START_ATTEMPTS = 3
_JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"
_SETTINGS = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # tasks without a GPU keep their view of the devices, without a warning
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",  # the jobs draw their own
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "0",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",  # a busy laptop imports torch for longer than the usual minute
    "RAY_worker_maximum_startup_concurrency": str(LEAST_LOGICAL_CPUS),  # it warns of more processes than cores
    "RAY_USAGE_STATS_ENABLED": "0",  # a tool that runs beside unpublished data reports to nobody
}


@contextmanager
def session(address: str | None = None, *, verbose: bool = False) -> Iterator[None]:
    """Connect to a cluster, or start one on this machine and stop it at the end.

    Within a process that is already connected nothing is started and nothing is stopped, so jobs
    can be called from one another, from a notebook and from tests that share one cluster.

    Args:
        address: `auto`, `host:port` or `ray://host:port`; None means the environment variable
            `RAY_ADDRESS`, and without it a cluster on this machine. Ray reads the access token
            itself, from `RAY_AUTH_TOKEN`, `RAY_AUTH_TOKEN_PATH` or `~/.ray/auth_token`.
        verbose: show what workers print.

    Raises:
        ConfigError: no cluster answers at `address`, or it refuses the token.
    """
    if ray.is_initialized():
        quieten()
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS")
    folder = None if address not in (None, "local") else _short_folder()
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        _connect(address, folder, verbose=verbose)
        quieten()
        yield
    finally:
        ray.shutdown()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def quieten() -> None:
    """Only warnings of Ray's libraries reach the terminal; progress is drawn by the jobs.

    Ray Data installs its handlers when it is first used, hence a call after connecting.
    """
    context = ray.data.DataContext.get_current()  # imports it, which sets its levels
    for name in ("ray", "ray.data", "ray.train", "ray.serve"):
        logging.getLogger(name).setLevel(logging.ERROR if name == "ray.data" else logging.WARNING)
    context.enable_progress_bars = False
    context.print_on_execution_start = False


def _connect(address: str | None, folder: str | None, *, verbose: bool) -> None:
    common: dict[str, Any] = {"log_to_driver": verbose, "logging_level": logging.ERROR}
    if folder is not None:
        _start_local(folder, common)
        return
    require_cluster(address or "auto")
    constants = importlib.import_module("ray._private.ray_constants")
    try:
        with joining(address or "auto", ray.util.get_node_ip_address(), constants):
            ray.init(address=address, runtime_env=_shipped_environment(), **common)
    except (ConnectionError, RuntimeError) as error:
        raise ConfigError(
            f"no Ray cluster can be used at {address!r}: {error}; check the address, that the cluster runs and that "
            "RAY_AUTH_TOKEN or ~/.ray/auth_token holds its token"
        ) from error


def _start_local(folder: str, common: dict[str, Any]) -> None:
    """Start a cluster on this machine; Ray gives it half a minute, which a busy machine may exceed."""
    for attempt in range(1, _START_ATTEMPTS + 1):
        try:
            # "local" rather than nothing: a cluster of somebody else on this machine is not ours to use
            with private_cluster(importlib.import_module("ray._private.ray_constants")):
                ray.init(address="local", _temp_dir=private_folder(folder), **local_cluster(), **common)
        except Exception as error:  # Ray raises a bare Exception here
            ray.shutdown()
            if attempt == _START_ATTEMPTS or "timed out during startup" not in str(error):
                raise
        else:
            return


def _shipped_environment() -> dict[str, Any]:
    """The runtime environment on a cluster that this process did not start.

    A submitted job already carries one, and the same key must not be given twice. From elsewhere
    the packages of this process travel with it, so that driver and workers run the same code.
    """
    given = json.loads(os.environ[_JOB_CONFIG]).get("runtime_env", {}) if _JOB_CONFIG in os.environ else None
    variables = worker_environment(local=False)
    if given is None:
        import crystalign_jobs

        packages = [str(Path(str(module.__file__)).parent) for module in (crystalign, crystalign_jobs)]
        return {"env_vars": variables, "py_modules": packages}
    taken = given.get("env_vars", {})
    return {"env_vars": {name: value for name, value in variables.items() if name not in taken}}


def _short_folder() -> str:
    """Ray keeps Unix sockets below it, whose paths must stay under 107 bytes."""
    short = Path("/tmp")  # noqa: S108 (mkdtemp makes a private folder)
    return tempfile.mkdtemp(prefix="crystalign-", dir=short if short.is_dir() else None)


def alive_nodes() -> int:
    """Machines of the connected cluster."""
    return sum(bool(node["Alive"]) for node in ray.nodes())
