"""What goes out of the page of ``python -m mlx_sam2.app`` at once, and keys that act as people expect."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import page_browser
import page_media
from page_browser import Page, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(page_browser.why_not() is not None, reason=str(page_browser.why_not())),
]
PHOTO = Path(__file__).parents[2] / "examples" / "coffee.jpg"  # 600 x 400
CUP, SPOON = (290, 150), (380, 310)
CLIPBOARD = """async () => {
  const [item] = await navigator.clipboard.read();
  return [...new Uint8Array(await (await item.getType("image/png")).arrayBuffer())];
}"""


@pytest.fixture
def page(app_server: str, browser: Any) -> Iterator[Page]:
    page = Page(browser, app_server)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.open(PHOTO)
    yield page
    page.close()
    assert page.errors == []


def test_a_cut_out_is_copied(page: Page) -> None:
    page.press("Control+c")
    page.tab.get_by_text("Click an object first").wait_for()
    page.click(*CUP)
    page.press("Control+c")
    page.tab.get_by_text("Object 1 is copied").wait_for()
    copied = np.asarray(Image.open(io.BytesIO(bytes(page.tab.evaluate(CLIPBOARD)))))
    mask = page.masks()["1"]
    assert copied.shape == (mask["bbox"][3], mask["bbox"][2], 4)
    assert (copied[..., 3] > 0).sum() == mask["area"]
    path = page.download("Cut-outs")  # of one object, a picture
    assert path.suffix == ".png"
    np.testing.assert_array_equal(np.asarray(Image.open(path)), copied)


def test_a_thumbnail_is_dragged_out(page: Page) -> None:
    page.click(*CUP)
    thumbnail = page.tab.locator("#objects .thumb")
    assert thumbnail.evaluate("(item) => item.getContext('2d').getImageData(13, 13, 1, 1).data[3]") == 255
    given = thumbnail.evaluate(
        """(item) => {
          const dataTransfer = new DataTransfer();
          item.dispatchEvent(new DragEvent("dragstart", { dataTransfer, bubbles: true }));
          return dataTransfer.getData("DownloadURL");
        }"""
    )
    kind, name, url = given.split(":", 2)
    assert (kind, name) == ("image/png", "Object 1.png")
    size = page.tab.evaluate("async (url) => (await createImageBitmap(await (await fetch(url)).blob())).width", url)
    assert size == page.masks()["1"]["bbox"][2]


def test_a_key_saves_a_project(page: Page) -> None:
    page.click(*CUP)
    with page.tab.expect_download() as waiting:
        page.press("Control+s")
    assert waiting.value.suggested_filename == "coffee.sam2.zip"


def test_a_double_click_on_a_name_renames(page: Page) -> None:
    page.click(*CUP)
    page.tab.get_by_label("Name of object 1").dblclick()
    page.tab.keyboard.type("Cup of coffee")
    page.press("Enter")
    assert page.objects()[0]["name"] == "Cup of coffee"


def test_prompts_are_jumped_to_and_clicked_in_the_strip(app_server: str, browser: Any, tmp_path: Path) -> None:
    page = Page(browser, app_server)
    page.open(page_media.write_clip(tmp_path / "ball.mp4", 24))
    page.click(60, 165)
    page.go_to(12)
    page.press("n")
    page.click(365, 80)
    page.tab.locator("#stage").focus()
    page.press("<")
    assert page.text("#clock").startswith("1 / ")
    page.press(">")
    assert page.text("#clock").startswith("13 / ")
    page.press(">")
    assert page.text("#clock").startswith("13 / "), "there is none after it"
    page.painted()
    strip, row = page.tab.locator("#strip").bounding_box(), page.tab.evaluate("app.timeline.lanes.pitch")
    page.tab.mouse.click(
        strip["x"] + page.tab.evaluate("app.timeline.x(0)") + 2, strip["y"] + 44 + row / 2
    )  # the first object's diamond
    page.settled()
    assert page.text("#clock").startswith("1 / ") and page.tab.evaluate("app.session.active") == 1
    page.close()
    assert page.errors == []


def test_space_plays_after_scrubbing(app_server: str, browser: Any, tmp_path: Path) -> None:
    page = Page(browser, app_server)
    page.open(page_media.write_clip(tmp_path / "ball.mp4", 12))
    strip = page.tab.locator("#strip").bounding_box()
    page.tab.mouse.click(strip["x"] + strip["width"] / 2, strip["y"] + 40)
    page.settled()
    began = page.tab.evaluate("app.session.frame")
    assert began > 2
    page.tab.keyboard.press("Space")
    until(lambda: page.tab.evaluate("app.session.frame") > began, "the video to play")
    page.tab.keyboard.press("Space")
    assert not page.tab.evaluate("app.transport.playing")
    page.close()
    assert page.errors == []
