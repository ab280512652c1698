"""The JSON API: one function for each address."""

from __future__ import annotations

import asyncio
import io
import shutil
import time
from collections.abc import Callable
from typing import Annotated, Any, TypeVar
from urllib.parse import unquote

import numpy as np
from fastapi import APIRouter, Path, Query, Request
from PIL import Image
from starlette.responses import FileResponse, Response, StreamingResponse

from .. import __version__
from ..aio import AsyncLatest
from ..worker import BusyError
from . import prompts
from .app import App
from .examples import EXAMPLES, write_example
from .exports import export_steps
from .jobs import FAILURES, Job, describe, propagate_steps, report
from .media import kind_of
from .projects import read_project
from .schemas import (
    MAX_OBJECT,
    MAX_POINTS,
    Answer,
    ApiError,
    AppState,
    ErrorAnswer,
    EverythingAsk,
    ExportAsk,
    JobState,
    LimitsState,
    Login,
    Masks,
    Object,
    ObjectLook,
    PreviewAnswer,
    PreviewAsk,
    Prompt,
    PropagateAsk,
    SessionState,
)
from .session import Session
from .uploads import Upload

T = TypeVar("T")

SessionId = Annotated[str, Path(pattern=r"^[A-Za-z0-9_-]{1,40}$")]
JobId = SessionId
ObjectId = Annotated[int, Path(ge=1, le=MAX_OBJECT)]
Frame = Annotated[int, Path(ge=0, le=10_000_000)]
Name = Annotated[str, Query(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
_MEANINGS = {
    400: "damaged request",
    401: "a token is needed",
    403: "from another site, or to another name",
    404: "not there, or not there any more",
    409: "not now: busy, full, superseded or cancelled",
    413: "too large",
    415: "a file that cannot be read",
    422: "something in the request does not fit",
    503: "the model is not there, or has too much to do",
}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": text} for status, text in _MEANINGS.items()
}
_BYTES = {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
_UPLOAD = {"requestBody": {"required": True, **_BYTES}}


def routes(app: App) -> APIRouter:
    """The API of an app."""
    router = APIRouter(prefix="/api", responses=ERRORS)
    _add_app(router, app)
    _add_opening(router, app)
    _add_sessions(router, app)
    _add_prompts(router, app)
    _add_jobs(router, app)
    return router


async def compute(app: App, call: Callable[[], T]) -> T:
    """Await a call on the worker. What fails because of what it works on becomes an ApiError."""
    try:
        return await asyncio.wrap_future(app.worker.submit(call))
    except FAILURES as error:
        raise as_answer(error) from None


def as_answer(error: BaseException) -> ApiError:
    if isinstance(error, ApiError):
        return error
    if isinstance(error, BusyError):
        return ApiError(503, "busy", "too much waits for the model already: try again")
    if isinstance(error, ValueError):
        return ApiError(422, "bad_request", str(error))
    return ApiError(503, "failed", describe(error))


# ---- the app


def _add_app(router: APIRouter, app: App) -> None:
    @router.get("/state")
    def state() -> AppState:
        """The model, the sessions and the limits."""
        limits = app.sessions.limits
        return AppState(
            version=__version__,
            model=app.engine.state,
            sessions=[session.brief() for session in app.sessions.all()],
            open=app.opened if any(session.id == app.opened for session in app.sessions.all()) else None,
            examples=list(EXAMPLES),
            limits=LimitsState(
                upload_bytes=limits.upload_bytes,
                pixels=limits.pixels,
                sessions=limits.sessions,
                idle_seconds=limits.idle_seconds,
                frames=limits.frames,
                objects=limits.objects,
                points=MAX_POINTS,
            ),
        )

    @router.post("/login", status_code=204)
    def login(ask: Login, response: Response) -> None:
        """Exchange the token of the printed address for a cookie."""
        if not app.access.knows_token(ask.token):
            raise ApiError(401, "unauthorized", "this is not the token: open the address that the app printed")
        if app.access.token is not None:
            response.set_cookie(app.access.cookie, app.access.token, httponly=True, samesite="strict", path="/")


# ---- sessions


def _add_opening(router: APIRouter, app: App) -> None:
    @router.post("/sessions", status_code=201, openapi_extra=_UPLOAD)
    async def open_session(request: Request, name: Name = "untitled") -> SessionState:
        """Open a picture, a video, or (multipart/form-data, many `files`) the numbered frames of one."""
        async with Upload(request, app.sessions) as upload:
            path = await upload.receive()
            name = unquote(name).replace("/", "_").replace("\\", "_")

            def read() -> Session:
                return app.sessions.add(kind_of(path), name, path, upload.folder)

            return _opened(app, upload, await app.view(read))

    @router.post("/examples/{name}", status_code=201)
    async def open_example(name: Annotated[str, Path(max_length=40)]) -> SessionState:
        """Open one of the examples of /api/state."""
        if name not in {example.name for example in EXAMPLES}:
            raise ApiError(404, "not_found", "there is no such example")

        def read() -> Session:
            folder = app.sessions.new_folder()
            try:
                path = write_example(name, folder)
                return app.sessions.add(kind_of(path), f"{name}.{'png' if name == 'still' else 'mp4'}", path, folder)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise

        return _encoded(app, await app.view(read))

    @router.post("/projects", status_code=201, openapi_extra=_UPLOAD)
    async def open_project(request: Request) -> SessionState:
        """Open a project file."""
        async with Upload(request, app.sessions) as upload:
            path = await upload.receive()
            if path.is_dir():
                raise ApiError(415, "unsupported", "send the project file itself, not a form")
            session = await app.view(lambda: read_project(app.sessions, path, upload.folder))
            path.unlink()
            return _opened(app, upload, session)


def _add_sessions(router: APIRouter, app: App) -> None:
    @router.get("/sessions/{session_id}")
    def get_session(session_id: SessionId) -> SessionState:
        """All that was asked for in a session, and where there are masks."""
        return app.sessions.get(session_id).state()

    @router.delete("/sessions/{session_id}", status_code=204)
    def close_session(session_id: SessionId) -> None:
        """Close a session; its work is cancelled and its files are removed."""
        app.sessions.get(session_id)
        app.sessions.close(session_id)

    @router.get("/sessions/{session_id}/frames/{frame}", response_class=Response, responses={200: _JPEG})
    async def get_frame(
        session_id: SessionId, frame: Frame, side: Annotated[int | None, Query(ge=16, le=4096)] = None
    ) -> Response:
        """A frame as JPEG, its longer side at most `side` pixels."""
        session = app.sessions.get(session_id)
        session.require_frame(frame)

        def read() -> bytes:
            with app.sessions.warm(session) as source:
                return jpeg(source[frame], side)

        return Response(await app.view(read), media_type="image/jpeg")

    @router.get("/sessions/{session_id}/events", response_class=Response, responses={200: _EVENTS})
    async def events(session_id: SessionId) -> Response:
        """Server-sent events: state, status, model, job, progress, frame, everything, closed."""
        session = app.sessions.get(session_id)
        for job in session.running:
            job.watched = True
        stream = session.hub.listen(lambda: ("state", session.state().model_dump()))
        return StreamingResponse(stream, media_type="text/event-stream")


_JPEG = {"content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}}
_EVENTS = {"content": {"text/event-stream": {"schema": {"type": "string"}}}}


def _opened(app: App, upload: Upload, session: Session) -> SessionState:
    """Hand an upload over to its session, and have it encoded."""
    session.disk += upload.size
    upload.keep()
    return _encoded(app, session)


def _encoded(app: App, session: Session) -> SessionState:
    """Have a new session encoded; what it is meanwhile."""
    app.worker.submit_always(app.engine.encode, session).add_done_callback(report)
    return session.state()


def jpeg(frame: np.ndarray, side: int | None) -> bytes:
    """A frame (H, W, 3) uint8 as JPEG, made smaller where its longer side has more than `side` pixels."""
    picture = Image.fromarray(frame)
    if side is not None and max(picture.size) > side:
        picture.thumbnail((side, side), Image.Resampling.BILINEAR, reducing_gap=2.0)
    file = io.BytesIO()
    picture.save(file, format="JPEG", quality=90)
    return file.getvalue()


# ---- objects and prompts


def _add_prompts(router: APIRouter, app: App) -> None:
    place = "/sessions/{session_id}/objects/{object_id}"

    @router.put(place)
    def put_object(session_id: SessionId, object_id: ObjectId, look: ObjectLook) -> Object:
        """Make an object, or change how it is called and shown."""
        return app.sessions.get(session_id).look(object_id, look, app.sessions.limits)

    @router.delete(place, status_code=204)
    async def remove_object(session_id: SessionId, object_id: ObjectId) -> None:
        """Remove an object, its prompts and its masks."""
        session = app.sessions.get(session_id)
        session.object(object_id)
        await compute(app, lambda: prompts.remove(app.sessions, session, object_id))

    @router.put(place + "/frames/{frame}")
    async def put_prompt(session_id: SessionId, object_id: ObjectId, frame: Frame, prompt: Prompt) -> Answer:
        """Say what the prompt of an object on a frame shall be; an empty one removes it. The masks that it gives."""
        session = app.sessions.get(session_id)
        session.require_frame(frame)
        session.require_prompt(prompt)
        begin = time.perf_counter()

        def run() -> Answer:
            with app.sessions.warm(session):
                work = app.engine.work_of(session)
                found, chosen, obj = prompts.put(app.sessions, session, work, object_id, frame, prompt)
            return Answer(masks=found, chosen=chosen, object=obj, seconds=time.perf_counter() - begin)

        return await compute(app, run)

    @router.post("/sessions/{session_id}/preview")
    async def preview(session_id: SessionId, ask: PreviewAsk) -> PreviewAnswer:
        """What a click would give. Of those that wait only the newest is answered; it changes nothing."""
        session = app.sessions.get(session_id)
        session.require_frame(ask.frame)
        session.require_prompt(Prompt(points=[(ask.x, ask.y, 1)]))

        def run() -> PreviewAnswer:
            with app.sessions.warm(session):
                return PreviewAnswer(mask=app.engine.work_of(session).preview(ask), serial=ask.serial)

        hover = app.hovers.setdefault(session, AsyncLatest(app.worker))
        try:
            answer = await hover.run(run)
        except FAILURES as error:
            raise as_answer(error) from None
        if answer is None:
            raise ApiError(409, "superseded", "a newer preview has taken its place")
        return answer

    @router.get("/sessions/{session_id}/masks/{frame}")
    def get_masks(session_id: SessionId, frame: Frame) -> Masks:
        """The masks of all objects on a frame."""
        session = app.sessions.get(session_id)
        session.require_frame(frame)
        with session.lock:
            found = {str(n): masks[frame] for n, masks in sorted(session.masks.items()) if frame in masks}
        return Masks(masks=found)


# ---- jobs


def _add_jobs(router: APIRouter, app: App) -> None:
    place = "/sessions/{session_id}"

    @router.post(place + "/propagate", status_code=202)
    async def propagate(session_id: SessionId, ask: PropagateAsk) -> JobState:
        """Follow all objects of a video from a frame."""
        session = app.sessions.get(session_id)
        session.require_frame(ask.frame)
        if session.kind == "image":
            raise ApiError(409, "bad_request", "this is a picture: there is nothing to follow")
        if not session.prompts():
            raise ApiError(409, "empty", "no object has a prompt yet: click on one first")
        if ask.direction == "backward" and ask.frame == 0:
            raise ApiError(422, "bad_request", "there is nothing before frame 0")
        steps = propagate_steps(app.sessions, ask.frame, ask.direction, app.engine.work_of)
        return app.jobs.start(session, "propagate", steps).state()

    @router.post(place + "/everything", status_code=202)
    async def everything(session_id: SessionId, ask: EverythingAsk) -> JobState:
        """Find all masks of a frame, and make objects of them."""
        session = app.sessions.get(session_id)
        session.require_frame(ask.frame)
        return app.jobs.start(session, "everything", app.engine.everything_steps(ask)).state()

    @router.post(place + "/export", status_code=202)
    async def export(session_id: SessionId, ask: ExportAsk) -> JobState:
        """Write a file; when the job is done it is at /exports/{job}."""
        session = app.sessions.get(session_id)
        if ask.frame is not None:
            session.require_frame(ask.frame)
        return app.jobs.start(session, "export", export_steps(app.sessions, ask)).state()

    @router.get(place + "/jobs/{job_id}")
    def get_job(session_id: SessionId, job_id: JobId) -> JobState:
        return _job(app, session_id, job_id).state()

    @router.delete(place + "/jobs/{job_id}")
    async def cancel_job(session_id: SessionId, job_id: JobId) -> JobState:
        """End a job after the step in work; what is done stays."""
        job = _job(app, session_id, job_id)
        job.cancel()
        return job.state()

    @router.get(place + "/exports/{job_id}", response_class=Response, responses={200: _BYTES})
    def get_export(session_id: SessionId, job_id: JobId) -> Response:
        """The file that an export has written."""
        job = _job(app, session_id, job_id)
        if job.status != "done" or job.path is None or not job.path.is_file():
            raise ApiError(404, "not_found", "this job has no file, or not yet")
        return FileResponse(job.path, media_type=job.media_type, filename=job.file)


def _job(app: App, session_id: str, job_id: str) -> Job:
    job = app.sessions.get(session_id).jobs.get(job_id)
    if job is None:
        raise ApiError(404, "not_found", "there is no such job")
    return job
