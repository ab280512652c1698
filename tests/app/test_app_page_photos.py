"""Files on the page of ``python -m mlx_sam2.app``: painted at once, previewed as they are shown, cancelled."""

from __future__ import annotations

from collections.abc import Iterator
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
CUP = (290, 150)
SMALL = """(id) => {  // a picture of 2 to 3, fitted by its height
  const canvas = document.getElementById(id);
  if (!canvas) return null;
  const copy = new OffscreenCanvas(24, 24).getContext("2d", { willReadFrequently: true });
  copy.imageSmoothingQuality = "high";
  const high = canvas.height - 48, wide = (high * 2) / 3;
  copy.drawImage(canvas, (canvas.width - wide) / 2, 24, wide, high, 0, 0, 24, 24);
  return [...copy.getImageData(0, 0, 24, 24).data];
}"""


@pytest.fixture
def page(app_server: str, browser: Any) -> Iterator[Page]:
    page = Page(browser, app_server)
    yield page
    page.close()
    assert page.errors == []


class Held:
    """Requests of a kind that wait until they are let go."""

    def __init__(self, page: Page, method: str, pattern: str) -> None:
        self.tab, self.pattern, self.method = page.tab, pattern, method
        self.routes: list[Any] = []
        page.tab.route(pattern, self.take)

    def take(self, route: Any) -> None:
        if route.request.method == self.method:
            self.routes.append(route)
        else:
            route.continue_()

    def let_go(self) -> None:
        for route in self.routes:
            route.continue_()
        self.tab.unroute(self.pattern)


@pytest.fixture
def turned(tmp_path: Path) -> Path:
    """A photo that lies on its side in the file, and says so: (400, 600) once it is turned."""
    photo = Image.open(PHOTO)
    photo.paste((255, 0, 0), (0, 0, 200, 133))
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    return tmp_path / "turned.jpg"


def test_a_photo_is_painted_before_it_is_sent_and_lies_as_the_server_has_it(page: Page, turned: Path) -> None:
    held = Held(page, "POST", "**/api/sessions?*")
    page.tab.set_input_files("#pick-file", str(turned))
    until(lambda: page.tab.evaluate(SMALL, "local"), "the photo to be painted")
    before = page.tab.evaluate(SMALL, "local")
    assert page.text("#pill-text").startswith("Opening turned.jpg")
    held.let_go()
    until(lambda: page.id, "the session")
    page.settled()
    assert page.tab.evaluate(SMALL, "local") is None, "the photo of the file lies over that of the server"
    info = page.session()
    assert (info["width"], info["height"]) == (400, 600)
    page.painted()
    difference = np.abs(np.subtract(before, page.tab.evaluate(SMALL, "base"))).mean()
    assert difference < 4, f"{difference} of 255: not the same picture"  # JPEG again, and another filter: 1.2
    red = page.ink(390, 10, canvas="base")
    assert red[0] > 200 and red[1] < 60, "not turned as the file says"


def test_the_servers_picture_takes_the_place_of_the_files(page: Page) -> None:
    held = Held(page, "GET", "**/frames/0?side=*")
    page.tab.set_input_files("#pick-file", str(PHOTO))
    until(lambda: page.tab.evaluate("app.session?.pictures.has(0)"), "the file's picture in the session")
    until(lambda: page.tab.evaluate("app.painter.frame === 0"), "it to be painted")
    assert not page.tab.evaluate("app.session.pictures.isFine(0)") and page.ink(*CUP, canvas="base")[3] == 255
    until(lambda: page.tab.evaluate("1") and held.routes, "the server to be asked")
    held.let_go()
    page.settled()
    assert page.tab.evaluate("app.session.pictures.isFine(0)")


def test_an_upload_shows_how_far_it_is_and_can_be_cancelled(page: Page, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1200, 1600, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    before = {session["id"] for session in page.ask("/api/state")["sessions"]}
    network = page.context.new_cdp_session(page.tab)
    slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 400_000}
    network.send("Network.enable")
    network.send("Network.emulateNetworkConditions", slow)
    page.tab.set_input_files("#pick-file", str(tmp_path / "noise.png"))
    until(lambda: page.tab.evaluate(SMALL, "local"), "the photo to be painted")
    until(lambda: page.text("#pill-text").endswith(" %"), "how far it is")
    page.tab.get_by_role("button", name="Cancel").click()
    until(lambda: not page.tab.locator("#pill").is_visible(), "the upload to end")
    assert page.tab.evaluate(SMALL, "local") is None and not page.tab.locator("#cancel-upload").is_visible()
    assert page.tab.locator("#empty").is_visible() and page.tab.locator(".toast").count() == 0
    network.send("Network.emulateNetworkConditions", {**slow, "uploadThroughput": -1})
    after = {session["id"] for session in page.ask("/api/state")["sessions"]}
    assert after <= before, "a session was made"  # one that rested may have made room
    page.open(PHOTO)


