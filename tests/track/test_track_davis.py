"""``python -m mlx_sam2.track --davis``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mlx_sam2.datasets.pictures import read_indexed
from track_command import (
    HEIGHT,
    NOT_LOADED,
    WIDTH,
    failed,
    merged,
    run,
    succeeded,
    two_objects,
    write_frames,
    write_indexed,
)


def write_davis(root: Path) -> None:
    """Two sequences, with annotations of the first frames only: "a" has two objects, "b" one."""
    for name, seed, indices in (("a", 5, two_objects()), ("b", 6, (two_objects() == 2) * 1)):
        write_frames(root / "JPEGImages/480p" / name, 4, seed)
        write_indexed(root / "Annotations/480p" / name / "00000.png", indices)
    (root / "ImageSets/2017").mkdir(parents=True)
    (root / "ImageSets/2017/val.txt").write_text("a\nb\n")


@pytest.mark.slow
def test_davis(tmp_path: Path, model: str) -> None:
    from mlx_sam2.sam2_video_predictor import SAM2VideoPredictor

    root, out = tmp_path / "DAVIS", tmp_path / "out"
    write_davis(root)
    args = ["--davis", root, "--output", out, "--model", model]
    assert succeeded(run(*args, cwd=tmp_path)).splitlines() == [
        "a: no annotations to compare with",
        "b: no annotations to compare with",
        f"2 of 2 sequences tracked -> {out}",
    ]
    official = SAM2VideoPredictor.from_pretrained(model, apply_postprocessing=False, non_overlap_masks=True)
    for name, ids in (("a", [1, 2]), ("b", [1])):
        with official.init_state(root / "JPEGImages/480p" / name) as state:
            for obj in ids:
                first = read_indexed(root / "Annotations/480p" / name / "00000.png")
                official.add_new_mask(state, 0, obj, first == obj)
            for t, ids_out, logits in official.propagate_in_video(state):
                np.testing.assert_array_equal(read_indexed(out / name / f"{t:05d}.png"), merged(ids_out, logits))

    # Everything right in "a"; of "b", whose object was found on frames 1 and 2, nothing.
    for t in (1, 2, 3):
        found = read_indexed(out / "a" / f"{t:05d}.png")
        write_indexed(root / "Annotations/480p/a" / f"{t:05d}.png", found)
        assert (read_indexed(out / "b" / f"{t:05d}.png") == 1).any()
        write_indexed(root / "Annotations/480p/b" / f"{t:05d}.png", np.zeros_like(found))
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    assert succeeded(run(*args, cwd=tmp_path)).splitlines() == [
        "a: J&F 1.000, J 1.000, F 1.000 (2 objects)",
        "b: J&F 0.000, J 0.000, F 0.000 (1 object)",
        f"J&F 0.667, J 0.667, F 0.667 (3 objects); 0 of 2 sequences tracked -> {out}",
    ]
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.png")} == stamps
    record = json.loads((out / "results.json").read_text())
    assert record["sequences"]["a"] == {"1": {"J": 1.0, "F": 1.0}, "2": {"J": 1.0, "F": 1.0}}

    # A sequence that lacks a frame is tracked again, to the same masks; one that was not chosen is not.
    (out / "a/00002.png").unlink()
    (out / "b/00002.png").unlink()
    lines = succeeded(run(*args, "--sequences", "a", cwd=tmp_path)).splitlines()
    assert lines == [
        "a: J&F 1.000, J 1.000, F 1.000 (2 objects)",
        f"J&F 1.000, J 1.000, F 1.000 (2 objects); 1 of 1 sequences tracked -> {out}",
    ]
    assert not (out / "b/00002.png").exists()
    assert "b" in json.loads((out / "results.json").read_text())["sequences"]
    assert "holds results of --model" in failed(run("--davis", root, "--output", out, cwd=tmp_path))
    other = ["--davis", root, "--output", root, "--model", model]
    assert "holds something else than results of --davis" in failed(run(*other, cwd=tmp_path))


def test_results_of_other_options_are_named(tmp_path: Path) -> None:
    """What differs stands in the message, not only the model, which may be the same."""
    write_davis(tmp_path / "DAVIS")
    (tmp_path / "out").mkdir()
    record = {"model": NOT_LOADED, "revision": None, "dtype": None, "static": 2.0, "sequences": {}}
    (tmp_path / "out/results.json").write_text(json.dumps(record))
    args = ["--davis", "DAVIS", "--output", "out", "--model", NOT_LOADED, "--memory-policy", "samurai"]
    expected = f"out holds results of --model {NOT_LOADED}, with --static 2.0, without --memory-policy: name another"
    assert expected in failed(run(*args, cwd=tmp_path))


def test_davis_annotations_without_an_object(tmp_path: Path) -> None:
    write_davis(tmp_path)
    write_indexed(tmp_path / "Annotations/480p/b/00000.png", np.zeros((HEIGHT, WIDTH)))
    done = run("--davis", tmp_path, "--output", tmp_path / "out", "--model", NOT_LOADED, cwd=tmp_path)
    assert "Annotations/480p/b/00000.png is empty" in failed(done)
    assert not (tmp_path / "out").exists()
