"""Answers that never reach the page of ``python -m mlx_sam2.app``: what the server has done is not done twice."""

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
PHOTO = Path(__file__).parents[2] / "examples" / "coffee.jpg"  # 600 x 400
CUP, SPOON = (290, 150), (380, 310)


@pytest.fixture
def page(app_server: str, browser: Any) -> Iterator[Page]:
    page = Page(browser, app_server)
    page.open(PHOTO)
    yield page
    page.close()


def lose(page: Page, path: str, method: str) -> list[str]:
    """Lose the answer of the next such request, once the server has done what it says. The requests that came."""
    came: list[str] = []

    def handle(route: Any) -> None:
        if route.request.method != method or came:
            route.continue_()
            return
        came.append(route.request.url)
        route.fetch()
        route.abort()

    page.tab.route(path, handle)
    return came


def saved(page: Page) -> None:
    until(lambda: page.tab.evaluate("app.idle && app.session.isSaved"), "everything to be saved")


def agree(page: Page) -> None:
    saved(page)
    assert page.tab.evaluate("app.session.doc.objects") == page.objects()


@pytest.mark.parametrize("more", [0, 2])
def test_a_click_is_made_once(page: Page, more: int) -> None:
    page.click(*CUP)
    came = lose(page, "**/frames/0?*", "PUT")
    for count in range(1 + more):  # some while nobody knows yet what has become of the first
        page.tab.evaluate("(x) => app.tools.point(x, 150, true)", 300 + count)
    until(lambda: page.tab.evaluate("!app.session.connected"), "the page to notice")
    saved(page)
    assert len(came) == 1
    assert [point[0] for point in page.prompts()["points"]] == [CUP[0], *range(300, 301 + more)]
    agree(page)
    for _ in range(1 + more):
        page.press("Control+z")
    assert page.prompts()["points"] == [[*CUP, 1]]


def test_a_first_click_keeps_its_colour_and_its_number(page: Page) -> None:
    page.click(*CUP)
    lose(page, "**/objects/2/frames/0?*", "PUT")
    page.tab.evaluate("app.session.select(null); app.tools.point(380, 310, true); app.tools.point(390, 310, true)")
    until(lambda: page.tab.evaluate("!app.session.connected"), "the page to notice")
    agree(page)
    first, second = page.objects()
    assert second["name"] == "Object 2" and second["color"] != first["color"]
    assert len(second["frames"]["0"]["points"]) == 2


def test_a_session_that_is_opened_again_counts_on(page: Page, app_server: str, browser: Any) -> None:
    """Numbers of edits belong to the page: the server takes none for one that it has made."""
    refused: list[str] = []
    page.tab.on("response", lambda answer: refused.append(answer.url) if answer.status == 409 else None)
    old = page.id
    for x in (250, 270, 290):
        page.click(x, 150)
    page.open(PHOTO)
    page.click(*SPOON)
    page.join(old)
    for x in (310, 330, 350, 370):
        page.click(x, 150)
    assert [point[0] for point in page.prompts()["points"]] == list(range(250, 371, 20))
    assert not [url for url in refused if "/objects/" in url]
    agree(page)


def test_an_undo_a_name_and_a_removal_are_made_once(page: Page) -> None:
    page.click(*CUP)
    page.click(*SPOON)
    for path, method, act, left in (
        ("**/frames/0?*", "PUT", "app.undo()", [1]),
        ("**/objects/1?*", "PUT", "app.toggleVisible()", [1]),
        ("**/objects/1?*", "DELETE", "app.objects.remove()", []),
    ):
        came = lose(page, path, method)
        page.tab.evaluate(act)
        until(lambda: page.tab.evaluate("!app.session.connected"), "the page to notice")
        agree(page)
        assert came and [len(item["frames"]["0"]["points"]) for item in page.objects()] == left
        page.tab.unroute(path)
    page.press("Control+z")
    agree(page)
    assert not page.objects()[0]["visible"]


def test_an_edit_of_another_tab_in_between_is_kept(page: Page, app_server: str, browser: Any) -> None:
    page.click(*CUP)
    other = Page(browser, app_server)
    other.join(page.id)
    lose(page, "**/frames/0?*", "PUT")
    page.tab.evaluate("app.tools.point(300, 150, true)")
    until(lambda: len(other.prompts()["points"]) == 2, "the click that was made")
    until(lambda: other.tab.evaluate("app.idle && app.session.prompts.points.length === 2"), "the other tab")
    other.tab.evaluate("app.tools.point(310, 150, true)")
    until(lambda: len(other.prompts()["points"]) == 3, "the other tab's click")
    agree(page)
    assert [point[0] for point in page.prompts()["points"]] == [CUP[0], 300, 310]
    other.close()


def test_tracking_whose_answer_was_lost_is_done(app_server: str, browser: Any, tmp_path: Path) -> None:
    page = Page(browser, app_server)
    page.open(page_media.write_clip(tmp_path / "ball.mp4", 6))
    page.click(60, 165)
    came = lose(page, "**/propagate?*", "POST")
    page.tab.click("#track-on")
    until(lambda: came, "tracking to begin")
    until(lambda: page.tracked(1) == set(range(6)) and not page.session()["jobs"], "tracking to end")
    until(lambda: page.tab.evaluate("app.session.job === null && app.session.connected"), "the page to know")
    agree(page)
    page.close()
