"""The address that gives pictures and videos as one data set."""

from __future__ import annotations

from contextlib import ExitStack

from fastapi import APIRouter
from starlette.background import BackgroundTask
from starlette.responses import FileResponse, Response

from .addresses import BYTES
from .app import App
from .collection import collection
from .faults import report
from .schemas import CollectionAsk
from .session import Session


def add_collections(router: APIRouter, app: App) -> None:
    @router.post("/collection", response_class=Response, responses={200: BYTES})
    async def get_collection(ask: CollectionAsk) -> Response:
        """Pictures and videos with the masks of their visible objects as one data set, a ZIP archive."""

        def opened(session_id: str) -> Session:
            if app.sessions.has(session_id):
                return app.sessions.get(session_id)
            session = app.reopen(session_id)
            app.worker.submit_always(app.engine.encode, session).add_done_callback(report)
            return session

        def write() -> Response:
            with ExitStack() as stack:
                chosen = [opened(session_id) for session_id in ask.sessions]
                path = stack.enter_context(collection(app.sessions, chosen, ask.format, ask.classes))
                later = BackgroundTask(stack.pop_all().close)
                name = f"{ask.format}.zip"
                return FileResponse(path, media_type="application/zip", filename=name, background=later)

        return await app.opening(write)
