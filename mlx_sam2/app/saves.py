"""Sessions on disk: saved with every edit, opened again after a restart, the oldest removed where there is no room.

Each has a folder named by its id. ``about.json`` says what it is; ``media`` (or ``frames``) is what was opened, unless
that is a file of the command line, which stays where it is; ``edits.jsonl`` holds the whole session in its first lines
and what each edit changed in the others; ``lock`` is held by the app that has the session open.
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote_to_bytes

from pydantic import ValidationError

from .. import files
from .folders import lock
from .lines import Line
from .schemas import ApiError, Document, Recent

LISTED = 50  # recent sessions
EDITS = "edits.jsonl"
SLACK = 8 << 20  # bytes of edits beside four times the whole session; beyond, the file is rewritten
WAIT = 10  # times what writing a file took that failed, before it is tried again


class About(Document):
    """``about.json``. `media`: a name in the folder, or the file: address of a file of the command line."""

    objects: int
    media: str
    bytes: int


class Saves:
    """All saved sessions of a folder, which several apps may share.

    Args:
        most: bytes that they may have together.
    """

    def __init__(self, folder: Path, most: int) -> None:
        self.folder = folder
        self.most = most
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = threading.Lock()
        self._sweep()
        self._size = sum(size for _, _, size in self._all())

    def _sweep(self) -> None:
        """Remove what apps that were killed have left half made or half removed."""
        for path in self.folder.iterdir():
            if (path / "lock").exists() and not ((path / "about.json").exists() and (path / EDITS).exists()):
                held = lock(path / "lock")
                if held is not None:
                    shutil.rmtree(path, ignore_errors=True)
                    os.close(held)

    def _all(self) -> list[tuple[About, float, int]]:
        """Every saved session with the time of its last use and its bytes, newest first."""
        found = []
        for path in self.folder.iterdir():
            with suppress(OSError, ValidationError):
                about = About.model_validate_json((path / "about.json").read_bytes())
                status = (path / EDITS).stat()
                if about.id == path.name:
                    found.append((about, status.st_mtime, about.bytes + status.st_size))
        return sorted(found, key=lambda entry: -entry[1])

    def recent(self, is_open: Callable[[str], bool]) -> list[Recent]:
        """The newest ones, as they are listed."""
        return [
            Recent(
                **about.model_dump(include={"id", "kind", "name", "width", "height", "frames", "objects"}),
                used=used,
                bytes=size,
                open=is_open(about.id),
            )
            for about, used, size in self._all()[:LISTED]
        ]

    def _path(self, session_id: str) -> Path:
        """The folder of a session, found among those that are there: no name of a request becomes a path."""
        for path in self.folder.iterdir():
            if path.name == session_id and (path / EDITS).is_file():
                return path
        raise ApiError(404, "not_found", "there is no such saved session: it was removed, or made room for others")

    def thumbnail(self, session_id: str) -> bytes:
        try:
            return (self._path(session_id) / "thumbnail.jpg").read_bytes()
        except OSError:
            raise ApiError(404, "not_found", "this session has no thumbnail") from None

    def remove(self, session_id: str) -> None:
        """Forget a session. ApiError where it is open."""
        path = self._path(session_id)
        held = _hold(path)
        size = _size(path)
        (path / EDITS).unlink(missing_ok=True)  # without it this is no session any more
        shutil.rmtree(path, ignore_errors=True)
        os.close(held)
        self.give(size)

    def give(self, count: int) -> None:
        """Take back bytes that were counted."""
        with self._lock:
            self._size -= count

    def take(self, count: int) -> None:
        """Count bytes that are about to be written; sessions that nobody has open go, the oldest first.

        Raises:
            OSError: there is no room.
        """
        for about, _, _ in reversed(self._all()) if self._size + count > self.most else ():
            with suppress(ApiError):
                self.remove(about.id)
            if self._size + count <= self.most:
                break
        with self._lock:
            if self._size + count > self.most:
                raise OSError(errno.ENOSPC, f"saved sessions have {self.most:,} bytes")
            self._size += count

    def create(self, about: About, media: Path, thumbnail: bytes, lines: Callable[[], Iterator[Line]]) -> Save:
        """Save a new session, with what it was opened from (`about.media`: empty where `media` is to stay where it is).

        Raises:
            OSError: the disk or the allowance is full.
        """
        path = self.folder / about.id
        path.mkdir(mode=0o700)
        held = _hold(path, "lock.new")
        os.replace(path / "lock.new", path / "lock")  # never there without being held
        taken = 0
        try:
            self.take(about.bytes)
            taken = about.bytes
            if about.media:
                link_or_copy(media, path / about.media)
            else:
                about = about.model_copy(update={"media": media.as_uri()})  # UTF-8, whatever the name is
            (path / "thumbnail.jpg").write_bytes(thumbnail)
            save = Save(self, path, about, held)
            save.rewrite(lines())
            save.note(about.objects, always=True)
        except BaseException:
            with suppress(OSError):
                taken += (path / EDITS).stat().st_size
            shutil.rmtree(path, ignore_errors=True)
            os.close(held)
            self.give(taken)
            raise
        return save

    def open(self, session_id: str) -> Save:
        """A session that is to be opened again.

        Raises:
            ApiError: there is none, or another app has it open.
        """
        path = self._path(session_id)
        held = _hold(path)
        try:
            return Save(self, path, About.model_validate_json((path / "about.json").read_bytes()), held)
        except (OSError, ValidationError):
            os.close(held)
            raise ApiError(415, "unsupported", "this saved session is damaged") from None


class Save:
    """One session on disk. Its session's lock guards it."""

    def __init__(self, saves: Saves, path: Path, about: About, held: int) -> None:
        self.about = about
        is_elsewhere = about.media.startswith("file:")
        self.media = Path(os.fsdecode(unquote_to_bytes(about.media[7:]))) if is_elsewhere else path / about.media
        self._saves, self._path, self._held = saves, path, held
        self._edits = -1
        self._size = self._whole = 0
        self._is_broken = False
        self._failure: OSError | None = None
        self._next_try = 0.0

    def lines(self) -> Iterator[Line]:
        """The saved lines, up to the first damaged one. Edits are appended after them from then on."""
        self._edits = os.open(self._path / EDITS, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        with open(self._path / EDITS, "rb") as file:
            for data in file:
                try:
                    line = Line.from_json(data, (self.about.height, self.about.width))
                except ValueError:  # the app was killed while it wrote
                    break
                yield line
                self._size += len(data)
                self._whole += len(data) if line.what is None else 0
        os.ftruncate(self._edits, self._size)

    def add(self, line: Line, whole: Callable[[], Iterator[Line]]) -> None:
        """Save what an edit changed; `whole`: all lines, for when the file must be rewritten.

        Raises:
            OSError: the disk or the allowance is full. The edits before are safe, a later call tries again.
        """
        if self._is_broken or self._size > 4 * self._whole + SLACK:
            self._try_to_rewrite(whole())
            return
        data = line.to_json()
        self._is_broken = True
        self._saves.take(len(data))
        try:
            write(self._edits, data)
        except OSError:
            self._saves.give(len(data))
            os.ftruncate(self._edits, self._size)
            raise
        self._size += len(data)
        self._is_broken = False

    def _try_to_rewrite(self, lines: Iterator[Line]) -> None:
        """Rewrite, unless that failed a moment ago: it takes long for a long session, and each edit would wait."""
        if self._failure is not None and time.monotonic() < self._next_try:
            raise self._failure
        begin = time.monotonic()
        try:
            self.rewrite(lines)
        except OSError as error:
            end = time.monotonic()
            self._failure, self._next_try = error, end + WAIT * (end - begin)
            raise

    def rewrite(self, lines: Iterator[Line]) -> None:
        """Replace the file by these lines. OSError as for ``add``."""
        self._is_broken = True
        size = whole = 0
        with files.beside(self._path / EDITS, replace=True) as part:
            descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                for line in lines:
                    data = line.to_json()
                    write(descriptor, data)
                    size += len(data)
                    whole += len(data) if line.what is None else 0
                self._saves.take(size - self._size)
            except BaseException:
                os.close(descriptor)
                raise
        if self._edits >= 0:
            os.close(self._edits)
        self._edits, self._size, self._whole = descriptor, size, whole
        self._is_broken = False

    def note(self, objects: int, always: bool = False) -> None:
        """Note how many objects there are, for the list of recent sessions."""
        if objects != self.about.objects or always:
            self.about = self.about.model_copy(update={"objects": objects})
            files.write_text(self._path / "about.json", self.about.model_dump_json())

    def rename(self, name: str) -> None:
        """Note what the session is called now. OSError where the disk is full."""
        self.about = self.about.model_copy(update={"name": name})
        files.write_text(self._path / "about.json", self.about.model_dump_json())

    def close(self, idle: float = 0.0) -> None:
        """Leave the session on disk, as last used some seconds ago."""
        if self._held < 0:
            return
        with suppress(OSError):
            used = time.time() - idle
            os.utime(self._path / EDITS, (used, used))
        if self._edits >= 0:
            os.close(self._edits)
        os.close(self._held)
        self._held = -1


def write(descriptor: int, data: bytes) -> None:
    """Write all of it: a disk that becomes full may take a part."""
    while data:
        data = data[os.write(descriptor, data) :]


def _hold(path: Path, name: str = "lock") -> int:
    held = lock(path / name)
    if held is None:
        raise ApiError(409, "busy", "this session is open, here or in another app")
    return held


def link_or_copy(source: Path, target: Path) -> None:
    """The same file or folder of files under another name; a copy where that is another disk."""
    if source.is_dir():
        target.mkdir()
        for path in sorted(source.iterdir()):
            link_or_copy(path, target / path.name)
        return
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _size(path: Path) -> int:
    """Bytes that count for a saved session."""
    size = 0
    with suppress(OSError, ValidationError):
        size += About.model_validate_json((path / "about.json").read_bytes()).bytes
    with suppress(OSError):
        size += (path / EDITS).stat().st_size
    return size
