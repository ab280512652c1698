"""Two tabs of one session on the page of ``python -m mlx_sam2.app``: they see each other, and lose nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
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
OPERATIONS = 200
FRAMES = 12
LONG = 120  # frames: tracking is still at work when it is stopped


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return page_media.write_clip(tmp_path_factory.mktemp("clip") / "ball.mp4", FRAMES)


@pytest.fixture
def tabs(app_server: str, browser: Any) -> Iterator[list[Page]]:
    """Two pages of which the first has nothing open yet. 409 is the server's answer to an edit that comes too late."""
    pages = [Page(browser, app_server), Page(browser, app_server)]
    yield pages
    for page in pages:
        page.close()
        assert [line for line in page.errors if "409" not in line] == []


def together(pages: list[Page]) -> None:
    """Wait until every page is idle and knows the last revision."""

    def done() -> bool:
        revision = pages[0].session()["revision"]
        return all(page.tab.evaluate("(n) => app.idle && app.session.sync.revision === n", revision) for page in pages)

    until(done, "the pages to agree")


def document(page: Page) -> list[dict[str, Any]]:
    return sorted(page.tab.evaluate("app.session.doc.objects"), key=lambda item: item["id"])


def shown_masks(page: Page, frame: int = 0) -> dict[str, str]:
    """What the page would draw on a frame: run lengths by object."""
    masks = page.tab.evaluate("(frame) => [...app.session.masks.get(frame) ?? []]", frame)
    return {str(item): mask["counts"] for item, mask in masks}


def agree(pages: list[Page], frame: int = 0) -> None:
    """The pages and the server have the same objects, prompts and masks."""
    together(pages)
    on_server = pages[0].objects()
    masks = {item: mask["counts"] for item, mask in pages[0].masks(frame).items()}
    for page in pages:
        assert document(page) == on_server
        assert shown_masks(page, frame) == masks


def test_tabs_see_each_other(tabs: list[Page]) -> None:
    first, second = tabs
    first.open(PHOTO)
    second.join(first.id)
    first.click(*CUP)
    together(tabs)
    assert len(document(second)) == 1 and second.ink(CUP[0] + 20, CUP[1])[3] > 0
    second.tab.get_by_label("Name of object 1").fill("Cup")
    second.press("Enter")
    together(tabs)
    assert first.tab.get_by_label("Name of object 1").input_value() == "Cup"
    first.tab.locator("#stage").focus()
    first.press("Delete")
    together(tabs)
    assert document(second) == []
    second.tab.click("#undo")
    together(tabs)
    assert document(first)[0]["name"] == "Cup" and first.ink(CUP[0] + 20, CUP[1])[3] > 0
    agree(tabs)


def test_clicks_at_the_same_time_are_all_kept(tabs: list[Page]) -> None:
    first, second = tabs
    first.open(PHOTO)
    first.click(*CUP)
    second.join(first.id)
    for page, x in ((first, 250), (second, 320)):  # both go on with object 1
        page.tab.evaluate("(x) => app.tools.point(x, 150, true)", x)
    together(tabs)
    assert {point[0] for point in document(first)[0]["frames"]["0"]["points"]} == {CUP[0], 250, 320}
    for page, x in ((first, 380), (second, 390)):  # and both begin object 2
        page.tab.evaluate("(x) => { app.session.select(null); app.tools.point(x, 310, true); }", x)
    agree(tabs)
    assert [item["name"] for item in document(first)] == ["Object 1", "Object 2", "Object 3"]
    first.tab.evaluate("fetch(`/api/sessions/${app.session.id}`, { method: 'DELETE' })")


def test_a_job_is_seen_and_stopped_from_another_tab(tabs: list[Page], tmp_path: Path) -> None:
    first, second = tabs
    first.open(page_media.write_clip(tmp_path / "long.mp4", LONG))
    first.click(60, 165)
    second.join(first.id)
    first.tab.click("#track-on")
    second.stop_tracking(3)
    first.job_over()
    assert second.text("#clock").startswith("1 / "), "a tab follows what another one tracks"
    assert len(second.tab.evaluate("app.session.tracks.framesOf(1)")) >= 3
    agree(tabs)
    done = first.tracked(1)
    assert len(done) < LONG
    second.press("Control+z")  # what the other tab has tracked
    agree(tabs)
    assert first.tracked(1) == {0}
    second.press("Control+Shift+z")
    agree(tabs, 2)
    assert first.tracked(1) == done


ACTIONS = """([action, x, y, index]) => {
  const { session, tools, chooser, objects } = app, { doc } = session;
  const other = doc.objects[index % Math.max(doc.objects.length, 1)]?.id ?? null;
  const looks = (changes) => {
    const object = doc.objects.find(({ id }) => id === session.active);
    const change = (each) => (each === object ? { ...each, ...changes } : each);
    if (object) session.change({ objects: doc.objects.map(change) }, "Looks");
  };
  ({
    include: () => tools.point(x, y, true),
    exclude: () => tools.point(x, y, false),
    box: () => tools.box([x / 2, y / 2, x / 2 + 40, y / 2 + 40]),
    begin: () => { session.select(null); tools.point(x, y, true); },
    select: () => session.select(other),
    remove: () => objects.remove(),
    rename: () => looks({ name: `Thing ${index}` }),
    hide: () => app.toggleVisible(),
    choose: () => chooser.choose(index % 3),
    go: () => session.show(index % session.frames),
    track: () => app.transport.track(["forward", "backward", "both"][index % 3]),
    stop: () => session.cancel(),
    undo: () => app.undo(),
    redo: () => app.redo(),
  })[action]();
}"""
CHANCES = {"include": 5, "exclude": 3, "box": 1, "begin": 3, "select": 3, "rename": 2, "hide": 1, "remove": 1}
CHANCES |= {"undo": 4, "redo": 2}


def edit_at_once(pages: list[Page], seed: int, operations: int, chances: dict[str, int]) -> None:
    """Random edits in random pages; half of them do not wait for anything."""
    rng = np.random.default_rng(seed)
    weights = np.array(list(chances.values())) / sum(chances.values())
    info = pages[0].session()
    for _ in range(operations):
        page = pages[rng.integers(len(pages))]
        action = str(rng.choice(list(chances), p=weights))
        x, y = int(rng.integers(5, info["width"] - 5)), int(rng.integers(5, info["height"] - 5))
        page.tab.evaluate(ACTIONS, [action, x, y, int(rng.integers(100))])
        if rng.random() < 0.5:  # so that the pages meet in every state of their requests
            page.tab.wait_for_timeout(float(rng.uniform(0, 120)))
    for page in pages:
        page.job_over()


def test_two_tabs_edit_at_once(tabs: list[Page]) -> None:
    tabs[0].open(PHOTO)
    tabs[1].join(tabs[0].id)
    edit_at_once(tabs, 0, OPERATIONS, {**CHANCES, "choose": 2})
    agree(tabs)
    assert tabs[0].session()["revision"] > OPERATIONS / 4 and tabs[0].objects()


def test_two_tabs_edit_and_track_a_video_at_once(tabs: list[Page], clip: Path) -> None:
    tabs[0].open(clip)
    tabs[1].join(tabs[0].id)
    edit_at_once(tabs, 1, OPERATIONS // 3, {**CHANCES, "go": 4, "track": 1, "stop": 1, "undo": 6})
    for frame in (0, FRAMES - 1):
        for page in tabs:
            page.go_to(frame)
        agree(tabs, frame)
