"""In and out points, tracking of one object, of some frames and with another memory, on the page; demo model."""

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
FRAMES = 14
BALL, BOX = (60, 165), (365, 80)


def choose(page: Page, label: str) -> None:
    page.tab.click("#track-menu")
    page.tab.get_by_role("menuitem", name=label).click()
    page.settled()


def test_some_frames_of_some_objects(app_server: str, browser: Any, tmp_path: Path) -> None:
    page = Page(browser, app_server)
    page.open(page_media.write_clip(tmp_path / "ball.mp4", FRAMES))
    page.click(*BALL)
    page.press("n")
    page.click(*BOX)

    # the active object alone, as far as the out point
    page.go_to(3)
    page.press("Shift+O")
    page.go_to(0)
    choose(page, "Only the active object")
    page.tab.click("#track-on")
    page.job_over()
    assert page.tracked(2) == {0, 1, 2, 3} and page.tracked(1) == {0}

    # the points stay over a reload; what lies outside of them is refused in words; playing ends at the out point
    page.tab.reload()
    until(lambda: page.tab.evaluate("app.session !== null"), "the session to come back")
    page.settled()
    assert page.tab.evaluate("app.session.range") == {"first": 0, "last": 3}
    page.go_to(5)
    page.tab.click("#track-on")
    page.wait("Frame 6 lies outside of the in and out points.", "#toasts")
    page.go_to(1)
    page.tab.click("#play")
    until(lambda: page.tab.locator("#play").get_attribute("aria-label") == "Play", "playing to end")
    assert page.text("#clock").startswith("4 / 14")
    page.go_to(2)
    page.press("Shift+I")
    page.tab.click("#track-back")
    page.wait("There is nothing before the in point.", "#toasts")

    # so many frames, with another memory
    page.press("Shift+X")
    assert page.tab.evaluate("app.session.range") == {"first": 0, "last": FRAMES - 1}
    choose(page, "Among look-alikes")
    with page.tab.expect_request("**/propagate*") as request:
        choose(page, "Track 10 frames")
    sent = request.value.post_data_json
    assert (sent["memory_policy"], sent["frame"], sent["last"], sent["objects"]) == ("dam4sam", 2, 12, None)
    page.job_over()
    assert page.tracked(1) == {0, *range(2, 13)}
    page.close()
    assert page.errors == []
