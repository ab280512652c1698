"""How far a download is, for those who have no terminal to look at."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

Watcher = Callable[[int, int], None]

_watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


@contextmanager
def watched(watcher: Watcher) -> Iterator[None]:
    """Downloads of this thread, within the block, call ``watcher(bytes done, bytes in all)`` for each file."""
    before = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(before)


def options() -> dict[str, Any]:
    """Keywords for ``hf_hub_download`` that make it report; none where nobody watches, or the client is too old."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import tqdm

    watcher = _watcher.get()
    if watcher is None or "tqdm_class" not in inspect.signature(hf_hub_download).parameters:
        return {}

    class Bar(tqdm):  # the client's own, which is shown in terminals as ever
        def __init__(self, *args: Any, **keywords: Any) -> None:
            self._bytes, self._all = int(keywords.get("initial") or 0), int(keywords.get("total") or 0)
            super().__init__(*args, **keywords)

        def update(self, n: float | None = 1) -> bool | None:
            self._bytes += int(n or 0)
            if self._all:
                watcher(min(self._bytes, self._all), self._all)
            return super().update(n)

    return {"tqdm_class": Bar}
