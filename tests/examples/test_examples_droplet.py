"""examples/droplet.py, run as the Finder and a shell run it, on the demo model."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from example_programs import COFFEE, EXAMPLES, run_example
from mlx_sam2 import SAM2ImagePredictor, images


def stand_in(folder: Path, name: str) -> Path:
    """A command that writes down what it was called with, one argument on each line."""
    folder.mkdir(exist_ok=True)
    log = folder / f"{name}.log"
    (folder / name).write_text(f'#!/bin/sh\nfor one in "$@"; do printf "%s\\n" "$one"; done > "{log}"\n')
    (folder / name).chmod(0o755)
    return log


@pytest.mark.slow
def test_the_droplet_cuts_out_what_it_is_given(demo: SAM2ImagePredictor, tmp_path: Path) -> None:
    folder = tmp_path / "my photos"
    folder.mkdir()
    image = images.read(COFFEE)
    Image.fromarray(image).save(folder / "one.png")
    (folder / "notes.txt").write_text("no photo")
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no photo either")
    note = stand_in(tmp_path / "bin", "osascript")

    done = run_example("droplet.py", folder, broken, path=tmp_path / "bin")
    target = folder / "one_cutout.png"
    assert (done.returncode, done.stdout) == (1, f"{target}\n"), done.stderr
    assert done.stderr == f"droplet: {broken} is not an image that can be read (JPEG, PNG, WebP, TIFF, ...)\n"
    assert note.read_text().splitlines()[-1] == "1 done, 1 failed"

    demo.set_image(image)
    masks, scores, _ = demo.predict([[300, 200]], [1])  # the middle of 600 x 400
    mask = masks[scores.argmax()].astype(bool)
    np.testing.assert_array_equal(np.array(Image.open(target)), np.dstack([image * mask[..., None], mask * 255]))

    before = target.read_bytes()
    again = run_example("droplet.py", stdin=f"{folder}\n")
    assert (again.returncode, again.stdout) == (1, "") and f"{target} exists: give another name" in again.stderr
    assert target.read_bytes() == before
    elsewhere = run_example("droplet.py", "--overwrite", "--at", "0.1,0.9", stdin=f"{folder}\n")
    assert (elsewhere.returncode, elsewhere.stdout) == (0, f"{target}\n"), elsewhere.stderr
    assert target.read_bytes() != before


def test_the_droplet_can_be_made_into_an_app(tmp_path: Path) -> None:
    app = tmp_path / "Cut out.app"
    nowhere = run_example("droplet.py", "--make", app)
    if shutil.which("osacompile") is None:
        assert nowhere.returncode == 1 and nowhere.stderr.startswith("droplet: --make needs osacompile")
    log = stand_in(tmp_path / "bin", "osacompile")
    done = run_example("droplet.py", "--make", app, "--model", 'a "b" model', path=tmp_path / "bin")
    assert (done.returncode, done.stdout) == (0, f"{app}\n"), done.stderr
    script = log.read_text()
    assert script.startswith(f"-o\n{app}\n-e\non open theFiles\n")
    # unescape what AppleScript would hand to the shell, and let the shell split it
    literal = script.partition("do shell script ")[2].partition(" & thePaths")[0]
    command = literal[1:-1].replace('\\"', '"').replace("\\\\", "\\")
    words = shlex.split(command)
    assert words == [sys.executable, str(EXAMPLES / "droplet.py"), "--model", 'a "b" model', "--at", "0.5,0.5"]
    app.mkdir()
    again = run_example("droplet.py", "--make", app, path=tmp_path / "bin")
    assert again.returncode == 1 and again.stderr == (
        f"droplet: {app} exists: give another name, or --overwrite to replace it\n"
    )


@pytest.mark.parametrize(
    ("args", "stderr"),
    [
        ([], "no photo was given"),
        (["--model", "./nowhere", "x.jpg"], "droplet: no such file or folder: ./nowhere"),
        (["--at", "2,0.5", "x.jpg"], "argument --at: invalid position value: '2,0.5'"),
        (["--make", "x"], "osacompile" if shutil.which("osacompile") is None else "must end in .app"),
    ],
)
def test_the_droplet_complains_in_one_line(args: list[str], stderr: str) -> None:
    done = run_example("droplet.py", *args)
    assert done.returncode in (1, 2) and stderr in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr
