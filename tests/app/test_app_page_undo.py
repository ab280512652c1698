"""Undo on the page of ``python -m mlx_sam2.app`` brings back masks, those of tracking too, and survives a reload."""

from __future__ import annotations

from collections.abc import Iterator
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
FRAMES = 12


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return page_media.write_clip(tmp_path_factory.mktemp("clip") / "ball.mp4", FRAMES)


@pytest.fixture
def page(app_server: str, browser: Any, clip: Path) -> Iterator[Page]:
    """The clip with its ball clicked on the first frame, and tracked."""
    page = Page(browser, app_server)
    page.open(clip)
    page.click(*ball(0))
    page.track()
    assert page.tracked(1) == set(range(FRAMES))
    yield page
    page.close()
    assert page.errors == []


def ball(frame: int) -> tuple[float, float]:
    return 480 * (0.12 + 0.76 * frame / (FRAMES - 1)), 165


def everything(page: Page) -> list[Any]:
    """Objects and masks of all frames."""
    return [page.objects(), *(page.masks(frame) for frame in range(FRAMES))]


def test_a_deleted_object_comes_back_with_its_tracking(page: Page) -> None:
    before = everything(page)
    page.press("Delete")
    assert page.objects() == [] and page.tracked(1) == set()
    page.press("Control+z")
    assert everything(page) == before
    page.go_to(7)
    assert page.ink(*ball(7))[3] > 0, "the mask is back, but not drawn"
    assert page.tab.evaluate("app.session.tracks.framesOf(1).length") == FRAMES
    page.press("Control+Shift+z")
    assert page.objects() == []


def test_a_correction_that_is_undone_leaves_the_tracked_mask(page: Page) -> None:
    page.go_to(6)
    before = everything(page)
    page.exclude(ball(6)[0] - 8, ball(6)[1])
    corrected = everything(page)
    assert corrected[0] != before[0] and corrected[7] != before[7]
    page.press("Control+z")
    assert everything(page) == before
    assert page.ink(*ball(6))[3] > 0
    page.press("Control+Shift+z")
    assert everything(page) == corrected


def test_tracking_can_be_undone_and_done_again(page: Page) -> None:
    before = everything(page)
    assert page.tab.locator("#undo").get_attribute("title") == "Undo “Track”"
    page.press("Control+z")
    assert page.tracked(1) == {0} and len(page.objects()) == 1
    page.press("Control+z")
    assert page.objects() == []
    page.press("Control+Shift+z")
    page.press("Control+Shift+z")
    assert everything(page) == before


def test_undo_of_masks_survives_a_reload(page: Page) -> None:
    before = everything(page)
    page.press("Delete")
    page.tab.reload()
    until(lambda: page.tab.evaluate("app.session !== null"), "the session to come back")
    page.settled()
    assert page.objects() == []
    page.press("Control+z")
    assert everything(page) == before
    page.press("Control+z")  # and on from there
    assert page.tracked(1) == {0}


def test_nothing_is_undone_under_a_job(page: Page) -> None:
    before = everything(page)
    page.tab.evaluate("app.session.jobs.current = { id: 'a', kind: 'propagate', done: 0, total: 0 }")
    page.press("Control+z")
    page.tab.get_by_text("Stop what is running first").wait_for()
    page.tab.evaluate("app.session.jobs.current = null")
    assert everything(page) == before


def test_undo_of_many_regions_survives_a_reload(app_server: str, browser: Any) -> None:
    page = Page(browser, app_server)
    page.open(Path(__file__).parents[2] / "examples" / "coffee.jpg")
    page.click(290, 150)
    page.press("a")
    page.tab.locator("#density").fill("16")
    page.tab.locator("#least-score").fill("0.3")
    page.tab.locator("#least-stability").fill("0.5")
    page.tab.click("#everything-find")
    page.wait("found", "#everything-count")
    page.tab.click("#everything-all")
    page.settled()
    many = len(page.objects())
    assert many > 9
    for number in (1, 2, 3):
        page.tab.get_by_label(f"Hide Object {number}", exact=True).click()
        page.settled()
    page.tab.reload()
    until(lambda: page.tab.evaluate("app.session !== null"), "the session to come back")
    page.settled()
    for hidden in (2, 1, 0):
        page.tab.click("#undo")
        page.settled()
        assert sum(not item["visible"] for item in page.objects()) == hidden
    page.tab.click("#undo")  # keep all
    page.settled()
    assert len(page.objects()) == 1
    page.tab.click("#redo")
    page.settled()
    assert len(page.objects()) == many and len(page.masks()) == many
    page.close()
    assert page.errors == []
