"""Folders of the app: a temporary one, removed by the next start if this app is killed, and one for what is saved."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "mlx_sam2-app-"
VARIABLE = "MLX_SAM2_APP_DATA"


def data_folder() -> Path:
    """Where saved sessions lie: what the environment variable says, or the user's folder for data of applications."""
    if given := os.environ.get(VARIABLE):
        return Path(given)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "mlx_sam2"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "mlx_sam2"


def lock(path: Path) -> int | None:
    """A descriptor that locks a file until it is closed or its process ends; None where another one holds the lock."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


@contextmanager
def temporary() -> Iterator[Path]:
    """A temporary folder, removed at the end; those of killed apps are removed first."""
    _sweep(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        descriptor = lock(folder / "lock.new")
        os.replace(folder / "lock.new", folder / "lock")  # never there without being held
        try:
            yield folder
        finally:
            if descriptor is not None:
                os.close(descriptor)


def _sweep(place: Path) -> None:
    """Remove temporary folders whose app does not run any more."""
    for folder in place.glob(f"{PREFIX}*"):
        with suppress(OSError):
            if folder.is_symlink() or folder.stat().st_uid != os.getuid() or not (folder / "lock").exists():
                continue
            descriptor = lock(folder / "lock")
            if descriptor is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(descriptor)
