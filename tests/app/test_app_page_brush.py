"""Masks that are made and mended by hand on the page of ``python -m mlx_sam2.app``, and how they are looked at."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import page_browser
import page_media
from mlx_sam2.masks.rle import mask_to_rle, rle_to_mask
from page_browser import Page, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(page_browser.why_not() is not None, reason=str(page_browser.why_not())),
]
PHOTO = Path(__file__).parents[2] / "examples" / "coffee.jpg"  # 600 x 400
CUP, SPOON = (290, 150), (380, 310)
ENCODE = """async (masks) => {
  const { cellsOf, maskOf } = await import("/static/raster.js");
  return masks.map((mask) => maskOf(cellsOf(mask, mask.size[1], mask.size[0]), mask.size[1], mask.size[0]));
}"""


@pytest.fixture
def page(app_server: str, browser: Any) -> Iterator[Page]:
    page = Page(browser, app_server)
    page.open(PHOTO)
    yield page
    page.close()
    assert page.errors == []


def mask(page: Page, item: int = 1) -> np.ndarray:
    return rle_to_mask(page.masks()[str(item)])


def stroke(page: Page, *places: tuple[float, float]) -> None:
    page.tab.mouse.move(*page.place(*places[0]))
    page.tab.mouse.down()
    for place in places[1:]:
        page.tab.mouse.move(*page.place(*place), steps=4)
    page.tab.mouse.up()
    page.settled()


def combine(page: Page, label: str) -> None:
    page.tab.click("#combine")
    page.tab.get_by_role("menuitem", name=label, exact=True).click()
    page.settled()


def test_the_page_encodes_masks_as_python_does(page: Page) -> None:
    rng = np.random.default_rng(0)
    masks = [rng.random((13, 17)) < density for density in (0.02, 0.5, 0.98)]
    masks += [np.zeros((5, 4), bool), np.ones((5, 4), bool), np.kron(rng.random((6, 5)) < 0.5, np.ones((90, 80))) > 0]
    found = page.tab.evaluate(ENCODE, [mask_to_rle(each) for each in masks])
    for each, made in zip(masks, found, strict=True):
        assert made["counts"] == mask_to_rle(each)["counts"] and made["area"] == each.sum()
        if not each.any():
            continue
        ys, xs = np.nonzero(each)
        x, y, width, height = made["bbox"]
        assert (x, x + width) == (xs.min(), xs.max() + 1) or width == each.shape[1]
        assert y <= ys.min() and y + height >= ys.max() + 1


def test_a_brush_adds_and_an_eraser_takes_away(page: Page) -> None:
    page.click(*CUP)
    before = mask(page)
    page.press("p")
    page.tab.locator("#brush-size").fill("40")
    stroke(page, (100, 50), (200, 50))
    painted = mask(page)
    assert (painted | before == painted).all() and painted[50, 100:200].all() and not painted[80, 150]
    width = 40 / page.tab.evaluate("app.view.scale")
    assert (painted & ~before).sum() == pytest.approx(100 * width + np.pi * width**2 / 4, rel=0.05)
    assert page.prompts()["mask"]["counts"] == page.masks()["1"]["counts"] and page.ink(150, 50)[3] > 0
    page.tab.keyboard.down("Alt")
    stroke(page, (150, 20), (150, 80))
    page.tab.keyboard.up("Alt")
    assert not mask(page)[50, 150] and mask(page)[50, 105]
    page.press("Control+z")
    assert (mask(page) == painted).all()
    page.press("Control+z")
    assert (mask(page) == before).all() and page.prompts()["points"] == [[*CUP, 1]]

    page.press("n")  # an object of its own, by hand alone; erasing nothing is said
    page.tab.locator("#brush-erase").check()
    stroke(page, (50, 350), (60, 350))
    page.tab.get_by_text("nothing to erase").wait_for()
    page.tab.locator("#brush-erase").uncheck()
    stroke(page, (50, 350), (60, 350))
    assert len(page.objects()) == 2 and mask(page, 2)[350, 55]


def test_two_objects_are_combined(page: Page) -> None:
    page.press("p")
    page.tab.locator("#brush-size").fill("60")
    stroke(page, (100, 100), (200, 100))
    page.press("n")
    stroke(page, (150, 60), (150, 140))
    second, first = mask(page, 2), mask(page, 1)
    combine(page, "Subtract Object 1")
    assert (mask(page, 2) == (second & ~first)).all()
    page.press("Control+z")
    combine(page, "Intersect with Object 1")
    assert (mask(page, 2) == (second & first)).all()
    page.press("Control+z")
    combine(page, "Invert")
    assert (mask(page, 2) == ~second).all()
    page.press("Control+z")
    combine(page, "Merge with Object 1")
    assert [item["id"] for item in page.objects()] == [2] and (mask(page, 2) == (first | second)).all()
    page.press("Control+z")
    assert len(page.objects()) == 2 and (mask(page, 1) == first).all()
    page.tab.evaluate("app.session.select(2)")  # undo has selected what came back
    combine(page, "Add Object 1")
    assert (mask(page, 2) == (first | second)).all() and len(page.objects()) == 2


def test_a_painted_mask_is_tracked(app_server: str, browser: Any, tmp_path: Path) -> None:
    page = Page(browser, app_server)
    page.open(page_media.write_clip(tmp_path / "ball.mp4", 6))
    page.press("p")
    page.tab.locator("#brush-size").fill("60")
    stroke(page, (50, 165), (66, 165))
    page.track()
    assert page.tracked(1) == set(range(6))
    page.close()
    assert page.errors == []


def test_points_and_boxes_are_moved_and_removed(page: Page) -> None:
    page.click(*CUP)
    page.tab.evaluate("app.grips.placed = Infinity")  # as at once, whatever the time is
    page.click(*CUP)  # the second click of a double one removes nothing
    assert page.prompts()["points"] == [[*CUP, 1]]
    page.click(200, 80)
    stroke(page, (200, 80), (220, 100))
    (_, [x, y, label]) = page.prompts()["points"]
    assert (x, y) == pytest.approx((220, 100), abs=1) and label == 1
    page.tab.evaluate("app.grips.placed = -Infinity")  # as after a moment
    page.click(220, 100)
    assert page.prompts()["points"] == [[*CUP, 1]]
    page.press("Control+z")
    assert len(page.prompts()["points"]) == 2
    page.press("n")
    page.press("b")
    page.drag(330, 230, 420, 390)
    stroke(page, (420, 390), (400, 360))
    assert page.prompts()["box"] == pytest.approx([330, 230, 400, 360], abs=1)
    assert page.prompts()["points"] == []


def test_an_object_is_selected_where_it_is_seen(page: Page) -> None:
    page.click(*CUP)
    page.press("n")
    page.click(*SPOON)
    assert page.tab.evaluate("app.session.active") == 2
    page.tab.keyboard.down("Shift")
    page.click(CUP[0] + 20, CUP[1])
    page.tab.keyboard.up("Shift")
    assert page.tab.evaluate("app.session.active") == 1
    assert [len(item["frames"]["0"]["points"]) for item in page.objects()] == [1, 1]


def test_masks_are_looked_at_in_five_ways(page: Page) -> None:
    page.click(*CUP)
    inside, outside = (CUP[0] + 20, CUP[1]), (50, 380)
    page.tab.mouse.move(5, 5)

    def inks(key: str = "m") -> tuple[list[int], list[int]]:
        page.press(key)
        page.painted()
        return page.ink(*inside), page.ink(*outside)

    page.tab.locator("#stage").focus()
    tint, none = page.ink(*inside), page.ink(*outside)
    assert tint[3] > 0 and none[3] == 0
    assert [ink[3] for ink in inks()] == [0, 0], "outlined"
    seen, veil = inks()
    assert seen[3] == 255 and veil[:3] == [0, 0, 0] and 100 < veil[3] < 255, "dimmed"
    cut, board = inks()
    assert cut == seen and board[3] == 255 and board[0] in (0xFF, 0xCC), "cut out"
    assert [ink[:3] for ink in inks()] == [[255, 255, 255], [0, 0, 0]], "black and white"
    page.tab.reload()
    until(lambda: page.tab.evaluate("app.session !== null"), "the session")
    page.settled()
    assert page.tab.locator("#look").input_value() == "mask", "the choice is forgotten"
    page.press("m")
    assert page.tab.locator("#look").input_value() == "tint"
