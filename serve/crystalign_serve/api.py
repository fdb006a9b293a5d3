"""The HTTP API over any `Backend`: routes, time limits and the web page. It does not import Ray."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, NamedTuple

import numpy as np
from fastapi import FastAPI, File, Form, Query, UploadFile
from fastapi.responses import FileResponse, PlainTextResponse, Response
from numpy.typing import NDArray

from crystalign.errors import Error, QueryError
from crystalign.index.filters import compile_filter
from crystalign.material import Material
from crystalign.text_query.chips import Understanding
from crystalign_serve import queries
from crystalign_serve.admission import MAX_KEYS, Limits
from crystalign_serve.backend import Backend, IndexAnswer, IndexRow
from crystalign_serve.confidence import Words, confidence, signals_of, words_of_query
from crystalign_serve.curves import Curve, material_curve
from crystalign_serve.errors import NotFoundError, UnavailableError
from crystalign_serve.files import Upload
from crystalign_serve.materials import describe, listed_result, place_of
from crystalign_serve.predict_api import PredictApi, add_predictions, add_predictions_of_index, application
from crystalign_serve.predictions import Predictors
from crystalign_serve.probes import UI, add_probes
from crystalign_serve.queries import Interpreter, QueryPart
from crystalign_serve.query_fields import spec_of
from crystalign_serve.readers import Readers
from crystalign_serve.requests import MAX_K, SearchOptions, SearchQuery, SearchRequest, query_model, request_model
from crystalign_serve.rerank import Reranked, rerank_by_match
from crystalign_serve.sandbox.limits import SandboxLimits
from crystalign_serve.sandbox.pool import Sandbox
from crystalign_serve.security import Access
from crystalign_serve.service import Service, examples_for, phrases_for
from crystalign_serve.tiers import described, filters_of, search_tiers, together, why_empty

ENCODE_SECONDS = 30.0
DATASET_SECONDS = 10.0
MAX_FILES = 4
MAX_PHRASES = 3
"""Largest number of example queries in words."""

logger = logging.getLogger(__name__)


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


class Api:
    """The logic behind the routes, independent of HTTP."""

    def __init__(
        self,
        service: Service,
        backend: Backend,
        sandbox: Sandbox | None = None,
        *,
        dataset_seconds: float = DATASET_SECONDS,
    ) -> None:
        """Store what answers need.

        Args:
            service: index, model and dataset.
            backend: encoders and shards.
            sandbox: reads uploaded files.
            dataset_seconds: longest time to read and compare stored values.
        """
        self.dataset_seconds = dataset_seconds
        self.service = service
        self.backend = backend
        self.sandbox = sandbox or Sandbox()
        self.in_thread = Readers("query")
        self.in_dataset = Readers("dataset")

    async def search(self, request: SearchRequest) -> dict[str, Any]:
        """Answer a JSON query."""
        return await self.answer(lambda: self.parts(request.query, [], request), request, request.query.material_id)

    async def search_files(
        self, uploads: list[Upload], query: SearchQuery | None, options: SearchOptions
    ) -> dict[str, Any]:
        """Answer a query of uploaded files and optional JSON parts."""
        return await self.answer(
            lambda: self.parts(query, uploads, options), options, None if query is None else query.material_id
        )

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

    async def answer(
        self, read: Callable[[], Awaitable[list[QueryPart]]], options: SearchOptions, material_id: str | None
    ) -> dict[str, Any]:
        """Read the parts, encode and fuse them, search the index, and build the response."""
        started = time.perf_counter()
        found = await self.find_best(read, options, material_id)
        best, understood = found.best, found.understood
        ranked = enumerate(zip(best.scores, best.records, found.matches, strict=True), start=1)
        properties = self.service.manifest.properties
        results = [listed_result(rank, *result, properties) for rank, result in ranked]
        if understood is not None:
            results = [{**result, "tier": tier} for result, tier in zip(results, found.tiers, strict=False)]
        modalities = [part.modality for part in found.parts]
        curves = [part.curve for part in found.parts if part.curve is not None]
        return {
            "results": results,
            "shards_ok": best.shards_ok,
            "shards_total": best.shards_total,
            "index_version": self.service.manifest.version,
            "allowed": best.allowed,
            "exhausted": found.exhausted,
            "elapsed_ms": round((time.perf_counter() - started) * 1e3, 2),
            "query": {
                "modalities": modalities,
                "ordered_by": found.ordered_by,
                "curve": curves[0].model_dump() if curves else None,
                "notices": [*(notice for part in found.parts for notice in part.notices), *found.notices],
                "understood": None if understood is None else described(understood),
                "confidence": self.confidence(found, options),
            },
        }

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

    async def find_best(
        self, read: Callable[[], Awaitable[list[QueryPart]]], options: SearchOptions, material_id: str | None
    ) -> Outcome:
        """The best results of a query, and the signals of how sure they are."""
        notices: list[str] = []
        if options.filter is not None:
            notices += (await self.in_thread(compile_filter, options.filter, self.service.fields)).warnings
        parts = await read()
        weights = _weights(parts, options.weights)
        vectors = await asyncio.gather(*(self.vector(part, material_id) for part in parts))
        alone = parts[0] if len(parts) == 1 and _has_matcher(parts[0]) else None
        n_candidates = options.k if alone is None else max(options.k, options.rerank)
        understood = together([part.understood for part in parts])
        typed = " ".join(part.typed for part in parts) if understood is None else understood.rest
        words = self.service.word_weights(typed)
        candidates, tiers = await search_tiers(
            self.backend,
            queries.fuse(list(vectors), weights),
            n_candidates,
            filters_of(understood, options.filter, self.service.fields),
            words,
            tuple(dict.fromkeys(part.modality for part in parts)),
        )
        if candidates.shards_ok == 0:
            raise UnavailableError("no shard of the index answered in time; try again in a moment")
        all_shards = candidates.shards_ok == candidates.shards_total
        best, matches = await self.rerank(alone if options.rerank else None, candidates, options.k)
        if understood is not None and understood.chips and not best.scores and all_shards:
            notices.append(await why_empty(self.backend, understood, options.filter, len(vectors[0])))
        read_words = (
            words_of_query(understood, typed, self.service.lexicon, best, tiers)
            if any(part.typed for part in parts)
            else None
        )
        return Outcome(
            parts=parts,
            understood=understood,
            best=best,
            matches=matches,
            tiers=tiers,
            exhausted=len(candidates.scores) < options.k and all_shards,
            ordered_by="embeddings" + (" and patterns" if any(matches) else " and words" if words else ""),
            notices=notices,
            words=read_words,
            signals=signals_of(best, matches, read_words),
        )

    async def rerank(self, part: QueryPart | None, candidates: IndexAnswer, k: int) -> Reranked:
        """The best k candidates, ranked by embedding and by matching their stored values to the query.

        Without a part, or if matching fails or takes too long, the embedding order is kept. The response
        says which order was used.

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
            return rerank_by_match(modality, value, candidates, self.service.materials.gather(places, modality), k)

        try:
            return await self.in_dataset.within(self.dataset_seconds, match_stored_values)
        except (TimeoutError, Error) as error:
            reason = str(error) or f"no match within {self.dataset_seconds:g} s"
            logger.warning("reranking failed, the embedding order is kept: %s", reason)
            return by_embedding

    async def vector(self, part: QueryPart, material_id: str | None) -> NDArray[np.float32]:
        """(D,) vector of one part: encoded, or read from the index if the part is an id."""
        if part.features is None:
            assert material_id is not None
            return (await self.find(material_id)).vector
        try:
            return await asyncio.wait_for(self.backend.encode(part.modality, part.features), ENCODE_SECONDS)
        except TimeoutError:
            raise UnavailableError(
                f"the {part.modality} encoder did not answer within {ENCODE_SECONDS:g} s; try again in a moment"
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

    async def material(self, material_id: str) -> tuple[Material, IndexRow]:
        """A material of the dataset, and its index row."""
        row = await self.find(material_id)
        read, place = self.service.materials.get, place_of(row.record)
        try:
            return await self.in_dataset.within(self.dataset_seconds, read, place), row
        except TimeoutError:
            raise UnavailableError(
                f"the dataset did not answer within {self.dataset_seconds:g} s; try again in a moment"
            ) from None

    async def material_only(self, material_id: str) -> Material:
        """A material of the dataset, without its index row."""
        material, _ = await self.material(material_id)
        return material

    async def info(self) -> dict[str, Any]:
        """The response of `/api/info`: a description of the service, with example queries."""
        origin = np.zeros(self.service.manifest.dimension, dtype=np.float32)
        first = await self.backend.search(origin, 1, None)
        examples = examples_for(self.service, first.records[0]) if first.records else []
        return self.service.info([*await self._phrases(origin), *examples])

    async def _phrases(self, origin: NDArray[np.float32]) -> list[dict[str, Any]]:
        """Example queries in words whose conditions some row satisfies."""
        candidates = phrases_for(self.service)
        answers = await asyncio.gather(*(self.backend.search(origin, 1, condition) for _, condition in candidates))
        found = [example for (example, _), answer in zip(candidates, answers, strict=True) if answer.scores]
        return found[:MAX_PHRASES]


def _has_matcher(part: QueryPart) -> bool:
    """Whether the candidates of this part can be reranked. An id has no measured value to match."""
    spec = spec_of(part.modality)
    return part.value is not None and spec is not None and spec.matcher is not None


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


def build_api(
    service: Service,
    backend: Backend,
    predictors: Predictors | None = None,
    access: Access | None = None,
    limits: Limits | None = None,
    sandbox: SandboxLimits | None = None,
) -> FastAPI:
    """The FastAPI application: JSON under `/api`, its documentation at `/docs`, the web page at `/`.

    Args:
        service: index, model and dataset, opened once.
        backend: encoders and shards.
        predictors: the fine-tuned models that `service.models` describes.
        access: access rules; by default everybody may send requests.
        limits: concurrency and queue limits.
        sandbox: limits of time and memory within which one uploaded file is read.
    """
    app, files = application(access, limits), Sandbox(sandbox)
    api = Api(service, backend, files)
    _add_search(app, api)
    if predictors is not None:
        predictions = PredictApi(service.models, predictors, api.material_only, files)
        add_predictions(app, predictions)
        add_predictions_of_index(app, predictions)
    _add_materials(app, api)
    add_probes(app, backend, service.manifest.rows)

    @app.get("/api/info")
    async def info() -> dict[str, Any]:
        """What is served: index, model, modalities and filter fields."""
        return await api.info()

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(UI / "index.html")

    return app


def _add_search(app: FastAPI, api: Api) -> None:
    async def search(request: SearchRequest) -> dict[str, Any]:
        """Search by any mixture of text, formula, id, structure, DOS and powder pattern.

        The words of `text` and `formula` are also read as conditions, unless `literal` is set. The response lists them
        in `query.understood`: `chips` (each with the typed `words`, a `label`, a `filter`, and whether it is `strict`),
        `rest` (the words that are compared as text) and `notes`. Each result then has a `tier`: those of tier 0 satisfy
        all conditions at their strictest, those of the next tiers follow.

        If the index was calibrated for the modality of the query, `query.confidence` has the `probability` that the
        first results fit, a `level` (high, medium or low), a sentence, and the `unknown_words`; otherwise it is null.
        """
        return await api.search(request)

    search.__annotations__["request"] = request_model()  # its fields come from the registered modalities
    app.post("/api/search")(search)
    query_type = query_model()

    @app.post("/api/search/file")
    async def search_file(
        file: Annotated[list[UploadFile], File(max_length=MAX_FILES)],
        kind: Annotated[list[str] | None, Form()] = None,
        wavelength: Annotated[str | None, Form()] = None,
        k: Annotated[int, Form(ge=1, le=MAX_K)] = 10,
        filter: Annotated[str | None, Form()] = None,  # noqa: A002 (the name of the field)
        weights: Annotated[str | None, Form()] = None,
        rerank: Annotated[int, Form(ge=0, le=MAX_K)] = 200,
        literal: Annotated[bool, Form()] = False,
        ignore: Annotated[list[str] | None, Form()] = None,
        query: Annotated[str | None, Form()] = None,
    ) -> dict[str, Any]:
        """Search by files, one `kind` each; `query` and `weights` are JSON, as in `/api/search`.

        `literal` and `ignore` (once for each entry) concern the words in `query`, as in `/api/search`.
        """
        kinds = kind or ["auto"]
        if len(kinds) not in {1, len(file)}:
            raise QueryError(
                f"{len(kinds)} kinds for {len(file)} files; give one kind, or one per file", reason="unknown-kind"
            )
        kinds = kinds * len(file) if len(kinds) == 1 else kinds
        uploads = [Upload(f.filename or "", await f.read(), n, wavelength) for f, n in zip(file, kinds, strict=True)]
        mapping: dict[str, Any] = {"k": k, "filter": filter or None, "weights": _json(weights, "weights")}
        mapping |= {"rerank": rerank, "literal": literal, "ignore": ignore or []}
        options = SearchOptions.from_mapping(mapping, origin="the form")
        parts = query_type.from_mapping(_json(query, "query"), origin="`query`") if query else None
        return await api.search_files(uploads, parts, options)


def _json(text: str | None, name: str) -> dict[str, Any]:
    if not text:
        return {}
    if text.count('":') > MAX_KEYS:
        raise QueryError(f"{name} has more than {MAX_KEYS} keys; send one query per request", reason="bad-json")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise QueryError(f"{name} must be a JSON object", reason="bad-json")
    return value


def _without(answer: dict[str, Any], material_id: str, k: int) -> dict[str, Any]:
    """The response of a search for k + 1 results, reduced to the best k that are not the material itself."""
    others = [result for result in answer["results"] if result["id"] != material_id]
    n_removed = len(answer["results"]) - len(others)
    results = [{**result, "rank": rank} for rank, result in enumerate(others[:k], start=1)]
    complete = answer["shards_ok"] == answer["shards_total"]
    counts = {"allowed": answer["allowed"] - n_removed, "exhausted": len(results) < k and complete}
    return {**answer, "results": results, **counts}


def _add_materials(app: FastAPI, api: Api) -> None:
    query_type = query_model()

    # Ids may contain slashes, so the routes with longer paths must come first.
    @app.get("/api/materials/{material_id:path}/cif")
    async def cif(material_id: str) -> Response:
        """The structure as a CIF."""
        material, _ = await api.material(material_id)
        return PlainTextResponse(await api.in_dataset(material.crystal.to_cif), media_type="chemical/x-cif")

    @app.get("/api/materials/{material_id:path}/curve/{kind}")
    async def curve(material_id: str, kind: str, wavelength: str = "CuKa") -> Curve:
        """The density of states, or the powder pattern at a wavelength (an X-ray line such as `CuKa`, or Å)."""
        material, _ = await api.material(material_id)
        return await api.in_dataset(material_curve, material, kind, wavelength)

    @app.get("/api/materials/{material_id:path}/similar")
    async def similar(
        material_id: str,
        k: Annotated[int, Query(ge=1, le=MAX_K)] = 10,
        filter: Annotated[str | None, Query()] = None,  # noqa: A002 (the name of the parameter)
    ) -> dict[str, Any]:
        """The nearest neighbours of this material, without the material itself."""
        await api.find(material_id)  # an unknown id is 404 even if it is longer than the request model allows
        query = query_type.model_construct(id=material_id)
        answer = await api.search(SearchRequest.model_construct(query=query, k=k + 1, filter=filter or None))
        return _without(answer, material_id, k)

    @app.get("/api/materials/{material_id:path}")
    async def material(material_id: str) -> dict[str, Any]:
        """All data of a material except its curves."""
        material, row = await api.material(material_id)
        description = describe(material, row.record, api.service.manifest.properties)
        return {**description, "predicted_by": [model["name"] for model in api.service.models]}
