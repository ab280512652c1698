"""SMPTE timecodes: the next ones, with and without dropped numbers."""

from __future__ import annotations

from fractions import Fraction

import pytest

from alpha_films import NTSC
from mlx_sam2.frames.timecode import later


@pytest.mark.parametrize(
    ("timecode", "frames", "rate", "expected"),
    [
        ("01:00:00:00", 25, Fraction(25), "01:00:01:00"),
        ("23:59:59:23", 1, NTSC, "00:00:00:00"),
        ("00:00:59;29", 1, Fraction(30000, 1001), "00:01:00;02"),
        ("00:09:59;29", 1, Fraction(30000, 1001), "00:10:00;00"),
        ("00:00:00;00", 17982, Fraction(30000, 1001), "00:10:00;00"),
        ("00:00:59;59", 1, Fraction(60000, 1001), "00:01:00;04"),
        ("00:00:00:30", 1, Fraction(25), None),
        ("tomorrow", 1, Fraction(25), None),
    ],
)
def test_timecodes(timecode: str, frames: int, rate: Fraction, expected: str | None) -> None:
    assert later(timecode, frames, rate) == expected


def test_drop_frame_counts_every_frame_of_an_hour() -> None:
    rate = Fraction(30000, 1001)
    names = [
        f"00:{m:02d}:{s:02d};{f:02d}"
        for m in range(60)
        for s in range(60)
        for f in range(30)
        if s or f > 1 or m % 10 == 0
    ]
    assert [later("00:00:00;00", i, rate) for i in range(0, len(names), 7)] == names[::7]
    assert [later(name, 1000, rate) for name in names[:-1000:97]] == names[1000::97]
