"""Every state of the app's page as pictures, to be looked at: three widths, light and dark.

    python tools/pictures/screenshot_states.py FOLDER [--only desktop-light ...]

Needs what screenshot_app.py needs. The folder should lie outside the repository. Nothing is downloaded: the model is
demo, and that of the states without a model is made up by answering for the server.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "support"))

import page_browser
import page_states

SIZES = {"desktop": (1440, 900), "small": (1024, 768), "phone": (390, 844)}
LOOKS = [f"{size}-{theme}" for size in SIZES for theme in ("light", "dark")]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", choices=LOOKS, default=LOOKS, metavar="LOOK")
    args = parser.parse_args(argv)
    if why := page_browser.why_not():
        print(why, file=sys.stderr)
        return 1
    args.folder.mkdir(parents=True, exist_ok=True)
    with page_browser.browsing() as browser, tempfile.TemporaryDirectory() as scratch:
        for look in args.only:
            size, theme = look.split("-")
            with page_browser.serving() as url:
                page = page_browser.Page(browser, url, *SIZES[size], theme, touch=size == "phone")
                for number, state in enumerate(page_states.states(page, Path(scratch))):
                    page.tab.screenshot(path=args.folder / f"{look}-{number:02d}-{state}.png")
                page.close()
            print(look, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
