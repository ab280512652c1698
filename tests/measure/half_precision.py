"""How far half precision is from float32, in mask IoU with the goldens: ``python tests/measure/half_precision.py``.

The model runs with its weights and activations in float16 or bfloat16, on this machine's CPU, but as a GPU computes:
products of halves are summed in float32 and rounded once, and attention that is fused on Metal keeps its scores in
float32. Compared are low-resolution masks with those of the official code in float32 (../shared/golden).

A mask is left out as degenerate where float32 itself does not say what it is: where it changes by more than 1 % when
all its logits move by the noise between two float32 runs, measured (golden/README.md): 4e-5 in images, 0.03 in video,
whose memories are rounded to bfloat16 and so amplify it; and where a single mask was chosen by a stability within 0.005
of the threshold.
"""

from __future__ import annotations

import _paths  # noqa: F401  # isort: skip

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

# isort: split
import mlx.core as mx
import numpy as np
from mlx.utils import tree_map

import goldens
from golden_runs import arguments, build, overlap, run_script, stored_result
from mlx_sam2 import images
from mlx_sam2.checkpoint import key_map
from mlx_sam2.kernels import cpu
from mlx_sam2.model.sam2 import SAM2
from mlx_sam2.sam2_image_predictor import SAM2ImagePredictor
from mlx_sam2.sam2_video_predictor import SAM2VideoPredictor

NOISE = {"image": 4e-5, "video": 0.03}  # of logits: what two float32 runs differ by
MARGIN = 0.005  # of a stability by which a mask was chosen
LEAST = 0.99  # the project's bar for float16
FUSED_FROM = 56  # head dims from it up are fused on Metal, by MLX or by kernels of this package
IMAGES = {
    "nano": "image_nano_truck",
    "nano20": "image_nano20_truck",
    "tiny": "image_tiny_truck",
    "small": "image_small_truck",
    "base_plus": "image_base_plus_truck",
    "large": "image_large_truck",
    "sam2-tiny": "image_sam2_tiny_truck",
    "edgetam_nano": "image_edgetam_nano",
    "edgetam": "image_edgetam_truck",
}
VIDEOS = {"nano": "video_nano_two_objects", "nano20": "video_nano20", "tiny": "video_tiny"}
VIDEOS |= {"edgetam_nano": "video_edgetam_nano_two_objects", "edgetam": "video_edgetam"}

DETAILS = False


class Row(NamedTuple):
    """One line of the table."""

    model: str
    what: str  # image or video
    dtype: str
    masks: int  # that were compared
    left_out: int  # degenerate ones
    least: float  # mask IoU
    median: float
    score: float  # largest difference of a predicted IoU or, in video, of an object score
    missed: int  # compared masks below LEAST


# ---- computing as a GPU does


