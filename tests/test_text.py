"""Words for messages stay short, on one line, and safe to print."""

from __future__ import annotations

import mlx.core as mx
import pytest

from mlx_sam2 import text


def test_foreign_text_stays_on_one_short_line() -> None:
    assert text.one_line(" a\n b\t c ") == "a b c"
    assert text.first_line(ValueError("\nfirst\nsecond")) == "first"
    assert text.first_line(ValueError()) == "no message"
    assert text.message_of(ValueError("a\nb")) == "a b" and text.message_of(ValueError()) == "ValueError"
    assert text.shorten("a" * 160) == "a" * 160
    assert text.shorten("a" * 161) == "a" * 157 + "..."


@pytest.mark.parametrize(
    "value", [10**10_000, "x" * 10_000, [[[[1] * 100] * 100]], {"a": "b" * 1000}], ids=["int", "str", "list", "dict"]
)
def test_brief_is_short_whatever_is_given(value: object) -> None:
    assert len(text.brief(value)) <= 160
    assert text.brief(3) == "3" and text.brief("a") == "'a'"


def test_names_of_strangers_are_safe_to_print() -> None:
    assert text.shown("a\x1b[31m\nß") == "a\\x1b[31m\\n\\xdf"
    assert text.shown(b"a") == "bytes"
    assert text.shown("x" * 121) == "x" * 117 + "..."


def test_some_names_and_how_many_more() -> None:
    assert text.some("dabcab") == "a, b, c, d"
    assert text.some("abcdefg", 3) == "a, b, c and 4 more"
    assert text.some(["\x1b"]) == "\\x1b"


def test_dtypes_have_their_short_names() -> None:
    assert text.dtype_name(mx.bfloat16) == "bfloat16"