def test_what_was_hovered_is_the_answer_of_the_click(page: Page) -> None:
    page.open(PHOTO)
    page.tab.mouse.move(*page.place(*CUP))
    until(lambda: page.ink(CUP[0] + 10, CUP[1])[3] > 0, "the preview")
    page.settled()
    faint = page.ink(CUP[0] + 10, CUP[1])[3]
    held = Held(page, "PUT", "**/objects/*/frames/0?*")
    page.tab.mouse.down()
    page.tab.mouse.up()
    until(lambda: page.tab.evaluate("1") and held.routes, "the click to be sent")
    until(lambda: page.ink(CUP[0] + 10, CUP[1])[3] > faint, "the mask, before the answer")
    assert page.objects() == [] and page.tab.evaluate("app.session.masks.get(0)?.size ?? 0") == 0
    held.let_go()
    page.settled()
    assert page.masks()["1"]["area"] > 0 and page.ink(CUP[0] + 10, CUP[1])[3] > faint
    page.press("Control+z")
    assert page.ink(CUP[0] + 10, CUP[1])[3] == 0


def test_a_preview_has_the_size_that_is_shown_and_lies_where_the_mask_will(page: Page, tmp_path: Path) -> None:
    Image.open(PHOTO).resize((3000, 2000)).save(tmp_path / "large.png")
    page.open(tmp_path / "large.png")
    with page.tab.expect_response("**/preview") as waiting:
        page.tab.mouse.move(*page.place(1450, 750))
    assert max(waiting.value.json()["mask"]["size"]) < 1440
    page.settled()
    places = [(x, y) for x in range(300, 2800, 125) for y in range(200, 1900, 125)]
    seen = [page.ink(*place)[3] > 0 for place in places]
    page.click(1450, 750)
    assert max(page.masks()["1"]["size"]) == 3000
    differ = np.not_equal(seen, [page.ink(*place)[3] > 0 for place in places]).sum()
    assert any(seen) and differ <= 4  # the outlines are of other widths


def test_heic_and_animations_open(page: Page, tmp_path: Path) -> None:
    pytest.importorskip("pillow_heif", reason="pillow-heif is not installed: pip install 'mlx-sam2[heif]'")
    page.open(Path(__file__).parents[1] / "data" / "reports" / "iphone.heic")
    assert page.session()["kind"] == "image"
    first, *rest = map(Image.fromarray, page_media.clip_frames(6))
    first.save(tmp_path / "ball.gif", save_all=True, append_images=rest, duration=100)
    page.open(tmp_path / "ball.gif")
    assert (page.session()["kind"], page.session()["frames"]) == ("video", 6)
    page.go_to(4)
    assert page.tab.evaluate("app.painter.frame") == 4


def test_frames_are_small_while_dragging_and_the_strip_waits_while_playing(page: Page, tmp_path: Path) -> None:
    page.open(page_media.write_clip(tmp_path / "ball.mp4", 60))
    page.tab.evaluate("app.session.pictures.side = 1280")  # as on a dense screen
    asked: list[str] = []
    page.tab.on("request", lambda request: asked.append(request.url) if "/frames/" in request.url else None)
    strip = page.tab.locator("#strip").bounding_box()
    middle = strip["y"] + strip["height"] - 6
    page.tab.mouse.move(strip["x"] + strip["width"] * 0.5, middle)
    page.tab.mouse.down()
    page.tab.mouse.move(strip["x"] + strip["width"] * 0.8, middle, steps=3)
    frame = page.tab.evaluate("app.session.frame")
    until(lambda: page.tab.evaluate("app.session.pictures.has(app.session.frame)"), "the frame under the pointer")
    assert any(url.endswith("side=640") for url in asked) and page.tab.evaluate("app.session.pictures.hurries")
    page.tab.mouse.up()
    page.settled()
    assert any(url.endswith(f"/frames/{frame}?side=1280") for url in asked), "the frame stays as small as it was"
    page.go_to(0)
    asked.clear()
    page.tab.evaluate("app.transport.toggle(); app.timeline.open()")  # a strip without pictures
    until(lambda: page.tab.evaluate("app.session.frame") > 3, "some frames")
    small = [url for url in asked if url.endswith("side=128")]
    page.tab.evaluate("app.transport.stop(); app.timeline.draw()")
    assert not small
    until(lambda: page.tab.evaluate("app.timeline.film.size") > 0, "the strip to go on")
    page.settled()
