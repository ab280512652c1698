"""The rows of the timeline on the page: a name and a picture each, scrolled where there are many; demo model."""

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
OBJECTS = 20


def row_at(page: Page, index: int) -> float:
    """The height of a row's middle in the window, wherever it is scrolled to."""
    place = "(index) => 44 + app.timeline.lanes.pitch * (index + 0.5) - app.timeline.lanes.scroll"
    return page.tab.locator("#strip").bounding_box()["y"] + page.tab.evaluate(place, index)


def test_twenty_rows_are_scrolled(app_server: str, browser: Any, tmp_path: Path) -> None:
    page = Page(browser, app_server)
    page.open(page_media.write_clip(tmp_path / "ball.mp4", 4))
    for index in range(OBJECTS):
        page.click(60 + 18 * index, 60 + (index % 5) * 40)
        page.press("n")
    strip = page.tab.locator("#strip").bounding_box()
    assert strip["height"] < 160, "the strip takes the room of the picture"

    def scroll() -> float:
        page.painted()
        return page.tab.evaluate("app.timeline.lanes.scroll")

    # a click on a name selects; the keys' selection comes into sight; the wheel scrolls and stays within the rows
    page.tab.locator("#stage").focus()
    page.press("]")
    assert page.tab.evaluate("app.session.active") == 1 and scroll() == 0
    page.tab.mouse.click(strip["x"] + 60, row_at(page, 2))
    assert page.tab.evaluate("app.session.active") == 3 and page.text("#clock").startswith("1 / ")
    page.tab.locator("#stage").focus()
    for _ in range(3):
        page.press("[")
    assert page.tab.evaluate("app.session.active") == OBJECTS and scroll() > 0
    page.tab.mouse.move(strip["x"] + 300, strip["y"] + 80)
    page.tab.mouse.wheel(0, -5000)
    until(lambda: scroll() == 0, "the rows to be scrolled")
    page.tab.mouse.wheel(0, 5000)
    until(lambda: scroll() > 0, "the rows to be scrolled back")
    end = page.tab.evaluate(
        "44 + app.timeline.lanes.pitch * app.session.doc.objects.length - app.timeline.lanes.scroll"
    )
    assert end <= strip["height"], "the last row is cut off"

    # the diamond of a row that was scrolled into sight
    page.go_to(2)
    page.tab.mouse.click(strip["x"] + page.tab.evaluate("app.timeline.x(0)") + 2, row_at(page, OBJECTS - 2))
    page.settled()
    assert page.tab.evaluate("app.session.active") == OBJECTS - 1 and page.text("#clock").startswith("1 / ")
    page.close()
    assert page.errors == []
