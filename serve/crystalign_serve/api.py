"""The HTTP API over any `Backend`: routes, time limits and the page. No Ray in sight."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, File, Form, Query, UploadFile
from fastapi.responses import FileResponse, PlainTextResponse, Response
from numpy.typing import NDArray

from crystalign.errors import Error, QueryError
from crystalign.index.filters import compile_filter
from crystalign.material import Material
from crystalign_serve import queries
from crystalign_serve.admission import MAX_KEYS, Limits
from crystalign_serve.backend import Answer, Backend, Stored
from crystalign_serve.curves import Curve, material_curve
from crystalign_serve.errors import NotFoundError, UnavailableError
from crystalign_serve.files import Upload
from crystalign_serve.materials import describe, listed_result
from crystalign_serve.predict_api import PredictApi, add_predictions, add_predictions_of_index, application
from crystalign_serve.predictions import Predictors
from crystalign_serve.probes import UI, add_probes
from crystalign_serve.queries import Part
from crystalign_serve.query_fields import spec_of
from crystalign_serve.readers import Readers
from crystalign_serve.requests import MAX_K, SearchOptions, SearchQuery, SearchRequest, query_model, request_model
from crystalign_serve.rerank import Reordered, by_match
from crystalign_serve.sandbox.limits import SandboxLimits
from crystalign_serve.sandbox.pool import Sandbox
from crystalign_serve.security import Access
from crystalign_serve.service import Service, examples_for

ENCODE_SECONDS = 30.0
LOOK_SECONDS = 10.0
MAX_FILES = 4

logger = logging.getLogger(__name__)


class Api:
    """The routes' work, in terms of a backend."""

    def __init__(self, service: Service, backend: Backend, sandbox: Sandbox | None = None) -> None:
        self.service = service
        self.backend = backend
        self.sandbox = sandbox or Sandbox()
        self.in_thread = Readers("query")
        self.in_dataset = Readers("dataset")

    async def search(self, request: SearchRequest) -> dict[str, Any]:
        """Answer a JSON query."""
        return await self.answer(lambda: self.parts(request.query, []), request, request.query.material_id)

    async def search_files(
        self, uploads: list[Upload], query: SearchQuery | None, options: SearchOptions
    ) -> dict[str, Any]:
        """Answer a query made of files and, perhaps, of other parts."""
        return await self.answer(
            lambda: self.parts(query, uploads), options, None if query is None else query.material_id
        )

    async def parts(self, query: SearchQuery | None, uploads: list[Upload]) -> list[Part]:
        """Every part of a query: files first, then those of the JSON, in its order.

        Files and structures are read in processes of the sandbox, the rest in threads, which they cannot hold up.
        """
        service = self.service
        structures = {} if query is None else queries.structures_of(query)
        files = [*uploads, *structures.values()]
        reading = [asyncio.ensure_future(self.sandbox.part(upload, service.modalities)) for upload in files]
        try:
            others: list[Part] = []
            if query is not None and set(query.parts) - set(structures):
                wanted = (query, service.modalities, service.manifest.modality)
                others = await self.in_thread(queries.parts_of, *wanted)
            read = await asyncio.gather(*reading)
        finally:
            for task in reading:
                task.cancel()
        order = [] if query is None else list(query.parts)
        return [*read[: len(uploads)], *sorted([*read[len(uploads) :], *others], key=lambda p: order.index(p.name))]

    async def answer(
        self, read: Callable[[], Awaitable[list[Part]]], options: SearchOptions, material_id: str | None
    ) -> dict[str, Any]:
        """Read, encode, fuse, search, and write the answer down."""
        started = time.perf_counter()
        notices: list[str] = []
        if options.filter is not None:
            notices += (await self.in_thread(compile_filter, options.filter, self.service.fields)).warnings
        parts = await read()
        weights = _weights(parts, options.weights)
        vectors = await asyncio.gather(*(self.vector(part, material_id) for part in parts))
        alone = parts[0] if len(parts) == 1 and _has_matcher(parts[0]) else None
        wanted = options.k if alone is None else max(options.k, options.rerank)
        found = await self.backend.search(queries.fuse(list(vectors), weights), wanted, options.filter)
        if found.shards_ok == 0:
            raise UnavailableError("no shard of the index answered in time; try again in a moment")
        exhausted = len(found.scores) < options.k and found.shards_ok == found.shards_total
        found, matches = await self.look_again(alone if options.rerank else None, found, options.k)
        curves = [part.curve for part in parts if part.curve is not None]
        ranked = enumerate(zip(found.scores, found.records, matches, strict=True), start=1)
        properties = self.service.manifest.properties
        return {
            "results": [listed_result(rank, *result, properties) for rank, result in ranked],
            "shards_ok": found.shards_ok,
            "shards_total": found.shards_total,
            "index_version": self.service.manifest.version,
            "allowed": found.allowed,
            "exhausted": exhausted,
            "elapsed_ms": round((time.perf_counter() - started) * 1e3, 2),
            "query": {
                "modalities": [part.modality for part in parts],
                "ordered_by": "embeddings and patterns" if any(matches) else "embeddings",
                "curve": curves[0].model_dump() if curves else None,
                "notices": [*(notice for part in parts for notice in part.notices), *notices],
            },
        }

    async def look_again(self, asked: Part | None, found: Answer, k: int) -> Reordered:
        """The best k candidates by their embeddings and by how the values stored with them match the one asked for.

        Where nothing can be matched, or the look takes too long or cannot be had, the order of
        the embedding stands; the answer says which it is.
        """
        plain = Reordered(found._replace(scores=found.scores[:k], records=found.records[:k]), [None] * k)
        plain = plain._replace(matches=plain.matches[: len(plain.answer.scores)])
        if asked is None:
            return plain
        modality, value = asked.modality, asked.value

        def look() -> Reordered:
            places = [(record["shard"], record["row"]) for record in found.records]
            return by_match(modality, value, found, self.service.materials.gather(places, modality), k)

        try:
            return await self.in_dataset.within(LOOK_SECONDS, look)
        except (TimeoutError, Error) as error:
            logger.warning("the order of the embedding stands: %s", error or f"no match within {LOOK_SECONDS:g} s")
            return plain

    async def vector(self, part: Part, material_id: str | None) -> NDArray[np.float32]:
        """(D,) of one part: encoded, or stored where the part is an id."""
        if part.features is None:
            assert material_id is not None
            return (await self.find(material_id)).vector
        try:
            return await asyncio.wait_for(self.backend.encode(part.modality, part.features), ENCODE_SECONDS)
        except TimeoutError:
            raise UnavailableError(
                f"the {part.modality} encoder did not answer within {ENCODE_SECONDS:g} s; try again in a moment"
            ) from None

    async def find(self, material_id: str) -> Stored:
        """The row of an id.

        Raises:
            NotFoundError: it is not in the index.
        """
        stored = await self.backend.find(material_id)
        if stored is None:
            raise NotFoundError(f"no material {material_id!r} in this index")
        return stored

    async def material(self, material_id: str) -> tuple[Material, Stored]:
        """A material of the dataset, and its row of the index."""
        stored = await self.find(material_id)
        place = (stored.record["shard"], stored.record["row"])
        try:
            return await self.in_dataset.within(LOOK_SECONDS, self.service.materials.get, *place), stored
        except TimeoutError:
            raise UnavailableError(
                f"the dataset did not answer within {LOOK_SECONDS:g} s; try again in a moment"
            ) from None

    async def known(self, material_id: str) -> Material:
        """A material of the dataset."""
        material, _ = await self.material(material_id)
        return material

    async def info(self) -> dict[str, Any]:
        """What the service is, with queries that work."""
        origin = np.zeros(self.service.manifest.dimension, dtype=np.float32)
        first = await self.backend.search(origin, 1, None)
        examples = examples_for(self.service, first.records[0]) if first.records else []
        return self.service.info(examples)


