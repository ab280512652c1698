"""Playing on the page of ``python -m mlx_sam2.app`` by the browser's own decoder; demo model."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import page_browser
from page_browser import Page, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(page_browser.why_not() is not None, reason=str(page_browser.why_not())),
]
FRAMES, WIDE, HIGH = 30, 320, 180
BITS = 5
# Reads the number from the bars on the base canvas, right after each painting, with the number that the page says.
WATCH = """([wide, bits]) => {
  window.seen = [];
  const read = () => {
    const { painter, view } = app, { base } = painter, ratio = window.devicePixelRatio;
    const copy = new OffscreenCanvas(base.width, base.height).getContext("2d", { willReadFrequently: true });
    copy.drawImage(base, 0, 0);
    let number = 0;
    for (let bit = 0; bit < bits; bit++) {
      const x = (view.x + (bit + 0.5) * wide / bits * view.scale) * ratio, y = (view.y + 90 * view.scale) * ratio;
      if (copy.getImageData(Math.round(x), Math.round(y), 1, 1).data[0] > 128) number += 2 ** bit;
    }
    seen.push({ drawn: number, said: painter.frame, clock: parseInt(document.getElementById("clock").textContent) - 1,
      lent: app.session.pictures.sides.get(painter.frame) === 0, playing: app.transport.playing });
  };
  const draw = CanvasRenderingContext2D.prototype.drawImage;
  CanvasRenderingContext2D.prototype.drawImage = function (...rest) {
    draw.apply(this, rest);
    if (this.canvas.id === "base") read();
  };
}"""


def write_numbers(path: Path, codec: str = "libx264", times: list[int] | None = None, pix_fmt: str = "yuv420p") -> Path:
    """A film whose frames show their number as black and white bars, the lowest bit on the left; 15 frames a second."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=15)
        stream.width, stream.height, stream.pix_fmt = WIDE, HIGH, pix_fmt
        stream.codec_context.time_base = Fraction(1, 15)
        for i in range(FRAMES):
            bits = np.array([i >> bit & 1 for bit in range(BITS)], np.uint8)
            row = np.repeat(16 + 224 * bits, WIDE // BITS)
            picture = np.broadcast_to(row[None, :, None], (HIGH, WIDE, 3))
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts = i if times is None else times[i]
            frame.time_base = Fraction(1, 15)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def play(page: Page) -> list[dict[str, Any]]:
    """Play to the end: what each painting showed while playing."""
    page.tab.evaluate(WATCH, [WIDE, BITS])
    page.tab.click("#play")
    until(lambda: page.tab.locator("#play").get_attribute("aria-label") == "Play", "playing to end")
    page.settled()
    seen = page.tab.evaluate("seen")
    assert seen[-1]["drawn"] == seen[-1]["said"] == seen[-1]["clock"] and not seen[-1]["lent"], "it ends exactly"
    return seen


def film_is(page: Page, state: str) -> None:
    until(lambda: page.tab.evaluate("document.body.dataset.film") == state, f"the player to be {state}")


@pytest.mark.parametrize(("codec", "ending"), [("libx264", "mp4"), ("libvpx-vp9", "webm")])
def test_the_browser_plays_and_every_picture_has_its_number(
    app_server: str, browser: Any, tmp_path: Path, codec: str, ending: str
) -> None:
    page = Page(browser, app_server)
    page.open(write_numbers(tmp_path / f"numbers.{ending}", codec))
    film_is(page, "ready")
    page.go_to(3)
    seen = play(page)
    assert [one for one in seen if one["drawn"] != one["said"]] == []
    assert [one["said"] for one in seen if one["lent"]], "nothing came from the browser's decoder"
    assert min(one["said"] for one in seen) >= 3 and seen[-1]["said"] == FRAMES - 1
    assert [one["said"] for one in seen] == sorted(one["said"] for one in seen)

    page.go_to(5)
    page.press("Shift+O")  # the out point: playing ends there
    page.go_to(2)
    assert play(page)[-1]["said"] == 5
    page.close()
    assert page.errors == []


@pytest.mark.parametrize("why", ["variable", "codec", "deep"])
def test_other_files_play_by_pictures_of_the_server(app_server: str, browser: Any, tmp_path: Path, why: str) -> None:
    page = Page(browser, app_server)
    if why == "variable":
        path = write_numbers(tmp_path / "n.mp4", times=[i + (i > 4) * 6 for i in range(FRAMES)])
    elif why == "codec":
        path = write_numbers(tmp_path / "n.mkv", "ffv1")
    else:
        path = write_numbers(tmp_path / "n.mp4", pix_fmt="yuv420p10le")
    page.open(path)
    film_is(page, "none")
    page.go_to(20)
    seen = play(page)
    assert [one for one in seen if one["drawn"] != one["said"] or one["lent"]] == []
    assert seen[-1]["said"] == FRAMES - 1
    page.close()
    assert page.errors == []
