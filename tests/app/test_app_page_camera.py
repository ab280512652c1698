"""A camera on the page: Chromium's stand-in for one, clicked, tracked live, and kept as a session; demo model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import page_browser
from page_browser import Page, until
from page_rules import faults

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(page_browser.why_not() is not None, reason=str(page_browser.why_not())),
]


@pytest.fixture(scope="module")
def camera(browser: Any) -> Iterator[Any]:
    """A browser with a camera that nobody has to allow: moving patterns."""
    options = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    other = browser.browser_type.launch(executable_path=page_browser.chromium(), args=options)
    yield other
    other.close()


def begin(page: Page) -> None:
    page.tab.get_by_role("button", name="Open", exact=True).click()
    page.tab.get_by_role("menuitem", name="Camera…").click()
    page.wait("kept", "#camera-text")


def test_a_camera_is_tracked_and_kept(app_server: str, camera: Any) -> None:
    page = Page(camera, app_server)
    begin(page)
    page.tab.locator("#camera-picture").click(position={"x": 60, "y": 60})
    page.wait("frames a second tracked", "#camera-text")
    assert faults(page) == []
    kept = page.tab.evaluate("app.camera.recorded")
    until(lambda: page.tab.evaluate("app.camera.recorded") > kept + 1, "more frames to be tracked")
    page.tab.get_by_role("button", name="Stop and keep").click()
    until(lambda: page.id != "", "the session to open")
    page.wait("Camera", "#name")
    until(lambda: page.session()["status"] == "ready", "it to be encoded")
    page.settled()
    state = page.session()
    assert state["kind"] == "video" and state["frames"] > kept + 1 and len(state["objects"]) == 1
    [clicked] = map(int, state["objects"][0]["frames"])
    assert page.tracked(1) == set(range(clicked, state["frames"]))
    assert page.tab.evaluate("app.camera.stream.active") is False, "the camera is still on"

    # another one is thrown away, and nothing changes
    begin(page)
    page.tab.keyboard.press("Escape")
    until(lambda: page.tab.evaluate("!app.camera.on && !app.camera.id"), "the camera to end")
    assert page.session()["id"] == state["id"] and page.session()["revision"] == state["revision"]
    page.close()
    assert page.errors == []
