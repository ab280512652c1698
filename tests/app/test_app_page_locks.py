"""Frames that are kept, and frames that are doubtful, in the timeline of the page; headless Chromium, demo model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import page_browser
import page_media
from page_browser import Page, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(page_browser.why_not() is not None, reason=str(page_browser.why_not())),
]
FRAMES = 8
BALL, BOX = (60, 165), (365, 80)


def locked(page: Page) -> list[list[int]]:
    page.settled()
    return [item["locked"] for item in page.session()["objects"]]


def test_frames_are_kept_and_doubtful_ones_found(app_server: str, browser: Any, tmp_path: Path) -> None:
    page = Page(browser, app_server)
    page.open(page_media.write_clip(tmp_path / "ball.mp4", FRAMES))
    page.click(*BALL)
    page.press("n")
    page.click(*BOX)
    page.tab.click("#track-on")
    page.job_over()

    # kept: all objects of a frame by the button, the active one alone by the key; undone and brought back
    page.go_to(5)
    assert page.tab.get_attribute("#lock", "aria-pressed") == "false"
    page.tab.click("#lock")
    assert locked(page) == [[5], [5]]
    assert page.tab.get_attribute("#lock", "aria-pressed") == "true"
    page.go_to(6)
    page.press("Shift+K")
    assert locked(page) == [[5], [5, 6]]
    page.press("Control+z")
    assert locked(page) == [[5], [5]]
    page.press("Control+Shift+z")
    assert locked(page) == [[5], [5, 6]]
    assert "kept" in page.tab.get_attribute("#playhead", "aria-valuetext")

    # another tracking leaves them alone
    before = page.tab.evaluate("fetch(`/api/sessions/${app.session.id}/masks/5`).then(r => r.json())")
    page.go_to(3)
    page.press("[")
    page.click(*BOX)
    page.tab.click("#track-on")
    page.job_over()
    assert page.tab.evaluate("fetch(`/api/sessions/${app.session.id}/masks/5`).then(r => r.json())") == before
    page.tab.reload()
    until(lambda: page.tab.evaluate("app.session !== null"), "the session to come back")
    assert locked(page) == [[5], [5, 6]]

    # doubt: the most doubtful frame of the next stretch, both ways; where there is a prompt or a lock is none
    page.tab.evaluate("app.session.doubts.rows.clear()")
    page.tab.evaluate("[0, .3, .6, .9, 0, .9, 0, .4].forEach((d, t) => app.session.doubts.row(1)[t] = d)")
    page.go_to(0)
    for key, frame in (("u", 2), ("u", 7), ("u", 7), ("Shift+U", 2)):
        page.press(key)
        page.settled()
        assert page.tab.evaluate("app.session.frame") == frame
    assert "doubtful" in page.tab.get_attribute("#playhead", "aria-valuetext")
    page.tab.click("#doubt")
    page.settled()
    assert page.tab.evaluate("app.session.frame") == 7
    page.close()
    assert page.errors == []
