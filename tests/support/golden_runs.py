"""Prompts and scripts of the large goldens, run by our predictors; the official answers beside what came out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np

from goldens import Golden
from mlx_sam2.checkpoint.build import split_video_options
from mlx_sam2.sam2_video_predictor import SAM2VideoPredictor
from mlx_sam2.video.result_store import FrameResult
from mlx_sam2.video.state import VideoState

SMALL = ["image_nano_truck", "image_nano20_truck", "image_edgetam_nano"]
LARGE = [
    "image_edgetam_truck",
    "image_sam2_tiny_truck",
    "image_tiny_truck",
    "image_small_truck",
    "image_base_plus_truck",
    "image_large_truck",
]
# Memories are rounded to bfloat16: one rounding that flips moves later logits by 0.008..0.03, scores by 3e-4..2e-2 and
# pointers by up to 2e-3 (golden/README.md). Logits are stored as float16. At most 0.2 % of the logits may lie outside.
LOGIT_TOL, SCORE_TOL, POINTER_TOL = (6e-2, 5e-3), (3e-2, 5e-3), (1e-2, 5e-3)  # absolute, relative
OUTLIERS = 2e-3
MEMORY_TOL = (4e-2, 1e-2)

STORES = {
    "temp/cond": "pending",
    "temp/non_cond": "pending_tracked",
    "out/cond": "conditioning",
    "out/non_cond": "tracked",
}


def arguments(prompt: dict[str, Any], low_res: dict[str, np.ndarray], scores: dict[str, np.ndarray]) -> dict[str, Any]:
    """A golden's prompt as arguments of ``predict``; "prev" is the best mask of an earlier case."""
    given: dict[str, Any] = {"multimask_output": prompt["multimask"]}
    if "points" in prompt:
        given |= {"point_coords": np.array(prompt["points"]), "point_labels": np.array(prompt["labels"])}
    if "box" in prompt:
        given["box"] = np.array(prompt["box"])
    if "prev" in prompt:
        given["mask_input"] = low_res[prompt["prev"]][scores[prompt["prev"]].argmax()][None]
    if "normalize" in prompt:
        given["normalize_coords"] = prompt["normalize"]
    return given


def build(golden: Golden) -> SAM2VideoPredictor:
    model, options = golden.model(), golden.about["options"]
    given = {
        "apply_postprocessing": options["apply_postprocessing"],
        "hydra_overrides_extra": options["extra_overrides"],
    }
    model_options, predictor_options = split_video_options(given)
    config = model.config.with_postprocessing(options["apply_postprocessing"], video=True)
    config = config.with_overrides(model_options["hydra_overrides_extra"])
    return SAM2VideoPredictor(model.with_config(config), **predictor_options)


def run_script(
    predictor: SAM2VideoPredictor,
    state: VideoState,
    script: list[dict[str, Any]],
    check: Callable[[int, int | None, list[int], np.ndarray | None], None],
) -> None:
    for step, op in enumerate(script):
        frame, obj = op.get("frame"), op.get("obj")
        if op["op"] == "points":
            given = {k: op[k] for k in ("points", "labels", "box", "clear_old_points", "normalize_coords") if k in op}
            check(step, *predictor.add_new_points_or_box(state, frame, obj, **given))
        elif op["op"] == "mask":
            check(step, *predictor.add_new_mask(state, frame, obj, draw(op["mask"], *state.video_size)))
        elif op["op"] == "propagate":
            given = op.get("start"), op.get("max"), op.get("reverse", False)
            for output in predictor.propagate_in_video(state, *given):
                check(step, *output)
        elif op["op"] == "clear":
            check(step, *predictor.clear_all_prompts_in_frame(state, frame, obj))
        elif op["op"] == "remove":
            obj_ids, updates = predictor.remove_object(state, obj)
            check(step, None, obj_ids, None)
            for frame_idx, masks in updates:
                check(step, frame_idx, obj_ids, masks)
        else:
            assert op["op"] == "reset"
            predictor.reset_state(state)
            check(step, None, state.obj_ids, None)


def draw(spec: list[Any], height: int, width: int) -> np.ndarray:
    """A mask prompt of a script: ["rect", x0, y0, x1, y1], ["ellipse", x, y, radius_x, radius_y] or ["empty"]."""
    y, x = np.mgrid[:height, :width]
    if spec[0] == "rect":
        return (x >= spec[1]) & (x < spec[3]) & (y >= spec[2]) & (y < spec[4])
    if spec[0] == "ellipse":
        return ((x - spec[1]) / spec[3]) ** 2 + ((y - spec[2]) / spec[4]) ** 2 <= 1
    return np.zeros((height, width), bool)


def compare(
    expected: dict[str, np.ndarray], record: dict[str, Any], name: str, state: VideoState, masks: np.ndarray
) -> None:
    assert_close(masks[:, 0, 6::24, 6::24], expected[f"{name}.vid24"], LOGIT_TOL, name, OUTLIERS)
    for i, obj_id in enumerate(record["obj_ids"]):
        result = stored_result(state, obj_id, record["source"][i], record["frame"])
        where = f"{name} object {obj_id}"
        low = expected[f"{name}.low"][i].astype(np.float32)
        if result is None:
            assert (masks[i] == -1024).all(), where
            continue
        ours = result.low_res_mask[::2, ::2] if low.shape != result.low_res_mask.shape else result.low_res_mask
        assert_close(ours, low, LOGIT_TOL, where, OUTLIERS)
        assert overlap(ours > 0, low > 0) >= 0.99, where
        assert abs(int((masks[i] > 0).sum()) - record["area_video"][i]) <= 0.01 * max(record["area_video"][i], 2000), (
            where
        )
        score = expected[f"{name}.score"][i]
        assert_close(np.array(result.object_score), score, SCORE_TOL, where)
        assert (result.object_score > 0) == (score > 0), where
        assert_close(np.array(result.pointer), expected[f"{name}.ptr"][i], POINTER_TOL, where)
        if result.features is not None:
            memory = np.array(result.features.astype(mx.float32))
            said = record["mem"][i]
            assert abs(memory.mean() - said["mean"]) < 5e-3 and abs(memory.std() - said["std"]) < 5e-3, where
            if memory.ndim == 2:  # EdgeTAM: tokens, of the full size [::4, ::2]
                step = (4, 2) if len(memory) == 512 else (1, 1)
                stored = expected[f"{name}.mem"][i]
                assert_close(memory[:: step[0], :: step[1]], stored, MEMORY_TOL, where, OUTLIERS)
            elif memory.shape[0] == 16 and len(expected.get(f"{name}.mem", ())) == len(record["obj_ids"]):  # nano
                stored = expected[f"{name}.mem"][i].transpose(1, 2, 0)
                assert_close(memory[::2, ::2], stored, MEMORY_TOL, where, OUTLIERS)


def stored_result(state: VideoState, obj_id: int, source: str, frame_idx: int) -> FrameResult | None:
    return None if source == "none" else getattr(state.tracks[obj_id], STORES[source])[frame_idx]


def assert_close(
    ours: np.ndarray, theirs: np.ndarray, tolerance: tuple[float, float], where: str, outliers: float = 0
) -> None:
    difference = np.abs(ours.astype(np.float64) - theirs)
    outside = difference > tolerance[0] + tolerance[1] * np.abs(theirs.astype(np.float64))
    assert outside.mean() <= outliers, f"{where}: {outside.mean():.2%} outside, worst {difference.max():.2g}"


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    either = (a | b).sum()
    return 1.0 if either == 0 else float((a & b).sum() / either)
