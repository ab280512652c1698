"""Addresses for the browser's own player: the file of a video as it was opened, and whether times tell its frames."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import FileResponse

from ..frames.file import VideoFileSource
from .addresses import SessionId
from .app import App
from .moving import moves
from .schemas import ApiError, Kind, PlayState
from .session import Session

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_ANSWERS = {
    200: {"content": {"video/*": _BINARY}, "description": "the whole file"},
    206: {"content": {"video/*": _BINARY}, "description": "the bytes that `Range` asks for"},
}


def add_films(router: APIRouter, app: App) -> None:
    @router.get("/sessions/{session_id}/media", response_class=FileResponse, responses=_ANSWERS)
    def get_media(session_id: SessionId) -> FileResponse:
        """The file of a video, whole or the bytes that `Range` asks for."""
        session = app.sessions.get(session_id)
        if not _is_one_film(session):
            raise ApiError(404, "not_found", "only a session that was opened from one video file has a file to play")
        with open(session.path, "rb") as file:
            return FileResponse(session.path, media_type=media_type(file.read(64)))

    @router.get("/sessions/{session_id}/play")
    async def get_play(session_id: SessionId) -> PlayState:
        """How a player tells the frames of the file by their times, if it can."""
        session = app.sessions.get(session_id)

        def read() -> PlayState:
            with app.sessions.loaded(session) as source:
                film = source.opened
                return PlayState(fps=film.fps if isinstance(film, VideoFileSource) and film.plays_by_rate() else None)

        return await app.view(read) if _is_one_film(session) else PlayState(fps=None)


def _is_one_film(session: Session) -> bool:
    video: Kind = "video"
    return session.kind == video and session.path.is_file() and not moves(session.path)


def media_type(head: bytes) -> str:
    """The media type of a container by its first bytes."""
    if head[:4] == b"\x1aE\xdf\xa3":
        return "video/webm" if b"webm" in head else "video/x-matroska"
    if head[4:12] == b"ftypqt  ":
        return "video/quicktime"
    return "video/mp4" if head[4:8] == b"ftyp" else "application/octet-stream"
