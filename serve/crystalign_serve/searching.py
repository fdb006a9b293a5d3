"""Answer a query: read and encode it, search the index, rerank, and say how sure the answer is. It imports no Ray.

The service answers one query after the other; `crystalign screen` reads and encodes all queries first, searches each
segment once for all of them, and then concludes. Both use `Searcher`, so that their answers are the same.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crystalign.errors import Error, InputError, QueryError
from crystalign.index.filters import compile_filter
from crystalign.material import HYPOTHETICAL
from crystalign.text_query.chips import Understanding
from crystalign_serve import queries
from crystalign_serve.backend import Backend, IndexAnswer, IndexRow, IndexSearch
from crystalign_serve.confidence import Words, confidence, signals_of, words_of_query
from crystalign_serve.errors import NotFoundError, UnavailableError
from crystalign_serve.files import Upload
from crystalign_serve.materials import listed_result, place_of
from crystalign_serve.queries import Interpreter, QueryPart
from crystalign_serve.query_fields import spec_of
from crystalign_serve.readers import Readers
from crystalign_serve.requests import SearchOptions, SearchQuery
from crystalign_serve.rerank import Reranked, rerank_by_match
from crystalign_serve.sandbox.pool import Sandbox
from crystalign_serve.service import Service
from crystalign_serve.tiers import filters_of, merge_tiers, tier_searches, together, why_empty

ENCODE_SECONDS = 30.0
DATASET_SECONDS = 10.0

logger = logging.getLogger(__name__)


class EncodedQuery(NamedTuple):
    """A query that is read and encoded, and what the index is asked for it."""

    parts: list[QueryPart]
    """Parts of the query."""
    understood: Understanding | None
    """What was understood of typed words."""
    typed: str
    """The words that are compared with texts."""
    searches: tuple[IndexSearch, ...]
    """One search for each tier."""
    notices: list[str]
    """Remarks on the filter."""


class Outcome(NamedTuple):
    """The best results of a query, before they become a response."""

    parts: list[QueryPart]
    """Parts of the query."""
    understood: Understanding | None
    """What was understood of typed words."""
    best: IndexAnswer
    """The best results."""
    matches: list[dict[str, Any] | None]
    """For each result, the match of its stored value, if the results were reranked."""
    tiers: list[int]
    """For each result, the number of its tier."""
    exhausted: bool
    """Whether there are no further results."""
    ordered_by: str
    """What the order follows from."""
    notices: list[str]
    """Remarks on filter and results."""
    words: Words | None
    """What became of typed words; None for a query without words."""
    signals: dict[str, float]
    """Signals of how sure the results are."""


class Searcher:
    """Answers queries with the fixed state of a service and a backend."""

    def __init__(
        self,
        service: Service,
        backend: Backend,
        sandbox: Sandbox | None = None,
        *,
        patience: float | None = None,
        needs_dataset: bool = False,
    ) -> None:
        """Store what answers need.

        Args:
            service: index, model and dataset.
            backend: encoders and shards.
            sandbox: reads uploaded files.
            patience: longest time for each part of the work (s), for jobs; None for the limits of a service, whose
                users wait. The sandbox has limits of its own.
            needs_dataset: whether an answer is refused if stored values cannot be read.
        """
        self.needs_dataset = needs_dataset
        self.gather = service.materials.gather
        self.encode_seconds, self.dataset_seconds = patience or ENCODE_SECONDS, patience or DATASET_SECONDS
        self.service = service
        self.backend = backend
        self.sandbox = sandbox or Sandbox()
        self.in_thread = Readers("query", seconds=patience)
        self.in_dataset = Readers("dataset", seconds=patience)

    async def find_best(
        self, read: Callable[[], Awaitable[list[QueryPart]]], options: SearchOptions, material_id: str | None
    ) -> Outcome:
        """The best results of a query, and the signals of how sure they are."""
        query = await self.encoded(read, options, material_id)
        answers = await asyncio.gather(*(self.backend.search(search) for search in query.searches))
        found = await self.conclude(query, answers, options)
        understood = found.understood
        if understood is not None and understood.chips and not found.best.scores and found.exhausted:
            found.notices.append(await why_empty(self.backend, understood, options.filter))
        return found

    async def encoded(
        self, read: Callable[[], Awaitable[list[QueryPart]]], options: SearchOptions, material_id: str | None
    ) -> EncodedQuery:
        """Read and encode a query, and decide what the index is asked.

        Args:
            read: reads the parts of the query.
            options: number of results, filter, weights and reranking.
            material_id: the id, if one part is an id.

        Raises:
            InputError: the query, its filter or its weights cannot be used.
            NotFoundError: the index does not contain the id.
        """
        notices: list[str] = []
        if options.filter is not None:
            notices += (await self.in_thread(compile_filter, options.filter, self.service.fields)).warnings
        parts = await read()
        weights = _weights(parts, options.weights)
        vectors = await asyncio.gather(*(self.vector(part, material_id) for part in parts))
        understood = together([part.understood for part in parts])
        typed = " ".join(part.typed for part in parts) if understood is None else understood.rest
        search = IndexSearch(
            queries.fuse(list(vectors), weights),
            options.k if matched_part(parts) is None else max(options.k, options.rerank),
            words=self.service.word_weights(typed),
            modalities=tuple(dict.fromkeys(part.modality for part in parts)),
        )
        filters = filters_of(understood, options.filter, self.service.fields)
        return EncodedQuery(parts, understood, typed, tier_searches(search, filters), notices)

    async def conclude(self, query: EncodedQuery, answers: Sequence[IndexAnswer], options: SearchOptions) -> Outcome:
        """The best results of a query, from the answers of the index to its searches.

        Raises:
            UnavailableError: no shard of the index answered.
        """
        candidates, tiers = merge_tiers(answers, query.searches[0].k)
        if candidates.shards_ok == 0:
            raise UnavailableError("no shard of the index answered in time; try again in a moment")
        all_shards = candidates.shards_ok == candidates.shards_total
        matched = matched_part(query.parts) if options.rerank else None
        best, matches = await self.rerank(matched, candidates, options.k)
        read_words = (
            words_of_query(query.understood, query.typed, self.service.lexicon, best, tiers)
            if any(part.typed for part in query.parts)
            else None
        )
        words = query.searches[0].words
        is_short = len(best.scores) < options.k and all_shards
        return Outcome(
            parts=query.parts,
            understood=query.understood,
            best=best,
            matches=matches,
            tiers=tiers,
            exhausted=len(candidates.scores) < options.k and all_shards,
            ordered_by="embeddings" + (" and patterns" if any(matches) else " and words" if words else ""),
            notices=[*query.notices, *(self.left_out(options.filter) if is_short else [])],
            words=read_words,
            signals=signals_of(best, matches, read_words),
        )

    def left_out(self, filter_text: str | None) -> list[str]:
        """A notice about hypothetical rows that the search left out, if there are any."""
        fields = self.service.fields
        if not self.service.manifest.has_hypothetical:
            return []
        if filter_text is not None and HYPOTHETICAL in compile_filter(filter_text, fields).columns:
            return []
        return ["hypothetical crystals are left out; the filter _crystalign_hypothetical IS KNOWN adds them"]

    def results(self, found: Outcome) -> list[dict[str, Any]]:
        """The results of a query as JSON, best first."""
        ranked = enumerate(zip(found.best.scores, found.best.records, found.matches, strict=True), start=1)
        manifest = self.service.manifest
        results = [listed_result(rank, *result, manifest.properties, manifest.predictions) for rank, result in ranked]
        if found.understood is None:
            return results
        return [{**result, "tier": tier} for result, tier in zip(results, found.tiers, strict=False)]

    def confidence(self, found: Outcome, options: SearchOptions) -> dict[str, Any] | None:
        """How sure the results are; None for kinds of queries that no calibration asks.

        These are queries of several parts, by the id of a crystal of the index, or with words taken literally.
        """
        if len(found.parts) != 1 or found.parts[0].features is None or options.literal or options.ignore:
            return None
        modality = found.parts[0].modality
        calibration = self.service.calibration
        earlier = calibration is not None and not calibration.is_of(self.service.manifest)
        return confidence(calibration, modality, found.signals, found.words, found.understood, earlier=earlier)

    async def parts(self, query: SearchQuery | None, uploads: list[Upload], options: SearchOptions) -> list[QueryPart]:
        """All parts of a query: uploaded files first, then the JSON parts in their order.

        Files and structures are read in sandbox processes, everything else in threads. A slow file therefore
        does not block a thread.
        """
        service = self.service
        structures = {} if query is None else queries.structures_of(query)
        files = [*uploads, *structures.values()]
        reading = [asyncio.ensure_future(self.sandbox.part(upload, service.modalities)) for upload in files]
        try:
            others: list[QueryPart] = []
            if query is not None and set(query.parts) - set(structures):
                interpret = None if options.literal else Interpreter(service.fields, options.ignore)
                others = await self.in_thread(
                    queries.parts_of, query, service.modalities, service.manifest.modality, interpret
                )
            read = await asyncio.gather(*reading)
        finally:
            for task in reading:
                task.cancel()
        order = [] if query is None else list(query.parts)
        return [*read[: len(uploads)], *sorted([*read[len(uploads) :], *others], key=lambda p: order.index(p.name))]

    async def rerank(self, part: QueryPart | None, candidates: IndexAnswer, k: int) -> Reranked:
        """The best k candidates, ranked by embedding and by matching their stored values to the query.

        Without a part, or if matching fails or takes too long, the embedding order is kept. The response
        says which order was used. If the searcher `needs_dataset`, it is only kept for patterns that cannot be matched.

        Args:
            part: the query to match; None keeps the embedding order.
            candidates: of the embedding search, best first.
            k: how many are returned.
        """
        first_k = candidates._replace(scores=candidates.scores[:k], records=candidates.records[:k])
        by_embedding = Reranked(first_k, [None] * len(first_k.scores))
        if part is None:
            return by_embedding
        modality, value = part.modality, part.value

        def match_stored_values() -> Reranked:
            places = [place_of(record) for record in candidates.records]
            return rerank_by_match(modality, value, candidates, self.gather(places, modality), k)

        try:
            return await self.in_dataset.within(self.dataset_seconds, match_stored_values)
        except (TimeoutError, Error) as error:
            if self.needs_dataset and not isinstance(error, InputError):
                raise
            reason = str(error) or f"no match within {self.dataset_seconds:g} s"
            logger.warning("reranking failed, the embedding order is kept: %s", reason)
            return by_embedding

    async def vector(self, part: QueryPart, material_id: str | None) -> NDArray[np.float32]:
        """(D,) vector of one part: encoded, or read from the index if the part is an id."""
        if part.features is None:
            assert material_id is not None
            return (await self.find(material_id)).vector
        try:
            return await asyncio.wait_for(self.backend.encode(part.modality, part.features), self.encode_seconds)
        except TimeoutError:
            raise UnavailableError(
                f"the {part.modality} encoder did not answer within {self.encode_seconds:g} s; try again in a moment"
            ) from None

    async def find(self, material_id: str) -> IndexRow:
        """The index row of a material.

        Raises:
            NotFoundError: the index does not contain this id.
        """
        stored = await self.backend.find(material_id)
        if stored is None:
            raise NotFoundError(f"no material {material_id!r} in this index")
        return stored


def matched_part(parts: Sequence[QueryPart]) -> QueryPart | None:
    """The part with whose value candidates can be reranked; None if there are several parts, or it has no matcher.

    An id has no measured value to match.
    """
    spec = spec_of(parts[0].modality) if len(parts) == 1 else None
    return parts[0] if spec is not None and spec.matcher is not None and parts[0].value is not None else None


def _weights(parts: list[QueryPart], given: dict[str, float]) -> list[float]:
    """One weight per part, named by the part or by its modality."""
    names = {name for part in parts for name in (part.name, part.modality)}
    unknown = sorted(set(given) - names)
    if unknown:
        raise QueryError(
            f"weights given for {', '.join(unknown)}, but the query has only {', '.join(sorted(names))}",
            reason="unknown-weight",
        )
    return [given.get(part.name, given.get(part.modality, 1.0)) for part in parts]
