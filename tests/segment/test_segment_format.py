"""``segment --format``: the masks of photos as a data set."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from mlx_sam2.datasets import open_dataset
from mlx_sam2.masks import rle_to_mask
from segment_runs import FLAGS, call, everything, one_line

pytestmark = pytest.mark.usefixtures("remembered")
PLACE = ["--point", "40,30"]


def test_masks_of_prompts(photos: Path, nano: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The masks that --json prints, under the name of their class, with the photos as they are."""
    names = ["a.jpg", "b.png"]
    args = [*(photos / name for name in names), *PLACE, "--model", nano]
    out = tmp_path / "found"
    code, stdout, stderr = call(capsys, *args, "--format", "coco", "--output", out, "--class", "Käfer", "--json")
    assert (code, stderr) == (0, "")
    found = open_dataset(out)
    assert (found.format, found.classes, [item.name for item in found]) == ("coco", ("Käfer",), ["a", "b"])
    for line, item, name in zip(stdout.splitlines(), found, names, strict=True):
        (entry,) = json.loads(line)["masks"]
        (obj,) = item.objects
        np.testing.assert_array_equal(obj.masks[0].decode(), rle_to_mask(entry["rle"]))
        assert obj.scores == {0: entry["score"]}
        assert item.frames.path(0).read_bytes() == (photos / name).read_bytes()
    code, stdout, stderr = call(capsys, *args, "--format", "coco", "--output", out)
    assert (code, stdout) == (2, "")
    assert f"{out} exists" in one_line(stderr)


def test_everything_in_a_folder(
    photos: Path, nano_of_small_masks: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The masks of --coco. What was done before is not done again."""
    args = [photos, "--model", nano_of_small_masks, *FLAGS]
    assert everything(capsys, *args, "--coco", tmp_path / "c.json")[0] == 0
    out = tmp_path / "tasks.json"
    code, stdout, _ = everything(capsys, *args, "--format", "label-studio", "--output", out, "--class", "cell")
    assert code == 0
    assert stdout.splitlines()[-1] == f"{out} (label-studio): 4 photos"
    expected = {item.name: item for item in open_dataset(tmp_path / "c.json")}
    found = open_dataset(out, images=photos)
    assert sorted(item.name for item in found) == sorted(expected)
    for item in found:
        assert {obj.class_name for obj in item.objects} == {"cell"}
        for obj, other in zip(item.objects, expected[item.name].objects, strict=True):
            np.testing.assert_array_equal(obj.masks[0].decode(), other.masks[0].decode())
    out.unlink()
    code, stdout, _ = everything(capsys, *args, "--format", "label-studio", "--output", out, "--class", "cell")
    assert code == 0
    assert stdout.splitlines()[0] == "4 of 4 were done before"
    shutil.rmtree(tmp_path / "tasks.json.parts")


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["--format", "yolo"], "needs one --output"),
        (["--class", "cup"], "--class belongs to --format"),
        (["--format", "yolo", "--output", "x", "--multimask"], "--multimask"),
        (["--format", "yolo", "--output", "x.json"], "yolo is written as a folder"),
        (["--format", "coco", "--output", "nowhere/x"], "there is no folder"),
        (["--format", "png", "--output", "x"], "invalid choice: 'png'"),
    ],
)
def test_what_is_refused(
    args: list[str], reason: str, photo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(photo.parent)
    try:
        code, stdout, stderr = call(capsys, photo, *PLACE, "--model", "no-such/model", *args)
    except SystemExit as left:  # argparse
        code, (stdout, stderr) = left.code, capsys.readouterr()
    assert (code, stdout) == (2, "")
    assert reason in stderr
    assert [path.name for path in photo.parent.iterdir()] == ["photo.png"]
