"""``track --levels``: slices with more than 8 bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlx_sam2.frames.opening import open_source
from mlx_sam2.track.command import build_parser, main
from mlx_sam2.track.resume import resume_arguments
from mlx_sam2.track.run import Progress, TrackedFrame
from mlx_sam2.track.video import make_plan
from track_command import NOT_LOADED, frames_of_clip

FRAMES = 3


def stack(path: Path, factor: int = 1) -> Path:
    grey = [np.asarray(Image.fromarray(frame).convert("L")) for frame in frames_of_clip(FRAMES)]
    pictures = [Image.fromarray(values * np.uint16(factor) if factor > 1 else values) for values in grey]
    pictures[0].save(path, save_all=True, append_images=pictures[1:])
    return path


def test_deep_slices_are_tracked_as_in_8_bits(tmp_path: Path, model: str) -> None:
    lines = []
    for factor, words in (1, []), (16, ["--levels", "0,4080"]):
        video, out = stack(tmp_path / f"{factor}.tiff", factor), tmp_path / f"{factor}.jsonl"
        args = [video, "--point", "20,20", "--output", out, "--model", model, *words]
        assert main([str(arg) for arg in args]) == 0
        lines.append(out.read_text())
    assert lines[0] == lines[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{shallow}", "--levels", "auto"], "has 8 bits: levels are for grey pictures of more"),
        (["{clip}", "--levels", "auto"], "levels are for TIFF stacks and folders of 16-bit PNG files"),
    ],
)
def test_refused(words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = Path(__file__).parents[2] / "examples" / "clip.mp4"
    names = {"clip": clip, "shallow": stack(tmp_path / "shallow.tiff")}
    words = [word.format(**names) for word in words]
    assert main([*words, "--point", "1,1", "--output", str(tmp_path / "out"), "--model", NOT_LOADED]) == 2
    error = capsys.readouterr().err
    assert said in error.splitlines()[-1], error


def test_what_goes_on_has_the_levels_too(tmp_path: Path) -> None:
    video = stack(tmp_path / "deep.tiff", 16)
    args = build_parser().parse_args([str(video), "--point", "20,20", "--levels", "0,4080.5"])
    with open_source(video, levels=args.levels) as source:
        last = TrackedFrame(1, source[1], {1: np.zeros(source[1].shape[:2], bool)}, {}, None)
        words = resume_arguments(args, make_plan(args, source), source, [], Progress(2, 0, last))
    again = build_parser().parse_args(words)
    assert again.levels == args.levels == (0, 4080.5) and again.start == 2
    with pytest.raises(SystemExit):
        build_parser().parse_args(["x", "--levels", "9,1"])
