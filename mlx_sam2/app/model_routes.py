"""Addresses of models: which can be chosen, and choosing one."""

from __future__ import annotations

from fastapi import APIRouter

from .app import App
from .models import choices
from .schemas import ApiError, ModelAsk, ModelChoice, ModelState


def add_models(router: APIRouter, app: App) -> None:
    @router.get("/models")
    def models() -> list[ModelChoice]:
        """The models that can be chosen, with their sizes."""
        return choices(app.engine.first)

    @router.post("/model", status_code=202)
    def choose(ask: ModelAsk) -> ModelState:
        """Load another model for all sessions, or one again that could not be loaded; what it is meanwhile.

        Masks stay. If it cannot be loaded, the one before it is used on.
        """
        if ask.name not in {choice.name for choice in choices(app.engine.first)} | {app.engine.state.name}:
            raise ApiError(404, "not_found", "no model of that name can be chosen: GET /api/models lists them")
        return app.engine.change(ask.name)