@contextmanager
def summed_in_float32() -> Iterator[None]:
    """Products of halves go through float32 and are rounded once; MLX's CPU backend has no fast way for them either."""

    def through_float32(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> mx.array:
            dtype = mx.result_type(*(a for a in args if isinstance(a, mx.array)))
            args = [a.astype(mx.float32) if isinstance(a, mx.array) else a for a in args]
            return function(*args, **kwargs).astype(dtype)

        return call

    attention, matmul = mx.fast.scaled_dot_product_attention, mx.array.__matmul__

    def attend(q: mx.array, k: mx.array, v: mx.array, *, scale: float, mask: mx.array | None = None) -> mx.array:
        if q.shape[-1] >= FUSED_FROM:
            whole = [x.astype(mx.float32) for x in (q, k, v)]
            bias = None if mask is None else mask[:, 0, 0].astype(mx.float32)
            return cpu.attend(*whole, bias).astype(q.dtype)
        scores = (q * scale) @ k.swapaxes(2, 3)  # written out, in half
        return mx.softmax(scores if mask is None else scores + mask, axis=-1, precise=True) @ v

    names = ("addmm", "matmul", "conv2d", "conv_general", "conv_transpose2d")
    real = {name: getattr(mx, name) for name in names}
    try:
        for name, function in real.items():
            setattr(mx, name, through_float32(function))
        mx.array.__matmul__ = through_float32(matmul)
        mx.fast.scaled_dot_product_attention = attend
        yield
    finally:
        for name, function in real.items():
            setattr(mx, name, function)
        mx.array.__matmul__, mx.fast.scaled_dot_product_attention = matmul, attention


def in_dtype(model: SAM2, dtype: mx.Dtype, in_float32: Sequence[str] = ()) -> SAM2:
    """The model with its weights in a dtype, as ``load`` casts them; parts that begin with a name stay in float32."""

    def cast(path: str, weight: mx.array) -> mx.array:
        stays = key_map.kept_float32(path) or path.startswith(tuple(in_float32))
        return weight if stays else weight.astype(dtype)

    other = model.with_config(model.config)
    flat = [(path, cast(path, weight)) for path, weight in _flat(model)]
    other.load_weights(flat, strict=True)
    return other.eval()


def _flat(model: SAM2) -> list[tuple[str, mx.array]]:
    from mlx.utils import tree_flatten

    return tree_flatten(tree_map(lambda w: w, model.parameters()))


# ---- comparing


def says_little(logits: np.ndarray, noise: float) -> bool:
    """Whether float32's own noise changes more than 1 % of a mask."""
    return min(overlap(logits > shift, logits > 0) for shift in (noise, -noise)) < LEAST


def image_row(name: str, dtype: str, in_float32: Sequence[str] = ()) -> Row:
    golden = goldens.read(IMAGES[name])
    whole = golden.model()
    model = in_dtype(whole.with_config(whole.config.with_postprocessing(True)), getattr(mx, dtype), in_float32)
    found: list[float] = []
    scores, left_out = [0.0], 0
    with summed_in_float32():
        predictor = SAM2ImagePredictor(model)
        predictor.set_image(images.read(goldens.input_path(golden.about["image"])))
        lows: dict[str, np.ndarray] = {}
        ious: dict[str, np.ndarray] = {}
        for case in golden.about["cases"]:
            key = case["name"]
            _, ious[key], lows[key] = predictor.predict(**arguments(case["prompt"], lows, ious))
            step, said = next((s, t) for s, t in _stored(golden.tensors, key) if t is not None)
            ours = lows[key][..., ::step, ::step].reshape(-1, *said.shape[-2:])
            for i, (mask, theirs) in enumerate(zip(ours, said.reshape(ours.shape).astype(np.float32), strict=True)):
                if says_little(theirs, NOISE["image"]) or _is_close_call(case, i):
                    left_out += 1
                    continue
                found.append(overlap(mask > 0, theirs > 0))
                _detail(f"{key} {i}", found[-1], mask, theirs)
                score = np.ravel(golden.tensors[f"{key}.iou"])[i]
                scores.append(float(abs(np.ravel(ious[key])[i] - score)))
    return _row(name, "image", dtype, found, left_out, scores)


def _stored(tensors: dict[str, np.ndarray], key: str) -> Iterator[tuple[int, np.ndarray | None]]:
    yield 1, tensors.get(f"{key}.low")
    yield 2, tensors.get(f"{key}.low.sub2")
    yield 4, tensors.get(f"{key}.low.sub4")


def _is_close_call(case: dict[str, Any], index: int) -> bool:
    """Whether a single mask was chosen by a stability near the threshold."""
    stability = np.ravel(case.get("stability_token0", []))
    chosen = not case["prompt"]["multimask"] and index < len(stability)
    return bool(chosen and abs(stability[index] - 0.98) < MARGIN)


def video_row(name: str, dtype: str, in_float32: Sequence[str] = ()) -> Row:
    golden = goldens.read(VIDEOS[name])
    predictor = build(golden)
    predictor = SAM2VideoPredictor(
        in_dtype(predictor.model, getattr(mx, dtype), in_float32),
        fill_hole_area=predictor.tracker.fill_hole_area,
        **{key: getattr(predictor, key) for key in ("non_overlap_masks",)},
    )
    found: list[float] = []
    scores, left_out = [0.0], 0
    records = iter(enumerate(golden.about["records"]))
    with summed_in_float32(), predictor.init_state(goldens.input_path(golden.about["video"])) as state:

        def check(step: int, frame_idx: int | None, obj_ids: list[int], masks: np.ndarray | None) -> None:
            nonlocal left_out
            index, record = next(records)
            for i, obj_id in enumerate(record["obj_ids"] if masks is not None else ()):
                result = stored_result(state, obj_id, record["source"][i], record["frame"])
                theirs = golden.tensors[f"r{index}.low"][i].astype(np.float32)
                if result is None:
                    continue
                if says_little(theirs, NOISE["video"]):
                    left_out += 1
                    continue
                step_ = result.low_res_mask.shape[0] // theirs.shape[0]
                found.append(overlap(result.low_res_mask[::step_, ::step_] > 0, theirs > 0))
                _detail(
                    f"record {index} frame {record['frame']} object {obj_id}",
                    found[-1],
                    result.low_res_mask[::step_, ::step_],
                    theirs,
                )
                score = float(np.ravel(golden.tensors[f"r{index}.score"])[i])
                scores.append(abs(float(np.ravel(result.object_score)[0]) - score))

        run_script(predictor, state, golden.about["script"], check)
    return _row(name, "video", dtype, found, left_out, scores)


def _detail(where: str, iou: float, ours: np.ndarray, theirs: np.ndarray) -> None:
    if iou < LEAST and DETAILS:
        apart = np.abs(ours - theirs)
        print(
            f"{where}: IoU {iou:.4f}, {(theirs > 0).sum()} of {theirs.size} cells, logits apart by {apart.mean():.4f} "
            f"on average, {apart.max():.3f} at most, of {np.abs(theirs).mean():.2f}",
            file=sys.stderr,
        )


def _row(model: str, what: str, dtype: str, found: list[float], left_out: int, scores: list[float]) -> Row:
    missed = sum(iou < LEAST for iou in found)
    return Row(model, what, dtype, len(found), left_out, min(found), float(np.median(found)), max(scores), missed)


# ---- the command


@contextmanager
def _kernels(without: Sequence[str]) -> Iterator[None]:
    """Every kernel that a shape has runs in the emulator, but those that are named."""
    import metal
    from mlx_sam2.kernels import dispatch

    supports = dispatch.Op.uses_kernel
    try:
        dispatch.Op.uses_kernel = lambda op, *args: op.name not in without and supports(op, *args)
        with metal.emulated("fast"):
            yield
    finally:
        dispatch.Op.uses_kernel = supports


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=IMAGES, default=list(IMAGES))
    parser.add_argument("--dtypes", nargs="+", choices=["float16", "bfloat16"], default=["float16", "bfloat16"])
    parser.add_argument("--only", choices=["image", "video"])
    parser.add_argument("--float32", nargs="+", default=[], metavar="PART", help="parts of the model that stay float32")
    parser.add_argument(
        "--emulated", action="store_true", help="run the Metal kernels, in the emulator; small models only"
    )
    parser.add_argument("--without", nargs="+", default=[], metavar="OP", help="with --emulated: kernels to leave out")
    parser.add_argument("--details", action="store_true", help="say more of every mask below 0.99, on stderr")
    args = parser.parse_args()
    global DETAILS
    DETAILS = args.details
    mx.set_default_device(mx.cpu)
    print(
        "| model | | dtype | masks | left out | least IoU | median IoU | below 0.99 | score, at most |\n|---"
        + "|---" * 8
        + "|"
    )
    rows = []
    for model in args.models:
        for what, run, known in (("image", image_row, IMAGES), ("video", video_row, VIDEOS)):
            for dtype in args.dtypes if model in known and args.only in (None, what) else ():
                start = time.perf_counter()
                with _kernels(args.without) if args.emulated else nullcontext():
                    row = run(model, dtype, args.float32)
                rows.append(row)
                cells = (*row[:5], f"{row.least:.4f}", f"{row.median:.4f}", row.missed, f"{row.score:.4f}")
                print("| " + " | ".join(map(str, cells)) + " |", flush=True)
                print(f"{time.perf_counter() - start:.0f} s", file=sys.stderr)
    print(json.dumps([row._asdict() for row in rows]))
    return 1 if any(row.dtype == "float16" and row.missed for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
