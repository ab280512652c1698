"""SMPTE timecodes: hours:minutes:seconds:frames of a film's first frame (SMPTE ST 12-1)."""

from __future__ import annotations

import re
from fractions import Fraction

DROP = {30: 2, 60: 4, 120: 8}  # frames a second -> numbers that are left out each minute, except every tenth


def later(timecode: str, frames: int, rate: Fraction) -> str | None:
    """The timecode so many frames later; None if it is none, or the rate does not go with it.

    Args:
        timecode: "01:00:00:00", or "01:00:00;00" where numbers are left out (drop frame).
        rate: frames a second, such as 30000/1001.
    """
    found = re.fullmatch(r"(\d\d):(\d\d):(\d\d)([:;.,])(\d\d)", timecode)
    if not found or rate <= 0:
        return None
    hours, minutes, seconds, number = (int(found[i]) for i in (1, 2, 3, 5))
    a_second = round(rate)
    drops = DROP.get(a_second, 0) if found[4] != ":" else 0
    if a_second < 1 or number >= a_second or minutes > 59 or seconds > 59:
        return None
    minute = hours * 60 + minutes
    count = (minute * 60 + seconds) * a_second + number - drops * (minute - minute // 10) + frames
    a_minute, ten_minutes = a_second * 60 - drops, a_second * 600 - 9 * drops
    count %= 144 * ten_minutes  # a day
    tens, rest = divmod(count, ten_minutes)
    if drops:
        past = max(rest - drops, 0) // a_minute  # whole minutes, the first of which leaves nothing out
        count = tens * 600 * a_second + rest + drops * past
    seconds, number = divmod(count, a_second)
    clock = f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
    return f"{clock}{';' if drops else ':'}{number:02d}"
