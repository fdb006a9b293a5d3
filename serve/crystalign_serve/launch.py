"""`crystalign serve`: the index and its model as Ray Serve deployments, until Ctrl-C."""

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
from crystalign.index.manifest import IndexManifest
from crystalign.storage import Uri, absolute

if TYPE_CHECKING:
    from ray.serve import Application

APPLICATION = "crystalign"
FRONT = "coordinator"
ANSWER_SECONDS = 60.0
"""Between the start of the last deployment and the first answer."""
START_RETRIES = 2
DEFAULT_SHARDS = 2


class ServeArgs(Config):
    """What is served, and how it is spread; also the arguments of `serve run crystalign_serve.launch:app`."""

    index: Uri | None = None
    """Index, any URI; without one, `predictors` alone answer."""
    predictors: Uri | None = None
    """A fine-tuned model or ensemble, or a folder of them such as `best` of a campaign, any URI: they answer at
    /api/predict, and the page shows what they say."""
    model: Uri | None = None
    """Model directory, any URI; default: where it was when the index was made. It must be the same model."""
    dataset: Uri | None = None
    """Dataset, any URI; default: where it was when the index was made. It must be the same data."""
    shards: int = Field(default=DEFAULT_SHARDS, ge=1)
    """Deployments that hold the vectors; never more than the index has segments."""
    encoders: Literal["grouped", "separate"] = "grouped"
    """`grouped`: one deployment holds all encoders. `separate`: one deployment each."""
    replicas: int = Field(default=1, ge=1)
    """Replicas of each shard, of the encoders and of the fine-tuned models."""
    fronts: int = Field(default=2, ge=1)
    """Replicas of the coordinator, which share the port: while one is started again, the others answer."""
    encoder_cpus: float = Field(default=0.2, gt=0)
    """Logical CPUs of an encoder replica."""
    encoder_gpus: float = Field(default=0.0, ge=0)
    """GPUs of an encoder replica."""
    predictor_cpus: float = Field(default=0.2, gt=0)
    """Logical CPUs of a replica of the fine-tuned models."""
    predictor_gpus: float = Field(default=0.0, ge=0)
    """GPUs of such a replica."""
    shard_cpus: float = Field(default=0.1, gt=0)
    """Logical CPUs of a shard replica, and of the coordinator."""
    shard_deadline: float = Field(default=5.0, gt=0)
    """Seconds; a shard that has not answered by then is left out, and the answer says so."""
    api_key_file: str | None = None
    """File with the API key that every request must carry (`Authorization: Bearer KEY`); needed to listen beyond this
    machine. Read once, at the start."""
    allowed_host: UseAppendAction[tuple[str, ...]] = ()
    """Name by which the service may also be called, for example behind a proxy; may be given several times."""
    file_memory: int = Field(default=512, ge=64)
    """MiB that reading one file that is sent may take."""
    file_seconds: float = Field(default=10.0, gt=0)
    """Seconds that reading one file that is sent may take."""


class Serve(ServeArgs):
    """Serve an index, fine-tuned models, or both: an HTTP API with a description at /docs, and a web page.

    For example:

      crystalign serve --index s3://bucket/index --model s3://bucket/runs/first/model
      crystalign serve --predictors campaigns/first/best
    """

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 is every one of this machine, for whoever can reach it and has the API key."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on; 0 chooses a free one."""
    address: str | None = None
    """Ray cluster; default: RAY_ADDRESS, and without it one on this machine that ends with the service."""


class Place(NamedTuple):
    """Where the coordinator's replicas listen themselves, without Ray's proxy."""

    host: str
    port: int
    node: str | None
    """Resource of the machine that they must be on; None if there is only one."""


def app(args: ServeArgs | dict[str, str], place: Place | None = None) -> Application:
    """The application of an index, for `serve.run` or `serve run crystalign_serve.launch:app index=URI`.

    Args:
        args: what is served.
        place: where it listens; None leaves that to Ray's proxy.

    Raises:
        ConfigError: an argument that does not exist, or nothing to serve.
        DatasetError: no index there.
        ModelError: no model there, or not that of the index.
    """
    if isinstance(args, dict):  # `serve run` hands over what stands on its command line
        words: dict[str, Any] = dict(args)
        if isinstance(words.get("allowed_host"), str):
            words["allowed_host"] = words["allowed_host"].split(",")
        args = ServeArgs.from_mapping(words, origin="the application's arguments")
    if args.index is None and args.predictors is None:
        raise ConfigError("nothing to serve: give an --index, --predictors, or both")
    if args.index is None and (args.model or args.dataset):
        raise ConfigError("model and dataset are those of an index, and there is none: give --index, or leave them out")
    shared = {**_shared(args, place), **(_predictors(args) if args.predictors is not None else {})}
    if args.index is None:
        from ray import serve

        from crystalign_serve.coordinator import PredictCoordinator

        return serve.deployment(PredictCoordinator).options(**_front_options(args, place)).bind(**shared)
    return _searching(args, args.index, shared, place)


def _shared(args: ServeArgs, place: Place | None) -> dict[str, Any]:
    """What both fronts are told: who may ask, and where they listen."""
    from crystalign_serve.sandbox.limits import SandboxLimits
    from crystalign_serve.security import Access, access_of

    if place is not None:
        access = access_of(place.host, args.api_key_file, args.allowed_host)
    else:  # the names of a service behind Ray's proxy, or an ingress, are those that are given, or any
        access = access_of("127.0.0.1", args.api_key_file, args.allowed_host)
        hosts = access.hosts if args.allowed_host else None
        access = Access(access.key_sha256, hosts, any_address=True)  # probes call it by its address
    sandbox = SandboxLimits(memory_mb=args.file_memory, seconds=args.file_seconds)
    listen = place and (place.host, place.port)
    return {"access": access, "listen": listen, "spares": args.replicas > 1, "sandbox": sandbox}


