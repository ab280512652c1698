"""The app's page led through all its states, one after the other: for pictures of them, and for rules on each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

import page_media
from page_browser import Page, until

PHOTO = Path(__file__).parents[2] / "examples" / "coffee.jpg"
NO_MODEL = {"name": "large", "image_size": None, "dtype": None, "message": "no repository of that name can be reached"}


STILL = """() => Promise.all(document.getAnimations()
  .filter(({ effect }) => effect.getComputedTiming().iterations !== Infinity)
  .map(({ finished }) => finished.catch(() => null)))"""

CAMERA = """() => {
  const canvas = document.createElement("canvas"), context = canvas.getContext("2d");
  Object.assign(canvas, { width: 320, height: 240 });
  let x = 0;
  (function draw() {
    context.fillStyle = "#345";
    context.fillRect(0, 0, 320, 240);
    context.fillStyle = "#fc0";
    context.fillRect(30 + (x++ % 40), 30, 80, 80);
    requestAnimationFrame(draw);
  })();
  navigator.mediaDevices.getUserMedia = async () => canvas.captureStream();
  void app.camera.open();
}"""


def states(page: Page, scratch: Path) -> Iterator[str]:
    """Names of the states; the page is in each when its name comes."""
    clip = page_media.write_clip(scratch / "ball.mp4", 24)
    for some in (picture_states(page), video_states(page, clip), gallery_states(page, scratch)):
        for state in some:
            page.tab.evaluate(STILL)  # what fades has faded
            yield state
    assert page.errors == [], page.errors
    for state in model_states(page.tab, page.url):
        page.tab.evaluate(STILL)
        yield state


def picture_states(page: Page) -> Iterator[str]:
    yield "empty"
    page.open(PHOTO)
    yield "photo"
    page.click(290, 150)
    yield "first-click"
    page.tab.locator("#classes").fill("cup, spoon")
    page.tab.locator("#classes").press("Enter")
    page.tab.locator("#stage").focus()
    page.press("1")
    page.press("n")
    page.press("2")
    page.click(380, 310)
    yield "two-classes"
    page.press("p")
    yield "brush"
    page.press("a")
    yield "everything"
    page.press("i")
    yield from menus(page)
    page.tab.evaluate("app.say('coffee.zip is made: your browser saves it.'); app.status.wait(true)")
    page.tab.locator("#pill").wait_for()
    yield "messages"


def menus(page: Page) -> Iterator[str]:
    for opener in ("document", "open", "export", "combine"):
        page.tab.click(f"#{opener}")
        page.tab.locator("#menu").wait_for()
        yield f"menu-{opener}"
        page.tab.keyboard.press("Escape")
    page.tab.locator(".swatch").first.click()
    yield "menu-colour"
    page.tab.keyboard.press("Escape")
    page.tab.click("#help")
    yield "help"
    page.tab.keyboard.press("Escape")
    page.tab.click("#export")
    page.tab.get_by_role("menuitem", name="Data set").click()
    page.tab.get_by_role("menuitem", name="Label Studio").wait_for()
    yield "menu-datasets"
    page.tab.keyboard.press("Escape")
    page.tab.evaluate("app.exports.edges.open()")
    page.tab.locator("#edges-dialog img:not([hidden])").wait_for()
    yield "dialog-edges"
    page.tab.keyboard.press("Escape")
    opened = {"models": "app.models.open()", "names": "app.names.rename()", "effect": "app.exports.film.open()"}
    for name, command in opened.items():
        page.tab.evaluate(command)
        page.tab.locator("dialog[open]").wait_for()
        yield f"dialog-{name}"
        page.tab.keyboard.press("Escape")


def video_states(page: Page, clip: Path) -> Iterator[str]:
    page.open(clip)
    page.click(60, 165)
    yield "video"
    page.press("n")
    page.click(365, 80)
    page.track()
    yield "tracked"
    page.tab.evaluate("app.exports.film.open()")
    page.tab.locator("#film-dialog[open]").wait_for()
    yield "dialog-film"
    page.tab.keyboard.press("Escape")
    yield from camera_states(page)


def camera_states(page: Page) -> Iterator[str]:
    """The pictures of the camera are those of a canvas."""
    page.tab.evaluate(CAMERA)
    page.wait("kept", "#camera-text")
    yield "camera"
    page.tab.locator("#camera-picture").click(position={"x": 90, "y": 70})
    page.wait("frames a second tracked", "#camera-text")
    yield "camera-tracked"
    page.tab.keyboard.press("Escape")
    until(lambda: page.tab.evaluate("!app.camera.on && !app.camera.id"), "the camera to end")


def gallery_states(page: Page, folder: Path) -> Iterator[str]:
    page.tab.set_input_files("#pick-file", photos(folder))
    page.tab.locator("dialog[open]").wait_for()
    yield "dialog-pictures"
    page.tab.get_by_role("button", name="Separate pictures").click()
    until(lambda: page.tab.evaluate("app.gallery.now?.id === app.session?.id"), "the first picture")
    page.settled()
    page.click(60, 165)
    page.press("d")
    until(lambda: page.tab.evaluate("app.gallery.at === 1 && app.gallery.now?.id === app.session?.id"), "the second")
    page.settled()
    yield "gallery"


def photos(folder: Path) -> list[Path]:
    paths = [folder / f"photo{number}.png" for number in range(6)]
    for path, frame in zip(paths, page_media.clip_frames(6), strict=True):
        Image.fromarray(frame).save(path)
    return paths


def model_states(tab: Any, url: str) -> Iterator[str]:
    """The page without a model."""
    state = {"version": "0", "sessions": [], "open": None, "limits": {}}
    for status, more in (("loading", {}), ("loading", {"done": 310e6, "total": 898e6}), ("failed", {})):
        body = json.dumps({**state, "model": {**NO_MODEL, "status": status, **more}})
        tab.unroute("**/api/state")
        tab.route("**/api/state", answer(body))
        tab.goto("about:blank")
        tab.goto(url)
        tab.locator("#model-panel" if more or status == "failed" else "#pill").wait_for()
        yield f"model-{'download' if more else status}"


def answer(body: str) -> Any:
    return lambda route: route.fulfill(body=body, content_type="application/json")
