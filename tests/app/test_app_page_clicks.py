"""Clicks that used to go wrong on the page of ``python -m mlx_sam2.app``, and what it says of exports."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import page_browser
from page_browser import Page, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(page_browser.why_not() is not None, reason=str(page_browser.why_not())),
]
PHOTO = Path(__file__).parents[2] / "examples" / "coffee.jpg"  # 600 x 400
CUP, SPOON = (290, 150), (380, 310)


@pytest.fixture
def page(app_server: str, browser: Any) -> Iterator[Page]:
    page = Page(browser, app_server)
    page.open(PHOTO)
    yield page
    page.close()
    assert page.errors == []


def test_the_first_click_does_not_exclude(page: Page) -> None:
    page.press("e")
    page.click(*CUP)
    page.tab.get_by_text("Include something first").wait_for()
    assert page.objects() == [] and page.tab.locator("#undo").is_disabled()
    page.press("i")
    page.click(*CUP)
    page.press("e")
    page.click(*SPOON)
    assert [label for *_, label in page.prompts()["points"]] == [1, 0]


def test_a_click_on_a_hidden_object_shows_it(page: Page) -> None:
    page.click(*CUP)
    page.press("v")
    assert page.objects()[0]["visible"] is False
    page.click(CUP[0] + 30, CUP[1])
    assert page.objects()[0]["visible"] is True and len(page.prompts()["points"]) == 2
    assert page.ink(CUP[0] + 15, CUP[1])[3] > 0
    page.press("Control+z")  # one step
    assert page.objects()[0]["visible"] is False and len(page.prompts()["points"]) == 1


def test_clicks_while_a_picture_is_encoded_wait(page: Page) -> None:
    page.tab.evaluate("app.session.setStatus('encoding')")
    for x, y in (CUP, SPOON):
        page.tab.mouse.click(*page.place(x, y))
    page.wait("Looking at the picture", "#pill-text")
    until(lambda: len(page.prompts()["points"]) == 2 if page.objects() else False, "both clicks to arrive")
    page.tab.evaluate("app.session.setStatus('ready')")
    page.settled()
    assert page.ink(CUP[0] + 20, CUP[1])[3] > 0


def test_escape_ends_a_box_that_is_half_made_and_nothing_else(page: Page) -> None:
    page.tab.locator("#stage").focus()
    page.press("b")
    page.press("ArrowRight")
    page.press("Enter")
    page.press("Shift+ArrowRight")
    page.press("Escape")
    page.press("Shift+ArrowDown")
    page.press("Enter")  # the first corner of another
    assert page.objects() == []
    page.press("Escape")

    page.tab.evaluate("app.session.jobs.current = { id: 'a', kind: 'export', done: 0, total: 0 }")
    page.tab.mouse.move(*page.place(100, 100))
    page.tab.mouse.down()
    page.tab.mouse.move(*page.place(300, 300))
    assert page.tab.evaluate("app.painter.draft !== null")
    page.press("Escape")
    page.tab.mouse.move(*page.place(320, 320))
    page.tab.mouse.up()
    page.settled()
    assert page.objects() == [] and page.tab.evaluate("app.painter.draft === null")
    assert page.tab.evaluate("!app.session.jobs.current.stopping"), "Esc has stopped the job beside the box"
    page.tab.evaluate("app.session.jobs.current = null")


def test_hidden_objects_are_in_no_export_but_the_project(page: Page) -> None:
    page.click(*CUP)
    page.press("n")
    page.click(*SPOON)
    page.tab.get_by_label("Hide Object 1").click()
    page.settled()
    page.tab.click("#export")
    assert "Without the hidden object" in page.text("#menu")
    page.tab.keyboard.press("Escape")
    coco = json.loads(page.download("COCO JSON").read_text())
    assert [item["track_id"] for item in coco["annotations"]] == [2]
    for label in ("Mask PNGs", "Cut-outs"):
        path = page.download(label)
        assert path.suffix == ".png" and Image.open(path).size[0] > 1, label
    with zipfile.ZipFile(page.download("Project")) as archive:
        assert len(archive.read("masks.jsonl").splitlines()) == 2
    page.tab.get_by_label("Hide Object 2").click()
    page.settled()
    page.tab.click("#export")
    page.tab.get_by_role("menuitem", name="COCO JSON").click()
    page.tab.get_by_text("Every object is hidden").wait_for()


def test_a_notice_claims_no_download(page: Page) -> None:
    page.click(*CUP)
    name = page.download("COCO JSON").name
    notice = page.tab.locator(".toast").filter(has_text=name)
    notice.wait_for()
    assert "in your downloads" not in notice.inner_text() and "your browser" in notice.inner_text()
    with page.tab.expect_download() as again:
        notice.get_by_role("button", name="Save again").click()
    assert again.value.suggested_filename == name
