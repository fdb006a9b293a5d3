"""`crystalign serve`: run an index and its model as Ray Serve deployments until Ctrl-C."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import Field
from tyro.conf import UseAppendAction

from crystalign.config import Config
from crystalign.errors import ConfigError, Error, ModelError
from crystalign.index.calibration import Calibration
from crystalign.index.manifest import IndexManifest
from crystalign.storage import Uri, absolute

if TYPE_CHECKING:
    from ray.serve import Application

APPLICATION = "crystalign"
FRONT = "coordinator"
ANSWER_SECONDS = 60.0
"""Longest time between the start of the last deployment and the first HTTP response."""
START_RETRIES = 2
DEFAULT_SHARDS = 2


class ServeArgs(Config):
    """What is served and with which resources; also the arguments of `serve run crystalign_serve.launch:app`."""

    index: Uri | None = None
    """URI of the index. Without an index, only `predictors` are served."""
    predictors: Uri | None = None
    """URI of a fine-tuned model or ensemble, or of a folder of them such as `best` of a campaign. They are served at
    /api/predict, and the web page shows their predictions."""
    model: Uri | None = None
    """URI of the model that made the index; default: the URI recorded in the index."""
    dataset: Uri | None = None
    """URI of the dataset that was embedded; default: the URI recorded in the index."""
    shards: int = Field(default=DEFAULT_SHARDS, ge=1)
    """Deployments among which the index is divided; at most one per segment of the index."""
    encoders: Literal["grouped", "separate"] = "grouped"
    """`grouped`: one deployment holds all encoders. `separate`: one deployment per encoder."""
    replicas: int = Field(default=1, ge=1)
    """Replicas of each shard, of the encoders and of the fine-tuned models."""
    fronts: int = Field(default=2, ge=1)
    """Replicas of the coordinator, which share the port. While one restarts, the others answer."""
    encoder_cpus: float = Field(default=0.2, gt=0)
    """Logical CPUs per encoder replica."""
    encoder_gpus: float = Field(default=0.0, ge=0)
    """GPUs per encoder replica."""
    predictor_cpus: float = Field(default=0.2, gt=0)
    """Logical CPUs per replica of the fine-tuned models."""
    predictor_gpus: float = Field(default=0.0, ge=0)
    """GPUs per replica of the fine-tuned models."""
    shard_cpus: float = Field(default=0.1, gt=0)
    """Logical CPUs per shard replica, and per coordinator replica."""
    shard_deadline: float = Field(default=5.0, gt=0)
    """Time limit for a shard to answer (s). Later answers are left out, and the response reports it."""
    api_key_file: str | None = None
    """File with the API key that every request must carry (`Authorization: Bearer KEY`). Required to listen on an
    address that other machines can reach. Read once, at the start."""
    allowed_host: UseAppendAction[tuple[str, ...]] = ()
    """Further host name of the service, for example behind a proxy; may be given several times."""
    file_memory: int = Field(default=512, ge=64)
    """Memory limit for reading one uploaded file (MiB)."""
    file_seconds: float = Field(default=10.0, gt=0)
    """Time limit for reading one uploaded file (s)."""


class Serve(ServeArgs):
    """Serve an index, fine-tuned models, or both: an HTTP API, documented at /docs, and a web page.

    For example:

      crystalign serve --index s3://bucket/index --model s3://bucket/runs/first/model
      crystalign serve --predictors campaigns/first/best
    """

    host: str = "127.0.0.1"
    """Address to listen on. 0.0.0.0 means all addresses of this machine; it requires an API key."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on; 0 chooses a free one."""
    address: str | None = None
    """Address of a Ray cluster; default: RAY_ADDRESS, or else a local cluster that ends with the service."""


class ListenAddress(NamedTuple):
    """Address on which the coordinator's replicas listen, without Ray's proxy."""

    host: str
    port: int
    node: str | None
    """Ray resource of the node on which they must run; None if there is only one node."""


