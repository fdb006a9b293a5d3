"""HTTP routes for predictions by fine-tuned models, with or without an index."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any

from fastapi import Depends, FastAPI, File, Form, Query, UploadFile
from fastapi.responses import RedirectResponse
from fastapi.security import HTTPBearer

import crystalign
from crystalign.errors import InputError, QueryError
from crystalign.material import Material, Provenance
from crystalign_serve import errors
from crystalign_serve.admission import Admission, Limits
from crystalign_serve.errors import NotFoundError, UnavailableError
from crystalign_serve.files import Upload
from crystalign_serve.predictions import Predicted, PredictJob, Predictors, listed
from crystalign_serve.probes import add_docs, add_probes
from crystalign_serve.queries import text_file
from crystalign_serve.requests import MAX_STRUCTURES, PredictOptions, PredictRequest, Structure
from crystalign_serve.sandbox.limits import SandboxLimits
from crystalign_serve.sandbox.pool import Sandbox
from crystalign_serve.security import Access, Guard

PREDICT_SECONDS = 60.0

FindMaterial = Callable[[str], Awaitable[Material]]
"""Returns the material of an id of the index; raises `NotFoundError`."""
ReadStructure = tuple[Material | None, str, str]
"""The material, or None; its name in the request; the error message if it could not be read."""


class PredictApi:
    """The logic behind the routes, independent of HTTP."""

    def __init__(
        self,
        models: Sequence[dict[str, Any]],
        predictors: Predictors,
        find: FindMaterial | None = None,
        sandbox: Sandbox | None = None,
    ) -> None:
        """Store the arguments.

        Args:
            models: description of each model, as in `/api/info`.
            predictors: the models.
            find: looks up a material by id; None without an index.
            sandbox: reads structure files.
        """
        self.models = list(models)
        self._predictors, self._find, self._sandbox = predictors, find, sandbox or Sandbox()

    async def predict(self, request: PredictRequest) -> dict[str, Any]:
        """Answer a JSON request."""
        models, structures = self._chosen(request), enumerate(request.structures, start=1)
        return await self._answer([self._structure(f"structure {n}", one) for n, one in structures], models, request)

    async def predict_files(self, uploads: Sequence[Upload], options: PredictOptions) -> dict[str, Any]:
        """Answer a request of uploaded files."""
        models = self._chosen(options)
        return await self._answer([self._file(upload) for upload in uploads], models, options)

    async def predict_material(self, material_id: str, options: PredictOptions) -> dict[str, Any]:
        """Predictions for a material of the index."""
        return await self._answer([self._of_index(material_id)], self._chosen(options), options)

    async def _structure(self, name: str, structure: Structure) -> ReadStructure:
        ((kind, text),) = structure.given.items()
        if kind == "id":
            try:
                return await self._of_index(text)
            except NotFoundError as error:
                return None, text, str(error)
        try:
            upload = text_file(kind, text)
        except InputError as error:
            return None, name, str(error)
        return await self._parsed(name, upload)

    async def _of_index(self, material_id: str) -> ReadStructure:
        """A material of the index.

        Raises:
            NotFoundError: the index does not contain this id.
            QueryError: the service has no index.
        """
        if self._find is None:
            raise QueryError(
                "this service has no index to look an id up in; send the structure as cif or poscar", reason="no-index"
            )
        return await self._find(material_id), material_id, ""

    async def _file(self, upload: Upload) -> ReadStructure:
        return await self._parsed(upload.name, upload)

    async def _parsed(self, name: str, upload: Upload) -> ReadStructure:
        try:
            crystal, remarks, _ = await self._sandbox.crystal(upload)
            return Material(name, crystal, Provenance("request", ""), remarks=remarks), name, ""
        except InputError as error:
            return None, name, str(error)

    async def _answer(
        self, reading: Sequence[Awaitable[ReadStructure]], models: tuple[str, ...], options: PredictOptions
    ) -> dict[str, Any]:
        """Read the structures, predict, and build the response: one entry per structure, in order.

        Raises:
            QueryError: there is no prediction for any structure.
            UnavailableError: the models did not answer in time.
        """
        started = time.perf_counter()
        tasks = [asyncio.ensure_future(one) for one in reading]
        try:
            read = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        materials = tuple(material for material, _, _ in read if material is not None)
        predicted = iter(await self._ask(PredictJob(materials, models, options.level)) if materials else [])
        results = [
            listed(material, name, Predicted([], [why]) if material is None else next(predicted))
            for material, name, why in read
        ]
        if not any(result["predictions"] for result in results):
            raise QueryError(
                "; ".join(f"{result['id']}: {' '.join(result['problems'])}" for result in results[:3]),
                reason="nothing-predicted",
            )
        return {"results": results, "elapsed_ms": round((time.perf_counter() - started) * 1e3, 2)}

    async def _ask(self, job: PredictJob) -> list[Predicted]:
        try:
            return await asyncio.wait_for(self._predictors.predict(job), PREDICT_SECONDS)
        except TimeoutError:
            raise UnavailableError(
                f"the models did not answer within {PREDICT_SECONDS:g} s; send fewer structures at a time"
            ) from None

    def _chosen(self, options: PredictOptions) -> tuple[str, ...]:
        """Names of the requested models; by default all.

        Raises:
            QueryError: there is no model of a requested name.
        """
        names, available = options.models, [model["name"] for model in self.models]
        unknown = [name for name in names if name not in available]
        if unknown:
            raise QueryError(f"no model {unknown[0]!r}; available: {', '.join(available)}", reason="unknown-model")
        return tuple(dict.fromkeys(names)) or tuple(available)


def add_predictions(app: FastAPI, api: PredictApi) -> None:
    """The routes that need no index."""

    @app.post("/api/predict")
    async def predict(request: PredictRequest) -> dict[str, Any]:
        """Properties of crystals by fine-tuned models, with intervals and out-of-domain scores."""
        return await api.predict(request)

    @app.post("/api/predict/file")
    async def predict_file(
        file: Annotated[list[UploadFile], File(max_length=MAX_STRUCTURES)],
        models: Annotated[list[str] | None, Form()] = None,
        level: Annotated[float, Form()] = 0.9,
    ) -> dict[str, Any]:
        """Properties of the crystals in CIF and POSCAR files, as in `/api/predict`."""
        options = PredictOptions.from_mapping({"models": models or (), "level": level}, origin="the form")
        uploads = [Upload(one.filename or "", await one.read(), "auto", None) for one in file]
        return await api.predict_files(uploads, options)


def add_predictions_of_index(app: FastAPI, api: PredictApi) -> None:
    """The route of a material of the index. Add it before the route that matches any path in `/api/materials`."""

    @app.get("/api/materials/{material_id:path}/predictions")
    async def predictions(
        material_id: str,
        models: Annotated[list[str] | None, Query()] = None,
        level: Annotated[float, Query()] = 0.9,
    ) -> dict[str, Any]:
        """Predictions of the fine-tuned models for this material."""
        options = PredictOptions.from_mapping({"models": models or (), "level": level}, origin="the address")
        return await api.predict_material(material_id, options)


def application(access: Access | None = None, limits: Limits | None = None) -> FastAPI:
    """A FastAPI application with documentation, error format, admission control and access rules, but no API routes.

    Args:
        access: access rules; by default everybody may send requests.
        limits: concurrency and queue limits.
    """
    about = crystalign.__doc__ or ""
    app = FastAPI(title="Crystalign", version=crystalign.__version__, description=about, redoc_url=None, docs_url=None)
    if access is not None and access.key_sha256 is not None:
        app.router.dependencies.append(Depends(HTTPBearer(auto_error=False)))  # for OpenAPI; `Guard` checks the key
    errors.install(app)
    app.add_middleware(Admission, limits=limits)
    app.add_middleware(Guard, access=access or Access())  # added last, so it runs first
    add_docs(app)
    return app


def build_predict_api(
    models: Sequence[dict[str, Any]],
    predictors: Predictors,
    access: Access | None = None,
    limits: Limits | None = None,
    sandbox: SandboxLimits | None = None,
) -> FastAPI:
    """The FastAPI application without an index: predictions, and documentation at `/docs`."""
    app = application(access, limits)
    add_probes(app, None)
    add_predictions(app, PredictApi(models, predictors, sandbox=Sandbox(sandbox)))

    @app.get("/api/info")
    async def info() -> dict[str, Any]:
        """The fine-tuned models."""
        return {"version": crystalign.__version__, "models": list(models)}

    @app.get("/", include_in_schema=False)
    async def page() -> RedirectResponse:
        return RedirectResponse("/docs")

    return app
