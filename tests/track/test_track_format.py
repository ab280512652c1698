"""``track --format``: the masks of a video as a data set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_sam2.datasets import open_dataset
from mlx_sam2.datasets.options import format_words
from mlx_sam2.frames.source import FolderSource
from mlx_sam2.masks import rle_to_mask
from mlx_sam2.track import command as track_command_module
from mlx_sam2.track.resume import resume_arguments
from mlx_sam2.track.run import Progress, TrackedFrame
from mlx_sam2.track.video import make_plan
from processes import call_main

PROMPTS = ["--point", "40,30", "--box", "7:50,20,90,60@2"]


@pytest.mark.parametrize("kind", ["folder", pytest.param("film", marks=pytest.mark.slow)])
def test_a_video_becomes_a_data_set(
    kind: str, clip: Path, mp4: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The masks of .jsonl, from frame 1 on, and the frames: as they are, or as JPEG."""
    video = clip if kind == "folder" else mp4
    base = [video, *PROMPTS, "--model", model, "--start", "1", "--frames", "3"]
    assert call_main(track_command_module.main, capsys, *base, "--output", tmp_path / "m.jsonl")[0] == 0
    out = tmp_path / "found"
    words = ["--format", "coco-video", "--output", out, "--class", "7:Bär", "--class", "rest"]
    code, stdout, stderr = call_main(track_command_module.main, capsys, *base, *words)
    assert code == 0, stderr
    assert stdout.rstrip().endswith(f"-> {out}")
    (item,) = open_dataset(out)
    assert (item.name, item.num_frames) == ("clip", 3)
    assert [item.frames.name(i) for i in range(item.num_frames)] == [f"{t:05d}" for t in (1, 2, 3)]
    classes = {found.id: found.class_name for found in item.objects}
    assert classes == {1: "rest", 7: "Bär"}
    for i, line in enumerate(map(json.loads, (tmp_path / "m.jsonl").read_text().splitlines())):
        masks = {classes[obj]: mask.decode() for obj, mask in item.masks(i).items()}
        for entry in line["objects"]:
            mask = rle_to_mask(entry["rle"])
            if mask.any():
                np.testing.assert_array_equal(masks["Bär" if entry["id"] == 7 else "rest"], mask)
        assert item.frame(i).shape == (*item.size, 3)
        if kind == "folder":
            assert item.frames.path(i).read_bytes() == (clip / f"{i + 1:05d}.jpg").read_bytes()
    assert sorted(path.name for path in out.iterdir()) == ["annotations", "images"]


def test_a_stopped_run_goes_on_beside(clip: Path, tmp_path: Path) -> None:
    """A data set cannot be continued: the rest goes into another one, with the same classes."""
    out = tmp_path / "found"
    out.mkdir()
    words = [str(clip), "--point", "40,30", "--format", "davis", "--output", str(out), "--class", "1:Bär"]
    args = track_command_module.build_parser().parse_args(words)
    with FolderSource(clip) as source:
        progress = Progress(count=3, first=0, last=TrackedFrame(2, source[2], {}, {}, None))
        again = resume_arguments(args, make_plan(args, source), source, [str(out)], progress)
    assert format_words(args) == ["--format", "davis", "--class", "1:Bär"]
    assert again[again.index("--format") :] == [*format_words(args), "--output", f"{out}_from3"]


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["--format", "yolo"], "needs one --output"),
        (["--format", "yolo", "--output", "a", "--output", "b"], "needs one --output"),
        (["--class", "cup"], "--class belongs to --format"),
        (["--format", "cvat", "--output", "x.json"], "cvat is written as a folder, or a file that ends in .xml"),
    ],
)
def test_what_is_refused(
    args: list[str], reason: str, clip: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(clip.parent)
    done: Any = call_main(track_command_module.main, capsys, clip, "--point", "9,9", "--model", "no-such/model", *args)
    assert done[:2] == (2, "")
    assert reason in done[2]
    assert [path.name for path in clip.parent.iterdir()] == ["clip"]
