"""Edges and films with alpha on the page of ``python -m mlx_sam2.app``, from the click to the file."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import page_browser
import page_media
from page_browser import Page

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(page_browser.why_not() is not None, reason=str(page_browser.why_not())),
]
FRAMES = 4
BALL = (60, 165)  # on the first frame, of 480 x 270


def set_feather(page: Page, value: str) -> None:
    page.tab.click("#export")
    page.tab.get_by_role("menuitem", name="Edges").click()
    page.tab.get_by_label("Feather, pixels").fill(value)
    if float(value) < 100:
        page.tab.wait_for_selector("#edges-dialog img[src^=blob]")
    page.tab.get_by_role("button", name="Use").click()


def film(page: Page, use: str, **layers: str) -> Path:
    page.tab.click("#export")
    page.tab.get_by_role("menuitem", name="Film").click()
    page.tab.select_option("[name=use]", label=use)
    for name, value in layers.items():
        page.tab.select_option(f"[name={name}]", value)
    with page.tab.expect_download() as waiting:
        page.tab.locator("#film-dialog button[type=submit]").click()
    return Path(waiting.value.path())


def cut_out(page: Page) -> np.ndarray:
    with zipfile.ZipFile(page.download("Cut-outs")) as archive, archive.open("001_Object_1/00000.png") as file:
        return np.asarray(Image.open(file))


def test_edges_and_films_from_click_to_file(app_server: str, browser: Any, tmp_path: Path) -> None:
    import av

    page = Page(browser, app_server)
    page.open(page_media.write_clip(tmp_path / "ball.mp4", FRAMES))
    page.click(*BALL)
    hard = cut_out(page)
    assert set(np.unique(hard[..., 3])) == {0, 255}

    set_feather(page, "500")
    assert page.tab.locator("#edges-dialog").evaluate("dialog => dialog.open"), "a value out of range was taken"
    page.tab.keyboard.press("Escape")
    set_feather(page, "3")
    soft = cut_out(page)
    assert len(np.unique(soft[..., 3])) > 10

    with av.open(str(film(page, "Final Cut Pro, Premiere Pro"))) as container:
        films = [frame.to_ndarray(format="rgba")[..., 3] for frame in container.decode(video=0)]
    assert len(films) == FRAMES and films[0][BALL[1], BALL[0]] > 250 and not films[1].any()
    with zipfile.ZipFile(film(page, "Anything with pictures")) as archive:
        assert len(archive.namelist()) == FRAMES
    with av.open(str(film(page, "Everybody", foreground="pixelate"))) as container:
        assert len(list(container.decode(video=0))) == FRAMES
    page.close()
    assert page.errors == []
