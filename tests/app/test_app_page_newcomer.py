"""Someone who opens the page without instructions: two objects through a clip, one correction, and an alpha film."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import page_browser
import page_media
from page_browser import Page

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(page_browser.why_not() is not None, reason=str(page_browser.why_not())),
]
FRAMES = 6
BALL, BOX, GROUND = (60, 165), (365, 80), (240, 20)  # on the first frame
SIZE = (480, 270)


def button(page: Page, name: str) -> Any:
    """What a person sees and reads, never an id."""
    return page.tab.get_by_role("button", name=name, exact=True)


def primary(page: Page) -> list[str]:
    """The words on the button that stands out."""
    return page.tab.locator("button.primary:visible").all_inner_texts()


def test_two_objects_through_a_clip_to_an_alpha_film(app_server: str, browser: Any, tmp_path: Path) -> None:
    import av

    page = Page(browser, app_server)
    clip = page_media.write_clip(tmp_path / "ball.mp4", FRAMES)
    with page.tab.expect_file_chooser() as chooser:
        button(page, "Open a file").click()
    chooser.value.set_files(str(clip))
    page.tab.locator("#clock").filter(has_text=f"1 / {FRAMES}").wait_for()
    page.settled()

    page.click(*BALL)
    button(page, "New object").click()
    page.click(*BOX)
    assert [obj["name"] for obj in page.objects()] == ["Object 1", "Object 2"]
    assert primary(page) == ["Track forward"]
    button(page, "Track forward").click()
    page.job_over()
    assert page.tracked(1) == page.tracked(2) == set(range(FRAMES)) and primary(page) == ["Export"]

    # back on frame 4 a part of the ground is taken into the box, and taken out again by a second click
    assert page.text("#clock").startswith(f"{FRAMES} / "), "tracking does not show its frames"
    for _ in range(FRAMES - 4):
        button(page, "Previous frame").click()
        page.settled()
    before = page.masks(3)
    page.click(*GROUND)
    assert page.objects()[1]["frames"]["3"]["points"] == [[pytest.approx(x, abs=1) for x in GROUND] + [1]]
    page.tab.get_by_role("radio", name="Exclude").click()
    page.click(*GROUND)
    corrected = page.masks(3)
    assert corrected["2"]["counts"] != before["2"]["counts"] and corrected["1"] == before["1"]
    button(page, "Track forward").click()
    page.job_over()

    with page.tab.expect_download() as waiting:
        button(page, "Export").click()
        page.tab.get_by_role("menuitem", name="Film").click()
        page.tab.locator("#film-dialog button[type=submit]").click()  # for Final Cut Pro, as it stands
    assert waiting.value.suggested_filename == "ball_cutout.mov"
    with av.open(str(waiting.value.path())) as container:
        codec = container.streams.video[0].codec_context
        alphas = [frame.to_ndarray(format="rgba")[..., 3] for frame in container.decode(video=0)]
    assert (codec.name, codec.width, codec.height) == ("prores", *SIZE) and "a" in codec.format.name
    assert len(alphas) == FRAMES
    assert alphas[0][BALL[1], BALL[0]] > 250 and alphas[0][BOX[1], BOX[0]] > 250 and alphas[0][260, 5] < 5
    assert all(alpha.any() for alpha in alphas)
    page.close()
    assert page.errors == []
