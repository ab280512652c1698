"""Many pictures on the page of ``python -m mlx_sam2.app``: classes, done marks, all at once, and a data set of them."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import page_browser
import page_media
from mlx_sam2.datasets import open_dataset
from page_browser import Page, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(page_browser.why_not() is not None, reason=str(page_browser.why_not())),
]
COUNT = 10
BOX = (330, 40, 400, 120)


@pytest.fixture
def folder(tmp_path: Path) -> list[Path]:
    """Ten photos of a ball and a box on a table."""
    paths = [tmp_path / f"photo{number}.png" for number in range(COUNT)]
    for path, frame in zip(paths, page_media.clip_frames(COUNT), strict=True):
        Image.fromarray(frame).save(path)
    return paths


@pytest.fixture
def page(app_server: str, browser: Any, folder: list[Path]) -> Iterator[Page]:
    page = Page(browser, app_server)
    page.tab.set_input_files("#pick-file", folder)
    page.tab.get_by_role("button", name="Separate pictures").click()
    arrived(page, 1)
    yield page
    page.close()
    assert page.errors == []


def arrived(page: Page, number: int) -> None:
    """Wait until a picture is open and ready."""
    at = "app.gallery.now?.id === app.session?.id && app.gallery.at"
    until(lambda: page.tab.evaluate(f"app.session !== null && {at}") == number - 1, f"picture {number}")
    page.settled()
    assert page.text("#album-text") == f"{number} of {COUNT}"


def ball(number: int) -> tuple[float, float]:
    return 480 * (0.12 + 0.76 * (number - 1) / (COUNT - 1)), 165


def exported(page: Page, label: str, folder: Path) -> Any:
    page.tab.click("#all-pictures")
    with page.tab.expect_download() as waiting:
        page.tab.get_by_role("menuitem", name=label).click()
    with zipfile.ZipFile(io.BytesIO(Path(waiting.value.path()).read_bytes())) as archive:
        archive.extractall(folder)
    return open_dataset(folder)


def test_ten_photos_of_two_classes_become_a_data_set(page: Page, tmp_path: Path) -> None:
    page.tab.locator("#classes").fill("ball, box")
    page.tab.locator("#classes").press("Enter")
    page.tab.locator("#stage").focus()
    for number in range(1, COUNT + 1):
        page.press("1")
        page.click(*ball(number))
        page.press("n")
        page.press("2")
        page.drag(*BOX)
        assert [item["name"] for item in page.objects()] == ["ball", "box"]
        page.press("d")  # done, and on
        if number < COUNT:
            arrived(page, number + 1)
    page.tab.get_by_text("All pictures are done").wait_for()
    assert page.text("#album-done") == f"{COUNT} done"
    data = exported(page, "Export all: YOLO", tmp_path / "yolo")
    assert len(data) == COUNT and data.classes == ("ball", "box")
    for item in data:
        assert sorted(found.class_name for found in item.objects) == ["ball", "box"]

    page.press(",")
    arrived(page, COUNT - 1)
    assert [item["name"] for item in page.objects()] == ["ball", "box"]
    page.tab.reload()
    until(lambda: page.tab.evaluate("app.session !== null"), "the session to come back")
    arrived(page, COUNT - 1)
    assert page.text("#album-done") == f"{COUNT} done" and page.tab.locator("#class-keys button").count() == 2
    page.press("PageDown")
    arrived(page, COUNT)


def test_one_box_in_all_pictures(page: Page, tmp_path: Path) -> None:
    page.drag(*BOX)
    page.tab.get_by_label("Name of object 1").fill("box")
    page.press("Enter")
    page.tab.click("#all-pictures")
    page.tab.get_by_role("menuitem", name="This box, in all pictures").click()
    page.tab.get_by_text("Every picture has the box now").wait_for()
    data = exported(page, "Export all: COCO", tmp_path / "coco")
    assert [[found.class_name for found in item.objects] for item in data] == [["box"]] * COUNT
    page.press(".")
    arrived(page, 2)
    assert page.prompts()["box"] == page.tab.evaluate("app.session.prompts.box") and page.ink(365, 80)[3] > 0


def test_everything_in_all_pictures(page: Page) -> None:
    page.settled()
    page.press("a")
    for name, value in (("density", "4"), ("least-score", "0.3"), ("least-stability", "0.5")):
        page.tab.locator(f"#{name}").fill(value)
    page.tab.click("#all-pictures")
    page.tab.get_by_role("menuitem", name="Everything, in all pictures").click()
    page.tab.get_by_text(f"in {COUNT} pictures.").wait_for()
    page.settled()
    assert page.objects()
    page.press("Control+z")  # one step, also in the picture that is open
    assert page.objects() == []
