"""One running app: its parts, and opening files with them."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

from ..frames.source import VideoError
from ..images.files import ImageError
from ..worker import Worker
from .edits import Edits
from .engine import Engine
from .jobs import Jobs
from .media import Limits, jpeg
from .saves import Saves
from .schemas import ApiError, Kind
from .security import Access
from .session import Session
from .session_store import Fill, Sessions

if TYPE_CHECKING:
    from ..aio import AsyncLatest

T = TypeVar("T")

THUMBNAIL = 320  # pixels of the longer side
READERS = 2  # threads that decode frames to be looked at: each may hold a picture
OPENERS = 2  # threads that open files, which may take long, so that looking does not wait


@dataclass
class App:
    """The parts of an app, put together by ``make``."""

    access: Access
    sessions: Sessions
    edits: Edits
    worker: Worker
    engine: Engine
    jobs: Jobs
    readers: ThreadPoolExecutor
    openers: ThreadPoolExecutor
    saves: Saves | None = None  # None: nothing is saved
    opened: str | None = None  # the session of the command line
    _reopening: Lock = field(default_factory=Lock)
    hovers: WeakKeyDictionary[Session, AsyncLatest] = field(default_factory=WeakKeyDictionary)

    @classmethod
    def make(
        cls,
        access: Access,
        folder: Path,
        model: str,
        limits: Limits | None = None,
        saves: Saves | None = None,
        **options: Any,
    ) -> App:
        """An app that keeps open files in a folder of its own and uses a model, as for ``mlx_sam2.load``."""
        worker = Worker()
        sessions = Sessions(limits or Limits(), folder, worker)
        edits = Edits(sessions)
        engine = Engine(model, worker, edits, **options)
        readers = ThreadPoolExecutor(READERS, "mlx_sam2.app reader")
        openers = ThreadPoolExecutor(OPENERS, "mlx_sam2.app opener")
        return cls(access, sessions, edits, worker, engine, Jobs(sessions, worker), readers, openers, saves)

    # ---- opening: each takes as long as reading the file, so it belongs on an opener's thread

    def open(
        self, kind: Kind, name: str, path: Path, folder: Path, *, disk: int = 0, fill: Fill | None = None
    ) -> Session:
        """Open a file as a new session, which is saved from now on. Arguments and errors as ``Sessions.add``."""

        def prepare(session: Session) -> None:
            if fill is not None:
                fill(session)
            if self.saves is not None:
                self.edits.begin_saving(session, self.saves, _thumbnail(session))

        return self.sessions.add(kind, name, path, folder, disk=disk, fill=prepare)

    def reopen(self, session_id: str) -> Session:
        """Open a saved session again, under its old id; one that is open is returned as it is.

        Raises:
            ApiError: there is none, it is open elsewhere, or its file is gone.
        """
        with self._reopening:
            if self.sessions.has(session_id):
                return self.sessions.get(session_id)
            return self._reopen(session_id)

    def _reopen(self, session_id: str) -> Session:
        save = self.require_saves().open(session_id)
        about = save.about

        def prepare(session: Session) -> None:
            saved = (about.width, about.height, about.frames)
            if saved != (session.width, session.height, session.num_frames):
                raise ApiError(409, "changed", f"{about.name} has changed since: open it as a new file")
            session.id = about.id
            self.edits.replay(session, save)

        folder = None
        try:
            if not save.media.exists():
                raise ApiError(404, "not_found", f"{about.name} is not where it was any more")
            folder = self.sessions.new_folder()
            return self.sessions.add(about.kind, about.name, save.media, folder, fill=prepare)
        except BaseException:
            save.close()
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
            raise

    def require_saves(self) -> Saves:
        if self.saves is None:
            raise ApiError(404, "not_found", "this app saves no sessions")
        return self.saves

    async def view(self, read: Callable[[], T]) -> T:
        """Await something that reads a frame, beside the worker."""
        return await asyncio.get_running_loop().run_in_executor(self.readers, read)

    async def opening(self, read: Callable[[], T]) -> T:
        """Await something that opens a file."""
        return await asyncio.get_running_loop().run_in_executor(self.openers, read)

    def end_streams(self) -> None:
        """End all event streams, for which the server would wait."""
        for session in self.sessions.all():
            session.hub.close()


def _thumbnail(session: Session) -> bytes:
    """The first frame, small; nothing where it cannot be read: looking at it will say why."""
    try:
        return b"" if session.source is None else jpeg(session.source[0], THUMBNAIL)
    except (VideoError, ImageError):
        return b""
