"""All open sessions: their number, their lifetime, and the limits that they share."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..worker import ClosedError, Worker
from .events import Hub
from .media import Limits, SharedSource, open_media, shown_name
from .schemas import ApiError, Kind
from .session import Session

Fill = Callable[[Session], None]


class Sessions:
    """All open sessions. Any thread may call it.

    Args:
        folder: a temporary folder of the app's own.
    """

    def __init__(self, limits: Limits, folder: Path, worker: Worker) -> None:
        self.limits = limits
        self.folder = folder
        self.loop: asyncio.AbstractEventLoop | None = None  # once the server runs
        self._worker = worker
        self._sessions: OrderedDict[str, Session] = OrderedDict()  # newest use last
        self._lock = threading.RLock()
        self._disk = 0
        self._mask_bytes = 0

    def __len__(self) -> int:
        return len(self._sessions)

    def on_loop(self, call: Callable[..., None], *args: Any) -> None:
        """Call a function on the event loop, if the server runs."""
        if self.loop is not None:
            with suppress(RuntimeError):  # it is closed: the app ends
                self.loop.call_soon_threadsafe(call, *args)

    def has(self, session_id: str) -> bool:
        return session_id in self._sessions

    def all(self) -> list[Session]:
        """Newest use first."""
        with self._lock:
            return list(reversed(self._sessions.values()))

    def get(self, session_id: str) -> Session:
        """A session, which counts as used now."""
        with self._lock:
            session = self._sessions.get(session_id)
            if session is None:
                raise ApiError(
                    404, "not_found", "there is no such session: it was closed, or was not used for too long"
                )
            session.used = time.monotonic()
            self._sessions.move_to_end(session_id)
            return session

    # ---- opening and closing

    def new_folder(self) -> Path:
        """A folder for an upload.

        Raises:
            ApiError: there are as many sessions as there may be.
        """
        self.require_room()
        folder = self.folder / secrets.token_hex(12)
        folder.mkdir()
        return folder

    def require_room(self) -> None:
        """Close a session where as many are open as may be: the one used longest ago, of those that lose nothing.

        Raises:
            ApiError: each of them is looked at, at work, or not saved.
        """
        if len(self) < self.limits.sessions:
            return
        idle = next((session for session in reversed(self.all()) if session.can_rest), None)
        if idle is None:
            raise self._full()
        self.close(idle.id)

    def _full(self) -> ApiError:
        return ApiError(409, "full", f"{self.limits.sessions} sessions are open: close one of them first")

    def add(
        self, kind: Kind, name: str, path: Path, folder: Path, *, disk: int = 0, fill: Fill | None = None
    ) -> Session:
        """Open a file or folder of frames as a session; takes as long as reading it.

        Args:
            disk: bytes in `folder`, counted by ``take_disk``; they are the session's from now on.
            fill: called with the session before anybody can see it.

        Raises:
            ApiError: it cannot be opened, or there are as many sessions as there may be.
        """
        name = shown_name(name)
        source = open_media(path, kind, name, self.limits)
        hub = Hub(self.on_loop, self.limits.listeners, lambda: self._left(session))
        session = Session(kind, name, path, folder, source, hub)
        try:
            if fill is not None:
                fill(session)
            self.require_room()
            with self._lock:
                if len(self) >= self.limits.sessions:  # another one was faster
                    raise self._full()
                self._sessions[session.id] = session
                session.disk = disk
        except BaseException:
            source.close()
            self._forget(session)
            raise
        self._drop_idle(session)
        return session

    def _forget(self, session: Session) -> None:
        """Drop the masks of a session that is closed. What was saved stays on disk."""
        with session.lock:
            session.closed = True
            self.take_masks(session, -session.mask_bytes)
            session.masks.clear()
            session.objects.clear()
            session.history.edits.clear()
            if session.save is not None:
                session.save.close(time.monotonic() - session.used)

    def close(self, session_id: str) -> None:
        """Close a session: cancel its jobs, end its streams, remove its temporary files."""
        with self._lock:
            session = self._sessions.pop(session_id, None)
        if session is None:
            return
        session.closed = True
        for job in session.running:
            job.cancel()
        session.hub.publish("closed", {})
        session.hub.close()
        self._forget(session)
        if session.pins == 0:
            self._release(session)

    def _release(self, session: Session) -> None:
        """Give back what a closed session holds, once nothing uses it."""
        self._unload(session)
        shutil.rmtree(session.folder, ignore_errors=True)
        with self._lock:
            self.give_disk(session, session.disk)

    def expire(self) -> None:
        """Unload sessions that no page listens to and that rest; close those that have rested too long."""
        now = time.monotonic()
        for session in self.all():
            rest = 0.0 if session.has_listeners else now - session.used
            if rest > self.limits.idle_seconds and not session.stays:
                self.close(session.id)
            elif rest > self.limits.rest_seconds:
                with self._lock:
                    if session.pins == 0:
                        self._unload(session)

    def _left(self, session: Session) -> None:
        """The last page has gone: cancel the jobs that it started, unless one comes back soon."""
        session.used = time.monotonic()
        if session.running and self.loop is not None:
            self.loop.call_later(self.limits.grace_seconds, self._abandon, session)

    def _abandon(self, session: Session) -> None:
        if not session.has_listeners:
            for job in session.running:
                if job.watched:
                    job.cancel()

    # ---- loaded sessions

    @contextmanager
    def loaded(self, session: Session) -> Iterator[SharedSource]:
        """The source of a session, open for the length of the block. ApiError if the session is closed."""
        with self._lock:
            if session.closed:
                raise ApiError(404, "not_found", "this session was closed")
            session.pins += 1
        try:
            with session.lock:
                if session.source is None:
                    session.source = open_media(session.path, session.kind, session.name, self.limits)
            self._drop_idle(session)
            yield session.source
        finally:
            with self._lock:
                session.pins -= 1
                gone = session.closed and session.pins == 0
            if gone:
                self._release(session)

    def strip_of(self, session: Session, source: SharedSource) -> SharedSource:
        """A decoder for the timeline's small pictures; call it inside ``loaded``. Pictures and folders share theirs."""
        if session.kind != "video" or session.path.is_dir():
            return source
        with session.lock:
            if session.strip is None:
                session.strip = open_media(session.path, session.kind, session.name, self.limits)
            return session.strip

    def _drop_idle(self, in_use: Session) -> None:
        """Unload the sessions that were used longest ago, until few enough are loaded."""
        with self._lock:
            held = [s for s in self.all() if s.source is not None]
            idle = [s for s in reversed(held) if s.pins == 0 and s is not in_use]
            for session in idle[: max(len(held) - self.limits.loaded, 0)]:
                self._unload(session)

    def _unload(self, session: Session) -> None:
        work, session.work = session.work, None
        source, session.source = session.source, None
        strip, session.strip = session.strip, None
        if work is not None:
            with suppress(ClosedError):  # the app ends, and all goes with it
                self._worker.submit_always(work.close)
        for each in filter(None, (source, strip)):
            each.close()

    # ---- shared limits

    def take_disk(self, count: int) -> None:
        """Count bytes that are about to be written.

        Raises:
            ApiError: uploads and exports together would exceed their limit.
        """
        with self._lock:
            if self._disk + count > self.limits.disk_bytes:
                raise ApiError(409, "full", f"open files have {self.limits.disk_bytes:,} bytes: close a session first")
            self._disk += count

    def give_disk(self, session: Session | None, count: int) -> None:
        with self._lock:
            self._disk -= count
            if session is not None:
                session.disk -= count

    def take_masks(self, session: Session, count: int) -> None:
        """Count bytes of masks that a session is about to hold, or (below 0) has dropped.

        Raises:
            ApiError: all masks together would exceed their limit.
        """
        with self._lock:
            if count > 0 and self._mask_bytes + count > self.limits.mask_bytes:
                most = self.limits.mask_bytes
                raise ApiError(409, "full", f"masks have {most:,} bytes: export and close a session first")
            self._mask_bytes += count
            session.mask_bytes += count
