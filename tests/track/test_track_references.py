"""``track --save-reference`` and ``--reference``, ``segment --reference``: an object that was marked once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mlx_sam2.masks import rle_to_mask
from mlx_sam2.segment.command import main as segment
from mlx_sam2.track.command import main as track
from mlx_sam2.video.reference import Reference
from track_command import NOT_LOADED, POINT, frames_of_clip, write_frames


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, model: str) -> Path:
    folder = tmp_path_factory.mktemp("references")
    clip = write_frames(folder / "clip")
    save = ["--save-reference", f"3:{folder / 'cup.safetensors'}"]
    args = [clip, "--point", "3:40,30", "--frames", "1", *save, "--output", folder / "a.jsonl", "--model", model]
    assert track(list(map(str, args))) == 0
    return folder / "cup.safetensors"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_file_holds_what_the_api_gives(saved: Path, clip: Path, predictor: Any) -> None:
    with predictor.init_state(clip) as state:
        predictor.add_new_points_or_box(state, 0, 1, points=[POINT], labels=[1])
        expected = predictor.reference(state, 1)
    again = Reference.load(saved, predictor.model)
    np.testing.assert_array_equal(again.pointers, expected.pointers)
    assert len(again) == 1


def test_an_object_from_elsewhere_is_followed(
    saved: Path, clip: Path, model: str, predictor: Any, tmp_path: Path
) -> None:
    out = tmp_path / "b.jsonl"
    args = [clip, "--reference", saved, "--reference", f"1:{saved}", "--output", out, "--model", model]
    assert track(list(map(str, args))) == 0
    found = lines(out)
    with predictor.init_state(clip) as state:
        for _ in range(2):
            predictor.add_reference(state, 1, saved)
        expected = {t: masks[0, 0] > 0 for t, _, masks in predictor.propagate_in_video(state)}
    assert [line["frame"] for line in found] == list(expected) == list(range(6))
    for line in found:
        np.testing.assert_array_equal(rle_to_mask(line["objects"][0]["rle"]), expected[line["frame"]])


def test_in_photos(saved: Path, model: str, predictor: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    frames = frames_of_clip(2)
    for i, frame in enumerate(frames):
        Image.fromarray(frame).save(photos / f"p{i}.png")
    assert segment([str(photos), "--reference", str(saved), "--json", "--model", model]) == 0
    results = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [Path(result["image"]).name for result in results] == ["p0.png", "p1.png"]
    for result, frame in zip(results, frames, strict=True):
        with predictor.stream() as stream:
            stream.add_reference(1, saved)
            expected = stream.push(frame)[2][0, 0] > 0
        np.testing.assert_array_equal(rle_to_mask(result["masks"][0]["rle"]), expected)
        assert 0 <= result["masks"][0]["score"] <= 1


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--reference", "gone.safetensors"], "there is no file gone.safetensors"),
        (["--point", "4,4", "--save-reference", "2:a.safetensors"], "object 2 has no prompt to learn from"),
        (["--point", "4,4", "--save-reference", "a.pt"], "must end in .safetensors"),
        (["--point", "4,4", "--save-reference", "x/a.safetensors"], "there is no folder"),
        (["--point", "4,4", *["--save-reference", "a.safetensors"] * 2], "is named twice"),
        (["--point", "4,4", "--save-reference", "{saved}"], "exists already"),
        (["--reference", "{clip}/00000.jpg", "--model", "{model}"], "no safetensors file"),
    ],
)
def test_refused(
    args: list[str], words: str, saved: Path, clip: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    args = [arg.format(saved=saved, clip=clip, model=model) for arg in args]
    given = [] if "--model" in args else ["--model", NOT_LOADED]
    assert track([str(clip), *args, *given, "--output", str(saved.with_name("none.jsonl"))]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
    assert not saved.with_name("none.jsonl").exists()


def test_prompts_do_not_go_with_a_reference(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert segment(["p.png", "--reference", str(saved), "--point", "1,1", "--model", NOT_LOADED]) == 2
    assert "--point does not go with it" in capsys.readouterr().err
