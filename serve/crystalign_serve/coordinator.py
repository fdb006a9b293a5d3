"""The coordinator: receives HTTP requests, fans them out to encoders and shards, and merges their answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from fastapi import FastAPI
from numpy.typing import NDArray
from ray import serve
from ray.serve.handle import DeploymentHandle

from crystalign.errors import Error
from crystalign.index.calibration import Calibration
from crystalign.index.lexical import Lexicon
from crystalign.index.manifest import IndexManifest
from crystalign.modalities import Features
from crystalign.model_config import ModelCard, ModelConfig
from crystalign_serve.allocator import give_back_memory
from crystalign_serve.api import build_api
from crystalign_serve.backend import (
    IndexAnswer,
    IndexRow,
    IndexSearch,
    Selection,
    ShardAnswer,
    merge_selections,
    merge_shards,
)
from crystalign_serve.errors import UnavailableError
from crystalign_serve.front import Front
from crystalign_serve.health import DownError, Replicas
from crystalign_serve.loopback import keep_to_loopback
from crystalign_serve.predict_api import PREDICT_SECONDS, build_predict_api
from crystalign_serve.predictions import Predicted, PredictJob
from crystalign_serve.queries import warm_up
from crystalign_serve.sandbox.limits import SandboxLimits
from crystalign_serve.sandbox.process import servers
from crystalign_serve.searching import ENCODE_SECONDS
from crystalign_serve.security import Access
from crystalign_serve.service import open_service

HEALTH_SECONDS = 2.0
_LOG = logging.getLogger(__name__)


class RayBackend:
    """Encoders and shards as Ray Serve deployments.

    A deployment that is down is skipped at once and used again as soon as it answers.
    """

    def __init__(
        self,
        encoders: Mapping[str, DeploymentHandle],
        shards: Sequence[DeploymentHandle],
        deadline: float,
        *,
        spares: bool = False,
    ) -> None:
        """Store the handles; no deployment is called yet.

        Args:
            encoders: modality → deployment that encodes it; modalities may share a deployment.
            shards: the deployments that hold the index.
            deadline: longest time for a shard to answer (s).
            spares: whether each deployment has several replicas.
        """
        by_handle: dict[int, Replicas] = {}
        for name, handle in encoders.items():
            by_handle.setdefault(id(handle), Replicas(f"the {name} encoder", handle, spares=spares))
        self._encoders = {name: by_handle[id(handle)] for name, handle in encoders.items()}
        self._shards = [Replicas(f"shard {n}", shard, ("rows",), spares=spares) for n, shard in enumerate(shards)]
        self._deadline = deadline

    def watch(self) -> None:
        """Monitor all replicas, so that a death is detected before the next request."""
        for replicas in {*self._shards, *self._encoders.values()}:
            replicas.watch()

    def stop(self) -> None:
        """Stop monitoring."""
        for replicas in {*self._shards, *self._encoders.values()}:
            replicas.stop()

    async def encode(self, modality: str, features: Features) -> NDArray[np.float32]:
        """(D,) unit vector of one sample.

        Raises:
            UnavailableError: the encoder is down.
        """
        try:
            vector: NDArray[np.float32] = await self._encoders[modality].call(
                ENCODE_SECONDS, "encode", (modality, features)
            )
        except DownError:
            raise UnavailableError(
                f"the {modality} encoder does not answer; it is being restarted, try again in a moment"
            ) from None
        return vector

    async def search(self, search: IndexSearch) -> IndexAnswer:
        """The best rows that pass the filter, from the shards that answer before the deadline."""
        answers: list[ShardAnswer] = await self._ask(self._deadline, "search", search)
        return merge_shards(answers, search, len(self._shards))

    async def count(self, filter_text: str | None) -> int:
        """Number of rows that pass a filter, in the shards that answer before the deadline."""
        return sum(await self._ask(self._deadline, "count", filter_text))

    async def selection(self, filter_text: str | None) -> Selection:
        """The rows that pass a filter, counted by value, in the shards that answer before the deadline."""
        return merge_selections(await self._ask(self._deadline, "count_by_value", filter_text), len(self._shards))

    async def find(self, material_id: str) -> IndexRow | None:
        """The row of a material; None if the index does not contain it.

        Raises:
            UnavailableError: it was not found, and not all shards answered.
        """
        answers: list[IndexRow | None] = await self._ask(self._deadline, "find", material_id)
        row = next((answer for answer in answers if answer is not None), None)
        if row is None and len(answers) < len(self._shards):
            raise UnavailableError(
                f"{len(self._shards) - len(answers)} shards did not answer; {material_id!r} may be in one of them"
            )
        return row

    async def shards(self) -> tuple[int, int]:
        """Number of shards that answer, and number of all shards."""
        return len(await self._ask(min(self._deadline, HEALTH_SECONDS), "rows")), len(self._shards)

    async def _ask(self, seconds: float, method: str, *args: Any) -> list[Any]:
        """The answers of the shards that answer in time.

        Raises:
            Error: an error of ours, such as a wrong filter, which is the same in every shard.
        """
        calls = [shard.call(seconds, method, *args) for shard in self._shards]
        answers = []
        for number, answer in enumerate(await asyncio.gather(*calls, return_exceptions=True)):
            if isinstance(answer, Error) and not isinstance(answer, DownError):
                raise answer
            if isinstance(answer, BaseException):
                _LOG.warning("shard %d did not answer %s: %r", number, method, answer)
            else:
                answers.append(answer)
        return answers


class RayPredictors:
    """Fine-tuned models as a Ray Serve deployment."""

    def __init__(self, models: DeploymentHandle, *, spares: bool = False) -> None:
        self._models = Replicas("the fine-tuned models", models, spares=spares)
        self.watch, self.stop = self._models.watch, self._models.stop

    async def predict(self, job: PredictJob) -> list[Predicted]:
        """One answer per material.

        Raises:
            UnavailableError: the models are down.
        """
        try:
            answers: list[Predicted] = await self._models.call(PREDICT_SECONDS, "predict", job)
        except DownError as error:
            raise UnavailableError(f"{error}, try again in a moment") from None
        return answers


class Listening:
    """A replica with its own HTTP server, used instead of Ray's proxy if an address is given."""

    _app: FastAPI
    _watched: Sequence[RayBackend | RayPredictors] = ()
    _front: Front | None = None

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Called by Ray Serve in the replica after construction."""
        return self._app

    async def listening(self) -> tuple[str, int]:
        """Id of this replica and its port; 0 behind Ray's proxy."""
        return serve.get_replica_context().replica_id.unique_id, self._front.port if self._front is not None else 0

    async def drain(self) -> tuple[str, bool]:
        """Refuse new requests and finish accepted ones. Returns the replica's id and whether it has finished."""
        name = serve.get_replica_context().replica_id.unique_id
        if self._front is not None and self._front.is_listening:
            self._front.begin_to_drain()
            return name, False
        for watched in self._watched:
            watched.stop()
        return name, True

    async def check_health(self) -> None:
        """Called by Ray Serve, which restarts the replica if this raises."""
        if self._front is not None and self._front.has_failed:
            raise RuntimeError("the HTTP server of this replica has ended")

    async def _open(self, listen: tuple[str, int] | None) -> None:
        give_back_memory()
        keep_to_loopback()
        for watched in self._watched:
            watched.watch()
        if listen is not None:
            self._front = Front(self._app, listen)
            await self._front.start()


