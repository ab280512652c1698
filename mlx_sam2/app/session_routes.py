"""Addresses of sessions: opening, looking, listening, closing."""

from __future__ import annotations

import shutil
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from .addresses import EVENTS, JPEG, UPLOAD, Frame, Name, SessionId
from .app import App
from .events import EventResponse
from .examples import EXAMPLES, write_example
from .faults import report
from .media import jpeg, kind_of
from .projects import read_project
from .schemas import ApiError, NameAsk, SessionState
from .session import Session
from .uploads import Upload

STRIP_SIDE = 128  # pixels of the pictures of the timeline


def add_opening(router: APIRouter, app: App) -> None:
    @router.post("/sessions", status_code=201, openapi_extra=UPLOAD)
    async def open_session(request: Request, name: Name = "untitled") -> SessionState:
        """Open a picture, a video, or (multipart/form-data, many `files`) the numbered frames of one."""
        async with Upload(request, app.sessions) as upload:
            path = await upload.receive()

            def read() -> Session:
                session = app.open(kind_of(path), name, path, upload.folder, disk=upload.size)
                upload.keep()
                return session

            return _encoded(app, await app.opening(read))

    @router.post("/examples/{name}", status_code=201)
    async def open_example(name: Annotated[str, Path(max_length=40)]) -> SessionState:
        """Open one of the examples of /api/state."""
        if name not in {example.name for example in EXAMPLES}:
            raise ApiError(404, "not_found", "there is no such example")

        def read() -> Session:
            folder = app.sessions.new_folder()
            size = 0
            try:
                path = write_example(name, folder)
                app.sessions.take_disk(path.stat().st_size)
                size = path.stat().st_size
                suffix = "png" if name == "still" else "mp4"
                return app.open(kind_of(path), f"{name}.{suffix}", path, folder, disk=size)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                app.sessions.give_disk(None, size)
                raise

        return _encoded(app, await app.opening(read))

    @router.post("/projects", status_code=201, openapi_extra=UPLOAD)
    async def open_project(request: Request) -> SessionState:
        """Open a project file."""
        async with Upload(request, app.sessions) as upload:
            path = await upload.receive()
            if path.is_dir():
                raise ApiError(415, "unsupported", "send the project file itself, not a form")

            def read() -> Session:
                session = read_project(app.sessions, app.open, path, upload.folder)
                upload.keep()
                path.unlink()
                app.sessions.give_disk(None, upload.size)
                return session

            return _encoded(app, await app.opening(read))

    @router.post("/recent/{session_id}", status_code=201)
    async def reopen(session_id: SessionId) -> SessionState:
        """Open a saved session again, under its old id; one that is open is answered as it is."""
        if app.sessions.has(session_id):
            return app.sessions.get(session_id).state()
        return _encoded(app, await app.opening(lambda: app.reopen(session_id)))

    @router.delete("/recent/{session_id}", status_code=204)
    def forget(session_id: SessionId) -> None:
        """Remove a saved session from the disk."""
        app.require_saves().remove(session_id)

    @router.get("/recent/{session_id}/thumbnail", response_class=Response, responses={200: JPEG})
    def thumbnail(session_id: SessionId) -> Response:
        """The first frame of a saved session as a small JPEG."""
        return Response(app.require_saves().thumbnail(session_id), media_type="image/jpeg")


def add_sessions(router: APIRouter, app: App) -> None:
    @router.get("/sessions/{session_id}")
    def get_session(session_id: SessionId) -> SessionState:
        """All that was asked for in a session, and where there are masks."""
        return app.sessions.get(session_id).state()

    @router.put("/sessions/{session_id}/name")
    def rename_session(session_id: SessionId, ask: NameAsk) -> SessionState:
        """Call a session something else; the ending of its file stays. It is no edit: undo does not take it back."""
        session = app.sessions.get(session_id)
        session.rename(ask.name)
        session.hub.publish("state", session.state().model_dump())
        return session.state()

    @router.delete("/sessions/{session_id}", status_code=204)
    def close_session(session_id: SessionId) -> None:
        """Close a session; its work is cancelled and its files are removed."""
        app.sessions.get(session_id)
        app.sessions.close(session_id)

    @router.get("/sessions/{session_id}/frames/{frame}", response_class=Response, responses={200: JPEG})
    async def get_frame(
        session_id: SessionId, frame: Frame, side: Annotated[int | None, Query(ge=16, le=4096)] = None
    ) -> Response:
        """A frame as JPEG, its longer side at most `side` pixels."""
        session = app.sessions.get(session_id)
        session.require_frame(frame)

        def read() -> bytes:
            with app.sessions.loaded(session) as source:
                is_small = side is not None and side <= STRIP_SIDE
                shown = app.sessions.strip_of(session, source) if is_small else source
                return jpeg(shown[frame], side)

        return Response(await app.view(read), media_type="image/jpeg")

    @router.get("/sessions/{session_id}/events", response_class=Response, responses={200: EVENTS})
    async def events(session_id: SessionId) -> Response:
        """Server-sent events: state, edit, status, model, job, progress, frame, everything, saving, closed."""
        session = app.sessions.get(session_id)
        for job in session.running:
            job.watched = True
        return EventResponse(session.hub, lambda: ("state", session.state().model_dump()))


def _encoded(app: App, session: Session) -> SessionState:
    """Have a new session encoded; what it is meanwhile."""
    app.worker.submit_always(app.engine.encode, session).add_done_callback(report)
    return session.state()
