"""Files and folders that appear under their names only when they are complete; digests of files.

A file that is being written lies hidden beside its place, as ``.NAME.MACHINE-PID-N.part``. A process that is killed
leaves it there. The name says which process wrote it, so the next one that writes into the folder can remove it, and
never removes the file of a writer that is alive.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import itertools
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from hashlib import _Hash

BLOCK = 1 << 20  # bytes that are read at once

_numbers = itertools.count()
_LEFTOVER = re.compile(r"\..+\.(?P<machine>[0-9a-f]{6})-(?P<pid>[0-9]{1,10})-[0-9]+\.(?P<kind>part|old)", re.S)


@contextmanager
def beside(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a path that does not exist, for the caller to make a file or a folder there.

    When the block ends, it takes the name `path`; when an error ends the block, it is removed. Leftovers of killed
    processes in the same folder are removed first (``sweep``).

    Args:
        replace: replace what is at `path` already: a file by a file, a folder by a folder.

    Raises:
        FileExistsError: without ``replace``, `path` exists at the end of the block.
        OSError: the disk is full or fails; the error names `path`.
    """
    path = Path(path)
    part = _provisional(path)
    sweep_once(os.path.abspath(part.parent))
    try:
        yield part
        if not replace and os.path.lexists(path):  # rename would replace a file or an empty folder
            raise FileExistsError(errno.EEXIST, "exists already", str(path))
        if replace and part.is_dir() and os.path.lexists(path):
            _swap(part, path)
        else:
            os.replace(part, path)
    except OSError as error:
        if error.errno and error.filename in (None, str(part)):
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        _remove(part)


def write_text(path: Path, text: str | Iterable[str]) -> None:
    """Write or replace a text file as a whole. `text` may be lines that end in newlines. Raises as ``beside``."""
    with beside(path, replace=True) as part, open(part, "w", encoding="utf-8") as file:
        file.writelines([text] if isinstance(text, str) else text)


def make_folder(folder: Path) -> None:
    """Make a folder and the folders above it, as ``mkdir -p`` does.

    Raises:
        NotADirectoryError: a file has that name.
        OSError: the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder)) from None


def sweep(folder: str | os.PathLike[str]) -> None:
    """Remove from a folder the half-written files and folders of processes that were killed on this machine.

    A folder that was being replaced at that moment gets its name back. Leftovers that cannot be removed stay.
    """
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in list(entries):
            found = _LEFTOVER.fullmatch(entry.name)
            if not found or found["machine"] != _machine() or _lives(int(found["pid"])):
                continue
            with suppress(OSError):
                _put_back(Path(entry.path)) if found["kind"] == "old" else _remove(Path(entry.path))


@lru_cache(maxsize=64)
def sweep_once(folder: str) -> None:
    """``sweep`` a folder once, however many files this process writes there."""
    sweep(folder)


def sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    return hexdigest(path, hashlib.sha256())


def hexdigest(path: str | os.PathLike[str], digest: _Hash) -> str:
    """Add a file to `digest` and return the digest in hexadecimal."""
    with open(path, "rb") as file:
        return hexdigest_open(file, digest)


def hexdigest_open(file: BinaryIO, digest: _Hash) -> str:
    """As ``hexdigest``, of an open file from its beginning."""
    file.seek(0)
    while block := file.read(BLOCK):
        digest.update(block)
    return digest.hexdigest()


def _provisional(path: Path) -> Path:
    """Return a new hidden name beside `path`; a long name is cut, so that the new one fits."""
    name = os.fsencode(path.name)[:200].decode(errors="ignore")
    return path.with_name(f".{name}.{_machine()}-{os.getpid()}-{next(_numbers)}.part")


def _swap(part: Path, path: Path) -> None:
    """Replace the folder `path` by `part` and remove the old one; if that fails, the old one keeps its place."""
    if _exchange(part, path):
        return  # the old folder is now `part`, which `beside` removes
    old = part.with_suffix(".old")
    old.mkdir()
    try:
        path.rename(old / path.name)
        part.rename(path)
    finally:
        _put_back(old)


def _put_back(old: Path) -> None:
    """Move what is in `old` back to its place, or remove it if the place is taken."""
    for path in old.iterdir():
        wanted = old.parent / path.name
        if not os.path.lexists(wanted):
            path.rename(wanted)
    _remove(old)


def _exchange(a: Path, b: Path) -> bool:
    """Let two paths change places in one step: a process that is killed cannot lose either.

    Returns False if the system or the file system cannot; then nothing has changed.
    """
    libc, here, swap = ctypes.CDLL(None), -2 if sys.platform == "darwin" else -100, 2  # AT_FDCWD; the flag of both
    call = getattr(libc, "renameatx_np" if sys.platform == "darwin" else "renameat2", None)
    return call is not None and call(here, os.fsencode(a), here, os.fsencode(b), swap) == 0


def _remove(path: Path) -> None:
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # the process of another user; a number too large for any
        pass
    return True


@cache
def _machine() -> str:
    """Return a short name of this machine: several may write into one folder, and each has its own process ids."""
    return hashlib.sha256(os.fsencode(os.uname().nodename)).hexdigest()[:6]
