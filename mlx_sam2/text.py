"""Values, names and foreign errors in messages: short, on one line, and safe to print."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import mlx.core as mx


def one_line(text: object) -> str:
    """Replace line breaks and other white space by single spaces."""
    return " ".join(str(text).split())


def first_line(error: object) -> str:
    return next(iter(str(error).strip().splitlines()), "no message")


def message_of(error: object, limit: int = 120) -> str:
    """Return the message of an error on one short line, or its type if it has none."""
    return shorten(one_line(error), limit) or type(error).__name__


def shorten(text: str, limit: int = 160) -> str:
    """Cut a text to at most `limit` characters; "..." marks the cut."""
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def shown(text: object, limit: int = 120) -> str:
    """Make a name or a message from a stranger's file safe to print: ASCII on one line. Not a string: its type."""
    return shorten(ascii(text)[1:-1] if isinstance(text, str) else type(text).__name__, limit)


class _Brief(reprlib.Repr):
    def repr_int(self, x: int, level: int) -> str:
        return repr(x) if x.bit_length() <= 64 else f"an integer of {x.bit_length()} bits"


_brief = _Brief()
_brief.maxlevel = 2


def brief(value: object) -> str:
    """``repr`` that stays short whatever a stranger's file holds."""
    return shorten(_brief.repr(value))


def some(names: Iterable[str], limit: int = 4) -> str:
    """List the first names, sorted and ``shown``, and say how many follow: "a, b and 3 more"."""
    names = sorted(set(names))
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(map(shown, names[:limit])) + more


def dtype_name(dtype: mx.Dtype) -> str:
    """ "float16" for ``mx.float16``."""
    return str(dtype).removeprefix("mlx.core.")
