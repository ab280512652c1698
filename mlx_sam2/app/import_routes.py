"""The address that takes masks of other tools into a session."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request

from .addresses import UPLOAD, Edited, SessionId, compute
from .app import App
from .imports import put_masks, read_masks
from .schemas import ApiError, Revision
from .uploads import Upload


def add_imports(router: APIRouter, app: App) -> None:
    @router.post("/sessions/{session_id}/import", openapi_extra=UPLOAD)
    async def import_masks(
        request: Request,
        session_id: SessionId,
        asked: Edited,
        frame: Annotated[int, Query(ge=0, le=10_000_000)] = 0,
    ) -> Revision:
        """Make objects of the masks in a file: annotations (COCO, LVIS, YouTube-VIS, Label Studio, SA-V), or a picture.

        `frame` is the one that a mask picture is of.
        """
        session = app.sessions.get(session_id)
        session.require_frame(frame)
        app.edits.require(session, asked)
        async with Upload(request, app.sessions) as upload:
            path = await upload.receive()
            if path.is_dir():
                raise ApiError(415, "unsupported", "send one file itself, not a form")
            found = await app.opening(lambda: read_masks(path, session, frame))
        return Revision(revision=await compute(app, lambda: put_masks(app.edits, session, asked, found)))