def _has_matcher(part: Part) -> bool:
    """Whether candidates of this part can be looked at again; those of a stored vector cannot."""
    spec = spec_of(part.modality)
    return part.value is not None and spec is not None and spec.matcher is not None


def _weights(parts: list[Part], given: dict[str, float]) -> list[float]:
    """One weight per part, named by the part or by its modality."""
    names = {name for part in parts for name in (part.name, part.modality)}
    unknown = sorted(set(given) - names)
    if unknown:
        raise QueryError(
            f"weights for {', '.join(unknown)}, but the query has {', '.join(sorted(names))}", reason="unknown-weight"
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
    """The application: JSON under `/api`, its description at `/docs`, the page at `/`.

    Args:
        service: what is known before the first request.
        backend: encoders and shards.
        predictors: the fine-tuned models that `service.models` describes.
        access: who may ask; by default everybody.
        limits: how much is worked on at a time.
        sandbox: what reading one file may cost.
    """
    app, files = application(access, limits), Sandbox(sandbox)
    api = Api(service, backend, files)
    _add_search(app, api)
    if predictors is not None:
        predictions = PredictApi(service.models, predictors, api.known, files)
        add_predictions(app, predictions)
        add_predictions_of_index(app, predictions)
    _add_materials(app, api)
    add_probes(app, backend, service.manifest.rows)

    @app.get("/api/info")
    async def info() -> dict[str, Any]:
        """What is served: index, model, modalities, fields to filter by."""
        return await api.info()

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(UI / "index.html")

    return app


def _add_search(app: FastAPI, api: Api) -> None:
    async def search(request: SearchRequest) -> dict[str, Any]:
        """Search by any mixture of text, formula, id, structure, DOS and powder pattern."""
        return await api.search(request)

    search.__annotations__["request"] = request_model()  # what the modalities declare is known at run time alone
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
        query: Annotated[str | None, Form()] = None,
    ) -> dict[str, Any]:
        """Search by files, one `kind` each; `query` and `weights` are JSON, as in `/api/search`."""
        kinds = kind or ["auto"]
        if len(kinds) not in {1, len(file)}:
            raise QueryError(
                f"{len(kinds)} kinds for {len(file)} files; give one, or one for each", reason="unknown-kind"
            )
        kinds = kinds * len(file) if len(kinds) == 1 else kinds
        uploads = [Upload(f.filename or "", await f.read(), n, wavelength) for f, n in zip(file, kinds, strict=True)]
        mapping = {"k": k, "filter": filter or None, "weights": _json(weights, "weights"), "rerank": rerank}
        options = SearchOptions.from_mapping(mapping, origin="the form")
        parts = query_type.from_mapping(_json(query, "query"), origin="`query`") if query else None
        return await api.search_files(uploads, parts, options)


