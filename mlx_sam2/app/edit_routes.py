"""Addresses of objects and prompts."""

from __future__ import annotations

import time

from fastapi import APIRouter

from ..aio import AsyncLatest
from . import prompts
from .addresses import Edited, Frame, ObjectId, SessionId, as_answer, compute
from .app import App
from .faults import FAILURES
from .schemas import (
    Answer,
    ApiError,
    ObjectAnswer,
    ObjectLook,
    PreviewAnswer,
    PreviewAsk,
    Prompt,
    Revision,
    SessionState,
)


def add_edits(router: APIRouter, app: App) -> None:
    place = "/sessions/{session_id}/objects/{object_id}"

    @router.put(place)
    def put_object(session_id: SessionId, object_id: ObjectId, look: ObjectLook, asked: Edited) -> ObjectAnswer:
        """Make an object, or change how it is called and shown."""
        return app.edits.look(app.sessions.get(session_id), asked, object_id, look)

    @router.delete(place)
    async def remove_object(session_id: SessionId, object_id: ObjectId, asked: Edited) -> Revision:
        """Remove an object, its prompts and its masks."""
        session = app.sessions.get(session_id)
        app.edits.require(session, asked)  # first: another page may have removed it
        session.object(object_id)
        return Revision(revision=await compute(app, lambda: prompts.remove(app.edits, session, asked, object_id)))

    @router.put(place + "/frames/{frame}")
    async def put_prompt(
        session_id: SessionId, object_id: ObjectId, frame: Frame, prompt: Prompt, asked: Edited
    ) -> Answer:
        """Say what the prompt of an object on a frame shall be; an empty one removes it. The masks that it gives."""
        session = app.sessions.get(session_id)
        session.require_frame(frame)
        session.require_prompt(prompt)
        begin = time.perf_counter()

        def run() -> Answer:
            with app.sessions.loaded(session):
                work = app.engine.work_of(session)
                answer = prompts.put(app.edits, session, work, asked, object_id, frame, prompt)
            return answer.model_copy(update={"seconds": time.perf_counter() - begin})

        return await compute(app, run)

    @router.post("/sessions/{session_id}/restore")
    async def restore(session_id: SessionId, ask: Revision, asked: Edited) -> SessionState:
        """Make objects, prompts and masks what they were at a revision: undo and redo."""
        session = app.sessions.get(session_id)
        await compute(app, lambda: prompts.restore(app.edits, session, asked, ask.revision))
        return session.state()

    @router.post("/sessions/{session_id}/preview")
    async def preview(session_id: SessionId, ask: PreviewAsk) -> PreviewAnswer:
        """What a click would give. Of those that wait only the newest is answered; it changes nothing."""
        session = app.sessions.get(session_id)
        session.require_frame(ask.frame)
        session.require_prompt(Prompt(points=[(ask.x, ask.y, 1)]))

        def run() -> PreviewAnswer:
            with app.sessions.loaded(session):
                return PreviewAnswer(mask=app.engine.work_of(session).preview(ask), serial=ask.serial)

        hover = app.hovers.setdefault(session, AsyncLatest(app.worker))
        try:
            answer = await hover.run(run)
        except FAILURES as error:
            raise as_answer(error) from None
        if answer is None:
            raise ApiError(409, "superseded", "a newer preview has taken its place")
        return answer
