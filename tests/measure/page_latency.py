"""How long a click takes in the browser: from the pointer going up to the mask being drawn, server included.

    python tests/measure/page_latency.py [--clicks 40] [--model demo]

Each click begins a new object of the example picture, at another place, with nothing known about it before: the
preview that hovering gives is left out by moving there with the Exclude tool chosen. The browser's clock takes
both ends: the time stamp of the `pointerup` event, and the mark that the page sets when the new mask was painted on
its canvas; the screen shows it at its next refresh. Prints one line of JSON, times in milliseconds; "server" is the
part that the answer itself reports (`seconds`).
"""

from __future__ import annotations

import _paths  # noqa: F401  # isort: skip

import argparse
import json
import platform
import sys
from pathlib import Path

import numpy as np

import page_browser

WATCH = """() => {
  window.ends = [];
  document.getElementById("stage").addEventListener("pointerup", (event) => { window.up = event.timeStamp; });
  new PerformanceObserver((list) => {
    for (const { startTime } of list.getEntriesByName("mask drawn")) window.ends.push(startTime - window.up);
  }).observe({ type: "mark" });
}"""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clicks", type=int, default=40)
    parser.add_argument("--model", default="demo")
    args = parser.parse_args(argv)
    if why := page_browser.why_not():
        print(why, file=sys.stderr)
        return 2
    rng = np.random.default_rng(0)
    photo = Path(__file__).parents[2] / "examples" / "coffee.jpg"
    with page_browser.serving(args.model) as url, page_browser.browsing() as browser:
        page = page_browser.Page(browser, url)
        answers: list[float] = []
        page.tab.on(
            "response",
            lambda answer: (
                "/frames/0" in answer.url
                and answer.request.method == "PUT"
                and answers.append(answer.json()["seconds"] * 1000)
            ),
        )
        page.open(photo)
        page.tab.evaluate(WATCH)
        for x, y in zip(rng.uniform(10, 590, args.clicks + 3), rng.uniform(10, 390, args.clicks + 3), strict=True):
            page.press("e")
            page.tab.mouse.move(*page.place(x, y))
            page.press("i")
            before = page.tab.evaluate("ends.length")
            page.tab.mouse.down()
            page.tab.mouse.up()
            page_browser.until(lambda n=before: page.tab.evaluate("ends.length") > n, "the mask")
            page.settled()
            page.press("Delete")
        taken = np.array(page.tab.evaluate("ends"))[3:]  # the first ones start what is started once
        size = page.session()
    print(
        json.dumps(
            {
                "what": "click to drawn mask, ms",
                "model": args.model,
                "picture": [size["width"], size["height"]],
                "clicks": len(taken),
                "median": round(float(np.median(taken)), 1),
                "p90": round(float(np.quantile(taken, 0.9)), 1),
                "server median": round(float(np.median(answers[3:])), 1),
                "machine": platform.platform(),
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
