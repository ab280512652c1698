"""The JSON API: the app's own addresses, and those of sessions, edits and jobs beside them."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from .. import __version__
from .addresses import ERRORS
from .app import App
from .collection_routes import add_collections
from .edit_routes import add_edits
from .examples import EXAMPLES
from .film_routes import add_films
from .import_routes import add_imports
from .job_routes import add_jobs
from .live_routes import add_live
from .mask_routes import add_masks
from .model_routes import add_models
from .picture_routes import add_pictures
from .schemas import MAX_POINTS, ApiError, AppState, LimitsState, Login
from .session_routes import add_opening, add_sessions


def routes(app: App) -> APIRouter:
    """The API of an app."""
    router = APIRouter(prefix="/api", responses=ERRORS)
    _add_app(router, app)
    add_models(router, app)
    add_opening(router, app)
    add_sessions(router, app)
    add_edits(router, app)
    add_masks(router, app)
    add_jobs(router, app)
    add_pictures(router, app)
    add_films(router, app)
    add_collections(router, app)
    add_live(router, app)
    add_imports(router, app)
    return router


def _add_app(router: APIRouter, app: App) -> None:
    @router.get("/state")
    def state() -> AppState:
        """The model, the sessions and the limits."""
        limits = app.sessions.limits
        return AppState(
            version=__version__,
            model=app.engine.state,
            sessions=[session.brief() for session in app.sessions.all()],
            recent=[] if app.saves is None else app.saves.recent(app.sessions.has),
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
