"""The page of ``python -m mlx_sam2.app`` on a picture, in headless Chromium, with the demo model."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
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
    """A page with the photo open; in the end nothing may have been written to the browser's console."""
    page = Page(browser, app_server)
    page.open(PHOTO)
    yield page
    page.close()
    assert page.errors == []


def near(found: list[float], wanted: tuple[float, float]) -> bool:
    return bool(np.abs(np.subtract(found[:2], wanted)).max() < 1)  # a CSS pixel is half a pixel of the picture


def test_click_exclude_undo_redo(page: Page) -> None:
    page.click(*CUP)
    [object_] = page.objects()
    [point] = object_["frames"]["0"]["points"]
    assert near(point, CUP) and point[2] == 1
    assert page.ink(CUP[0] + 20, CUP[1])[3] > 0, "no mask is drawn beside the click"
    one = page.text("#mask-score")
    until(lambda: page.tab.locator("#live").text_content() == f"Mask: {one}", "the mask to be told to screen readers")

    page.exclude(*SPOON)
    points = page.prompts()["points"]
    assert near(points[1], SPOON) and points[1][2] == 0
    page.click(200, 150, button="right")
    assert page.prompts()["points"][2][2] == 0
    three = page.text("#mask-score")
    assert three != one

    page.press("Control+z")
    page.press("Control+z")
    assert len(page.prompts()["points"]) == 1 and page.text("#mask-score") == one
    page.tab.click("#undo")
    page.settled()
    assert page.objects() == [] and page.ink(CUP[0] + 20, CUP[1])[3] == 0
    for _ in range(3):
        page.press("Control+Shift+z")
    assert len(page.prompts()["points"]) == 3 and page.text("#mask-score") == three


def test_hover_shows_what_a_click_would_give(page: Page) -> None:
    page.tab.mouse.move(*page.place(*CUP))
    until(lambda: page.ink(CUP[0] + 10, CUP[1])[3] > 0, "the preview")
    assert page.objects() == []
    page.tab.mouse.move(5, 300)  # out of the picture
    page.settled()
    assert page.ink(CUP[0] + 10, CUP[1])[3] == 0


def test_box_and_choice_of_three_masks(page: Page) -> None:
    page.drag(180, 40, 430, 310)
    box = page.prompts()["box"]
    assert near(box[:2], (180, 40)) and near(box[2:], (430, 310)) and page.prompts()["points"] == []

    page.press("n")
    page.click(*CUP)
    radios = page.tab.get_by_role("radio", name="Mask ")
    assert radios.count() == 3
    areas = []
    for number in range(3):
        page.press(str(number + 1))
        assert radios.nth(number).is_checked()
        assert page.prompts()["choice"] == int(radios.nth(number).input_value())
        areas.append(page.masks()["2"]["area"])
        assert f"{areas[-1]:,} px" in page.text("#mask-score")
    assert areas == sorted(set(areas)), "not from the part to the whole"
    assert page.text("#candidates").split() == ["Part", "Object", "Whole"]
    page.press("Control+z")
    assert f"{areas[1]:,} px" in page.text("#mask-score")


def test_objects_are_named_coloured_hidden_and_deleted(page: Page) -> None:
    page.click(*CUP)
    page.press("n")
    page.click(*SPOON)
    name = page.tab.get_by_label("Name of object 1")
    name.fill("Cup")
    name.press("Enter")
    page.settled()
    page.tab.get_by_label("Colour of Cup").click()
    page.tab.get_by_role("button", name="Green").click()
    page.settled()
    cup, spoon = page.objects()
    assert (cup["name"], cup["color"]) == ("Cup", "#009e73") and spoon["color"] != cup["color"]

    beside = CUP[0] + 20, CUP[1]
    page.press("Control+z")
    assert page.objects()[0]["color"] == "#56b4e9"
    page.tab.get_by_label("Hide Cup").click()
    page.settled()
    assert page.objects()[0]["visible"] is False and page.ink(*beside)[3] == 0
    page.tab.get_by_label("Delete Cup").click()
    page.settled()
    assert [item["id"] for item in page.objects()] == [2]
    page.press("Control+z")
    page.press("Control+z")
    assert len(page.objects()) == 2 and page.objects()[0]["visible"] and page.ink(*beside)[3] > 0


