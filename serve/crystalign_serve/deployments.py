"""Ray Serve deployments with large state: encoders, fine-tuned models and index shards."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from ray import serve

from crystalign.crystal import Crystal
from crystalign.errors import ModelError
from crystalign.finetuning.network.config import LEVELS
from crystalign.index.manifest import IndexManifest, SegmentEntry
from crystalign.material import Material, Provenance
from crystalign_serve.backend import (
    IndexRow,
    IndexSearch,
    ShardAnswer,
    complete_answer,
    count_by_value,
    encode_batch,
    find_in_shard,
    search_shard,
)
from crystalign_serve.loopback import keep_to_loopback
from crystalign_serve.predictions import CompleteJob, Predicted, PredictJob, complete, load_group, predict_jobs

if TYPE_CHECKING:
    from crystalign.index.facets import Facets
    from crystalign.index.search import Found, Search
    from crystalign.modalities import Features

MAX_BATCH = 16
BATCH_WAIT_SECONDS = 0.005
MAX_SCAN = 64
"""Most searches that share a pass through the vectors of a shard."""
DERIVE_THREADS = 2
"""Threads that derive missing inputs of predictions."""

EncodeRequest = tuple[str, "Features"]
"""Modality, and one sample of it."""


class Watched:
    """A deployment whose death is detected at once."""

    async def lifeline(self, seconds: float) -> None:
        """Return after some seconds. If the replica dies meanwhile, the open call fails at that moment."""
        await asyncio.sleep(seconds)


class Encoders(Watched):
    """Encoders of some modalities of a model. Requests that arrive within a few milliseconds form a batch."""

    def __init__(self, model_uri: str, model_sha256: str, modalities: Sequence[str]) -> None:
        from crystalign.model import load

        keep_to_loopback()
        self._model = load(model_uri)
        if self._model.sha256 != model_sha256:
            raise ModelError(
                f"the model at {model_uri} is not the one that made the index; give that model with --model"
            )
        for name in set(self._model.modalities) - set(modalities):
            del self._model.encoders[name], self._model.projections[name]  # in another deployment
        for name in modalities:  # warm up: some objects are built on first use
            encode_batch(self._model, name, [self._model.modality(name).empty_sample()])

    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=BATCH_WAIT_SECONDS)  # type: ignore[untyped-decorator]
    async def encode(self, requests: list[EncodeRequest]) -> list[NDArray[np.float32]]:
        """(D,) unit vector of each sample."""
        return await asyncio.to_thread(self._encode, requests)

    def _encode(self, requests: list[EncodeRequest]) -> list[NDArray[np.float32]]:
        """One forward pass per modality in the batch."""
        vectors: list[Any] = [None] * len(requests)
        for modality in dict.fromkeys(name for name, _ in requests):
            positions = [i for i, (name, _) in enumerate(requests) if name == modality]
            encoded = encode_batch(self._model, modality, [requests[i][1] for i in positions])
            for position, vector in zip(positions, encoded, strict=True):
                vectors[position] = vector
        return vectors


class Models(Watched):
    """Fine-tuned models, which share identical encoders. Requests within a few milliseconds form a batch."""

    def __init__(self, uris: Mapping[str, str]) -> None:
        import torch

        keep_to_loopback()
        self._group = load_group(uris, "cuda" if torch.cuda.is_available() else "cpu")
        salt = Crystal(np.eye(3) * 4.12, np.array([[0.0] * 3, [0.5] * 3]), np.array([55, 17]))
        warm = Material("CsCl", salt, Provenance("", ""))  # warm up: some objects are built on first use
        predict_jobs(self._group, [complete(self._group, PredictJob((warm,), tuple(uris), LEVELS[-1]))])
        self._derive_threads = ThreadPoolExecutor(DERIVE_THREADS, thread_name_prefix="derive")

    async def predict(self, job: PredictJob) -> list[Predicted]:
        """One result per material. Missing inputs are derived first, so a slow request does not delay its batch."""
        # A cancelled request occupies a derive thread, not a predict thread.
        ready = await asyncio.get_running_loop().run_in_executor(self._derive_threads, complete, self._group, job)
        return await self._predict(ready)  # type: ignore[no-any-return]

    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=BATCH_WAIT_SECONDS)  # type: ignore[untyped-decorator]
    async def _predict(self, jobs: list[CompleteJob]) -> list[list[Predicted]]:
        return await asyncio.to_thread(predict_jobs, self._group, jobs)


class Shard(Watched):
    """A subset of the segments of an index."""

    def __init__(self, index_uri: str, manifest: IndexManifest, entries: Sequence[SegmentEntry]) -> None:
        from crystalign.index.search import Segment

        keep_to_loopback()
        self._segment = Segment.load(index_uri, manifest, entries)  # of the version that is served, not of the newest
        warm = np.zeros(manifest.dimension, dtype=np.float32)  # warm up: some objects are built on first use
        search_shard(self._segment, IndexSearch(warm, 1, "nelements>=1"))

    async def search(self, search: IndexSearch) -> ShardAnswer:
        """Search this shard; see `search_shard`. Searches that arrive during a pass through the vectors share the next.

        Filters and words are evaluated outside of that pass, so that a slow one delays no other search.
        """
        await asyncio.to_thread(self._segment.plan, search.by_vector)
        hits = await self._scan(search.by_vector)
        return await asyncio.to_thread(complete_answer, self._segment, search, hits)

    @serve.batch(max_batch_size=MAX_SCAN, batch_wait_timeout_s=0.0)  # type: ignore[untyped-decorator]
    async def _scan(self, searches: list[Search]) -> list[Found]:
        return await asyncio.to_thread(self._segment.search_many, searches)

    async def count(self, filter_text: str | None) -> int:
        """Number of rows that pass a filter."""
        return await asyncio.to_thread(self._segment.count, filter_text)

    async def count_by_value(self, filter_text: str | None) -> tuple[int, Facets]:
        """Number of rows that pass a filter, and their facets."""
        return await asyncio.to_thread(count_by_value, self._segment, filter_text)

    async def find(self, material_id: str) -> IndexRow | None:
        """The row of a material; None if it is not in this shard."""
        return await asyncio.to_thread(find_in_shard, self._segment, material_id)

    async def rows(self) -> int:
        """Number of rows that this shard searches."""
        return self._segment.live
