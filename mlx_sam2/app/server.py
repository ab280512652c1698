"""The app as an ASGI application: API, page, errors, start and end."""

from __future__ import annotations

import asyncio
import mimetypes
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from .. import __version__
from ..frames.source import VideoError
from ..images.files import ImageError
from ..text import one_line
from .app import App
from .faults import describe
from .routes import routes
from .schemas import ApiError
from .security import Guard

STATIC = Path(__file__).parent / "static"
CODES = {404: "not_found", 405: "bad_request", 413: "too_large", 415: "unsupported"}


def make_server(app: App) -> ASGIApp:
    """The ASGI application of an app."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        app.sessions.loop = asyncio.get_running_loop()
        sweeper = asyncio.create_task(_sweep(app))
        yield
        sweeper.cancel()
        with suppress(asyncio.CancelledError):
            await sweeper
        for session in app.sessions.all():
            app.sessions.close(session.id)
        for pool in (app.readers, app.openers):
            pool.shutdown(wait=False, cancel_futures=True)

    server = FastAPI(
        title="mlx_sam2.app",
        version=__version__,
        description="Click on pictures and videos: SAM 2 on MLX.",
        lifespan=lifespan,
        openapi_url="/api/openapi.json",
        docs_url=None,
        redoc_url=None,
        separate_input_output_schemas=False,
    )
    server.include_router(routes(app))
    _add_errors(server)
    _add_page(server)
    return Guard(server, app.access)


def make_config(app: App, grace: float) -> uvicorn.Config:
    """Settings of uvicorn for an app; `grace`: seconds that requests under way have when it ends."""
    return uvicorn.Config(
        make_server(app),
        http="h11",
        ws="none",
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=round(grace),
    )


async def _sweep(app: App) -> None:
    """Close sessions that have rested too long, from time to time."""
    while True:
        limits = app.sessions.limits
        await asyncio.sleep(min(limits.idle_seconds / 4, limits.rest_seconds / 4, 30.0))
        app.sessions.expire()


# ---- errors


def _problem(status: int, code: str, message: str, **more: Any) -> JSONResponse:
    headers = {"Connection": "close"} if status == 413 else None  # what is still under way is not read
    return JSONResponse({"error": {"code": code, "message": message}, **more}, status, headers)


def _add_errors(server: FastAPI) -> None:
    @server.exception_handler(ApiError)
    async def refused(_: Request, error: ApiError) -> Response:
        more = {} if error.session is None else {"session": error.session.model_dump(mode="json")}
        return _problem(error.status, error.code, error.message, **more)

    @server.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])[:80]
        text = first["msg"].removeprefix("Value error, ")  # pydantic's, before sentences of our own
        return _problem(422, "bad_request", (f"{where}: {text}" if where else text)[:300])

    @server.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> Response:
        code = CODES.get(error.status_code, "bad_request")
        answer = _problem(error.status_code, code, str(error.detail))
        answer.headers.update(error.headers or {})
        return answer

    @server.exception_handler(ImageError)
    @server.exception_handler(VideoError)
    async def unreadable(_: Request, error: ValueError) -> Response:
        return _problem(415, "unsupported", one_line(error))

    @server.exception_handler(OSError)
    @server.exception_handler(MemoryError)
    async def failed(_: Request, error: OSError | MemoryError) -> Response:
        return _problem(503, "failed", describe(error))


# ---- the page


def _add_page(server: FastAPI) -> None:
    """Files of the page, by the names that the folder has when the app starts: no name of a request becomes a path."""
    files = {path.relative_to(STATIC).as_posix(): path for path in STATIC.rglob("*") if path.is_file()}

    @server.get("/", include_in_schema=False)
    def index() -> Response:
        return _file(files, "index.html")

    @server.get("/static/{name:path}", include_in_schema=False)
    def static(name: str) -> Response:
        return _file(files, name)


def _file(files: dict[str, Path], name: str) -> Response:
    if name not in files:
        raise ApiError(404, "not_found", "there is no such file")
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    kind = "text/javascript" if name.endswith((".js", ".mjs")) else kind  # registries disagree
    return Response(files[name].read_bytes(), media_type=kind, headers={"Cache-Control": "no-cache"})
