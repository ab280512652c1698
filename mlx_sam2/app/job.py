"""One job of a session: its state and its progress."""

from __future__ import annotations

import secrets
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..text import one_line
from .schemas import ApiError, JobState

if TYPE_CHECKING:
    from .session import Session

Steps = Generator[None, None, None]


class Job:
    """A job of a session. Its steps set `done`, `total` and `file`."""

    def __init__(self, session: Session, kind: Literal["propagate", "everything", "export"]) -> None:
        self.id = secrets.token_urlsafe(9)
        self.session = session
        self.kind = kind
        self.status: Literal["queued", "running", "done", "cancelled", "failed"] = "queued"
        self.message = ""
        self.done, self.total = 0, 0
        self.file: str | None = None  # its name for the user
        self.path: Path | None = None  # where it is
        self.media_type = "application/octet-stream"
        self.revision: int | None = None  # of the edit that its masks belong to
        self.stopped = False
        self.watched = session.has_listeners

    @property
    def is_live(self) -> bool:
        return self.status in ("queued", "running")

    def state(self) -> JobState:
        return JobState(
            id=self.id,
            kind=self.kind,
            status=self.status,
            message=self.message,
            done=self.done,
            total=self.total,
            file=self.file if self.status == "done" else None,
            revision=self.revision,
        )

    def cancel(self) -> None:
        """Stop after the current step."""
        self.stopped = True

    def check(self) -> None:
        """Raise an ApiError if the job was cancelled; for steps that take long."""
        if self.stopped:
            raise ApiError(409, "cancelled", "cancelled")

    def progress(self, done: int, total: int) -> None:
        self.done, self.total = done, total
        self.session.hub.publish("progress", {"job": self.id, "done": done, "total": total})

    def enter(self, status: Literal["running", "done", "cancelled", "failed"], message: str = "") -> None:
        self.status, self.message = status, one_line(message)
        self.session.hub.publish("job", self.state().model_dump())
