"""Addresses of a live camera: its page sends a frame when the one before is answered, so none waits."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request

from .addresses import UPLOAD, compute
from .app import App
from .faults import report
from .live import Live, Lives, decoded
from .schemas import ApiError, LiveAsk, LiveFrame, LiveState, SessionState

LiveId = Annotated[str, Path(pattern=r"^[A-Za-z0-9_-]{1,40}$")]


def add_live(router: APIRouter, app: App) -> None:
    lives = Lives()
    app.engine.before_change = lives.stop

    @router.post("/live", status_code=201)
    async def begin() -> LiveState:
        """Begin a camera. One is on at a time: the one before ends, and what it had is removed."""

        def start() -> LiveState:
            live = Live(app.engine.video(), app.sessions)
            before = lives.swap(live)
            if before is not None:
                before.close()
            return LiveState(id=live.id)

        return await compute(app, start)

    @router.post("/live/{live_id}/frames", openapi_extra=UPLOAD)
    async def frame(live_id: LiveId, request: Request, ask: Annotated[LiveAsk, Query()]) -> LiveFrame:
        """Track the next frame, JPEG, with a click on it or without."""
        live = lives.get(live_id)
        data = await request.body()
        picture = await app.view(lambda: decoded(data))
        return await compute(app, lambda: live.push(data, picture, ask))

    @router.post("/live/{live_id}/session", status_code=201)
    async def keep(live_id: LiveId) -> SessionState:
        """End a camera; its kept frames, clicks and masks are a session from now on."""
        if not lives.get(live_id).recorded:
            raise ApiError(409, "empty", "no frame has come yet")
        live = lives.take(live_id)
        await asyncio.wrap_future(app.worker.submit_always(live.close, keep=True))

        def read() -> SessionState:
            try:
                session = app.open("video", "Camera", live.frames, live.folder, disk=live.disk, fill=live.fill)
            except BaseException:
                live.discard()
                raise
            app.worker.submit_always(app.engine.encode, session).add_done_callback(report)
            return session.state()

        return await app.opening(read)

    @router.delete("/live/{live_id}", status_code=204)
    async def end(live_id: LiveId) -> None:
        """End a camera and remove what it had."""
        live = lives.take(live_id)
        await asyncio.wrap_future(app.worker.submit_always(live.close))
