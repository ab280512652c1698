"""Scripts of prompts and propagation through the official video code and through ours: chosen ones, a few random ones.

``run_video_scripts.py`` runs as many random ones as you like, and says how they end.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mlx_sam2  # noqa: F401  before MLX: mlx_sam2/_blas.py
from mlx_sam2.model.resize import fit_mask
from mlx_sam2.video import tracker
from mlx_sam2.video.result_store import ResultStore
from official import torch  # skips with its reason where the official code is missing
from official_video import (
    EXACT,
    ROUNDED,
    Comparison,
    OfficialRun,
    OurRun,
    Tolerance,
    float32_memories,
    video_pair,
    write_scene,
)
from run_video_scripts import check
from video_scripts import MODELS, Author, Script, click, disc, random_script, run, short

BOTH = {"points": [[40, 30], [70, 60]], "labels": [1, 0], "box": [20, 10, 80, 60]}
SHORT, TINY = (5, 67, 101), (3, 67, 101)

SCRIPTS = {
    "clicks, more clicks, corrections": Script(
        [
            click(0, 1, 50, 30),
            click(0, 1, 20, 50, 0, clear_old_points=False),
            click(0, 1, 60.5, 20.25),
            run(),
            click(3, 1, 45, 35),
            click(3, 1, 80, 10, 0, clear_old_points=False),
            run(3),
        ],
        video=SHORT,
    ),
    "boxes, ids of two kinds, no overlap": Script(
        [
            ("points", 0, 7, {"box": [10, 5, 60, 50]}),
            ("points", 0, "left", BOTH),
            ("points", 1, 7, {"box": [0.1, 0.1, 0.7, 0.8], "normalize_coords": False}),
            run(),
        ],
        video=TINY,
        options={"non_overlap_masks": True},
    ),
    "masks of many sizes, an empty one, and a click on one": Script(
        [
            ("mask", 0, 1, disc(67, 101)),
            ("mask", 0, 2, disc(256, 256, 0.2)),
            ("mask", 2, 1, disc(512, 384)),  # exact ties at one half
            click(2, 1, 50, 30),
            ("mask", 1, 2, np.zeros((67, 101), bool)),
            run(),
        ],
        video=TINY,
    ),
    "a mask on a tracked frame, holes": Script(
        [click(0, 1, 50, 30), run(), ("mask", 2, 1, disc(67, 101)), click(2, 1, 10, 10, 0), run(3)],
        video=SHORT,
        options={"fill_hole_area": 30},
    ),
    "a late object, both ways, part of the video": Script(
        [click(2, 1, 50, 30), run(count=1), click(3, 2, 20, 20), run(), run(4, 3, True), run(reverse=True), run(1, 0)],
        model=("nano20", 4),
        video=SHORT,
    ),
    "some of many conditioning frames, stride 2": Script(
        [
            click(5, 1, 50, 30),
            click(0, 1, 40, 30),
            click(3, 1, 60, 30),
            ("mask", 8, 1, disc(67, 101)),
            run(),
            run(7, None, True),
        ],
        video=(9, 67, 101),
        options={"image_size": 128, "max_cond_frames_in_attn": 2, "memory_temporal_stride_for_eval": 2},
    ),
    "clear, remove, reset": Script(
        [
            *(click(0, 1, 50, 30), click(2, 1, 50, 30), click(0, 2, 20, 20), click(1, 3, 80, 50), run(count=1)),
            *(("clear", 0, 1), ("remove", 2), run(2), ("remove", "unknown"), ("clear", 2, 1), click(2, 1, 50, 30)),
            *(("remove", 3), ("remove", 1), click(1, 1, 50, 30), run(), ("reset",), click(2, 1, 50, 30), run()),
        ],
        video=TINY,
    ),
    "prompts while propagation pauses": Script(
        [click(1, 1, 50, 30), run(take=2), click(4, 1, 20, 25), ("resume",), click(4, 1, 70, 30), run()],
        video=SHORT,
    ),
    "corrections become conditioning frames": Script(
        [click(3, 1, 50, 30), run(reverse=True), click(1, 1, 26, 21), click(2, 1, 20, 20), run(reverse=True), run(2)],
        video=SHORT,
        options={"add_all_frames_to_correct_as_cond": True, "only_obj_ptrs_in_the_past_for_eval": False},
    ),
    "more frames than pointers, stride 3": Script(
        [click(0, 1, 50, 30), run()],
        video=(17, 67, 101),
        options={"image_size": 128, "memory_temporal_stride_for_eval": 3},
    ),
    "one frame": Script([click(0, 1, 50, 30), click(0, 2, 20, 20), run(), run(reverse=True)], video=(1, 67, 101)),
    "no memory": Script(
        [click(0, 1, 50, 30), ("mask", 0, 2, disc(67, 101)), run(), click(1, 1, 20, 20), run(1)],
        video=TINY,
        options={"num_maskmem": 0},
    ),
    "no pointers, no object scores": Script(
        [click(0, 1, 50, 30), ("mask", 2, 1, disc(67, 101)), run()],
        video=TINY,
        options={
            "use_obj_ptrs_in_encoder": False,
            "pred_obj_scores": False,
            "fixed_no_obj_ptr": False,
            "proj_tpos_enc_in_obj_ptrs": False,
        },
    ),
    "masks through the decoder, soft pointers, other mask choices": Script(
        [("mask", 0, 1, disc(67, 101)), click(0, 1, 50, 30, 0), ("mask", 1, 2, disc(67, 101, 0.1)), run()],
        video=TINY,
        options={
            "use_mask_input_as_output_without_sam": False,
            "soft_no_obj_ptr": True,
            "multimask_min_pt_num": 1,
            "multimask_output_for_tracking": False,
            "num_maskmem": 2,
        },
    ),
    "memories rounded to bfloat16": Script(
        [click(0, 1, 50, 30), ("points", 2, "b", BOTH), run(), click(4, 1, 40, 40), run(4, None, True)],
        video=SHORT,
        rounded=True,
    ),
}
SEEDS = [3, 11, 25, 29, 30, 39]


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_script(name: str, tmp_path: Path) -> None:
    end, comparison = check(SCRIPTS[name], tmp_path / "video")
    assert end == "completed"
    assert comparison.records > 0


@pytest.mark.parametrize("seed", SEEDS)
def test_random_script(seed: int, tmp_path: Path) -> None:
    script = random_script(seed)
    print(script.show())
    end, _ = check(script, tmp_path / "video")
    assert not end.startswith("undecided")  # these seeds have no close calls: another one makes it a difference


def test_photographs(golden: Path) -> None:
    """The real frames of the goldens, from the camera's 960 x 540."""
    script = Script([click(0, 1, 210, 350), click(1, 2, 320, 330), run(count=2), run(2, None, True)])
    assert check(script, golden / "inputs" / "bedroom_a")[0] == "completed"


