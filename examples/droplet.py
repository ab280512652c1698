"""Cut out what stands in the middle of photos: a script for the Mac's Finder and Shortcuts, and for any shell.

    python examples/droplet.py PHOTO_OR_FOLDER ...        # writes PHOTO_cutout.png beside each, prints its path
    python examples/droplet.py --make "Cut out.app"       # on a Mac: an app to drop photos on

In Shortcuts: "Run Shell Script", input "Selected Files", passed "as arguments" or "to stdin". What it prints are the
paths of the cut-outs, one on each line, for the action that follows. A photo that can't be done gets one line on
standard error, the others are done, and the exit code is 1. Nothing is overwritten unless --overwrite is given.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".heic")
APPLESCRIPT = """\
on open theFiles
    set thePaths to ""
    repeat with oneFile in theFiles
        set thePaths to thePaths & " " & quoted form of POSIX path of oneFile
    end repeat
    do shell script {command} & thePaths
end open

on run
    display dialog "Drop photos or folders on this icon: what stands in the middle is cut out." buttons {{"OK"}}
end run
"""


def photos(paths: list[Path]) -> Iterator[Path]:
    """Files as they are, and the photos in folders; earlier results are left out there."""
    for path in paths:
        if path.is_dir():
            yield from sorted(
                file for file in path.iterdir() if file.suffix.lower() in SUFFIXES and not file.stem.endswith("_cutout")
            )
        else:
            yield path


def cut_out(paths: list[Path], at: tuple[float, float], model: str, overwrite: bool) -> tuple[int, int]:
    """Returns how many were done and how many failed."""
    from mlx_sam2 import SAM2ImagePredictor, images
    from mlx_sam2.hub import HubError

    try:
        predictor = SAM2ImagePredictor.from_pretrained(model)
    except (ValueError, HubError, OSError) as error:  # ValueError: what is wrong with a checkpoint or configuration
        raise SystemExit(f"droplet: {error}") from None
    done, failed = 0, 0
    for path in photos(paths):
        target = path.with_name(f"{path.stem}_cutout.png")
        try:
            images.check_output(target, overwrite)
            image = images.read(path)
            predictor.set_image(image)
            masks, scores, _ = predictor.predict([at], [1], normalize_coords=False)
            images.write(target, images.cutout(image, masks[scores.argmax()]), overwrite=overwrite)
        except (images.ImageError, OSError) as error:
            print(f"droplet: {error}", file=sys.stderr)
            failed += 1
        else:
            print(target, flush=True)
            done += 1
    return done, failed


def notify(text: str) -> None:
    """A notification, on a Mac."""
    if osascript := shutil.which("osascript"):
        lines = ("on run argv", 'display notification (item 1 of argv) with title "Cut out"', "end run")
        script = [part for line in lines for part in ("-e", line)]
        subprocess.run([osascript, *script, text], stdout=subprocess.DEVNULL, check=False)


def applescript(options: list[str]) -> str:
    """The droplet: an AppleScript app that gives the files dropped on it to this script."""
    command = shlex.join([sys.executable, str(Path(__file__).resolve()), *options])
    escaped = command.replace("\\", "\\\\").replace('"', '\\"')
    return APPLESCRIPT.format(command=f'"{escaped}"')


def make_app(app: Path, options: list[str], overwrite: bool) -> None:
    osacompile = shutil.which("osacompile")
    if osacompile is None:
        raise SystemExit("droplet: --make needs osacompile, which comes with macOS; elsewhere give photos instead")
    if app.suffix != ".app":
        raise SystemExit(f"droplet: cannot make {app}: its name must end in .app")
    if app.exists() and not overwrite:
        raise SystemExit(f"droplet: {app} exists: give another name, or --overwrite to replace it")
    subprocess.run([osacompile, "-o", str(app), "-e", applescript(options)], check=True)
    print(app)


def position(text: str) -> tuple[float, float]:
    x, y = map(float, text.split(","))
    if not (0 <= x <= 1 and 0 <= y <= 1):
        raise ValueError
    return x, y


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="droplet", description="Cut out what stands in the middle of photos.")
    parser.add_argument("paths", nargs="*", type=Path, help="photos and folders; without any, one a line on stdin")
    parser.add_argument("--model", default="demo", help="a published name, a Hub id, a folder or a file (demo)")
    parser.add_argument("--at", type=position, default=(0.5, 0.5), metavar="X,Y", help="where the object is, 0..1")
    parser.add_argument("--make", type=Path, metavar="NAME.app", help="make a droplet with these options (on a Mac)")
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    args = parser.parse_args(argv)
    if args.make:
        options = ["--model", args.model, "--at", "{},{}".format(*args.at), *["--overwrite"] * args.overwrite]
        make_app(args.make, options, args.overwrite)
        return 0
    paths = args.paths
    if not paths and not sys.stdin.isatty():
        paths = [Path(line) for line in sys.stdin.read().splitlines() if line]
    if not paths:
        parser.error("no photo was given: drop some, name some, or send their paths to standard input")
    done, failed = cut_out(paths, args.at, args.model, args.overwrite)
    notify(f"{done} done" + (f", {failed} failed" if failed else ""))
    return 1 if failed or not done else 0


if __name__ == "__main__":
    sys.exit(main())
