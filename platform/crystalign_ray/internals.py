"""All uses of non-public parts of Ray.

Each function names what is used, why, and the public interface that would replace it. `tests/platform/
test_ray_internals.py` calls all of them, so that the test names the part that a new release of Ray moved.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from crystalign.errors import Error


@contextmanager
def loopback_clusters() -> Iterator[None]:
    """Make Ray accept a loopback address within the block.

    On Linux, unlike macOS, Ray replaces 127.0.0.1 by an address that other machines can reach, and listens on every
    interface. The constant `ray._private.ray_constants.ENABLE_RAY_CLUSTER` controls this. To be replaced by a public
    way to start a cluster that listens on one interface only.
    """
    constants = _module("ray._private.ray_constants")
    before = _attribute(constants, "ENABLE_RAY_CLUSTER")
    constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def silent_core() -> Iterator[None]:
    """Suppress what Ray's core prints to stderr while a process connects; errors are still raised.

    The core writes to file descriptor 2 directly. `RAY_BACKEND_LOG_LEVEL` silences it, but Ray prints a line about this
    variable. To be replaced once `ray.init(log_to_driver=False)` covers the core.
    """
    sys.stderr.flush()
    stderr_copy, devnull = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 2)
    try:
        yield
    finally:
        os.dup2(stderr_copy, 2)
        os.close(stderr_copy)
        os.close(devnull)


@contextmanager
def silent_shutdown() -> Iterator[None]:
    """Suppress the errors of the cluster that a thread of Ray prints to the driver's stdout.

    Shutting down Serve kills its controller, and Ray reports each call that was waiting for it. To be replaced once
    `ray.init(log_to_driver=False)` covers this thread.
    """
    worker = _module("ray._private.worker")
    before = _attribute(worker, "print_to_stdstream")
    worker.print_to_stdstream = lambda *_, **__: None
    try:
        yield
    finally:
        worker.print_to_stdstream = before


def data_execution_callback() -> type:
    """The class whose `on_execution_step` Ray Data calls in each iteration of its scheduler.

    `DataContext.custom_execution_callback_classes` is public and takes subclasses of it; the class itself is not public
    yet.
    """
    module = _module("ray.data._internal.execution.execution_callback")
    cls: type = _attribute(module, "ExecutionCallback")
    return cls


def torch_backend() -> type:
    """The class with which Ray Train sets up torch in its workers.

    `TorchConfig.backend_cls` is public for third-party backends; deriving from Ray's own backend is not. To be replaced
    by a hook that runs in the main thread of each worker before training.
    """
    from ray.train.torch import TorchConfig

    cls: type = _attribute(TorchConfig(), "backend_cls")
    return cls


def upload_loggers() -> tuple[str, ...]:
    """Loggers that report every file that a submitted job uploads; the public client has no setting to silence them."""
    names = ("ray.dashboard.modules.dashboard_sdk", "ray._private.runtime_env.packaging")
    for name in names:
        _module(name)
    return names


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise Error(_changed(name)) from error


def _attribute(owner: Any, name: str) -> Any:
    try:
        return getattr(owner, name)
    except AttributeError as error:
        raise Error(_changed(f"{owner}.{name}")) from error


def _changed(what: str) -> str:
    import ray

    return f"Ray {ray.__version__} has no {what}; install the version of constraints.txt, or adapt {__name__}"
