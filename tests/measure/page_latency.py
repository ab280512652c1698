"""How long a click, a preview, scrubbing and playing take in the browser, server included; beside another checkout.

    python tests/measure/page_latency.py [--against PATH] [--clicks 12] [--model demo]

Pictures of 1 and of 24 megapixels: "click" is the time from the `pointerup` event to the mark that the page sets when
the new mask was painted (the first click of an object, three masks, no preview before it: the pointer moves there with
the Exclude tool chosen); "preview" from the pointer's move to the drawn preview. A clip of 1920 x 1080: "scrub" is the
time from the wish for a frame, far from the last one, to its painting; "play" the frames of the clip that pass in a
second, and how many in a hundred of them are painted: the browser's own player may drop some.
One line of JSON a checkout, times in milliseconds, medians. `--against` is a worktree of this repository.
"""

from __future__ import annotations

import _paths  # noqa: F401  # isort: skip

import argparse
import json
import platform
import sys
import tempfile
from pathlib import Path

import av
import numpy as np
from PIL import Image

import page_browser
import page_media

ROOT = Path(__file__).parents[2]
SIZES = {"1 MP": (1224, 816), "24 MP": (6000, 4000)}
FRAMES, FPS = 60, 30
PATIENCE = 300.0  # seconds for a click: of an older checkout on a large photo
WATCH = """() => {
  window.ends = [];
  document.getElementById("stage").addEventListener("pointerup", (event) => { window.up = event.timeStamp; });
  new PerformanceObserver((list) => {
    for (const { startTime } of list.getEntriesByName("mask drawn")) window.ends.push(startTime - window.up);
  }).observe({ type: "mark" });
}"""
PREVIEW = """([x, y]) => new Promise((done) => {
  app.tools.forgetPreview();
  const begin = performance.now();
  const look = () => {
    if (!app.painter.hover || app.painter.asked) return requestAnimationFrame(look);
    done(performance.now() - begin);
  };
  app.tools.hover(x, y);
  look();
})"""
SCRUB = """(frame) => new Promise((done) => {
  const begin = performance.now();
  const look = () => (app.painter.frame === frame ? done(performance.now() - begin) : requestAnimationFrame(look));
  app.session.show(frame);
  look();
})"""
PLAY = """() => new Promise((done) => {
  const last = app.session.frames - 1, begin = performance.now(), painted = new Set();
  const look = () => {
    painted.add(app.painter.frame);
    if (app.painter.frame !== last) return requestAnimationFrame(look);
    done([1000 * last / (performance.now() - begin), 100 * painted.size / (last + 1)]);
  };
  app.transport.toggle();
  look();
})"""


def make_clip(path: Path) -> Path:
    frames = page_media.clip_frames(FRAMES, 1920, 1080)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "veryfast", "crf": "23"})
        stream.width, stream.height, stream.pix_fmt = 1920, 1080, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def clicks(page: page_browser.Page, size: tuple[int, int], count: int) -> list[float]:
    rng = np.random.default_rng(0)
    page.tab.evaluate(WATCH)
    for x, y in rng.uniform(0.05, 0.95, (count + 1, 2)) * size:
        page.press("e")
        page.tab.mouse.move(*page.place_of(*size, x, y))
        page.press("i")
        before = page.tab.evaluate("ends.length")
        page.tab.mouse.down()
        page.tab.mouse.up()
        page_browser.until(lambda n=before: page.tab.evaluate("ends.length") > n, "the mask", PATIENCE)
        page.settled()
        page.press("Delete")
    return page.tab.evaluate("ends")[1:]  # the first one starts what is started once


def measure(root: Path, folder: Path, model: str, count: int) -> dict[str, float]:
    """The figures of one checkout."""
    found: dict[str, float] = {}
    rng = np.random.default_rng(1)
    with page_browser.serving(model, root=root) as url, page_browser.browsing() as browser:
        page = page_browser.Page(browser, url)
        for name, size in SIZES.items():
            page.open(folder / f"{name}.jpg")
            found[f"click {name}"] = float(np.median(clicks(page, size, count)))
            places = rng.uniform(0.05, 0.95, (count, 2)) * size
            found[f"preview {name}"] = float(np.median([page.tab.evaluate(PREVIEW, list(place)) for place in places]))
            page.settled()
        found["click 24 MP / 1 MP"] = found["click 24 MP"] / found["click 1 MP"]
        page.open(folder / "clip.mp4")
        wanted = rng.permutation(np.arange(1, FRAMES))[:count]
        found["scrub 1080p"] = float(np.median([page.tab.evaluate(SCRUB, int(frame)) for frame in wanted]))
        page.tab.evaluate(SCRUB, 0)
        passed, painted = page.tab.evaluate(PLAY)
        found[f"play 1080p, frames a second of {FPS}"] = passed
        found["painted while playing, percent"] = painted
        page.close()
    return {name: round(value, 1) for name, value in found.items()}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clicks", type=int, default=12)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--against", type=Path, help="another checkout, measured after this one")
    args = parser.parse_args(argv)
    if why := page_browser.why_not():
        print(why, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photo = Image.open(ROOT / "examples" / "coffee.jpg")
        for label, size in SIZES.items():
            photo.resize(size).save(folder / f"{label}.jpg", quality=92)
        make_clip(folder / "clip.mp4")
        for root in filter(None, [ROOT, args.against]):
            figures = measure(root, folder, args.model, args.clicks)
            print(json.dumps({"checkout": str(root), "machine": platform.platform(), **figures}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
