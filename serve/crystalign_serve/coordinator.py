"""The front of the service: takes HTTP requests, fans out to encoders and shards, merges their answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any

import numpy as np
from fastapi import FastAPI
from numpy.typing import NDArray
from ray import serve
from ray.exceptions import RayTaskError
from ray.serve.handle import DeploymentHandle

from crystalign.errors import Error
from crystalign.index.manifest import IndexManifest
from crystalign.modalities import Features
from crystalign.model_config import ModelCard, ModelConfig
from crystalign_serve.api import build_api
from crystalign_serve.backend import Answer, ShardAnswer, Stored, merge_shards
from crystalign_serve.errors import UnavailableError
from crystalign_serve.predict_api import build_predict_api
from crystalign_serve.predictions import Predicted, PredictJob
from crystalign_serve.queries import warm_up
from crystalign_serve.service import open_service

_LOG = logging.getLogger(__name__)


class RayBackend:
    """Encoders and shards as Ray Serve deployments."""

    def __init__(
        self, encoders: Mapping[str, DeploymentHandle], shards: Sequence[DeploymentHandle], deadline: float
    ) -> None:
        self._encoders = encoders
        self._shards = shards
        self._deadline = deadline

    async def encode(self, modality: str, features: Features) -> NDArray[np.float32]:
        """(D,) unit vector of one sample."""
        vector: NDArray[np.float32] = await _own_errors(self._encoders[modality].encode.remote((modality, features)))
        return vector

    async def search(self, vector: NDArray[np.float32], k: int, filter_text: str | None) -> Answer:
        """The k best rows of the shards that answer before the deadline."""
        answers: list[ShardAnswer] = await self._ask("search", vector, k, filter_text)
        return merge_shards(answers, k, len(self._shards))

    async def find(self, material_id: str) -> Stored | None:
        """The row of an id.

        Raises:
            UnavailableError: the shards that answered do not have it, and others did not answer.
        """
        answers: list[Stored | None] = await self._ask("find", material_id)
        found = next((stored for stored in answers if stored is not None), None)
        if found is None and len(answers) < len(self._shards):
            message = f"{len(self._shards) - len(answers)} shards did not answer; {material_id!r} may be in one of them"
            raise UnavailableError(message)
        return found

    async def shards(self) -> tuple[int, int]:
        """How many shards answer, of how many."""
        return len(await self._ask("rows")), len(self._shards)

    async def _ask(self, method: str, *args: Any) -> list[Any]:
        """The answers of those shards that give one; a user's mistake is the same in all of them."""
        calls = [
            asyncio.wait_for(_own_errors(getattr(shard, method).remote(*args)), self._deadline)
            for shard in self._shards
        ]
        answers = []
        for number, answer in enumerate(await asyncio.gather(*calls, return_exceptions=True)):
            if isinstance(answer, Error):
                raise answer
            if isinstance(answer, BaseException):
                _LOG.warning("shard %d did not answer %s: %r", number, method, answer)
            else:
                answers.append(answer)
        return answers


async def _own_errors(call: Awaitable[Any]) -> Any:
    """What a deployment returned; its exceptions without Ray's wrapping."""
    try:
        return await call
    except RayTaskError as error:
        raise error.as_instanceof_cause() if not isinstance(error.cause, Error) else error.cause from None


class RayPredictors:
    """Fine-tuned models as a Ray Serve deployment."""

    def __init__(self, models: DeploymentHandle) -> None:
        self._models = models

    async def predict(self, job: PredictJob) -> list[Predicted]:
        """One answer per material."""
        answers: list[Predicted] = await _own_errors(self._models.predict.remote(job))
        return answers


@serve.ingress()
class Coordinator:
    """The only deployment that speaks HTTP."""

    def __init__(
        self,
        encoders: dict[str, DeploymentHandle],
        shards: list[DeploymentHandle],
        manifest: IndexManifest,
        model: ModelConfig,
        card: ModelCard,
        *,
        dataset_uri: str | None,
        deadline: float,
        models: Sequence[dict[str, Any]] = (),
        predictors: DeploymentHandle | None = None,
    ) -> None:
        known = {"dataset_uri": dataset_uri, "shards": len(shards), "models": models}
        self._service = open_service(manifest, model, card, **known)
        self._backend = RayBackend(encoders, shards, deadline)
        self._predictors = None if predictors is None else RayPredictors(predictors)
        warm_up(self._service.fields)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Called by Ray Serve in the replica, once it has been constructed."""
        return build_api(self._service, self._backend, self._predictors)


@serve.ingress()
class PredictCoordinator:
    """The same where there is no index."""

    def __init__(self, models: Sequence[dict[str, Any]], predictors: DeploymentHandle) -> None:
        self._models, self._predictors = models, RayPredictors(predictors)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Called by Ray Serve in the replica, once it has been constructed."""
        return build_predict_api(self._models, self._predictors)
