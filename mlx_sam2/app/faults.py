"""Failures of work: which ones are expected, and how they are said in one line."""

from __future__ import annotations

import logging
from concurrent.futures import Future
from typing import Any

from .schemas import ApiError

# What work may raise because of what it works on; anything else is a fault of the program.
FAILURES = (ApiError, ValueError, RuntimeError, ArithmeticError, OSError, MemoryError)


def report(future: Future[Any]) -> None:
    """Tell the terminal about a fault of the program in something that nobody waits for."""
    if not future.cancelled() and (error := future.exception()) is not None:
        logging.getLogger("mlx_sam2.app").error("a fault of the app", exc_info=error)


def describe(error: BaseException) -> str:
    """One line, without paths of this machine."""
    if isinstance(error, OSError) and error.strerror:
        return f"the disk: {error.strerror}"
    return str(error) or type(error).__name__
