"""The page of ``python -m mlx_sam2.app`` on a video, in headless Chromium, with the demo model."""

from __future__ import annotations

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
BALL, BOX = (60, 165), (365, 80)  # on the first frame, of 480 x 270


def test_a_video(app_server: str, browser: Any, tmp_path: Path) -> None:
    """One user's afternoon: each step goes on where the one before ended."""
    page = Page(browser, app_server)
    page.open(page_media.write_clip(tmp_path / "ball.mp4", FRAMES))
    track_cancel_and_correct(page)
    scrub_step_and_play(page)
    add_and_remove_an_object(page)
    export_reload_and_reopen(page, tmp_path)
    page.close()
    assert page.errors == []


def ball(frame: int) -> tuple[float, float]:
    """Where the ball is on a frame (page_media.clip_frames)."""
    return 480 * (0.12 + 0.76 * frame / (FRAMES - 1)), BALL[1]


def track_cancel_and_correct(page: Page) -> None:
    # prompts on the first frame
    page.click(*BALL)
    page.press("n")
    page.click(*BOX)
    timeline = page.session()["timeline"]
    assert timeline["prompted"] == {"1": [0], "2": [0]}

    # live frames, then cancelled: what was done stays
    page.tab.click("#track-on")
    page.stop_tracking(3)
    done = page.tracked(1)
    assert 3 <= len(done) < FRAMES and done == page.tracked(2)
    followed = page.tab.evaluate("app.session.frame")
    assert followed >= 2, "the page does not follow the tracking"
    assert page.ink(*ball(followed))[3] > 0, "the tracked ball is not drawn"

    # corrected on another frame, and tracked both ways from there
    page.go_to(12)
    page.press("[")
    page.click(*ball(12))
    assert page.session()["timeline"]["prompted"]["1"] == [0, 12]
    assert page.ink(ball(12)[0] + 8, ball(12)[1])[3] > 0
    page.tab.click("#track-both")
    page.job_over()
    assert page.tracked(1) >= set(range(FRAMES)) - {0, 12}
    count = "[...app.session.tracks.row(1)].filter(Boolean).length"
    assert page.tab.evaluate(count) >= FRAMES - 2
    page.tab.evaluate("app.session.tracks.rows.clear(), app.session.refresh()")  # as after a lost connection
    assert page.tab.evaluate(count) >= FRAMES - 2


def scrub_step_and_play(page: Page) -> None:
    page.go_to(20)
    assert page.ink(*ball(20))[3] > 0
    spoken = page.tab.locator("#playhead").get_attribute("aria-valuetext")
    assert spoken.startswith("Frame 21 of 24") and "tracked" in spoken
    page.press(",")
    page.press(".")
    page.tab.click("#step-on")
    page.settled()
    assert page.text("#clock").startswith("22 / 24")
    page.tab.click("#play")
    until(lambda: page.text("#clock").startswith("24 / 24"), "the end of the video")
    until(lambda: page.tab.locator("#play").get_attribute("aria-label") == "Play", "playing to end")
    strip = page.tab.locator("#strip").bounding_box()
    page.tab.mouse.click(strip["x"] + page.tab.evaluate("app.timeline.x(5)"), strip["y"] + 40)
    page.settled()
    assert page.text("#clock").startswith("6 / 24")


def add_and_remove_an_object(page: Page) -> None:
    page.go_to(6)
    page.press("n")
    page.drag(300, 200, 380, 260)
    assert [item["id"] for item in page.objects()] == [1, 2, 3]
    assert page.prompts(2, 6)["box"] is not None
    before = page.tracked(1)
    page.press("Delete")
    assert [item["id"] for item in page.objects()] == [1, 2] and page.tracked(1) == before
    page.press("Control+z")
    assert page.prompts(2, 6)["box"] is not None
    page.press("Control+Shift+z")
    assert len(page.objects()) == 2


def export_reload_and_reopen(page: Page, tmp_path: Path) -> None:
    import av

    film = page.download("Overlay video")
    with av.open(str(film)) as container:
        assert sum(1 for _ in container.decode(video=0)) == FRAMES
    project = page.download("Project").rename(tmp_path / "ball.sam2.zip")
    before, done, old = page.objects(), page.tracked(1), page.id
    page.go_to(7)

    page.tab.reload()
    until(lambda: page.tab.evaluate("app.session !== null"), "the session to come back")
    page.settled()
    assert page.id == old and page.objects() == before and page.tracked(1) == done
    assert page.text("#clock").startswith("8 / 24") and page.ink(*ball(7))[3] > 0

    page.open(project, "#pick-project")
    assert page.id != old and page.objects() == before and page.tracked(1) == done
    page.go_to(18)
    assert page.ink(*ball(18))[3] > 0
