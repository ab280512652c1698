"""Drives the page of ``python -m mlx_sam2.app`` in headless Chromium: a server on the demo model, and a page on it.

    with serving() as url, browsing() as browser:
        page = Page(browser, url)
        page.open("photo.jpg")
        page.click(290, 150)  # pixels of the picture
        assert page.session()["objects"]

`why_not()` says what is missing to do so, or None.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

MARGIN = {False: 24, True: 8}  # of a fitted picture, CSS pixels; by whether the stage is narrow (canvas/view.js)
PATIENCE = 60.0  # seconds: the machine may be busy
MAC = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"

ROOT = Path(__file__).parents[2]

T = TypeVar("T")


def chromium() -> str | None:
    """The browser: $CHROMIUM, or what is installed."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    return found or (MAC if Path(MAC).exists() else None)


def why_not() -> str | None:
    """Why the page can't be driven here."""
    if chromium() is None:
        return "no Chromium: apt-get install chromium, or set CHROMIUM to the path of a Chromium or Chrome"
    for name in ("playwright", "fastapi", "uvicorn", "av"):
        if find_spec(name) is None:
            return f"{name} is not installed: pip install playwright and 'mlx-sam2[app]'"
    return None


def until(ask: Callable[[], T], what: str, seconds: float = PATIENCE) -> T:
    """The first true answer of `ask`. AssertionError that says what was waited for."""
    end = time.monotonic() + seconds
    while not (answer := ask()):
        assert time.monotonic() < end, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.05)
    return answer


