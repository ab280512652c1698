"""Words for messages: values, names and foreign errors, short, on one line, and safe to print."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import mlx.core as mx


def one_line(text: object) -> str:
    """The text with single spaces in place of line breaks and other white space."""
    return " ".join(str(text).split())


def first_line(error: object) -> str:
    return next(iter(str(error).strip().splitlines()), "no message")


def message_of(error: object, limit: int = 120) -> str:
    """What an error says, on one short line; its type if it says nothing."""
    return shorten(one_line(error), limit) or type(error).__name__


def shorten(text: str, limit: int = 160) -> str:
    """The beginning of a text, with dots at the end where something was cut off."""
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def shown(text: object, limit: int = 120) -> str:
    """A name or a message out of a stranger's file, safe to print: in ASCII, on one line. Of no string, its type."""
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
    """The first of the names, sorted and ``shown``, and how many more there are: "a, b and 3 more"."""
    names = sorted(set(names))
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(map(shown, names[:limit])) + more


def dtype_name(dtype: mx.Dtype) -> str:
    """ "float16" for ``mx.float16``."""
    return str(dtype).removeprefix("mlx.core.")
