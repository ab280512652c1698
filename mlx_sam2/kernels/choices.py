"""Stored choices between a kernel and MLX's own operations, measured on this machine by `python -m mlx_sam2.doctor`.

`choices.json` in the user's cache folder holds them under the chip, the version of MLX and the version of this
package: a choice is valid only for what it was measured with.
"""

from __future__ import annotations

import json
import os
import stat
import sys
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx

from .. import __version__
from ..files import write_text
from ..machine import chip

VARIABLE = "MLX_SAM2_CACHE"
MAX_BYTES = 1 << 20
MAX_MACHINES = 16  # older ones are dropped
MAX_CHOICES = 500  # of one machine

_lock = threading.Lock()
_loaded: dict[str, bool] | None = None  # of this machine; read at the first question


class ChoicesError(ValueError):
    """The file of choices cannot be used. The message is one line."""


def folder() -> Path:
    """The cache folder: MLX_SAM2_CACHE, or the platform's."""
    if asked := os.environ.get(VARIABLE):
        return Path(os.path.expanduser(asked))
    if sys.platform == "darwin":
        return Path(os.path.expanduser("~/Library/Caches/mlx_sam2"))
    cache = os.environ.get("XDG_CACHE_HOME", "")
    return Path(cache if os.path.isabs(cache) else os.path.expanduser("~/.cache"), "mlx_sam2")


def path() -> Path:
    return folder() / "choices.json"


def machine() -> str:
    """The key of a machine's choices: chip, version of MLX, version of this package."""
    return f"{chip()}, mlx {mx.__version__}, mlx_sam2 {__version__}"


def lookup(key: str) -> bool | None:
    """Whether the kernel was faster for this op, variant and size; None if it was not measured.

    The file is read once per process. A file that cannot be used is ignored with one warning.
    """
    global _loaded
    if _loaded is None:
        with _lock:
            if _loaded is None:
                _loaded = _load()
    return _loaded.get(key)


def forget() -> None:
    """Read the file again at the next ``lookup``."""
    global _loaded
    with _lock:
        _loaded = None


def store(measured: Mapping[str, bool]) -> Path:
    """Add choices for this machine; they replace those of the same name. A file that cannot be used is replaced.

    Returns:
        The path of the file. It is written beside its place and renamed.

    Raises:
        OSError: the folder cannot be created or written to.
    """
    try:
        machines = _read()
    except ChoicesError:
        machines = {}
    ours = machines.pop(machine(), {})
    for key in measured:
        ours.pop(key, None)  # the latest come last
    ours = dict(list({**ours, **measured}.items())[-MAX_CHOICES:])
    machines = dict(list(machines.items())[-(MAX_MACHINES - 1) :])
    file = path()
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps({"format": 1, "machines": {**machines, machine(): ours}}, indent=1) + "\n")
    forget()
    return file


def _load() -> dict[str, bool]:
    try:
        return _read().get(machine(), {})
    except ChoicesError as error:
        warnings.warn(
            f"mlx_sam2: the measured choices between kernels are not used, for {error}; "
            "`python -m mlx_sam2.doctor` measures them again",
            RuntimeWarning,
            stacklevel=2,
        )
        return {}


def _read() -> dict[str, dict[str, bool]]:
    """{machine: {key: kernel is faster}}; {} if there is no file.

    Raises:
        ChoicesError: the file is not a regular one, too long, or not one that ``store`` wrote.
    """
    file = path()
    try:
        info = os.stat(file)
        if not stat.S_ISREG(info.st_mode) or info.st_size > MAX_BYTES:
            raise ChoicesError(f"{file} is no file of at most {MAX_BYTES:,} bytes")
        with file.open("rb") as opened:
            content = json.loads(opened.read(MAX_BYTES))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise ChoicesError(f"{file} cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise error if isinstance(error, ChoicesError) else ChoicesError(f"{file} is damaged") from None
    machines = content.get("machines") if isinstance(content, dict) and content.get("format") == 1 else None
    if not isinstance(machines, dict) or not all(map(_is_choices, machines.values())):
        raise ChoicesError(f"{file} does not hold choices")
    return machines


def _is_choices(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(chosen, bool) for chosen in value.values())