class Server:
    """The app as a user starts it. It can be killed, and started again on its port; `data` holds its saved sessions."""

    def __init__(self, data: Path, model: str, arguments: Sequence[str], root: Path = ROOT) -> None:
        self.root = root  # of the checkout that is run
        self.command = [sys.executable, "-m", "mlx_sam2.app", "--model", model, "--no-browser", *arguments]
        self.command += ["--data", str(data)]
        self.port = "0"
        self.start()

    def start(self) -> None:
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "OPENBLAS_NUM_THREADS": "1"}
        command = [*self.command, "--port", self.port]
        self.process = subprocess.Popen(
            command, cwd=self.root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert self.process.stdout is not None
        said, found = [], None
        while not found and (line := self.process.stdout.readline()):  # a model that fails at once speaks first
            said.append(line)
            found = re.search(r"mlx_sam2\.app: (http://\S+)  \(", line)
        assert found, f"the server did not start: {''.join(said)}"
        self.url = found[1]
        self.port = re.search(r":(\d+)", self.url.split("//")[1]).group(1)  # type: ignore[union-attr]

    def kill(self) -> None:
        """As ``kill -9``."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(20)
        self.kill()


@contextlib.contextmanager
def killable(data: Path, model: str = "demo", arguments: Sequence[str] = (), root: Path = ROOT) -> Iterator[Server]:
    """A server whose saved sessions lie in `data`."""
    server = Server(data, model, arguments, root)
    try:
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def serving(model: str = "demo", arguments: Sequence[str] = (), root: Path = ROOT) -> Iterator[str]:
    """A server with saved sessions of its own; its address, "http://127.0.0.1:PORT/"."""
    with tempfile.TemporaryDirectory() as data, killable(Path(data), model, arguments, root) as server:
        yield server.url


@contextlib.contextmanager
def browsing() -> Iterator[Any]:
    """A headless browser (playwright's Browser)."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        options = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=chromium(), args=options)
        try:
            yield browser
        finally:
            browser.close()


class Page:
    """One tab, and what went wrong in it."""

    def __init__(
        self,
        browser: Any,
        url: str,
        width: int = 1440,
        height: int = 900,
        theme: str = "light",
        touch: bool = False,
        scale: float = 1,
    ) -> None:
        self.url = url
        self.context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme=theme,
            has_touch=touch,
            is_mobile=touch,
            device_scale_factor=scale,
        )
        self.tab = self.context.new_page()
        self.tab.set_default_timeout(PATIENCE * 1000)
        self.errors: list[str] = []
        self.tab.on(
            "console", lambda line: self.errors.append(line.text) if line.type in ("error", "warning") else None
        )
        self.tab.on("pageerror", lambda error: self.errors.append(str(error)))
        self.tab.goto(url)
        self.wait("Ready", "#subtitle")

    def close(self) -> None:
        self.context.close()

    # ---- what is there

    def text(self, selector: str) -> str:
        return self.tab.locator(selector).inner_text()

    def wait(self, text: str, selector: str) -> None:
        self.tab.locator(selector).filter(has_text=text).wait_for()

    @property
    def id(self) -> str:
        return self.tab.evaluate("location.hash.slice(1)")

    def ask(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path.lstrip("/")) as answer:
            return json.load(answer)

    def session(self) -> dict[str, Any]:
        """The session as the server has it."""
        return self.ask(f"/api/sessions/{self.id}")

    def objects(self) -> list[dict[str, Any]]:
        return self.session()["objects"]

    def prompts(self, index: int = -1, frame: int = 0) -> dict[str, Any]:
        return self.objects()[index]["frames"].get(str(frame), {"points": [], "box": None})

    def settled(self) -> None:
        """Wait until nothing is being computed, opened or fetched, on the page and on the server."""
        until(lambda: self.tab.evaluate("app.idle"), "the page to be idle")

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Where a pixel of the picture lies in the window, while the picture is fitted."""
        info = self.session()
        return self.place_of(info["width"], info["height"], x, y)

    def place_of(self, wide: int, high: int, x: float, y: float) -> tuple[float, float]:
        """``place`` in a picture of this size, without asking the server."""
        stage = self.tab.locator("#stage").bounding_box()
        margin = 2 * MARGIN[stage["width"] < 600]
        scale = min((stage["width"] - margin) / wide, (stage["height"] - margin) / high, 8)
        left = stage["x"] + (stage["width"] - wide * scale) / 2
        top = stage["y"] + (stage["height"] - high * scale) / 2
        return left + x * scale, top + y * scale

    def ink(self, x: float, y: float, canvas: str = "over") -> list[int]:
        """Red, green, blue and alpha of a canvas over a pixel of the picture."""
        left, top = self.place(x, y)
        return self.tab.evaluate(
            """([id, left, top]) => {
              const canvas = document.getElementById(id), bounds = canvas.getBoundingClientRect();
              const ratio = canvas.width / bounds.width;
              const at = [Math.round((left - bounds.left) * ratio), Math.round((top - bounds.top) * ratio)];
              const copy = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
              copy.drawImage(canvas, ...at, 1, 1, 0, 0, 1, 1);
              return [...copy.getImageData(0, 0, 1, 1).data];
            }""",
            [canvas, left, top],
        )

    def masks(self, frame: int = 0) -> dict[str, Any]:
        """The masks of a frame as the server has them, by object."""
        return self.ask(f"/api/sessions/{self.id}/masks/{frame}")["masks"]

    def tracked(self, item: int) -> set[int]:
        """The frames that an object has a mask on, empty ones too."""
        timeline = self.session()["timeline"]
        ranges = timeline["tracked"].get(str(item), []) + timeline["empty"].get(str(item), [])
        return {frame for first, last in ranges for frame in range(first, last + 1)}

    # ---- what users do

    def open(self, path: Path | str, picker: str = "#pick-file") -> None:
        before = self.id
        self.tab.set_input_files(picker, str(path))
        until(lambda: self.id not in ("", before), f"{path} to open")
        until(lambda: self.session()["status"] == "ready", f"{path} to be encoded")
        self.settled()

    def join(self, session: str) -> None:
        """Open a session that another page has open, or that is a recent one."""
        self.tab.evaluate("(id) => { location.hash = id; }", session)
        until(lambda: self.tab.evaluate("(id) => app.session?.id === id", session), "the session to open")
        self.settled()

    def click(self, x: float, y: float, **options: Any) -> None:
        self.tab.mouse.click(*self.place(x, y), **options)
        self.settled()

    def exclude(self, x: float, y: float) -> None:
        self.tab.keyboard.down("Alt")
        self.click(x, y)
        self.tab.keyboard.up("Alt")

    def drag(self, x0: float, y0: float, x1: float, y1: float) -> None:
        self.tab.mouse.move(*self.place(x0, y0))
        self.tab.mouse.down()
        self.tab.mouse.move(*self.place((x0 + x1) / 2, (y0 + y1) / 2))
        self.tab.mouse.move(*self.place(x1, y1))
        self.tab.mouse.up()
        self.settled()

    def go_to(self, frame: int) -> None:
        self.tab.locator("#playhead").fill(str(frame))
        self.settled()
        assert self.text("#clock").startswith(f"{frame + 1} / ")

    def track(self, seconds: float = 120) -> None:
        """Track forward from the frame that is shown."""
        self.tab.click("#track-on")
        self.job_over(seconds)

    def job_over(self, seconds: float = 120) -> None:
        until(lambda: self.tab.evaluate("app.session.job === null"), "the job to end", seconds)
        self.settled()

    def stop_tracking(self, done: int) -> None:
        """Press Stop once so many frames are tracked: from outside, a short clip may be done between two looks."""
        self.tab.evaluate(
            """(done) => new Promise((resolve, reject) => {
              setTimeout(() => reject(new Error("no tracked frames in 60 s")), 60000);
              const look = () => {
                if (!(app.session.job?.done >= done)) return;
                app.session.removeEventListener("job", look);
                document.querySelector("#job-stop").click();
                resolve();
              };
              app.session.addEventListener("job", look);
              look();
            })""",
            done,
        )
        self.job_over()

    def painted(self) -> None:
        """Wait until the browser has drawn what is to be drawn now."""
        self.tab.evaluate("new Promise((next) => requestAnimationFrame(() => requestAnimationFrame(next)))")

    def press(self, keys: str) -> None:
        self.tab.keyboard.press(keys)
        self.settled()

    def download(self, label: str) -> Path:
        """What Export gives for an item of its menu."""
        self.tab.click("#export")
        with self.tab.expect_download() as waiting:
            self.tab.get_by_role("menuitem", name=label).click()
        path = Path(waiting.value.path())
        return path.rename(path.with_name(waiting.value.suggested_filename))