MISTAKES = {
    "nothing": ("points", 0, 1, {}),
    "points without labels": ("points", 0, 1, {"points": [[1, 2]]}),
    "labels without points": ("points", 0, 1, {"labels": [1]}),
    "a box in addition": ("points", 0, 1, {"box": [1, 2, 30, 30], "clear_old_points": False}),
    "removing an unknown object": ("remove", 5, True),
}


def test_mistakes(tmp_path: Path) -> None:
    """The same type of error as the official code's deliberate ones, and the state stays as it was."""
    folder = write_scene(tmp_path / "video", 3, 67, 101, 0)
    official, ours = video_pair("nano", 1)
    sides = OfficialRun(official, folder), OurRun(ours, folder)
    comparison = Comparison(ROUNDED)
    assert comparison.run(*sides, [run(), click(0, 1, 50, 30)]) == "completed"  # no object yet
    for name, op in MISTAKES.items():
        with pytest.raises(RuntimeError if op[0] == "remove" else ValueError):
            list(sides[1].do(op))
        assert comparison.run(*sides, [op]) == "completed", name
    assert comparison.run(*sides, [run(), ("clear", 0, 1)]) == "completed"
    with pytest.raises(RuntimeError, match="no input points or masks are provided for object 1"):
        list(sides[1].do(run()))
    assert comparison.run(*sides, [run()]) == "completed"


def test_where_the_official_code_fails(tmp_path: Path) -> None:
    """A click on a tracked frame when no conditioning frame is left: an assertion there, a first look here."""
    script = Script([click(0, 1, 50, 30), run(), ("clear", 0, 1), click(1, 1, 50, 30)], video=TINY)
    assert check(script, tmp_path / "video")[0] == "no conditioning frame left"


