"""Scripts of prompts and propagation on a video: their parts, and an author of random ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from official import torch
from official_video import Op


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
        ops = "\n  ".join(f"{i} {short(op)}" for i, op in enumerate(self.ops))
        return f"seed {self.seed} {self.model} {self.video} rounded={self.rounded} {self.options}\n  {ops}"


def short(op: Op) -> str:
    return str(tuple(f"mask{v.shape}:{int(v.sum())}" if isinstance(v, np.ndarray) else v for v in op))


def click(frame: int, obj: Any, x: float, y: float, label: int = 1, **given: Any) -> Op:
    return "points", frame, obj, {"points": [[x, y]], "labels": [label], **given}


def run(start: int | None = None, count: int | None = None, reverse: bool = False, take: int | None = None) -> Op:
    return "propagate", start, count, reverse, take


def disc(height: int, width: int, part: float = 0.3) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return ((x / width - 0.5) ** 2 + (y / height - 0.4) ** 2) <= part**2


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
