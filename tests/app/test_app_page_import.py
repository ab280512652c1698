"""Data sets out of the page, and masks of other tools into it, from the click to the file and back."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest

import page_browser
import page_media
from mlx_sam2.datasets import open_dataset
from page_browser import Page, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(page_browser.why_not() is not None, reason=str(page_browser.why_not())),
]
BALL = (60, 165)  # on the first frame, of 480 x 270


def data_set(page: Page, label: str, folder: Path) -> Any:
    page.tab.click("#export")
    page.tab.get_by_role("menuitem", name="Data set").click()
    with page.tab.expect_download() as waiting:
        page.tab.get_by_role("menuitem", name=label).click()
    with zipfile.ZipFile(waiting.value.path()) as archive:
        archive.extractall(folder)
    return open_dataset(folder)


def test_masks_go_out_and_come_in_again(app_server: str, browser: Any, tmp_path: Path) -> None:
    page = Page(browser, app_server)
    page.open(page_media.write_clip(tmp_path / "ball.mp4", 4))
    page.click(*BALL)
    page.settled()
    before = page.masks()["1"]["counts"]
    data = data_set(page, "COCO video", tmp_path / "out")
    ((obj,),) = (item.objects for item in data)
    assert obj.masks[0].rle()["counts"] == before
    assert [len(item.objects) for item in data_set(page, "YOLO", tmp_path / "yolo")] == [1]

    page.tab.click("#open")
    with page.tab.expect_file_chooser() as chooser:
        page.tab.get_by_role("menuitem", name="Import masks").click()
    chooser.value.set_files(next((tmp_path / "out").rglob("*.json")))
    until(lambda: len(page.objects()) == 2, "the object that came in")
    page.settled()
    assert page.masks()["2"]["counts"] == before
    until(lambda: page.tab.locator("#objects li").count() == 2, "its row")
    page.tab.click("#undo")
    until(lambda: len(page.objects()) == 1, "undo")
    page.settled()
    page.tab.click("#redo")
    until(lambda: len(page.objects()) == 2, "redo")
    page.close()
    assert page.errors == []
