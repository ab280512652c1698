"""The picture of the app in docs/app.md: the page on its own example clip, tracked by the demo model.

    python tools/pictures/screenshot_app.py [FILE.png] [--width 1280] [--height 800] [--theme dark] [--frame 19]

Needs Chromium (apt-get install chromium, or $CHROMIUM), playwright and the extra `app`; with the font Inter
(fonts-inter) it looks as on a Mac. The app draws the clip itself, and the model is demo, so nothing is downloaded.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "support"))

import page_browser

ROOT = Path(__file__).parents[2]
MOST = 400_000  # bytes
ASKED = 18  # frame of the clicks
THINGS = {"Ball": (312, 338), "Cup": (150, 200), "Book": (560, 320), "Leaf": (330, 85)}


def show(page: page_browser.Page, frame: int) -> None:
    page.tab.locator("#playhead").fill(str(frame))
    page.settled()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", nargs="?", type=Path, default=ROOT / "docs" / "images" / "app.png")
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=800)
    parser.add_argument("--theme", choices=["light", "dark"], default="light")
    parser.add_argument("--frame", type=int, default=19)
    args = parser.parse_args(argv)
    if why := page_browser.why_not():
        print(why, file=sys.stderr)
        return 1
    with page_browser.serving() as url, page_browser.browsing() as browser:
        page = page_browser.Page(browser, url, args.width, args.height, args.theme)
        page.tab.get_by_role("button", name="A ball that rolls by").click()
        page_browser.until(lambda: page.id and page.session()["status"] == "ready", "the clip")
        page.settled()
        show(page, ASKED)
        for number, (name, place) in enumerate(THINGS.items(), 1):
            page.press("n")
            page.click(*place)
            field = page.tab.get_by_label(f"Name of object {number}")
            field.fill(name)
            field.press("Enter")
            page.settled()
        page.tab.click("#track-both")
        page_browser.until(lambda: page.tab.evaluate("app.session.job === null"), "tracking", 600)
        page.settled()
        page.press("]")
        show(page, args.frame)
        page.tab.mouse.move(args.width * 0.3, 30)
        page.tab.evaluate("document.activeElement.blur()")
        args.output.parent.mkdir(parents=True, exist_ok=True)
        page.tab.wait_for_timeout(300)
        page.tab.screenshot(path=args.output)
        assert page.errors == [], page.errors
    size = args.output.stat().st_size
    print(f"{args.output}: {args.width} x {args.height}, {size / 1000:.0f} kB")
    return 0 if size <= MOST else 1


if __name__ == "__main__":
    sys.exit(main())
