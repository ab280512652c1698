"""Server-sent events of a session: every page that listens hears what happens."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from .schemas import ApiError

WAITING_BYTES = 16 << 20  # a listener that is slower than this many bytes is sent away, and has to come again
BEAT_SECONDS = 10.0  # a comment this often finds connections that are dead


class Listener:
    """A page that listens, and the events that wait for it."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.size = 0

    def put(self, event: bytes | None) -> None:
        self.size += len(event or b"")
        if self.size > WAITING_BYTES:  # the page gets the whole state when it connects again
            while not self.queue.empty():
                self.queue.get_nowait()
            event = None
        self.queue.put_nowait(event)

    async def get(self) -> bytes | None:
        event = await self.queue.get()
        self.size -= len(event or b"")
        return event


class Hub:
    """The listeners of one session. ``publish`` may be called from any thread, the rest on the event loop.

    Args:
        call: calls a function on the event loop, from any thread.
        most: how many listeners there may be.
        on_left: called when the last listener has gone.
    """

    def __init__(self, call: Callable[..., None], most: int, on_left: Callable[[], None]) -> None:
        self._call = call
        self._most = most
        self._on_left = on_left
        self._listeners: set[Listener] = set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._listeners)

    def publish(self, name: str, data: Any) -> None:
        """Send an event to all listeners."""
        if self._listeners:
            self._call(self._spread, encode(name, data))

    def close(self) -> None:
        """End all streams after what was published."""
        self._closed = True
        self._call(self._spread, None)

    def _spread(self, event: bytes | None) -> None:
        for listener in self._listeners:
            listener.put(event)

    def join(self) -> Listener:
        """Add a listener, who has to ``leave``.

        Raises:
            ApiError: the session has as many listeners as it may have.
        """
        if len(self._listeners) >= self._most:
            raise ApiError(409, "full", f"{self._most} pages listen to this session already; close one of them")
        listener = Listener()
        self._listeners.add(listener)
        return listener

    def leave(self, listener: Listener) -> None:
        self._listeners.discard(listener)
        if not self._listeners:
            self._on_left()

    async def stream(self, listener: Listener, first: Callable[[], tuple[str, Any]]) -> AsyncIterator[bytes]:
        """Events for a listener, after `first`, which is called when the reading begins."""
        yield encode(*first())
        while not self._closed or not listener.queue.empty():
            try:
                event = await asyncio.wait_for(listener.get(), BEAT_SECONDS)
            except asyncio.TimeoutError:  # not TimeoutError: another class before Python 3.11
                yield b": still here\n\n"
                continue
            if event is None:
                return
            yield event


class EventResponse(StreamingResponse):
    """The events of a hub. Its listener leaves with the connection, also where nobody has begun to read.

    Raises:
        ApiError: as ``Hub.join``.
    """

    def __init__(self, hub: Hub, first: Callable[[], tuple[str, Any]]) -> None:
        self.hub, self.listener = hub, hub.join()
        super().__init__(hub.stream(self.listener, first), media_type="text/event-stream")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.hub.leave(self.listener)


def encode(name: str, data: Any) -> bytes:
    """An event as it goes over the wire."""
    return f"event: {name}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()
