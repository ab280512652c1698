"""Addresses of objects, prompts and masks."""

from __future__ import annotations

import time

from fastapi import APIRouter

from ..aio import AsyncLatest
from . import prompts
from .addresses import Frame, ObjectId, SessionId, as_answer, compute
from .app import App
from .faults import FAILURES
from .schemas import Answer, ApiError, Masks, Object, ObjectLook, PreviewAnswer, PreviewAsk, Prompt


def add_edits(router: APIRouter, app: App) -> None:
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
            with app.sessions.loaded(session):
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

    @router.get("/sessions/{session_id}/masks/{frame}")
    def get_masks(session_id: SessionId, frame: Frame) -> Masks:
        """The masks of all objects on a frame."""
        session = app.sessions.get(session_id)
        session.require_frame(frame)
        with session.lock:
            found = {str(n): masks[frame] for n, masks in sorted(session.masks.items()) if frame in masks}
        return Masks(masks=found)
