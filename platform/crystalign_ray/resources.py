"""Resources of a cluster, resource plans of jobs, and the environment of workers. Does not import Ray."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from crystalign.config import Config
from crystalign.errors import ConfigError

PACKAGES = ("crystalign", "crystalign_ray", "crystalign_jobs", "crystalign_serve")
"""All packages of Crystalign."""
LEAST_LOGICAL_CPUS = 8
"""With fewer, two training workers leave no room for the tasks that feed them."""
LARGEST_OBJECT_STORE = 2 * 2**30
"""Bytes. Batches are small and consumed at once, so most of the memory stays free for other programs."""
CONNECT_SECONDS = 5.0
_HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)
"""What a gRPC client sends first: the HTTP/2 preface and an empty SETTINGS frame."""
_PASSED_ON = ("CRYSTALIGN_TRUSTED_MODULES",)
"""Environment variables that workers take over from this process."""
_PINNED = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class ResourceRequest(Config):
    """One line of a job's resource plan."""

    name: str
    """What needs the resources, e.g. `training workers`; used in error messages."""
    count: int
    """How many of them run at the same time."""
    cpus: float = 1.0
    """Logical CPUs of each."""
    gpus: float = 0.0
    """GPUs of each."""


def local_cluster() -> dict[str, Any]:
    """Keyword arguments that start a cluster on this machine.

    There are max(8, 2 × cores) logical CPUs, because most processes wait for each other most of the time; each process
    computes with one thread. Workers import the packages from the same folders as this process. S3 uploads carry no
    trailing checksums, which several servers drop silently. Within `private_cluster` the cluster listens on the
    loopback interface only; it requires its token.
    """
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        del os.environ["RAY_AUTH_MODE"]  # by default Ray requires a token, and creates one if there is none
    return {
        "_node_ip_address": "127.0.0.1",
        "num_cpus": max(LEAST_LOGICAL_CPUS, 2 * (os.cpu_count() or 1)),
        "object_store_memory": _object_store_bytes(),
        "include_dashboard": False,
        "runtime_env": {"env_vars": worker_environment(local=True)},
    }


@contextlib.contextmanager
def private_cluster() -> Iterator[None]:
    """Make a cluster started within this block listen on 127.0.0.1 only, and its token readable by this user only."""
    from crystalign_ray.internals import loopback_clusters

    try:
        with loopback_clusters():
            yield
    finally:
        token = Path.home() / ".ray" / "auth_token"
        with contextlib.suppress(OSError):  # there may be no token, or another user may own it
            token.chmod(0o600)


def joining(address: str, own_ip: str) -> contextlib.AbstractContextManager[None]:
    """The context in which to connect to a running cluster.

    Ray replaces a loopback address by `own_ip`, on which a cluster started within `private_cluster` does not listen. To
    join such a cluster, the same setting is needed.

    Args:
        address: `host:port`, or any other address that Ray accepts.
        own_ip: the address at which other machines reach this one, as Ray determines it.
    """
    host, port = _host_and_port(address)
    if host not in {"127.0.0.1", "localhost", "::1"} or port is None or own_ip == "127.0.0.1":
        return contextlib.nullcontext()
    try:
        socket.create_connection((own_ip, port), 1.0).close()
    except OSError:
        return private_cluster()
    return contextlib.nullcontext()


def private_folder(folder: str) -> str:
    """A folder for the files of a Ray session, inside a folder that only this user can enter.

    Ray makes its own folder accessible to all users, so it gets a subfolder. The name is short because Ray appends long
    socket names to it.
    """
    os.chmod(folder, 0o700)
    return os.path.join(folder, "r")


def require_cluster(address: str) -> None:
    """Check within a few seconds whether something that can be a Ray cluster listens at an address.

    Args:
        address: `host:port`, `ray://host:port` or `auto`.

    Raises:
        ConfigError: nothing listens there, or it is not a Ray cluster.
    """
    target = address
    if address == "auto":
        current = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "ray_current_cluster")  # noqa: S108 (only read)
        target = os.environ.get("RAY_ADDRESS", "auto")
        if target == "auto" and current.is_file():
            target = current.read_text(encoding="utf-8").strip()
        if target == "auto":
            return  # Ray itself fails at once if it finds no cluster
    problem = _no_answer(target)
    if problem:
        raise ConfigError(
            f"no Ray cluster can be used at {address!r}: {problem}; check the address and that the cluster runs, or "
            "unset RAY_ADDRESS to start one on this machine"
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
    """Why no gRPC server can be reached at an address; empty if one answers."""
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
    return "" if len(answer) >= 4 and answer[3] == 4 else "the server there is not a Ray cluster"


def worker_environment(*, local: bool) -> dict[str, str]:
    """Environment variables of every worker process.

    Args:
        local: whether the workers run on this machine. Then each has one thread, and finds the packages by path.
            Otherwise the scheduler sets the threads, and the packages are installed or shipped.
    """
    from crystalign.storage import S3_ENVIRONMENT

    environment = dict(S3_ENVIRONMENT)
    environment["TOKENIZERS_PARALLELISM"] = "false"
    environment |= {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    if local:
        environment.update(dict.fromkeys(_PINNED, "1"))
        environment["PYTHONPATH"] = _python_path()
    return environment


def check_fits(demands: Sequence[ResourceRequest], available: Mapping[str, float], *, free_cpus: float = 1.0) -> None:
    """Check a resource plan against a cluster, before anything waits for resources.

    Args:
        demands: everything that runs at the same time.
        available: `{"CPU": …, "GPU": …}` of the whole cluster.
        free_cpus: logical CPUs that must stay free for the tasks that read and prepare data.

    Raises:
        ConfigError: the plan does not fit; the message lists every item of the sum.
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
    """How many computing tasks can run beside the reserved CPUs without slowing each other down.

    This is half of the free logical CPUs, because a local cluster has twice as many logical CPUs as cores.
    """
    return max(1, int((available.get("CPU", 0.0) - reserved) // 2))


def package_folders() -> list[str]:
    """Folders of the Crystalign packages that this process can import, to ship them to workers on other machines."""
    folders = []
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations:
            folders.append(os.path.abspath(next(iter(spec.submodule_search_locations))))
    return folders


def _python_path() -> str:
    """The parent folders of the packages, then the PYTHONPATH of this process."""
    folders = [os.path.dirname(folder) for folder in package_folders()]
    folders += [os.path.abspath(p) for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    return os.pathsep.join(dict.fromkeys(folders))


def _object_store_bytes() -> int:
    """A quarter of the memory, at most 2 GiB, and at most 80 % of the free shared memory."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    budget = min(LARGEST_OBJECT_STORE, total // 4)
    try:
        shared = os.statvfs("/dev/shm")  # noqa: S108 (a size is read, nothing is written)
    except OSError:
        return budget
    return max(100 * 2**20, min(budget, int(shared.f_bavail * shared.f_frsize * 0.8)))