@pytest.mark.parametrize("size", [(1080, 1920), (720, 1280), (540, 960), (131, 97), (2048, 1536), (480, 640)])
def test_mask_prompt_ties(size: tuple[int, int]) -> None:
    """Pixels that are one half up to rounding fall as in the official code at its size, 1024."""
    masks = [np.random.default_rng(0).random(size) < 0.5, disc(*size)]
    for mask in masks:
        given = torch.from_numpy(mask.astype(np.float32))[None, None]
        resized = torch.nn.functional.interpolate(
            given, (1024, 1024), mode="bilinear", align_corners=False, antialias=True
        )
        assert (fit_mask(mask, 1024) == (resized[0, 0] >= 0.5).numpy()).all()


# ---------------------------------------------------------------------------------------------- ours against ours

SAME = Tolerance((0, 0), (0, 0), (0, 0), (0, 0), 0)
SMALL = {"image_size": 128}
SEVERAL = Script(
    [
        *(click(0, 1, 50, 30), click(1, 2, 20, 20), ("mask", 0, 3, disc(67, 101)), run(take=3), click(2, 4, 80, 50)),
        *(("resume",), click(3, 2, 30, 30), run(3, None, True), ("remove", 3), run(2)),
    ],
    video=SHORT,
    options=SMALL,
)


def our_runs(script: Script, folder: Path, memories: tuple[str, str]) -> tuple[OurRun, OurRun]:
    write_scene(folder, *script.video, seed=script.seed)
    _, predictor = video_pair(*script.model, **script.options)
    return OurRun(predictor, folder, memories[0]), OurRun(predictor, folder, memories[1])


def test_memory_in_a_file_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for one result in RAM, every recall reads the file."""
    monkeypatch.setattr(ResultStore, "capacity", property(lambda self: 1, lambda self, value: None), raising=False)
    runs = our_runs(SEVERAL, tmp_path / "video", ("ram", "disk"))
    assert Comparison(SAME).run(*runs, SEVERAL.ops) == "completed"
    assert len(runs[1].state.store._recent) == 1


@pytest.mark.slow
def test_batched_objects_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with float32_memories():
        together, alone = our_runs(SEVERAL, tmp_path / "video", ("ram", "ram"))
        largest: dict[bool, list[int]] = {False: [], True: []}
        batches = tracker.Tracker._batches

        def limited(self: tracker.Tracker, recalls: Any) -> list[list[int]]:
            separate = self is alone.predictor.tracker
            monkeypatch.setattr(tracker, "MAX_SCORES", 0 if separate else 1 << 28)
            found = batches(self, recalls)
            largest[separate].append(max(len(batch) for batch in found))
            return found

        monkeypatch.setattr(tracker.Tracker, "_batches", limited)
        alone.predictor = type(alone.predictor)(alone.predictor.model, alone.predictor.fill_hole_area)
        alone.state.tracker = alone.predictor.tracker
        assert Comparison(EXACT).run(together, alone, SEVERAL.ops) == "completed"
    assert (max(largest[False]), max(largest[True])) == (3, 1)


@pytest.mark.parametrize("seed", [0, 1])
def test_stream_is_a_session(seed: int, tmp_path: Path) -> None:
    compare_stream(seed, tmp_path / "video")


def compare_stream(seed: int, folder: Path) -> int:
    """Random prompts on the current frame, in a stream and in a session; returns how many masks were compared."""
    author = Author(seed)
    author.options |= SMALL
    write_scene(folder, *author.video, seed=seed)
    _, predictor = video_pair(*MODELS[author.draw.integers(len(MODELS))], **author.options)
    compared = 0
    with predictor.stream(folder) as stream, predictor.init_state(folder) as state:
        for t, ids, masks in stream:
            if state.tracks:
                [(_, expected_ids, expected)] = predictor.propagate_in_video(state, t, 0)
                assert ids == expected_ids, f"seed {seed}"
                assert np.array_equal(masks, expected), f"seed {seed} frame {t}: {abs(masks - expected).max()}"
                compared += len(ids)
            for op in author.stream_ops(t):
                if op[0] == "remove":
                    assert stream.remove_object(op[1]) == predictor.remove_object(state, op[1])[0]
                    continue
                if op[0] == "mask":
                    mine, expected = stream.add_new_mask(*op[2:]), predictor.add_new_mask(state, *op[1:])
                else:
                    mine = stream.add_new_points_or_box(op[2], **op[3])
                    expected = predictor.add_new_points_or_box(state, *op[1:3], **op[3])
                assert mine[:2] == expected[:2], f"seed {seed}"
                assert np.array_equal(mine[2], expected[2]), f"seed {seed} frame {t} {short(op)}"
    return compared
