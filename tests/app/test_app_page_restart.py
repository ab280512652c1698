"""Servers that end, and come back: the page of ``python -m mlx_sam2.app`` keeps what was done, and goes on."""

from __future__ import annotations

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
FRAMES = 12
KILLS = 10


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return page_media.write_clip(tmp_path_factory.mktemp("clip") / "ball.mp4", FRAMES)


def saved(page: Page) -> None:
    """Wait until the page has reached the server again, and everything is saved."""
    until(lambda: page.tab.evaluate("app.idle && app.session.isSaved"), "everything to be saved", 60)


def test_a_restarted_server_is_met_again(browser: Any, tmp_path: Path) -> None:
    with page_browser.killable(tmp_path / "data") as server:
        page = Page(browser, server.url)
        page.open(PHOTO)
        page.click(*CUP)
        old = page.id
        server.kill()
        page.tab.mouse.click(*page.place_of(600, 400, *SPOON))  # nobody answers
        page.wait("Your work is kept", "#pill-text")
        assert page.tab.locator("#unsaved").get_attribute("data-shown") == "true"
        server.start()
        page.tab.get_by_text("Everything is as you left it").wait_for()
        saved(page)
        assert page.id == old
        assert [point[2] for point in page.prompts()["points"]] == [1, 1] and len(page.objects()) == 1
        assert page.ink(CUP[0] + 20, CUP[1])[3] > 0
        page.press("Control+z")
        page.press("Control+z")
        assert page.objects() == []
        page.press("Control+Shift+z")

        # nothing is lost by closing the tab either: the session is among the recent ones
        page.tab.goto("about:blank")
        server.kill()
        server.start()
        page.tab.goto(server.url)
        card = page.tab.locator("#recent .card")
        card.wait_for()
        assert card.count() == 1 and "coffee.jpg" in card.inner_text() and "1 object" in card.inner_text()
        until(lambda: page.tab.evaluate("document.querySelector('#recent img').naturalWidth > 32"), "the thumbnail")
        card.click()
        until(lambda: page.tab.evaluate("app.session !== null && app.idle"), "the session")
        assert page.id == old and len(page.prompts()["points"]) == 1
        page.close()


def test_kill_9_at_any_moment_loses_nothing(browser: Any, tmp_path: Path, clip: Path) -> None:
    """20 sessions, two at a time: each is clicked on until the server is killed."""
    rng = np.random.default_rng(1)
    sizes = ((600, 400), (480, 270))
    with page_browser.killable(tmp_path / "data") as server:
        pages = [Page(browser, server.url), Page(browser, server.url)]
        for _ in range(KILLS):
            for page, media in zip(pages, (PHOTO, clip), strict=True):
                page.open(media)
            clicks = rng.integers(1, 6, 2)
            for page, (width, height), count in zip(pages, sizes, clicks, strict=True):
                for _ in range(count):
                    place = page.place_of(width, height, rng.integers(5, width - 5), rng.integers(5, height - 5))
                    page.tab.mouse.click(*place)
            page.tab.wait_for_timeout(float(rng.uniform(0, 250)))
            server.kill()
            server.start()
            for page, count in zip(pages, clicks, strict=True):
                saved(page)
                [object_] = page.objects()
                assert len(object_["frames"]["0"]["points"]) == count
                assert page.tab.evaluate("app.session.doc.objects") == [object_]
        for page in pages:
            page.close()


