"""What comes into the page of ``python -m mlx_sam2.app``: drops, folders, examples; and what it says when it fails."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import page_browser
import page_media
from page_browser import Page, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(page_browser.why_not() is not None, reason=str(page_browser.why_not())),
]
PHOTO = Path(__file__).parents[2] / "examples" / "coffee.jpg"


@pytest.fixture
def page(app_server: str, browser: Any) -> Iterator[Page]:
    page = Page(browser, app_server)
    yield page
    page.close()
    assert page.errors == []


def ready(page: Page, not_id: str = "") -> dict[str, Any]:
    """The session that is opened next, when it can be clicked in."""
    until(lambda: page.id not in ("", not_id), "a session to open")
    until(lambda: page.session()["status"] == "ready", "the session to be ready")
    page.settled()
    return page.session()


def test_a_dropped_photo_opens(page: Page) -> None:
    page.tab.evaluate(
        """(text) => {
          const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
          const transfer = new DataTransfer();
          transfer.items.add(new File([bytes], "mine.jpg", { type: "image/jpeg" }));
          document.dispatchEvent(new DragEvent("dragenter", { dataTransfer: transfer, bubbles: true }));
          window.shown = !document.getElementById("veil").hidden;
          document.dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
        }""",
        base64.b64encode(PHOTO.read_bytes()).decode(),
    )
    assert page.tab.evaluate("window.shown") is True
    info = ready(page)
    assert (info["name"], info["width"], info["height"]) == ("mine.jpg", 600, 400)
    assert page.tab.locator("#veil").is_hidden() and page.text("#name") == "mine.jpg"


def test_several_pictures_as_a_video_or_one_by_one(page: Page, tmp_path: Path) -> None:
    for number, frame in enumerate(page_media.clip_frames(3)):
        Image.fromarray(frame).save(tmp_path / f"frame{number}.png")
    pictures = sorted(tmp_path.glob("*.png"))

    page.tab.set_input_files("#pick-file", pictures)
    page.tab.get_by_role("button", name="Frames of a video").click()
    info = ready(page)
    assert (info["kind"], info["frames"]) == ("video", 3)

    page.tab.set_input_files("#pick-file", pictures)
    page.tab.get_by_role("button", name="Separate pictures").click()
    first = ready(page, info["id"])
    assert (first["kind"], first["name"]) == ("image", "frame0.png") and page.text("#album-text") == "1 of 3"
    page.click(60, 165)
    page.tab.get_by_role("button", name="Next picture").click()
    second = ready(page, first["id"])
    assert second["name"] == "frame1.png" and page.objects() == []
    page.tab.get_by_role("button", name="Previous picture").click()
    until(lambda: page.id == first["id"], "the first picture to come back")
    page.settled()
    assert len(page.objects()) == 1 and page.ink(66, 165)[3] > 0


def test_examples_and_closing(page: Page) -> None:
    still, moving = page.ask("/api/state")["examples"]
    page.tab.get_by_role("button", name=still["title"]).click()
    assert ready(page)["kind"] == "image"
    page.click(150, 200)  # the cup
    assert page.ink(160, 200)[3] > 0
    page.tab.get_by_role("button", name="Open", exact=True).click()
    page.tab.get_by_role("menuitem", name="Close").click()
    page.tab.get_by_text("Point at anything").wait_for()
    page.tab.get_by_role("button", name=moving["title"]).click()
    info = ready(page)
    assert (info["kind"], info["frames"]) == ("video", 36)


def test_a_session_that_ends_is_told(page: Page) -> None:
    page.open(PHOTO)
    page.tab.evaluate("fetch(`/api/sessions/${app.session.id}`, { method: 'DELETE' })")
    page.tab.get_by_text("was closed in another tab").wait_for()
    page.tab.get_by_text("Point at anything").wait_for()
    page.tab.goto("about:blank")
    page.tab.goto(page.url + "#gone")
    page.tab.get_by_text("no longer there").wait_for()
    assert all("404" in line for line in page.errors)  # the browser itself reports what was not found
    page.errors.clear()


@pytest.mark.parametrize("status", ["loading", "failed"])
def test_a_model_that_is_not_there(app_server: str, browser: Any, status: str) -> None:
    tab = browser.new_page()
    state = {
        "version": "0",
        "model": {"name": "large", "status": status, "message": "no such file", "image_size": None, "dtype": None},
        "sessions": [],
        "open": None,
        "limits": {},
    }
    tab.route("**/api/state", lambda route: route.fulfill(body=json.dumps(state), content_type="application/json"))
    tab.goto(app_server)
    if status == "loading":
        tab.locator("#pill-text").filter(has_text="Loading the model").wait_for()
    else:
        tab.get_by_role("alert").filter(has_text="no such file").wait_for()
        assert tab.locator("#subtitle").inner_text() == "No model"
    tab.close()


def test_a_server_for_others_asks_for_its_token(browser: Any) -> None:
    with page_browser.serving(arguments=("--host", "0.0.0.0")) as url:
        address, token = url.split("#token=")
        address = address.replace("0.0.0.0", "127.0.0.1")
        tab = browser.new_context().new_page()
        tab.goto(address)
        tab.get_by_label("Token of this server").fill(token)
        tab.get_by_role("button", name="Continue").click()
        tab.locator("#subtitle").filter(has_text="Ready").wait_for()
        tab.context.close()
        tab = browser.new_context().new_page()
        tab.goto(f"{address}#token={token}")
        tab.locator("#subtitle").filter(has_text="Ready").wait_for()
        assert "token" not in tab.url
        tab.context.close()
        tab = browser.new_context().new_page()
        tab.goto(f"{address}#token=%zz")
        tab.get_by_text("a token that is damaged").wait_for()
        tab.get_by_label("Token of this server").fill(token)
        tab.get_by_role("button", name="Continue").click()
        tab.locator("#subtitle").filter(has_text="Ready").wait_for()
        assert tab.get_by_role("alert").count() == 0
        tab.context.close()