def test_everything(page: Page) -> None:
    page.tab.get_by_role("radio", name="Everything").check()
    page.tab.locator("#density").fill("8")
    page.tab.click("#everything-find")
    page.wait("found", "#everything-count")
    found = int(page.text("#everything-count").split()[0])
    assert found > 0
    page.tab.click("#everything-all")
    page.settled()
    assert len(page.objects()) == found and all(item["frames"]["0"]["mask"] for item in page.objects())
    page.press("Control+z")
    assert page.objects() == []


def test_exports(page: Page) -> None:
    page.click(*CUP)
    page.press("n")
    page.drag(330, 230, 420, 390)
    masks = page.ask(f"/api/sessions/{page.id}/masks/0")["masks"]
    with zipfile.ZipFile(page.download("Mask PNGs")) as archive:
        areas = []
        for name in archive.namelist():
            with archive.open(name) as file:
                areas.append(int((np.asarray(Image.open(file)) > 0).sum()))
    assert sorted(areas) == sorted(mask["area"] for mask in masks.values())
    coco = json.loads(page.download("COCO JSON").read_text())
    assert sorted(item["area"] for item in coco["annotations"]) == sorted(areas)
    with Image.open(page.download("Overlay picture")) as overlay:
        assert overlay.size == (600, 400)
    with zipfile.ZipFile(page.download("Cut-outs")) as archive:
        assert len(archive.namelist()) == 2


def test_reload_and_project(page: Page, tmp_path: Path) -> None:
    page.click(*CUP)
    page.click(CUP[0] + 30, CUP[1])
    page.press("n")
    page.click(*SPOON)
    page.press("2")
    before, score = page.objects(), page.text("#mask-score")

    page.tab.reload()
    until(lambda: page.tab.evaluate("app.session !== null"), "the session to come back")
    page.settled()
    assert page.objects() == before
    page.press("]")
    page.press("]")
    page.settled()
    assert page.ink(CUP[0] + 20, CUP[1])[3] > 0, "the mask is not drawn after a reload"
    page.tab.get_by_label("Name of object 2").click()
    until(lambda: page.text("#mask-score") == score, "the score of the chosen mask")
    until(lambda: page.tab.get_by_role("radio", name="Mask ").count() == 3, "the three masks to choose from")
    page.tab.locator("#stage").focus()
    page.press("Control+z")  # undo goes on where it was
    assert page.prompts()["choice"] is None
    page.press("Control+Shift+z")

    project = page.download("Project").rename(tmp_path / "mine.sam2.zip")
    old = page.id
    page.open(project, "#pick-project")
    assert page.id != old
    assert page.objects() == before
    assert page.ink(CUP[0] + 20, CUP[1])[3] > 0


def test_keyboard_alone(page: Page) -> None:
    page.tab.locator("#stage").focus()
    for _ in range(3):
        page.press("ArrowRight")
    page.press("Shift+ArrowDown")
    page.press("Enter")
    [x, y, label] = page.prompts()["points"][0]
    scale = page.tab.evaluate("app.view.scale")
    assert near([x, y], (300 + 24 / scale, 200 + 40 / scale)) and label == 1
    page.press("Alt+Enter")
    assert page.prompts()["points"][1][2] == 0
    page.press("b")
    page.press("Enter")
    page.press("Shift+ArrowRight")
    page.press("Shift+ArrowDown")
    page.press("Enter")
    box = page.prompts()["box"]
    assert near(box[:2], (x, y)) and near(box[2:], (x + 40 / scale, y + 40 / scale))


def test_wrong_file_and_lost_connection(page: Page, tmp_path: Path) -> None:
    wrong = tmp_path / "letter.jpg"
    wrong.write_text("Dear reader")
    page.tab.set_input_files("#pick-file", str(wrong))
    page.tab.get_by_role("alert").wait_for()
    assert "letter.jpg" in page.text(".toast.error")
    page.tab.get_by_label("Dismiss").click()

    page.context.set_offline(True)
    page.tab.mouse.click(*page.place(*CUP))
    page.wait("Connection lost", "#pill-text")
    assert page.objects() == []
    page.context.set_offline(False)
    until(lambda: page.objects(), "the click to arrive after the connection came back")
    page.settled()
    assert page.ink(CUP[0] + 20, CUP[1])[3] > 0
    told = [line for line in page.errors if "ERR_INTERNET_DISCONNECTED" in line or "415" in line]
    assert told == page.errors  # the browser itself reports what it could not fetch
    page.errors.clear()
