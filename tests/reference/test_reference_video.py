"""Random scripts of prompts and propagation through the official video code and through ours.

    python tests/reference/test_reference_video.py --scripts 100 --seed 1    as many more as you like, with other seeds

Most scripts run with memories in float32 on both sides, where everything agrees to 1e-3 and a mistake in the method
shows; the others with the official rounding to bfloat16. A script may come so close to a threshold (an object score
near 0, a stability near 0.98, two masks of the same predicted IoU, a hole of 8 pixels) that rounding decides it: then
the official code, too, answers otherwise when its frames change by a millionth. Such a script ends there.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mlx_sam2  # noqa: F401  before MLX: mlx_sam2/_blas.py
from mlx_sam2.model.resize import fit_mask
from mlx_sam2.video import tracker
from mlx_sam2.video.memory_bank import ResultStore
from official import torch  # skips with its reason where the official code is missing
from official_video import (
    EXACT,
    ROUNDED,
    Comparison,
    Mismatch,
    OfficialRun,
    Op,
    OurRun,
    Tolerance,
    float32_memories,
    video_pair,
    write_scene,
)

JITTER = 3e-6  # of the normalised frames; features of the two sides differ by 7e-6


@dataclass
class Script:
    """What to run, on which video and with which options."""

    ops: list[Op]
    model: tuple[str, int] = ("nano", 1)  # configuration, seed of the weights
    video: tuple[int, int, int] = (7, 131, 97)  # frames, height, width
    options: dict[str, Any] = field(default_factory=dict)
    rounded: bool = False
    seed: int = 0

    def show(self) -> str:
        ops = "\n  ".join(f"{i} {_short(op)}" for i, op in enumerate(self.ops))
        return f"seed {self.seed} {self.model} {self.video} rounded={self.rounded} {self.options}\n  {ops}"


def _short(op: Op) -> str:
    return str(tuple(f"mask{v.shape}:{int(v.sum())}" if isinstance(v, np.ndarray) else v for v in op))


# ---------------------------------------------------------------------------------------------- one script


def check(script: Script, folder: Path, memory: str = "disk") -> tuple[str, Comparison]:
    """Run a script on both sides. Returns why it ended and what was compared.

    Raises:
        Mismatch: where the two sides differ and the official code is not undecided itself.
    """
    if not folder.exists():
        write_scene(folder, *script.video, seed=script.seed)
    comparison = Comparison(ROUNDED if script.rounded else EXACT)
    with contextlib.nullcontext() if script.rounded else float32_memories():
        official, ours = video_pair(*script.model, **script.options)

        def again() -> Any:
            return video_pair(*script.model, **script.options)[0]

        ours_run = OurRun(ours, folder, memory if script.rounded else "ram")
        try:
            return comparison.run(OfficialRun(official, folder), ours_run, script.ops), comparison
        except Mismatch as mismatch:
            for k in range(1, 9):
                try:
                    pair = OfficialRun(official, folder), OfficialRun(again(), folder, k * JITTER)
                    Comparison(comparison.tolerance).run(*pair, script.ops)
                except Mismatch as own:
                    if own.step <= mismatch.step:
                        return f"undecided ({mismatch}; official alone: {own})", comparison
            raise
        finally:
            ours_run.state.close()


# ---------------------------------------------------------------------------------------------- random scripts

MODELS = [("nano", 1), ("nano", 1), ("nano", 2), ("nano", 5), ("nano20", 3), ("nano20", 4)]
SIZES = [(131, 97), (97, 131), (64, 200), (180, 240), (256, 256), (512, 384), (300, 171), (40, 33)]
OPTIONS: list[dict[str, Any]] = [
    {"fill_hole_area": 0},
    {"fill_hole_area": 3},
    {"fill_hole_area": 30},
    {"non_overlap_masks": True},
    {"add_all_frames_to_correct_as_cond": True},
    {"add_all_frames_to_correct_as_cond": True, "max_cond_frames_in_attn": 2},
    {"max_cond_frames_in_attn": 2},
    {"max_cond_frames_in_attn": 3},
    {"memory_temporal_stride_for_eval": 2},
    {"memory_temporal_stride_for_eval": 3},
    {"memory_temporal_stride_for_eval": 4},
    {"post": False},
    {"post": False, "binarize_mask_from_pts_for_mem_enc": True},
    {"use_mask_input_as_output_without_sam": False},
    {"multimask_output_in_sam": False},
    {"multimask_min_pt_num": 1},
    {"multimask_min_pt_num": 1, "multimask_max_pt_num": 3},
    {"multimask_max_pt_num": 0},
    {"multimask_output_for_tracking": False},
    {"use_multimask_token_for_obj_ptr": False},
    {"soft_no_obj_ptr": True},
    {"fixed_no_obj_ptr": False},
    {"fixed_no_obj_ptr": False, "soft_no_obj_ptr": True},
    {"only_obj_ptrs_in_the_past_for_eval": False},
    {"use_signed_tpos_enc_to_obj_ptrs": False},
    {"proj_tpos_enc_in_obj_ptrs": False},
    {"proj_tpos_enc_in_obj_ptrs": False, "add_tpos_enc_to_obj_ptrs": False},
    {"max_obj_ptrs_in_encoder": 2},
    {"max_obj_ptrs_in_encoder": 4},
    {"num_maskmem": 0},
    {"num_maskmem": 1},
    {"num_maskmem": 2},
    {"num_maskmem": 4},
    {"num_maskmem": 9},
    {"pred_obj_scores": False, "fixed_no_obj_ptr": False},
    {
        "use_obj_ptrs_in_encoder": False,
        "pred_obj_scores": False,
        "fixed_no_obj_ptr": False,
        "proj_tpos_enc_in_obj_ptrs": False,
    },
    {"pred_obj_scores_mlp": False},
    {"use_mlp_for_obj_ptr_proj": False},
    {"iou_prediction_use_sigmoid": False},
    {"no_obj_embed_spatial": False},
    {"sigmoid_scale_for_mem_enc": 1.0, "sigmoid_bias_for_mem_enc": 0.0},
    {"non_overlap_masks_for_mem_enc": True},
    {"use_high_res_features_in_sam": False},
    {"image_size": 192},
]


class Author:
    """Writes random scripts; keeps a rough account of what they will do so that few end in an error at once."""

    def __init__(self, seed: int) -> None:
        self.draw = np.random.default_rng(seed)
        d = self.draw
        frames = int(d.choice([1, 2, 4, 6, 8, 11, 20], p=[0.05, 0.05, 0.15, 0.25, 0.25, 0.15, 0.1]))
        self.video = (frames, *SIZES[d.integers(len(SIZES))])
        self.options: dict[str, Any] = {}
        for i in d.choice(len(OPTIONS), d.choice([0, 1, 2, 3]), replace=False):
            if not set(OPTIONS[i]) & set(self.options):
                self.options |= OPTIONS[i]
        self.ids: list[Any] = []
        self.new_ids: list[Any] = [1, 0, "left", -7, "1", 12]
        d.shuffle(self.new_ids)
        self.suspended = False
        self.prompted: dict[Any, set[int]] = {}

    def script(self, seed: int) -> Script:
        d = self.draw
        ops = []
        for _ in range(d.integers(1, 4)):
            ops += self.prompt(new=not self.ids or d.random() < 0.4)
        for _ in range(d.integers(2, 7)):
            ops += self.more()
        if not any(op[0] == "propagate" for op in ops[-2:]):
            ops.append(("propagate", None, None, False, None))
        model = MODELS[d.integers(len(MODELS))]
        return Script(ops, model, self.video, self.options, bool(d.random() < 0.25), seed)

    def more(self) -> list[Op]:
        d = self.draw
        choices: list[tuple[float, Callable[[], list[Op]]]] = [
            (4, self.propagate),
            (3, lambda: self.prompt(new=False)),
            (0.7, lambda: self.prompt(new=True)),
            (0.6, self.clear),
            (0.5, self.remove),
            (0.15, self.reset),
            (0.15, lambda: [("preflight",)]),
            (0.2, self.mistake),
        ]
        if self.suspended:
            choices.append((3, self.resume))
        weights = np.array([w for w, _ in choices])
        return choices[d.choice(len(choices), p=weights / weights.sum())][1]()

    def frame(self) -> int:
        return int(self.draw.integers(self.video[0]))

    def stream_ops(self, frame: int) -> list[Op]:
        """Prompts on one frame, and removals."""
        d, ops = self.draw, []
        for _ in range(d.choice([0, 1, 2], p=[0.4, 0.4, 0.2])):
            ops += self.prompt(new=not self.ids or d.random() < 0.4, frame=frame)
        if len(self.ids) > 1 and d.random() < 0.15:
            ops.append(("remove", self.ids.pop(d.integers(len(self.ids)))))
        return ops

    def prompt(self, new: bool, frame: int | None = None) -> list[Op]:
        d = self.draw
        if new or not self.ids:
            if not self.new_ids:
                return []
            obj = self.new_ids.pop()
            self.ids.append(obj)
            self.prompted[obj] = set()
        else:
            obj = self.ids[d.integers(len(self.ids))]
        known = sorted(self.prompted[obj])
        if frame is None:
            frame = known[d.integers(len(known))] if known and d.random() < 0.3 else self.frame()
        self.prompted[obj].add(frame)
        if d.random() < 0.25:
            return [("mask", frame, obj, self.mask())]
        return [("points", frame, obj, self.points()) for _ in range(d.choice([1, 2, 3], p=[0.7, 0.2, 0.1]))]

    def points(self) -> dict[str, Any]:
        d = self.draw
        size = np.array(self.video[:0:-1], float)  # width, height
        normalize = bool(d.random() < 0.85)
        scale = size if normalize else np.ones(2)
        given: dict[str, Any] = {} if normalize else {"normalize_coords": False}
        kind = d.choice(["clicks", "box", "both", "none"], p=[0.7, 0.15, 0.13, 0.02])
        if kind in ("clicks", "both"):
            count = d.choice([1, 2, 3, 5], p=[0.6, 0.2, 0.15, 0.05])
            given["points"] = (d.uniform(-0.05, 1.05, (count, 2)) * scale).round(3).tolist()
            given["labels"] = d.choice([0, 1], count, p=[0.3, 0.7]).tolist()
        if kind == "none":
            given |= {"points": np.zeros((0, 2), np.float32), "labels": np.zeros(0, np.int32)}
            given = {k: torch.tensor(v) if k in ("points", "labels") else v for k, v in given.items()}
        if kind in ("box", "both"):
            corners = np.sort(d.uniform(0, 1, (2, 2)), axis=0) * scale
            given["box"] = corners.flatten().round(3).tolist()
        elif d.random() < 0.5:
            given["clear_old_points"] = False
        return given

    def mask(self) -> np.ndarray:
        d = self.draw
        _, height, width = self.video
        image_size = self.options.get("image_size", 256)
        sizes = [(height, width), (image_size, image_size), (2 * image_size, 384), (image_size // 4,) * 2, (33, 250)]
        height, width = sizes[d.choice(5, p=[0.6, 0.15, 0.1, 0.1, 0.05])]
        kind = d.choice(["rectangle", "ellipse", "noise", "empty", "dot"], p=[0.3, 0.35, 0.15, 0.12, 0.08])
        y, x = np.mgrid[:height, :width]
        (x0, x1), (y0, y1) = np.sort(d.integers(0, width + 1, 2)), np.sort(d.integers(0, height + 1, 2))
        if kind == "rectangle":
            return (x >= x0) & (x < x1) & (y >= y0) & (y < y1)
        if kind == "ellipse":
            cx, cy, rx, ry = d.uniform(0, width), d.uniform(0, height), d.uniform(2, width), d.uniform(2, height)
            return ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 <= 0.5
        if kind == "noise":
            side = int(d.integers(3, 10))
            coarse = d.random((height // side + 1, width // side + 1)) < 0.5
            return np.kron(coarse, np.ones((side, side), bool))[:height, :width]
        mask = np.zeros((height, width), bool)
        if kind == "dot":
            mask[min(y0, height - 1), min(x0, width - 1)] = True
        return mask

    def propagate(self) -> list[Op]:
        d = self.draw
        start = None if d.random() < 0.5 else self.frame()
        count = None if d.random() < 0.6 else int(d.integers(0, self.video[0] + 2))
        take = None if d.random() < 0.75 else int(d.integers(1, self.video[0] + 1))
        self.suspended = take is not None
        return [("propagate", start, count, bool(d.random() < 0.35), take)]

    def resume(self) -> list[Op]:
        self.suspended = False
        return [("resume",)]

    def clear(self) -> list[Op]:
        d = self.draw
        if not self.ids:
            return []
        obj = self.ids[d.integers(len(self.ids))]
        known = sorted(self.prompted[obj])
        if not known or d.random() < 0.1:
            return [("clear", self.frame(), obj)]
        frame = known[d.integers(len(known))]
        return [("clear", frame, obj), *(self.prompt(new=False) if d.random() < 0.5 else [])]

    def remove(self) -> list[Op]:
        d = self.draw
        if len(self.ids) < 2 and d.random() < 0.8:
            return []
        if not self.ids or d.random() < 0.1:
            return [("remove", "unknown", bool(d.random() < 0.5))]
        obj = self.ids.pop(d.integers(len(self.ids)))
        self.prompted.pop(obj)
        self.suspended = False
        if d.random() < 0.3:
            self.new_ids.append(obj)
        return [("remove", obj, False, *([False] if d.random() < 0.1 else []))]

    def reset(self) -> list[Op]:
        self.ids, self.prompted, self.suspended = [], {}, False
        return [("reset",), *self.prompt(new=True), *self.prompt(new=True)]

    def mistake(self) -> list[Op]:
        obj = self.ids[0] if self.ids else "new"
        wrong: list[Op] = [
            ("points", 0, obj, {}),
            ("points", 0, obj, {"points": [[1, 2]]}),
            ("points", 0, obj, {"labels": [1]}),
            ("points", 0, obj, {"box": [1, 2, 30, 30], "clear_old_points": False}),
            ("remove", "unknown", True),
        ]
        return [wrong[self.draw.integers(len(wrong))]]


def random_script(seed: int) -> Script:
    return Author(seed).script(seed)


# ---------------------------------------------------------------------------------------------- tests


def click(frame: int, obj: Any, x: float, y: float, label: int = 1, **given: Any) -> Op:
    return "points", frame, obj, {"points": [[x, y]], "labels": [label], **given}


def run(start: int | None = None, count: int | None = None, reverse: bool = False, take: int | None = None) -> Op:
    return "propagate", start, count, reverse, take


def disc(height: int, width: int, part: float = 0.3) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return ((x / width - 0.5) ** 2 + (y / height - 0.4) ** 2) <= part**2


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
                assert np.array_equal(mine[2], expected[2]), f"seed {seed} frame {t} {_short(op)}"
    return compared


# ---------------------------------------------------------------------------------------------- command


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scripts", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the first script; the others count on from it")
    parser.add_argument("--minutes", type=float, default=1e9)
    args = parser.parse_args(argv)
    ends: Counter[str] = Counter()
    worst: dict[bool, Counter[str]] = {False: Counter(), True: Counter()}
    records, start = 0, time.monotonic()
    for seed in range(args.seed, args.seed + args.scripts):
        if time.monotonic() - start > 60 * args.minutes:
            break
        script = random_script(seed)
        with tempfile.TemporaryDirectory() as folder:
            try:
                end, comparison = check(script, Path(folder) / "video")
            except Mismatch as mismatch:
                print(f"MISMATCH {mismatch}\n{script.show()}", flush=True)
                ends["mismatch"] += 1
                continue
            except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
                print(f"CRASH {error!r}\n{script.show()}", flush=True)
                ends["crash"] += 1
                continue
        if end.startswith("undecided"):
            print(f"seed {seed} {end}", flush=True)
        ends[end.split(" (")[0]] += 1
        records += comparison.records
        for kind, value in comparison.worst.items():
            worst[script.rounded][kind] = max(worst[script.rounded][kind], value)
    print(dict(ends), f"{records} results of frames compared, {time.monotonic() - start:.0f} s")
    print("worst, float32 memories:", dict(worst[False]))
    print("worst, bfloat16 memories:", dict(worst[True]))
    return int(bool(ends["mismatch"] or ends["crash"]))


if __name__ == "__main__":
    raise SystemExit(main())