@serve.ingress()
class Coordinator(Listening):
    """The deployment that serves HTTP for an index and, if given, for fine-tuned models."""

    async def __init__(  # type: ignore[misc] # Ray Serve awaits it
        self,
        encoders: dict[str, DeploymentHandle],
        shards: list[DeploymentHandle],
        manifest: IndexManifest,
        model: ModelConfig,
        card: ModelCard,
        *,
        dataset_uri: str | None,
        deadline: float,
        lexicon: Lexicon | None = None,
        calibration: Calibration | None = None,
        models: Sequence[dict[str, Any]] = (),
        predictors: DeploymentHandle | None = None,
        access: Access | None = None,
        listen: tuple[str, int] | None = None,
        spares: bool = False,
        sandbox: SandboxLimits | None = None,
    ) -> None:
        files = servers(sandbox or SandboxLimits()).start()
        service = open_service(
            manifest,
            model,
            card,
            dataset_uri=dataset_uri,
            shards=len(shards),
            models=models,
            lexicon=lexicon,
            calibration=calibration,
        )
        backend = RayBackend(encoders, shards, deadline, spares=spares)
        ray_predictors = None if predictors is None else RayPredictors(predictors, spares=spares)
        warm_up(service.fields)
        self._app = build_api(service, backend, ray_predictors, access, sandbox=sandbox)
        self._watched = [backend] if ray_predictors is None else [backend, ray_predictors]
        await asyncio.to_thread(files.wait)  # otherwise the first upload would wait for these imports
        await self._open(listen)


@serve.ingress()
class PredictCoordinator(Listening):
    """The deployment that serves HTTP for fine-tuned models alone, without an index."""

    async def __init__(  # type: ignore[misc] # Ray Serve awaits it
        self,
        models: Sequence[dict[str, Any]],
        predictors: DeploymentHandle,
        *,
        access: Access | None = None,
        listen: tuple[str, int] | None = None,
        spares: bool = False,
        sandbox: SandboxLimits | None = None,
    ) -> None:
        files = servers(sandbox or SandboxLimits()).start()
        ray_predictors = RayPredictors(predictors, spares=spares)
        self._app = build_predict_api(models, ray_predictors, access, sandbox=sandbox)
        self._watched = [ray_predictors]
        await asyncio.to_thread(files.wait)  # otherwise the first upload would wait for these imports
        await self._open(listen)
