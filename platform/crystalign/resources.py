"""What a machine has and what a job needs: planned before the start, not hoped for.

Nothing here knows Ray; the sums are the same for any scheduler that counts CPUs and GPUs.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import crystalign
from crystalign.config import Config
from crystalign.errors import ConfigError

LEAST_LOGICAL_CPUS = 8
"""Fewer and two training workers leave no room for the tasks that feed them."""
LARGEST_OBJECT_STORE = 2 * 2**30
"""Bytes; batches are small and consumed at once, so a laptop's memory stays the user's."""
CONNECT_SECONDS = 5.0
_HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)
"""What a client of gRPC sends first: the preface, and settings without any."""
_PINNED = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class Demand(Config):
    """One line of a job's resource plan."""

    name: str
    """Who needs it, for the message: `training workers`."""
    count: int
    """How many of them run at the same time."""
    cpus: float = 1.0
    """Logical CPUs of each."""
    gpus: float = 0.0
    """GPUs of each."""


def local_cluster() -> dict[str, Any]:
    """Keyword arguments that start a cluster on this machine.

    Logical CPUs are max(8, 2 × cores): they are slots for processes that mostly wait for each
    other, so each process computes with one thread. Workers find the packages where this process
    found them, installed or not, and S3 uploads carry no trailing checksums, which several servers
    drop silently. Nobody else reaches it: it listens on the loopback interface alone (within
    `private_cluster`), and asks for its token.
    """
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        del os.environ["RAY_AUTH_MODE"]  # without it, Ray asks for a token, and makes one where there is none
    return {
        "_node_ip_address": "127.0.0.1",
        "num_cpus": max(LEAST_LOGICAL_CPUS, 2 * (os.cpu_count() or 1)),
        "object_store_memory": _object_store_bytes(),
        "include_dashboard": False,
        "runtime_env": {"env_vars": worker_environment(local=True)},
    }