def _json(text: str | None, name: str) -> dict[str, Any]:
    if not text:
        return {}
    if text.count('":') > MAX_KEYS:
        raise QueryError(f"{name} has more than {MAX_KEYS} names; a query has a few", reason="bad-json")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise QueryError(f"{name} must be a JSON object", reason="bad-json")
    return value


def _without(answer: dict[str, Any], material_id: str, k: int) -> dict[str, Any]:
    """An answer of k + 1 results without one material: the best k of the others."""
    others = [result for result in answer["results"] if result["id"] != material_id]
    itself = len(answer["results"]) - len(others)
    results = [{**result, "rank": rank} for rank, result in enumerate(others[:k], start=1)]
    complete = answer["shards_ok"] == answer["shards_total"]
    counts = {"allowed": answer["allowed"] - itself, "exhausted": len(results) < k and complete}
    return {**answer, "results": results, **counts}


def _add_materials(app: FastAPI, api: Api) -> None:
    query_type = query_model()

    # Ids may hold slashes, so the longer paths come first.
    @app.get("/api/materials/{material_id:path}/cif")
    async def cif(material_id: str) -> Response:
        """The structure, as a CIF."""
        material, _ = await api.material(material_id)
        return PlainTextResponse(await api.in_dataset(material.crystal.to_cif), media_type="chemical/x-cif")

    @app.get("/api/materials/{material_id:path}/curve/{kind}")
    async def curve(material_id: str, kind: str, wavelength: str = "CuKa") -> Curve:
        """Its density of states, or its powder pattern at a wavelength (a tube's name, or Å)."""
        material, _ = await api.material(material_id)
        return await api.in_dataset(material_curve, material, kind, wavelength)

    @app.get("/api/materials/{material_id:path}/similar")
    async def similar(
        material_id: str,
        k: Annotated[int, Query(ge=1, le=MAX_K)] = 10,
        filter: Annotated[str | None, Query()] = None,  # noqa: A002 (the name of the parameter)
    ) -> dict[str, Any]:
        """The materials nearest to this one, itself left out."""
        await api.find(material_id)  # one that is not there is not found, whatever its length
        query = query_type.model_construct(id=material_id)
        answer = await api.search(SearchRequest.model_construct(query=query, k=k + 1, filter=filter or None))
        return _without(answer, material_id, k)

    @app.get("/api/materials/{material_id:path}")
    async def material(material_id: str) -> dict[str, Any]:
        """Everything known about a material but its curves."""
        found, stored = await api.material(material_id)
        known = describe(found, stored.record, api.service.manifest.properties)
        return {**known, "predicted_by": [model["name"] for model in api.service.models]}
