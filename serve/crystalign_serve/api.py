"""The HTTP API over any `Backend`: routes, time limits and the web page. It does not import Ray."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, File, Form, Query, UploadFile
from fastapi.responses import FileResponse, PlainTextResponse, Response

from crystalign.errors import QueryError
from crystalign.index.filters import compile_filter
from crystalign.material import Material
from crystalign_serve.admission import MAX_KEYS, Limits
from crystalign_serve.backend import Backend, IndexRow, IndexSearch
from crystalign_serve.curves import Curve, material_curve
from crystalign_serve.errors import UnavailableError
from crystalign_serve.files import Upload
from crystalign_serve.materials import describe, place_of
from crystalign_serve.predict_api import PredictApi, add_predictions, add_predictions_of_index, application
from crystalign_serve.predictions import Predictors
from crystalign_serve.probes import UI, add_probes
from crystalign_serve.queries import QueryPart
from crystalign_serve.requests import MAX_K, SearchOptions, SearchQuery, SearchRequest, query_model, request_model
from crystalign_serve.sandbox.limits import SandboxLimits
from crystalign_serve.sandbox.pool import Sandbox
from crystalign_serve.searching import Searcher
from crystalign_serve.security import Access
from crystalign_serve.service import Service, examples_for, phrases_for
from crystalign_serve.tiers import described

MAX_FILES = 4
MAX_PHRASES = 3
"""Largest number of example queries in words."""


class Api(Searcher):
    """The logic behind the routes, independent of HTTP."""

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

    async def answer(
        self, read: Callable[[], Awaitable[list[QueryPart]]], options: SearchOptions, material_id: str | None
    ) -> dict[str, Any]:
        """Read the parts, encode and fuse them, search the index, and build the response."""
        started = time.perf_counter()
        found = await self.find_best(read, options, material_id)
        best, understood = found.best, found.understood
        modalities = [part.modality for part in found.parts]
        curves = [part.curve for part in found.parts if part.curve is not None]
        return {
            "results": self.results(found),
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
        first = await self.backend.search(IndexSearch(origin, 1))
        examples = examples_for(self.service, first.records[0]) if first.records else []
        return self.service.info([*await self._phrases(), *examples])

    async def facets(self, filter_text: str | None) -> dict[str, Any]:
        """The response of `/api/facets`."""
        if filter_text is not None:
            await self.in_thread(compile_filter, filter_text, self.service.fields)
        found = await self.backend.selection(filter_text)
        if found.shards_ok == 0:
            raise UnavailableError("no shard of the index answered in time; try again in a moment")
        return {
            "rows": found.rows,
            **found.facets._asdict(),
            "shards_ok": found.shards_ok,
            "shards_total": found.shards_total,
            "index_version": self.service.manifest.version,
        }

    async def _phrases(self) -> list[dict[str, Any]]:
        """Example queries in words whose conditions some row satisfies."""
        candidates = phrases_for(self.service)
        rows = await asyncio.gather(*(self.backend.count(condition) for _, condition in candidates))
        found = [example for (example, _), count in zip(candidates, rows, strict=True) if count]
        return found[:MAX_PHRASES]


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

    @app.get("/api/facets")
    async def facets(
        filter: Annotated[str | None, Query()] = None,  # noqa: A002 (the name of the parameter)
    ) -> dict[str, Any]:
        """How many rows pass a filter, and how many of them have each element, crystal system, and so on."""
        return await api.facets(filter or None)

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
        manifest = api.service.manifest
        description = describe(material, row.record, manifest.properties, manifest.predictions)
        return {**description, "predicted_by": [model["name"] for model in api.service.models]}