def app(args: ServeArgs | dict[str, str], listen: ListenAddress | None = None) -> Application:
    """The Ray Serve application, for `serve.run` or `serve run crystalign_serve.launch:app index=URI`.

    Args:
        args: what is served.
        listen: address for the coordinator's own HTTP server; None uses Ray's proxy.

    Raises:
        ConfigError: an unknown argument, or nothing to serve.
        DatasetError: no index at its URI.
        ModelError: no model at its URI, or not the model that made the index.
    """
    if isinstance(args, dict):  # from the command line of `serve run`
        mapping: dict[str, Any] = dict(args)
        if isinstance(mapping.get("allowed_host"), str):
            mapping["allowed_host"] = mapping["allowed_host"].split(",")
        args = ServeArgs.from_mapping(mapping, origin="the application's arguments")
    if args.index is None and args.predictors is None:
        raise ConfigError("nothing to serve: give an --index, --predictors, or both")
    if args.index is None and (args.model or args.dataset):
        raise ConfigError(
            "--model and --dataset belong to an index, and there is none: give --index, or leave them out"
        )
    shared = {**_shared(args, listen), **(_predictors(args) if args.predictors is not None else {})}
    if args.index is None:
        from ray import serve

        from crystalign_serve.coordinator import PredictCoordinator

        return serve.deployment(PredictCoordinator).options(**_front_options(args, listen)).bind(**shared)
    return _searching(args, args.index, shared, listen)


def _shared(args: ServeArgs, listen: ListenAddress | None) -> dict[str, Any]:
    """Arguments of both kinds of coordinator: access rules, listen address and sandbox limits."""
    from crystalign_serve.sandbox.limits import SandboxLimits
    from crystalign_serve.security import Access, access_of

    if listen is not None:
        access = access_of(listen.host, args.api_key_file, args.allowed_host)
    else:  # behind Ray's proxy or an ingress: accept the given host names, or any
        access = access_of("127.0.0.1", args.api_key_file, args.allowed_host)
        hosts = access.hosts if args.allowed_host else None
        access = Access(access.key_sha256, hosts, any_address=True)  # health probes use the IP address
    sandbox = SandboxLimits(memory_mb=args.file_memory, seconds=args.file_seconds)
    address = listen and (listen.host, listen.port)
    return {"access": access, "listen": address, "spares": args.replicas > 1, "sandbox": sandbox}


def _front_options(args: ServeArgs, listen: ListenAddress | None) -> dict[str, Any]:
    options = {**_options(args, args.shard_cpus), "num_replicas": args.fronts}
    if listen is not None and listen.node is not None:
        options["ray_actor_options"]["resources"] = {listen.node: 0.001}
    return {"name": FRONT, **options}


def _predictors(args: ServeArgs) -> dict[str, Any]:
    """Arguments of the coordinator for fine-tuned models: their descriptions and their deployment."""
    from ray import serve

    from crystalign_serve.deployments import Models
    from crystalign_serve.predictions import find_models

    uris, described = find_models(absolute(args.predictors or "."))
    options = _options(args, args.predictor_cpus, args.predictor_gpus)
    return {
        "models": described,
        "predictors": serve.deployment(Models).options(name="predictors", **options).bind(uris),
    }


def _searching(args: ServeArgs, index: str, shared: dict[str, Any], listen: ListenAddress | None) -> Application:
    """Deployments of the encoders and shards, bound to a coordinator."""
    from ray import serve

    from crystalign.model_description import read_description
    from crystalign_serve.backend import spread
    from crystalign_serve.coordinator import Coordinator
    from crystalign_serve.deployments import Encoders, Shard

    index_uri, manifest = absolute(index), IndexManifest.read(index)
    model_uri = absolute(args.model or manifest.model_uri)
    dataset_uri = absolute(args.dataset or manifest.dataset_uri)
    described = read_description(model_uri)
    if described.identity != manifest.model_sha256:
        raise ModelError(f"the model at {model_uri} is not the one that made the index; give that one with --model")
    model, card = described.config, described.card
    shards = [
        serve.deployment(Shard)
        .options(name=f"shard-{number}", **_options(args, args.shard_cpus))
        .bind(index_uri, manifest, entries)
        for number, entries in enumerate(spread(manifest, args.shards))
    ]
    groups = {"encoders": list(model.modalities)}
    if args.encoders == "separate":
        groups = {f"encoder-{name}": [name] for name in model.modalities}
    encoders: dict[str, Any] = {}
    for name, members in groups.items():
        deployment = serve.deployment(Encoders).options(
            name=name, **_options(args, args.encoder_cpus, args.encoder_gpus)
        )
        bound = deployment.bind(model_uri, manifest.model_sha256, members)
        encoders |= dict.fromkeys(members, bound)
    front = serve.deployment(Coordinator).options(**_front_options(args, listen))
    known = {"lexicon": manifest.read_lexicon(index_uri), "calibration": Calibration.read(index_uri, manifest)}
    options = {"dataset_uri": dataset_uri, "deadline": args.shard_deadline, **known, **shared}
    return front.bind(encoders, shards, manifest, model, card, **options)


