"""Parts of addresses, checked, and the errors that every address may answer with."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Path, Query

from ..worker import BusyError
from .app import App
from .edits import Asked
from .faults import FAILURES, describe
from .schemas import MAX_OBJECT, ApiError, ErrorAnswer

T = TypeVar("T")

SessionId = Annotated[str, Path(pattern=r"^[A-Za-z0-9_-]{1,40}$")]
JobId = SessionId
ObjectId = Annotated[int, Path(ge=1, le=MAX_OBJECT)]
Frame = Annotated[int, Path(ge=0, le=10_000_000)]
Name = Annotated[str, Query(min_length=1, max_length=1000)]  # made fit to be shown by media.shown_name
Client = Annotated[str | None, Query(pattern=r"^[A-Za-z0-9_-]{1,40}$")]
Known = Annotated[int | None, Query(ge=0, le=2**53)]
_MEANINGS = {
    400: "damaged request",
    401: "a token is needed",
    403: "from another site, or to another name",
    404: "not there, or not there any more",
    409: "not now: busy, full, stale, superseded or cancelled",
    413: "too large",
    415: "a file that cannot be read",
    422: "something in the request does not fit",
    503: "the model is not there, or has too much to do",
}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": text} for status, text in _MEANINGS.items()
}
BYTES = {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
UPLOAD = {"requestBody": {"required": True, **BYTES}}
JPEG = {"content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}}
PNG = {"content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}}
EVENTS = {"content": {"text/event-stream": {"schema": {"type": "string"}}}}


def asked(revision: Known = None, client: Client = None, edit: Known = None) -> Asked:
    """What the client of an edit says."""
    return Asked(revision, client, edit)


Edited = Annotated[Asked, Depends(asked)]


async def compute(app: App, call: Callable[[], T]) -> T:
    """Await a call on the worker. What fails because of what it works on becomes an ApiError."""
    try:
        return await asyncio.wrap_future(app.worker.submit(call))
    except FAILURES as error:
        raise as_answer(error) from None


def as_answer(error: BaseException) -> ApiError:
    if isinstance(error, ApiError):
        return error
    if isinstance(error, BusyError):
        return ApiError(503, "busy", "too much waits for the model already: try again")
    if isinstance(error, ValueError):
        return ApiError(422, "bad_request", str(error))
    return ApiError(503, "failed", describe(error))
