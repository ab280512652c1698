"""``track --dataset``: YouTube-VOS, MOSE, LVOS and SA-V, with objects that appear later and objects that overlap."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mlx_sam2.datasets.pictures import read_indexed
from mlx_sam2.frames.sinks import davis_palette
from mlx_sam2.track.command import main
from track_command import HEIGHT, NOT_LOADED, WIDTH, two_objects, write_frames, write_indexed

LENGTH = 6


def call(*args: Any) -> int:
    return main([str(arg) for arg in args])


def first_masks(root: Path, late: int) -> None:
    """Object 1 on frame 0, and beside it object 2 from a later frame on."""
    write_frames(root / "JPEGImages" / "a", LENGTH)
    both = two_objects()
    write_indexed(root / "Annotations/a/00000.png", both * (both == 1))
    write_indexed(root / f"Annotations/a/{late:05d}.png", both)


def official(model: str, frames: Path, prompts: list[tuple[int, int, np.ndarray]]) -> list[dict[int, np.ndarray]]:
    """Each object in a session of its own, from its first frame on, as the official tool does it."""
    from mlx_sam2.sam2_video_predictor import SAM2VideoPredictor

    predictor = SAM2VideoPredictor.from_pretrained(model, apply_postprocessing=False)
    found: list[dict[int, np.ndarray]] = [{} for _ in range(LENGTH)]
    for obj, t, mask in prompts:
        with predictor.init_state(frames) as state:
            predictor.add_new_mask(state, t, obj, mask)
            for frame, _, logits in predictor.propagate_in_video(state):
                found[frame][obj] = logits[0, 0]
    return found


def test_an_object_that_appears_later(tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    root, out, late = tmp_path / "ytvos", tmp_path / "out", 2
    first_masks(root, late)
    args = ["--dataset", "ytvos", root, "--output", out, "--model", model]
    assert call(*args) == 0
    both = two_objects()
    expected = official(model, root / "JPEGImages/a", [(1, 0, both == 1), (2, late, both == 2)])
    for t, objects in enumerate(expected):
        found = read_indexed(out / "a" / f"{t:05d}.png")
        logits = np.stack([objects.get(obj, np.full((HEIGHT, WIDTH), -1024.0)) for obj in (1, 2)])
        merged = np.where(logits.max(axis=0) > 0, logits.argmax(axis=0) + 1, 0)
        np.testing.assert_array_equal(found, merged, err_msg=f"frame {t}")
    assert not (read_indexed(out / "a/00001.png") == 2).any()

    capsys.readouterr()
    for t in range(LENGTH):  # everything found is right, but for object 1 on the last frame, which is not scored
        found = read_indexed(out / "a" / f"{t:05d}.png")
        write_indexed(root / f"Annotations/a/{t:05d}.png", found * (found != 1) if t == LENGTH - 1 else found)
    assert call(*args) == 0
    assert capsys.readouterr().out.splitlines() == [
        "a: J&F 1.000, J 1.000, F 1.000 (2 objects)",
        f"J&F 1.000, J 1.000, F 1.000 (2 objects); 0 of 1 sequences tracked -> {out}",
    ]
    record = json.loads((out / "results.json").read_text())
    assert record["dataset"] == "ytvos" and record["mean"] == {"J": 1.0, "F": 1.0, "J&F": 1.0}
    write_indexed(root / "Annotations/a/00003.png", two_objects() * 0)  # frames 1, 2, 4 of object 1; 4 of object 2
    assert call(*args) == 0
    scores = json.loads((out / "results.json").read_text())["sequences"]["a"]
    for obj, right, all_frames in (("1", 3, 4), ("2", 1, 2)):
        blank = not (read_indexed(out / "a/00003.png") == int(obj)).any()
        assert scores[obj]["J"] == pytest.approx((right + blank) / all_frames)


def test_masks_of_each_object_in_a_folder_of_its_own(tmp_path: Path, model: str, predictor: Any) -> None:
    """SA-V: frames at 24 a second, annotations at 6; objects may overlap."""
    root, out = tmp_path / "sav", tmp_path / "out"
    write_frames(root / "JPEGImages_24fps/v", LENGTH)
    whole = np.zeros((HEIGHT, WIDTH), np.uint8)
    whole[20:60, 20:80] = 1
    part = whole.copy()
    part[:, 50:] = 0
    for obj, mask in enumerate((whole, part)):
        for t in (0, 4):
            write_indexed(root / f"Annotations_6fps/v/{obj:03d}/{t:05d}.png", mask)
    assert call("--dataset", "sav", root, "--output", out, "--model", model) == 0
    for obj, mask in enumerate((whole, part)):
        pictures = sorted(path.name for path in (out / f"v/{obj:03d}").iterdir())
        assert pictures == [f"{t:05d}.png" for t in range(LENGTH)]
        first = read_indexed(out / f"v/{obj:03d}/00000.png")
        assert set(np.unique(first)) == {0, 1}
        assert np.count_nonzero(first != mask) < 0.1 * mask.sum()  # through the model's size and back
    record = json.loads((out / "results.json").read_text())
    assert record["sequences"] == {"v": None}  # the given frame and the last one alone are annotated


@pytest.mark.parametrize("format_name", ["davis", "lvos", "sav"])
def test_results_have_the_colours_of_the_annotations(format_name: str, tmp_path: Path, model: str) -> None:
    """As the official tool writes them; pictures without colours get those of DAVIS."""
    root, out = tmp_path / "set", tmp_path / "out"
    frames, masks = {
        "davis": ("JPEGImages/480p/v", "Annotations/480p/v"),
        "lvos": ("JPEGImages/v", "Annotations/v"),
        "sav": ("JPEGImages_24fps/v", "Annotations_6fps/v/007"),
    }[format_name]
    write_frames(root / frames, 2)
    path = root / masks / "00000.png"
    path.parent.mkdir(parents=True)
    results = out / "v" / ("007" if format_name == "sav" else "") / "00001.png"
    colours = [0, 0, 0, 236, 95, 103, 249, 145, 87]
    for palette in ([*colours, *[17] * 759], colours, None):
        picture = Image.fromarray(two_objects())
        if palette:
            picture.putpalette(palette)
        picture.save(path)
        assert call("--dataset", format_name, root, "--output", out, "--model", model, "--overwrite") == 0
        with Image.open(results) as found:
            expected = davis_palette() if palette is None else [*palette, *[0] * (768 - len(palette))]
            assert [*found.getpalette("RGB"), *[0] * 768][:768] == expected


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--dataset", "coco", "."], "the data set must be one of davis, ytvos, mose, sav, lvos"),
        (["--dataset", "mose", "gone"], "gone has no JPEGImages"),
        (["--dataset", "mose", "{root}", "--sequences", "b"], "sequence 'b' is not in"),
        (["--dataset", "mose", "{root}", "--point", "1,1"], "leave out --point"),
        (["--dataset", "mose", "{root}", "--davis", "{root}"], "give one of the two"),
    ],
)
def test_refused(args: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first_masks(tmp_path / "mose", 2)
    args = [arg.format(root=tmp_path / "mose") for arg in args]
    assert call(*args, "--output", tmp_path / "out", "--model", NOT_LOADED) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