def _options(args: ServeArgs, cpus: float, gpus: float = 0.0) -> dict[str, Any]:
    return {
        "num_replicas": args.replicas,
        "max_ongoing_requests": 100,
        "max_constructor_retry_count": START_RETRIES,
        "graceful_shutdown_timeout_s": 5.0,
        "graceful_shutdown_wait_loop_s": 0.1,
        "health_check_period_s": 1.0,
        "health_check_timeout_s": 30.0,
        "ray_actor_options": {"num_cpus": cpus, "num_gpus": gpus},
    }


class Running(NamedTuple):
    """A running service."""

    url: str
    """Base URL of the service."""
    drain: Callable[[], None]
    """Refuses new requests and waits until the accepted ones are answered."""


def main(config: Serve) -> None:
    """Start the service, print its URL, wait for Ctrl-C or SIGTERM, answer accepted requests, and shut down."""
    stop = threading.Event()
    served = " and ".join(uri for uri in (config.index, config.predictors) if uri is not None)
    print(f"Starting {served} …", flush=True)
    if config.index is not None and (remark := earlier_calibration(config.index)):
        print(remark, flush=True)
    with running(config) as service, _stopping(stop):  # after Ray, which sets its own signal handlers
        url = service.url
        print(f"Serving {served} on {url}")
        print(f"Crystalign answers at {url}  (API: {url}/docs)")
        print("Next, in another terminal:")
        key = "" if config.api_key_file is None else f" --api-key-file {config.api_key_file}"
        if config.index is not None:
            print(f'  crystalign search --text "a cubic perovskite oxide" --url {url}{key}')
            print(f"  crystalign search --cif FILE.cif --filter 'elements HAS \"O\" AND nelements<=3' --url {url}{key}")
        if config.predictors is not None:
            header = "" if config.api_key_file is None else f' -H "Authorization: Bearer $(cat {config.api_key_file})"'
            print(f"  curl -F file=@FILE.cif{header} {url}/api/predict/file")
        print("Ctrl-C stops it.", flush=True)
        stop.wait()
        print("Stopping after the accepted requests …", flush=True)
        service.drain()


def earlier_calibration(index: str) -> str:
    """A remark if the calibration of an index was measured on an earlier version of it; otherwise empty."""
    manifest = IndexManifest.read(index)
    calibration = Calibration.read(absolute(index), manifest)
    if calibration is None or calibration.is_of(manifest):
        return ""
    return f"note: the calibration was measured before the index changed; renew it with `crystalign calibrate {index}`"


@contextlib.contextmanager
def running(config: Serve) -> Iterator[Running]:
    """Run the service for the duration of a `with` block.

    Raises:
        ConfigError: the port is taken, a required API key is missing, or the cluster is too small.
        Error: the index, the model or the dataset cannot be used.
    """
    _require_cluster(config.address)
    from crystalign_ray.internals import silent_shutdown
    from crystalign_ray.session import session  # imports Ray

    port = config.port or _free_port(config.host)
    _require_free(config.host, port)
    application_args = ServeArgs(**{name: getattr(config, name) for name in ServeArgs.model_fields})
    app(application_args, ListenAddress(config.host, port, None))  # check the arguments before anything starts
    with session(config.address, uses_data=False) as owns_cluster:
        from ray import serve

        _check_resources(application_args)
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        listen = ListenAddress(config.host, port, None if owns_cluster else _this_machine())
        try:
            serve.start(proxy_location="Disabled", logging_config={"log_level": "WARNING"})
            handle = serve.run(app(application_args, listen), name=APPLICATION, route_prefix="/")
            handle.listening.remote().result(timeout_s=ANSWER_SECONDS)
            _wait_for_answer(listen)
            yield Running(_url(config.host, port), lambda: _drain(handle, config.fronts))
        except (RuntimeError, TimeoutError) as error:
            raise Error(f"the service did not start: {error}") from error
        finally:
            with silent_shutdown():
                serve.shutdown() if owns_cluster else serve.delete(APPLICATION)


