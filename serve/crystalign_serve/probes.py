"""Health and documentation routes: `/live`, `/ready`, `/api/health`, `/docs`."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles

from crystalign_serve.backend import Backend
from crystalign_serve.errors import problem

UI = Path(__file__).parent / "ui"
FRESH_SECONDS = 0.25
"""How long the result of one check of the shards is reused."""


class ShardHealth:
    """Number of shards that answer. Concurrent callers share one check."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._running: asyncio.Task[tuple[int, int]] | None = None
        self._until = 0.0

    async def __call__(self) -> tuple[int, int]:
        """Number of shards that answer, and number of all shards."""
        if self._running is None or (self._running.done() and time.monotonic() > self._until):
            self._running = asyncio.ensure_future(self._check())
        return await asyncio.shield(self._running)

    async def _check(self) -> tuple[int, int]:
        counts = await self._backend.shards()
        self._until = time.monotonic() + FRESH_SECONDS
        return counts


def add_probes(app: FastAPI, backend: Backend | None, rows: int = 0) -> None:
    """Add the health routes. Without a backend there are no shards to check."""
    shard_health = None if backend is None else ShardHealth(backend)

    @app.get("/live", include_in_schema=False)
    async def live() -> dict[str, str]:
        """Whether the process answers."""
        return {"status": "ok"}

    @app.get("/ready", include_in_schema=False, response_model=None)
    async def ready() -> dict[str, Any] | JSONResponse:
        """Whether all shards answer; 503 if not."""
        ok, total = (0, 0) if shard_health is None else await shard_health()
        if ok < total:
            return problem(503, f"{ok} of {total} shards answer")
        return {"status": "ok", "shards_ok": ok, "shards_total": total}

    @app.get("/api/health")
    async def health() -> dict[str, Any]:
        """Whether all shards answer."""
        if shard_health is None:
            return {"status": "ok"}
        ok, total = await shard_health()
        status = "ok" if ok == total else "degraded" if ok else "down"
        return {"status": status, "shards_ok": ok, "shards_total": total, "rows": rows}


def add_docs(app: FastAPI) -> None:
    """Add `/docs`: Swagger UI, served from this package."""

    @app.get("/docs", include_in_schema=False)
    async def docs() -> FileResponse:
        return FileResponse(UI / "docs" / "index.html")

    app.mount("/docs", StaticFiles(directory=UI / "docs"), name="docs")
    app.mount("/assets", StaticFiles(directory=UI / "assets"), name="assets")
