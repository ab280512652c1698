"""``python -m mlx_sam2.track`` as a user runs it: its files hold what the API gives."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_sam2.datasets.pictures import read_indexed
from mlx_sam2.frames.opening import open_source
from mlx_sam2.frames.source import SequenceSource, StreamSource
from mlx_sam2.masks import rle_to_mask
from mlx_sam2.track.command import build_parser
from mlx_sam2.track.resume import resume_arguments
from mlx_sam2.track.run import Progress, TrackedFrame
from mlx_sam2.track.video import make_plan
from track_command import (
    BOX,
    NUM_FRAMES,
    PIXEL_ASPECT,
    POINT,
    WIDTH,
    environment,
    frames_of_clip,
    merged,
    num_decodable,
    run,
    succeeded,
    two_objects,
    write_indexed,
)


def test_default_outputs_hold_what_the_api_gives(clip: Path, model: str, predictor: Any) -> None:
    out = succeeded(run(clip, "--point", "40,30", "--model", model, cwd=clip.parent))
    assert out.startswith(f"{clip}: frames 0 to 5, 1 object, ")
    assert out.endswith(f" frames/s -> {clip}_masks/, {clip}_overlay.mp4\n")
    with predictor.init_state(clip) as state:
        predictor.add_new_points_or_box(state, 0, 1, points=[POINT], labels=[1])
        expected = {t: merged(ids, logits) for t, ids, logits in predictor.propagate_in_video(state)}
    assert any(mask.any() for mask in expected.values())
    assert sorted(path.name for path in clip.with_name("clip_masks").iterdir()) == [f"{t:05d}.png" for t in expected]
    for t, indices in expected.items():
        np.testing.assert_array_equal(read_indexed(clip.with_name("clip_masks") / f"{t:05d}.png"), indices)
    assert num_decodable(clip.with_name("clip_overlay.mp4")) == NUM_FRAMES


@pytest.mark.slow
def test_prompts_are_merged_and_outputs_are_equal(mp4: Path, model: str, predictor: Any, tmp_path: Path) -> None:
    """Box, points and a mask, two objects, two frames, from a video file to all kinds of output."""
    mask = write_indexed(tmp_path / "mask.png", two_objects())
    prompts = ["--box", "2:50,20,90,60@2", "--point", "2:70,40@2", "--negative", "2:55,55@2", "--mask", "1:mask.png"]
    frames = ["--start", "1", "--frames", "4", "--memory", "ram", "--dtype", "float32"]
    outputs = ["--output", "m", "--output", "masks.jsonl", "--overlay", "seen.mov"]
    out = succeeded(run(mp4, *prompts, *frames, *outputs, "--model", model, cwd=tmp_path))
    assert "frames 1 to 4, 2 objects" in out
    with predictor.init_state(mp4) as state:
        predictor.add_new_mask(state, 1, 1, read_indexed(mask) == 1)
        predictor.add_new_points_or_box(state, 2, 2, points=[(70, 40), (55, 55)], labels=[1, 0], box=BOX)
        lines = [json.loads(line) for line in (tmp_path / "masks.jsonl").read_text().splitlines()]
        expected = list(predictor.propagate_in_video(state, 1, 3))
        scores = {t: [state.tracks[obj].result(t).object_score for obj in ids] for t, ids, _ in expected}
    assert [line["frame"] for line in lines] == [t for t, _, _ in expected] == [1, 2, 3, 4]
    for line, (t, ids, logits) in zip(lines, expected, strict=True):
        assert [entry["id"] for entry in line["objects"]] == ids
        assert [entry["score"] for entry in line["objects"]] == pytest.approx(scores[t], abs=1e-4)  # noise 0
        assert line["time"] == pytest.approx(t / 10)
        for entry, logit in zip(line["objects"], logits, strict=True):
            np.testing.assert_array_equal(rle_to_mask(entry["rle"]), logit[0] > 0)
        np.testing.assert_array_equal(read_indexed(tmp_path / "m" / f"{t:05d}.png"), merged(ids, logits))
    assert num_decodable(tmp_path / "seen.mov") == 4
    assert open_source(tmp_path / "seen.mov").display.pixel_aspect == PIXEL_ASPECT


@pytest.mark.slow
def test_reverse_begins_at_the_last_prompt(clip: Path, model: str, predictor: Any) -> None:
    (clip.parent / "p.json").write_text('[{"points": [[40, 30]], "frame": 2}, {"box": [50, 20, 90, 60], "frame": 4}]')
    args = ["--prompts", "p.json", "--reverse", "--output", "out.jsonl", "--model", model]
    assert "frames 4 to 0, 1 object," in succeeded(run(clip, *args, cwd=clip.parent))
    with predictor.init_state(clip) as state:
        predictor.add_new_points_or_box(state, 2, 1, points=[POINT], labels=[1])
        predictor.add_new_points_or_box(state, 4, 1, box=BOX)
        expected = list(predictor.propagate_in_video(state, 4, reverse=True))
    lines = [json.loads(line) for line in (clip.parent / "out.jsonl").read_text().splitlines()]
    assert [line["frame"] for line in lines] == [4, 3, 2, 1, 0]
    for line, (_, _, logits) in zip(lines, expected, strict=True):
        np.testing.assert_array_equal(rle_to_mask(line["objects"][0]["rle"]), logits[0, 0] > 0)


def test_live_stream(mp4: Path, model: str, predictor: Any, tmp_path: Path) -> None:
    """Frames that only come once, here through an address; a second object joins on frame 3."""
    args = ["--point", "40,30@1", "--box", "2:50,20,90,60@3", "--output", "out.jsonl", "--model", model]
    assert "frames 1 to 5, 2 objects" in succeeded(run(f"file://{mp4}", *args, cwd=tmp_path))
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    expected = []
    with open_source(mp4) as frames, predictor.stream(StreamSource(iter(frames))) as stream:
        for t, ids, logits in stream:
            if t == 1:
                _, ids, logits = stream.add_new_points_or_box(1, points=[POINT], labels=[1])
            if t == 3:
                _, ids, logits = stream.add_new_points_or_box(2, box=BOX)
            expected.append((t, list(ids), logits))
    assert [(line["frame"], [e["id"] for e in line["objects"]]) for line in lines] == [
        (t, ids) for t, ids, _ in expected[1:]
    ]
    for line, (_, _, logits) in zip(lines, expected[1:], strict=True):
        for entry, logit in zip(line["objects"], logits, strict=True):
            np.testing.assert_array_equal(rle_to_mask(entry["rle"]), logit[0] > 0)


@pytest.mark.parametrize(
    ("flags", "start", "count", "prompted"),
    [
        ("--point 1,2", 0, 6, [0]),
        ("--point 1,2@2 --point 2:1,2@4", 2, 4, [2, 4]),
        ("--point 1,2 --start 3", 3, 3, [3]),
        ("--point 1,2@1 --start 3 --frames 2", 3, 2, [1]),
        ("--point 1,2 --frames 9", 0, 6, [0]),
        ("--point 1,2 --reverse", 5, 6, [5]),
        ("--point 1,2@2 --point 2:1,2@4 --reverse --frames 3", 4, 3, [2, 4]),
        ("--point 1,2 --start 3 --reverse", 3, 4, [3]),
    ],
)
def test_which_frames_are_tracked(flags: str, start: int, count: int, prompted: list[int]) -> None:
    plan = make_plan(build_parser().parse_args(["clip", *flags.split()]), SequenceSource(frames_of_clip()))
    assert (plan.start, plan.count, [prompt.frame for prompt in plan.prompts]) == (start, count, prompted)


def test_going_on_from_where_prompts_are(tmp_path: Path) -> None:
    """Stopped on frame 3, where objects 1 and 2 have prompts, and the PNG shows only object 1."""
    words = ["clip", "--point", "1,2@1", "--point", "1:3,4@3", "--box", "2:5,6,7,8@3", "--frames", "5"]
    outputs = [str(tmp_path / "m"), str(tmp_path / "a_from1.mp4")]
    (tmp_path / "m").mkdir()
    args, source = build_parser().parse_args(words), SequenceSource(frames_of_clip())
    masks = {1: two_objects() == 1, 2: (two_objects() == 1) & (np.arange(WIDTH) > 20)}  # 2 is hidden behind 1
    progress = Progress(count=3, first=1, last=TrackedFrame(3, source[3], masks, {}, None))
    rest = ["--frames", "2", "--model", "base_plus", "--output", outputs[0]]
    rest += ["--output", str(tmp_path / "a_from4.mp4"), "--overwrite"]
    seen = ["--mask", f"{tmp_path}/m/00003.png@3", "--start", "4"]
    expected = ["clip", "--point", "1:1,2@1", "--box", "2:5,6,7,8@3", *seen, *rest]
    assert resume_arguments(args, make_plan(args, source), source, outputs, progress) == expected
    masks.clear()  # nothing seen: the prompts alone
    expected = ["clip", "--point", "1:1,2@1", "--box", "2:5,6,7,8@3", "--point", "1:3,4@3", "--start", "4", *rest]
    actual = resume_arguments(args, make_plan(args, source), source, outputs, progress)
    assert sorted(actual) == sorted(expected)


def test_going_on_in_reverse_reaches_frame_0() -> None:
    """Nothing can be propagated in reverse from frame 0, so frame 1 is done again."""
    args = build_parser().parse_args(["clip", "--point", "1,2@4", "--reverse", "--frames", "5", "--output", "o.jsonl"])
    source = SequenceSource(frames_of_clip())
    progress = Progress(count=4, first=4, last=TrackedFrame(1, source[1], {1: two_objects() == 9}, {}, None))
    words = resume_arguments(args, make_plan(args, source), source, ["o.jsonl"], progress)
    again = build_parser().parse_args(words)
    plan = make_plan(again, source)
    assert (plan.start, plan.count, plan.reverse, again.output) == (1, 2, True, ["o_from1.jsonl"])


def test_example_track_clip(mp4: Path, model: str, tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "examples/track_clip.py"
    words = [sys.executable, script, mp4, "40,30", tmp_path / "out.mp4", model]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment())
    assert succeeded(done).endswith(f"{NUM_FRAMES} frames -> {tmp_path / 'out.mp4'}\n")
    assert num_decodable(tmp_path / "out.mp4") == NUM_FRAMES