def _require_cluster(address: str | None) -> None:
    """Check that the cluster exists before the index is read and Ray is imported, both of which take long."""
    from crystalign_ray.resources import require_cluster

    address = address or os.environ.get("RAY_ADDRESS")
    ray = sys.modules.get("ray")
    if address not in (None, "local") and not (ray is not None and ray.is_initialized()):
        require_cluster(address)


def _url(host: str, port: int) -> str:
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 (compared)
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


def _wait_for_answer(listen: ListenAddress) -> None:
    """Wait until the service answers over HTTP. Skipped if the service runs on another machine."""
    import ray

    if ray.util.client.ray.is_connected():  # `ray://`: the service runs on another machine
        return
    url, until = f"{_url(listen.host, listen.port)}/live", time.monotonic() + ANSWER_SECONDS
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):  # noqa: S310 (our own address)
                return
        except OSError as error:
            if time.monotonic() > until:
                raise TimeoutError(f"{url} did not answer within {ANSWER_SECONDS:g} s: {error}") from error
        time.sleep(0.1)


def _drain(handle: Any, replicas: int) -> None:
    """Tell every coordinator replica to refuse new requests, and wait until the accepted ones are answered."""
    from crystalign_serve.front import DRAIN_SECONDS

    done: set[str] = set()
    until = time.monotonic() + DRAIN_SECONDS + 5.0
    while len(done) < replicas and time.monotonic() < until:
        try:
            name, finished = handle.drain.remote().result(timeout_s=5.0)
        except Exception as error:  # noqa: BLE001 (a dead coordinator has no requests left)
            logging.getLogger(__name__).warning("the coordinator could not be drained: %s", error)
            return
        if finished:
            done.add(name)
        time.sleep(0.05)


def _this_machine() -> str | None:
    """Ray resource of this node; None if this process is outside the cluster."""
    import ray

    return None if ray.util.client.ray.is_connected() else f"node:{ray.util.get_node_ip_address()}"


def _check_resources(args: ServeArgs) -> None:
    import ray

    from crystalign.model_description import read_description
    from crystalign_ray.resources import ResourceRequest, check_fits

    demands = [ResourceRequest(name="coordinators", count=args.fronts, cpus=args.shard_cpus)]
    if args.predictors is not None:
        named = {"cpus": args.predictor_cpus, "gpus": args.predictor_gpus}
        demands.append(ResourceRequest(name="predictors", count=args.replicas, **named))
    if args.index is not None:
        manifest = IndexManifest.read(args.index)
        model = read_description(args.model or manifest.model_uri).config
        count = args.replicas * (len(model.modalities) if args.encoders == "separate" else 1)
        shards = args.replicas * min(args.shards, len(manifest.segments))
        demands += [
            ResourceRequest(name="encoders", count=count, cpus=args.encoder_cpus, gpus=args.encoder_gpus),
            ResourceRequest(name="shards", count=shards, cpus=args.shard_cpus),
        ]
    check_fits(demands, ray.cluster_resources(), free_cpus=0.0)


@contextlib.contextmanager
def _stopping(stop: threading.Event) -> Iterator[None]:
    """Make Ctrl-C and SIGTERM set `stop`. A second Ctrl-C interrupts the shutdown."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_signal(number: int, _frame: object) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _free_port(host: str) -> int:
    with socket.socket(_family(host)) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _require_free(host: str, port: int) -> None:
    with socket.socket(_family(host)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {host}:{port}: {error.strerror}; choose another --port, or 0 for a free one"
            ) from error


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
