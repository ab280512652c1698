"""What belongs to one running app."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

from ..worker import Worker
from .edits import Edits
from .engine import Engine
from .jobs import Jobs
from .media import Limits
from .security import Access
from .session import Session
from .session_store import Sessions

if TYPE_CHECKING:
    from ..aio import AsyncLatest

T = TypeVar("T")

READERS = 2  # threads that decode frames to be looked at: each may hold a picture


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
    opened: str | None = None  # the session of the command line
    hovers: WeakKeyDictionary[Session, AsyncLatest] = field(default_factory=WeakKeyDictionary)

    @classmethod
    def make(cls, access: Access, folder: Path, model: str, limits: Limits | None = None, **options: Any) -> App:
        """An app that keeps its files in a folder of its own and uses a model, as for ``mlx_sam2.load``."""
        worker = Worker()
        sessions = Sessions(limits or Limits(), folder, worker)
        edits = Edits(sessions)
        engine = Engine(model, worker, edits, **options)
        readers = ThreadPoolExecutor(READERS, "mlx_sam2.app reader")
        return cls(access, sessions, edits, worker, engine, Jobs(sessions, worker), readers)

    async def view(self, read: Callable[[], T]) -> T:
        """Await something that reads files, beside the worker."""
        return await asyncio.get_running_loop().run_in_executor(self.readers, read)

    def end_streams(self) -> None:
        """End all event streams, for which the server would wait."""
        for session in self.sessions.all():
            session.hub.close()