def _front_options(args: ServeArgs, place: Place | None) -> dict[str, Any]:
    options = {**_options(args, args.shard_cpus), "num_replicas": args.fronts}
    if place is not None and place.node is not None:
        options["ray_actor_options"]["resources"] = {place.node: 0.001}
    return {"name": FRONT, **options}


def _predictors(args: ServeArgs) -> dict[str, Any]:
    """What the front is told of the fine-tuned models, and their deployment."""
    from ray import serve

    from crystalign_serve.deployments import Models
    from crystalign_serve.predictions import find_models

    places, described = find_models(absolute(args.predictors or "."))
    options = _options(args, args.predictor_cpus, args.predictor_gpus)
    return {
        "models": described,
        "predictors": serve.deployment(Models).options(name="predictors", **options).bind(places),
    }


def _searching(args: ServeArgs, index: str, shared: dict[str, Any], place: Place | None) -> Application:
    """Encoders, shards, and the front that knows them."""
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
        .bind(index_uri, manifest.version, entries)
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
    front = serve.deployment(Coordinator).options(**_front_options(args, place))
    known = {"dataset_uri": dataset_uri, "deadline": args.shard_deadline, **shared}
    return front.bind(encoders, shards, manifest, model, card, **known)


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
    """A service that answers."""

    url: str
    drain: Callable[[], None]
    """Refuses new requests and waits until those that were accepted are answered."""


def main(config: Serve) -> None:
    """Start, say where, wait for Ctrl-C or SIGTERM, answer what has been accepted, and leave nothing behind."""
    stop = threading.Event()
    served = " and ".join(uri for uri in (config.index, config.predictors) if uri is not None)
    print(f"Starting {served} …", flush=True)
    with running(config) as service, _stopping(stop):  # Ray sets its own handlers when it starts, ours come after
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
        print("Stopping: what has been accepted is answered first …", flush=True)
        service.drain()


@contextlib.contextmanager
def running(config: Serve) -> Iterator[Running]:
    """The service for the length of a `with` block.

    Raises:
        ConfigError: the port is taken, no API key where one is needed, or the cluster is too small.
        Error: the index, the model or the dataset cannot be used.
    """
    _require_cluster(config.address)
    from crystalign_ray.session import session  # it imports Ray

    port = config.port or _free_port(config.host)
    _require_free(config.host, port)
    application_args = ServeArgs(**{name: getattr(config, name) for name in ServeArgs.model_fields})
    app(application_args, Place(config.host, port, None))  # the user's mistakes come out before anything starts
    with session(config.address, uses_data=False) as ours:
        from ray import serve

        _check_resources(application_args)
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        place = Place(config.host, port, None if ours else _this_machine())
        try:
            serve.start(proxy_location="Disabled", logging_config={"log_level": "WARNING"})
            handle = serve.run(app(application_args, place), name=APPLICATION, route_prefix="/")
            handle.listening.remote().result(timeout_s=ANSWER_SECONDS)
            _wait_for_answer(place)
            yield Running(_url(config.host, port), lambda: _drain(handle, config.fronts))
        except (RuntimeError, TimeoutError) as error:
            raise Error(f"the service did not start: {error}") from error
        finally:
            serve.shutdown() if ours else serve.delete(APPLICATION)


def _require_cluster(address: str | None) -> None:
    """Say in seconds that a cluster is not there, before the index is read and everything is imported."""
    from crystalign_ray.resources import require_cluster

    address = address or os.environ.get("RAY_ADDRESS")
    ray = sys.modules.get("ray")
    if address not in (None, "local") and not (ray is not None and ray.is_initialized()):
        require_cluster(address)


def _url(host: str, port: int) -> str:
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 (compared)
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


def _wait_for_answer(place: Place) -> None:
    """Return once the service answers over HTTP, where it is on this machine."""
    import ray

    if ray.util.client.ray.is_connected():  # `ray://`: the service listens elsewhere
        return
    url, until = f"{_url(place.host, place.port)}/live", time.monotonic() + ANSWER_SECONDS
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):  # noqa: S310 (our own address)
                return
        except OSError as error:
            if time.monotonic() > until:
                raise TimeoutError(f"no answer from {url} within {ANSWER_SECONDS:g} s: {error}") from error
        time.sleep(0.1)


def _drain(handle: Any, replicas: int) -> None:
    """Tell every replica of the front to refuse new requests, and wait until none is left unanswered."""
    from crystalign_serve.front import DRAIN_SECONDS

    done: set[str] = set()
    until = time.monotonic() + DRAIN_SECONDS + 5.0
    while len(done) < replicas and time.monotonic() < until:
        try:
            name, finished = handle.drain.remote().result(timeout_s=5.0)
        except Exception as error:  # noqa: BLE001 (a front that has died has nobody left to answer)
            logging.getLogger(__name__).warning("a front could not be drained: %s", error)
            return
        if finished:
            done.add(name)
        time.sleep(0.05)


def _this_machine() -> str | None:
    """The resource that only this machine has; None from outside the cluster."""
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
    """Ctrl-C and SIGTERM set `stop`; a second Ctrl-C interrupts the shutdown itself."""
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
