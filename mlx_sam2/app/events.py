"""Server-sent events of a session: what happens is told to every page that listens."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from .schemas import ApiError

WAITING_BYTES = 16 << 20  # that a slow listener may have ahead; then it has to come again
BEAT_SECONDS = 10.0  # a comment this often finds out connections that are dead


class _Listener:
    """A page that listens, and what waits for it."""

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
        self._listeners: set[_Listener] = set()
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

    def listen(self, first: Callable[[], tuple[str, Any]]) -> AsyncIterator[bytes]:
        """A stream of events that begins with `first`, as it is when the stream begins.

        Raises:
            ApiError: the session has as many listeners as it may have.
        """
        if len(self._listeners) >= self._most:
            raise ApiError(409, "full", f"{self._most} pages listen to this session already; close one of them")
        return self._stream(first)

    async def _stream(self, first: Callable[[], tuple[str, Any]]) -> AsyncIterator[bytes]:
        listener = _Listener()
        self._listeners.add(listener)  # here: a stream that nobody begins to read never ends
        try:
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
        finally:
            self._listeners.discard(listener)
            if not self._listeners:
                self._on_left()


def encode(name: str, data: Any) -> bytes:
    """An event as it goes over the wire."""
    return f"event: {name}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()
