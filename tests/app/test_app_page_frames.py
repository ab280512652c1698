"""Frames on the page of ``python -m mlx_sam2.app``: a click is about what is seen, a region stays on its frame."""

from __future__ import annotations

import json
import re
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
FRAMES = 24
INSIDE = """async () => {
  const { contains } = await import("/static/rle.js");
  const [mask] = app.session.regionsAt(3), [left, top, width, height] = mask.bbox;
  for (let y = top + 2; y < top + height; y += 4) for (let x = left + 2; x < left + width; x += 4) {
    if ([-2, 0, 2].every((by) => contains(mask, x + by, y + by))) return [x + 0.5, y + 0.5];
  }
}"""


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return page_media.write_clip(tmp_path_factory.mktemp("clip") / "ball.mp4", FRAMES)


@pytest.fixture
def page(app_server: str, browser: Any, clip: Path) -> Iterator[Page]:
    page = Page(browser, app_server)
    page.open(clip)
    yield page
    page.close()
    assert page.errors == []


def ball(frame: int) -> tuple[float, float]:
    return 480 * (0.12 + 0.76 * frame / (FRAMES - 1)), 165


def large(frames: str) -> re.Pattern[str]:
    """Addresses of frames as the stage shows them; those of the strip are smaller."""
    return re.compile(rf"/frames/{frames}\?side=(?!128)")


class Held:
    """Requests for pictures of frames that wait until they are let go."""

    def __init__(self, page: Page, frames: str) -> None:
        self.tab, self.pattern = page.tab, large(frames)
        self.routes: list[Any] = []
        page.tab.route(self.pattern, lambda route: self.routes.append(route))

    def let_go(self) -> None:
        for route in self.routes:
            route.continue_()
        self.routes.clear()
        self.tab.unroute(self.pattern)


def late(page: Page) -> bool:
    return page.tab.locator("#stage").get_attribute("data-late") == "true"


def test_a_click_goes_to_the_frame_on_the_screen(page: Page) -> None:
    page.go_to(12)
    held = Held(page, "20")
    page.tab.locator("#playhead").fill("20")
    until(lambda: late(page), "the picture to be marked as late")
    opacity = "Number(getComputedStyle(document.getElementById('base')).opacity)"
    until(lambda: page.tab.evaluate(opacity) < 0.6, "the picture to be dimmed")
    page.click(*ball(12))
    assert [list(item["frames"]) for item in page.objects()] == [["12"]]
    assert page.text("#clock").startswith("13 / 24"), "who clicks stays where the click is"
    assert not late(page) and page.ink(ball(12)[0] + 6, 165)[3] > 0
    held.let_go()
    page.go_to(20)
    assert not late(page)


def test_the_frame_that_is_wanted_arrives(page: Page) -> None:
    held = Held(page, r"\d+")
    for frame in ("18", "19", "20"):  # two are fetched at once
        page.tab.locator("#playhead").fill(frame)
    page.tab.evaluate("for (let frame = 1; frame < 18; frame++) app.session.look(frame)")  # as playing and tracking do
    until(lambda: held.routes, "a request")
    held.let_go()
    page.settled()
    assert page.tab.evaluate("app.painter.frame") == 20


def test_a_picture_that_did_not_come_is_asked_for_again(page: Page) -> None:
    refusals = 2

    def refuse(route: Any) -> None:
        nonlocal refusals
        refusals -= 1
        if refusals < 0:
            route.continue_()
        else:
            body = json.dumps({"error": {"code": "busy", "message": "too much to do"}})
            route.fulfill(status=503, body=body, content_type="application/json")

    page.tab.route(large("9"), refuse)
    page.go_to(9)
    assert refusals == -1 and page.tab.evaluate("app.painter.frame") == 9
    assert all("503" in line for line in page.errors)
    page.errors.clear()


def test_a_full_cache_keeps_what_is_shown(page: Page) -> None:
    page.go_to(5)
    page.tab.evaluate("app.session.pictures.limit = 1")
    page.tab.evaluate("for (const frame of [6, 7, 8, 9]) app.session.pictures.want(frame)")
    kept = "[...app.session.pictures.kept.keys()]"
    until(
        lambda: page.tab.evaluate("!app.session.pictures.busy.size && !app.session.pictures.wishes.length"), "pictures"
    )
    assert 5 in page.tab.evaluate(kept) and len(page.tab.evaluate(kept)) <= 2
    page.press("i")
    page.go_to(6)
    page.go_to(5)
    assert page.ink(*ball(5), canvas="base")[3] > 0


def test_regions_stay_on_their_frame_and_keep_their_scores(page: Page) -> None:
    page.go_to(3)
    page.tab.get_by_role("radio", name="Everything").check()
    page.tab.locator("#density").fill("8")
    page.tab.locator("#least-score").fill("0.3")
    page.tab.locator("#least-stability").fill("0.5")
    page.tab.click("#everything-find")
    page.wait("found", "#everything-count")
    page.settled()
    found = page.text("#everything-count")
    place = page.tab.evaluate(INSIDE)
    assert page.ink(*place)[3] > 0

    page.go_to(10)
    assert page.text("#everything-count") == "" and page.ink(*place)[3] == 0, "regions of frame 3 on frame 10"
    page.click(*place)
    assert page.objects() == []
    page.go_to(3)
    assert page.text("#everything-count") == found
    page.press("i")
    assert page.ink(*place)[3] == 0, "regions lie in the way of other tools"
    page.press("a")
    scores = page.tab.evaluate("app.session.regionsAt(3).map(({ score }) => score)")
    page.tab.click("#everything-all")
    page.settled()
    assert {frame for item in page.objects() for frame in item["frames"]} == {"3"}
    coco = json.loads(page.download("COCO JSON").read_text())
    assert sorted(item["score"] for item in coco["annotations"]) == pytest.approx(sorted(scores))
    assert min(scores) < 1 and len(scores) > 1
    page.press("Control+z")
    assert page.objects() == [] and page.text("#everything-count") == found

    page.click(*place)  # one is kept, and the page is loaded again: the others are still there
    [kept] = page.objects()
    page.tab.reload()
    until(lambda: page.tab.evaluate("app.session !== null"), "the session to come back")
    page.settled()
    page.press("a")
    regions = page.tab.evaluate("app.session.regionsAt(3).map(({ counts }) => counts)")
    assert len(regions) == len(scores) - 1 and kept["frames"]["3"]["mask"]["counts"] not in regions
    assert page.text("#everything-count") == f"{len(regions)} found"