def test_kill_9_again_and_again_loses_nothing_of_a_session(browser: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    with page_browser.killable(tmp_path / "data") as server:
        page = Page(browser, server.url)
        page.open(PHOTO)
        clicks = 0
        for _ in range(2):
            for _ in range(int(rng.integers(1, 6))):
                page.tab.mouse.click(*page.place_of(600, 400, rng.integers(5, 595), rng.integers(5, 395)))
                clicks += 1
            server.kill()
            server.start()
            saved(page)
            [object_] = page.objects()
            assert len(object_["frames"]["0"]["points"]) == clicks
        page.close()


def test_tracking_that_kill_9_has_cut_off_keeps_its_frames(browser: Any, tmp_path: Path, clip: Path) -> None:
    with page_browser.killable(tmp_path / "data") as server:
        page = Page(browser, server.url)
        page.open(clip)
        page.click(60, 165)
        page.tab.click("#track-on")
        until(lambda: page.tab.evaluate("app.session.tracks.framesOf(1).length >= 4"), "tracked frames")
        server.kill()
        done = page.tab.evaluate("app.session.tracks.framesOf(1).length")
        server.start()
        saved(page)
        assert page.tab.evaluate("app.session.job === null")
        assert len(page.tracked(1)) >= done - 1 and len(page.objects()) == 1
        page.track()
        assert page.tracked(1) == set(range(FRAMES))
        page.close()


def test_a_server_that_saved_nothing_gets_the_file_and_the_clicks_again(browser: Any, tmp_path: Path) -> None:
    with page_browser.killable(tmp_path / "data", arguments=["--no-autosave"]) as server:
        page = Page(browser, server.url)
        page.open(PHOTO)
        page.click(*CUP)
        page.click(*SPOON)
        old, before = page.id, page.objects()
        server.kill()
        server.start()
        page.tab.get_by_text("did not have this file any more").wait_for()
        page.settled()
        assert page.id != old and page.objects() == before
        assert page.ink(CUP[0] + 20, CUP[1])[3] > 0
        page.close()


def test_what_was_not_sent_yet_arrives_after_another_is_opened(app_server: str, browser: Any) -> None:
    page = Page(browser, app_server)
    page.open(PHOTO)
    old = page.id
    clicks = "for (const x of [290, 300, 310]) app.tools.point(x, 150, true)"
    page.tab.evaluate(f"{clicks}; app.showRecent()")

    def arrived() -> list[int]:
        return [len(item["frames"]["0"]["points"]) for item in page.ask(f"/api/sessions/{old}")["objects"]]

    until(lambda: arrived() == [3], "the clicks to arrive")
    page.tab.locator("#recent .card").first.click()
    until(lambda: page.tab.evaluate("app.session !== null && app.idle"), "the session")
    assert page.id == old
    page.tab.evaluate("app.tools.point(320, 150, true); app.closeSession()")
    page.tab.locator("#recent .card").first.wait_for()
    page.tab.locator("#recent .card").first.click()
    until(lambda: page.tab.evaluate("app.session !== null && app.idle"), "the session")
    assert page.id == old and len(page.prompts()["points"]) == 4
    page.close()


def test_a_disk_that_is_full_is_said_and_stops_nothing(browser: Any, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (700, 900, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    with page_browser.killable(tmp_path / "data", arguments=["--data-limit", "0.001"]) as server:
        page = Page(browser, server.url)
        page.open(tmp_path / "noise.png")
        page.click(400, 300)
        assert page.session()["saving"] == "failed"
        unsaved = page.tab.locator("#unsaved")
        assert unsaved.get_attribute("data-shown") == "true" and "disk is full" in unsaved.get_attribute("title")
        page.tab.get_by_text("Not saved:").first.wait_for()
        page.press("n")
        page.click(200, 200)
        assert len(page.objects()) == 2
        page.close()


FILL = """async () => {
  const { width, height, id } = app.session, size = [height, width];
  const counts = "111" + "0".repeat(width * height - 3); // every second pixel: a byte each
  for (let object = 100; object < 150; object++) {
    const headers = { "Content-Type": "application/json" }, body = JSON.stringify({ mask: { size, counts } });
    const { ok } = await fetch(`/api/sessions/${id}/objects/${object}/frames/0`, { method: "PUT", headers, body });
    const { saving } = await (await fetch(`/api/sessions/${id}`)).json();
    if (!ok || saving === "failed") return { ok, saving };
  }
}"""


def test_a_disk_that_becomes_full_keeps_what_was_saved(browser: Any, tmp_path: Path) -> None:
    """Autosave fails in the middle of a session: it is said, nothing stops, and with room again all of it is saved."""
    noise = np.random.default_rng(0).integers(0, 256, (700, 900, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    with page_browser.killable(tmp_path / "data", arguments=["--data-limit", "0.004"]) as server:
        page = Page(browser, server.url)
        page.open(tmp_path / "noise.png")
        large = page.id
        page.open(PHOTO)
        page.click(*CUP)
        assert page.session()["saving"] == "on"
        assert page.tab.evaluate(FILL) == {"ok": True, "saving": "failed"}
        page.tab.get_by_text("Not saved:").first.wait_for()
        page.settled()
        page.tab.evaluate(
            "(id) => fetch(`/api/sessions/${id}`, { method: 'DELETE' })", large
        )  # it may go for the others
        page.click(*SPOON)
        saved(page)
        before = page.objects()
        server.kill()
        server.start()
        saved(page)
        assert page.objects() == before and len(before) > 3
        page.close()