@contextlib.contextmanager
def private_cluster(ray_constants: Any) -> Iterator[None]:
    """Let a cluster that starts within this block listen on 127.0.0.1 alone, with a token that only this user can read.

    On Linux Ray replaces a loopback address by one that other machines reach, and listens on every
    interface; on macOS it does not, by the constant that is set here.

    Args:
        ray_constants: `ray._private.ray_constants`.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        token = Path.home() / ".ray" / "auth_token"
        with contextlib.suppress(OSError):  # there may be none, or one that somebody else manages
            token.chmod(0o600)


def joining(address: str, own_ip: str, ray_constants: Any) -> contextlib.AbstractContextManager[None]:
    """What to connect to a running cluster within.

    Ray replaces a loopback address by `own_ip`, where a cluster of `private_cluster` does not listen: such a
    cluster is joined by the same setting that it was started with.

    Args:
        address: `host:port`, or what else Ray takes.
        own_ip: the address by which other machines reach this one, as Ray finds it.
        ray_constants: `ray._private.ray_constants`.
    """
    host, port = _host_and_port(address)
    if host not in {"127.0.0.1", "localhost", "::1"} or port is None or own_ip == "127.0.0.1":
        return contextlib.nullcontext()
    try:
        socket.create_connection((own_ip, port), 1.0).close()
    except OSError:
        return private_cluster(ray_constants)
    return contextlib.nullcontext()


def private_folder(folder: str) -> str:
    """A place for a session's files below a folder that only this user may enter.

    Ray opens its own folder to everybody, so it gets one inside; its sockets have long names, so the
    name is short.
    """
    os.chmod(folder, 0o700)
    return os.path.join(folder, "r")


def require_cluster(address: str) -> None:
    """Find out within a few seconds whether anything that can be a cluster listens at an address.

    Args:
        address: `host:port`, `ray://host:port` or `auto`.

    Raises:
        ConfigError: nothing listens there, or it is something else.
    """
    place = address
    if address == "auto":
        current = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "ray_current_cluster")  # noqa: S108 (only read)
        place = os.environ.get("RAY_ADDRESS", "auto")
        if place == "auto" and current.is_file():
            place = current.read_text(encoding="utf-8").strip()
        if place == "auto":
            return  # Ray itself says at once that it finds none
    why = _no_answer(place)
    if why:
        raise ConfigError(
            f"no Ray cluster can be used at {address!r}: {why}; check the address and that the cluster runs, or unset "
            "RAY_ADDRESS to start one on this machine"
        )


def _host_and_port(address: str) -> tuple[str | None, int | None]:
    try:
        parts = urlsplit(address if "//" in address else f"//{address}")
    except ValueError:
        return None, None
    try:
        return parts.hostname, parts.port
    except ValueError:
        return parts.hostname, None


def _no_answer(address: str) -> str:
    """Why no gRPC server can be reached; empty if one can."""
    host, port = _host_and_port(address)
    if host is None or port is None:
        return "it is not HOST:PORT"
    try:
        with socket.create_connection((host, port), CONNECT_SECONDS) as connection:
            if os.environ.get("RAY_USE_TLS", "0") not in {"", "0"}:
                return ""
            connection.settimeout(CONNECT_SECONDS)
            connection.sendall(_HTTP2_HELLO)
            answer = connection.recv(9)
    except OSError as error:
        return str(error.strerror or error)
    return "" if len(answer) >= 4 and answer[3] == 4 else "what listens there is no Ray cluster"


def worker_environment(*, local: bool) -> dict[str, str]:
    """Environment variables of every worker process.

    Args:
        local: the workers share this machine: one thread each, and the packages are found by path.
            Elsewhere the scheduler sets the threads and the packages are installed or shipped.
    """
    from crystalign.storage import S3_ENVIRONMENT

    environment = dict(S3_ENVIRONMENT)
    environment["TOKENIZERS_PARALLELISM"] = "false"
    if local:
        environment.update(dict.fromkeys(_PINNED, "1"))
        environment["PYTHONPATH"] = _python_path()
    return environment


def check_fits(demands: Sequence[Demand], available: Mapping[str, float], *, free_cpus: float = 1.0) -> None:
    """Compare a plan with what a cluster has, before anything waits for it.

    Args:
        demands: what runs at the same time.
        available: `{"CPU": …, "GPU": …}` of the whole cluster.
        free_cpus: logical CPUs that must remain for the tasks that read and prepare data.

    Raises:
        ConfigError: the plan does not fit; the message holds the sum, line by line.
    """
    cpus = sum(d.count * d.cpus for d in demands) + free_cpus
    gpus = sum(d.count * d.gpus for d in demands)
    has_cpus, has_gpus = available.get("CPU", 0.0), available.get("GPU", 0.0)
    if cpus <= has_cpus and gpus <= has_gpus:
        return
    lines = [f"{d.count} {d.name} × ({d.cpus:g} CPU, {d.gpus:g} GPU)" for d in demands]
    lines.append(f"{free_cpus:g} CPU for data tasks")
    raise ConfigError(
        f"the plan needs {cpus:g} CPUs and {gpus:g} GPUs but the cluster has {has_cpus:g} and {has_gpus:g}: "
        + " + ".join(lines)
        + "; lower num_workers, or use a larger cluster"
    )


def parallel_tasks(available: Mapping[str, float], *, reserved: float) -> int:
    """How many tasks that compute can run beside what is reserved without slowing each other down.

    Half of the free logical CPUs: on a machine that starts its own cluster they are twice its cores.
    """
    return max(1, int((available.get("CPU", 0.0) - reserved) // 2))


def _python_path() -> str:
    """The folders of the `crystalign*` packages, then what this process was given."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(crystalign.__file__)))
    house = os.path.dirname(root)
    folders = [root]
    if os.path.basename(root) == "platform":  # a checkout: the sister packages stand beside it
        folders += [os.path.join(house, "jobs"), os.path.join(house, "serve")]
    folders += [os.path.abspath(p) for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    return os.pathsep.join(dict.fromkeys(folders))


def _object_store_bytes() -> int:
    """A quarter of the memory, at most 2 GiB, and no more than fits into shared memory."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    budget = min(LARGEST_OBJECT_STORE, total // 4)
    try:
        shared = os.statvfs("/dev/shm")  # noqa: S108 (a size is read, nothing is written)
    except OSError:
        return budget
    return max(100 * 2**20, min(budget, int(shared.f_bavail * shared.f_frsize * 0.8)))
