"""Addresses of masks: those of a frame, how sure the model was of them, and which stay whatever is tracked."""

from __future__ import annotations

from fastapi import APIRouter

from .addresses import Edited, Frame, SessionId
from .app import App
from .schemas import LockAnswer, LockAsk, Masks, Scores


def add_masks(router: APIRouter, app: App) -> None:
    @router.get("/sessions/{session_id}/scores")
    def get_scores(session_id: SessionId) -> Scores:
        """How sure the model was of every mask, by object and frame."""
        return app.sessions.get(session_id).scores()

    @router.get("/sessions/{session_id}/masks/{frame}")
    def get_masks(session_id: SessionId, frame: Frame) -> Masks:
        """The masks of all objects on a frame."""
        session = app.sessions.get(session_id)
        session.require_frame(frame)
        with session.lock:
            found = {str(n): masks[frame] for n, masks in sorted(session.masks.items()) if frame in masks}
        return Masks(masks=found)

    @router.put("/sessions/{session_id}/frames/{frame}/lock")
    def lock(session_id: SessionId, frame: Frame, ask: LockAsk, asked: Edited) -> LockAnswer:
        """Keep the masks of a frame whatever is tracked, or let tracking replace them again."""
        session = app.sessions.get(session_id)
        session.require_frame(frame)
        return app.edits.lock(session, asked, frame, ask)
