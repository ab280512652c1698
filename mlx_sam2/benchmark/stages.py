"""The stages that the benchmark times, on random or real weights and a picture of noise; and their graphs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_map

from ..automatic_mask_generator import SAM2AutomaticMaskGenerator
from ..checkpoint import loading
from ..config import published as models
from ..config.sam2 import SAM2Config
from ..hub import download
from ..images.preprocess import preprocess_photo
from ..model.results import ImageFeatures
from ..model.sam2 import SAM2
from ..sam2_image_predictor import SAM2ImagePredictor
from ..video.memory_bank import ObjectTrack
from ..video.result_store import FrameResult, ResultStore
from ..video.tracker import Tracker

PHOTO = (1200, 1800)  # height, width
FRAME = (720, 1280)
OBJECTS = (1, 4, 16)
POINTS = 64  # that automatic masks decode at once


Graph = tuple[Callable[..., Any], tuple[mx.array, ...]]  # a function of arrays, and arrays to trace it with


@dataclass(frozen=True)
class Stage:
    """A stage to time. ``run`` returns when its result exists."""

    name: str
    run: Callable[[], object]
    outside: bool = False  # whether it runs in a process of its own, and returns what that printed
    graph: Graph | None = None  # for the roofline


def noise(size: tuple[int, int]) -> np.ndarray:
    """A picture (H, W, 3) uint8, the same every time."""
    return np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)


def _start(*arguments: str) -> dict[str, Any]:
    """Run Python in a process; returns the JSON that it printed last."""
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments[:2])}: {' '.join(done.stderr.split())[-300:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def build_model(size: str, source: str | None = None, dtype: str | None = None) -> SAM2:
    """The model to measure: a published size with random weights, or the model of `source`.

    Raises:
        ValueError: the size is unknown; and all that ``load`` raises.
    """
    if source is not None:
        return loading.load(source, dtype=dtype)
    mx.random.seed(0)
    model = SAM2(read_config(size))
    target = loading.parse_dtype(dtype)
    model.update(tree_map(lambda w: w.astype(target), model.parameters()))
    mx.eval(model.parameters())
    return model.eval()


def read_config(size: str, source: str | None = None) -> SAM2Config:
    """The configuration of ``build_model``, without reading weights. Raises the same."""
    if source is None:
        published = models.published(size)
        if published is None:
            raise ValueError(
                f"--size {size!r} is none of the published sizes: tiny, small, base_plus, large, edgetam, ..."
            )
        return published.config
    found = loading.read(download.resolve(source))
    return found.config or loading.recognise(found)


# Seconds to import, to load with every weight in memory, and the peak memory of the process before and after in MB.
_LOAD = """
import json, resource, sys, time
def peak():
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / (1e6 if sys.platform == "darwin" else 1e3)
start = time.perf_counter()
import mlx_sam2
import mlx.core as mx
import mlx_sam2.checkpoint.loading
imported, before = time.perf_counter(), peak()
model = mlx_sam2.load(sys.argv[1], dtype=sys.argv[2] or None)
mx.eval(model.parameters())
print(json.dumps({"import_s": imported - start, "seconds": time.perf_counter() - imported,
                  "before_mb": before, "after_mb": peak()}))
"""


def load_stage(folder: Path, dtype: str) -> Stage:
    """``mlx_sam2.load`` in a fresh process, all weights read."""
    return Stage("load", lambda: _start("-c", _LOAD, str(folder), dtype), outside=True)


_TIMED = """
import json, subprocess, sys, time
start = time.perf_counter()
subprocess.run([sys.executable, *sys.argv[1:]], check=True, stdout=subprocess.DEVNULL)
print(json.dumps({"seconds": time.perf_counter() - start}))
"""


def start_up_stages() -> list[Stage]:
    """``segment --help`` beside the least that a command with numpy costs."""
    help_, least = ["-m", "mlx_sam2.segment", "--help"], ["-c", "import argparse, numpy"]
    return [
        Stage("segment --help", lambda: _start("-c", _TIMED, *help_), outside=True),
        Stage("import argparse, numpy", lambda: _start("-c", _TIMED, *least), outside=True),
    ]


def image_stages(model: SAM2) -> list[Stage]:
    """A photo from pixels to masks."""
    photo, size = noise(PHOTO), model.config.image_size
    pixels = mx.random.normal((1, size, size, 3))
    predictor = SAM2ImagePredictor(model)
    point = {"point_coords": np.array([[900.0, 600.0]]), "point_labels": np.array([1])}

    def encode() -> None:
        mx.eval(model.encode_image(pixels).arrays())

    def first_click() -> object:
        predictor.set_image(photo)
        return predictor.predict(**point)

    def further_click() -> object:
        return predictor.predict(**point)

    def decode() -> None:
        points, labels = mx.full((1, 1, 2), size / 2), mx.ones((1, 1), mx.int32)
        mx.eval(model.predict_masks(features, points, labels))

    predictor.set_image(photo)
    features = model.encode_image(pixels)
    mx.eval(features.arrays())
    return [
        Stage("preprocess", lambda: mx.eval(preprocess_photo(photo, size))),
        Stage("image encode", encode, graph=encode_graph(model, pixels)),
        Stage("first click", first_click),
        Stage("further click", further_click),
        Stage("mask decoder", decode),
    ]


def encode_graph(model: SAM2, pixels: mx.array) -> Graph:
    """An image encode after the first one: all that is cached from image to image exists."""
    mx.eval(model.image_encoder.prepared(model.image_encoder.entry(pixels)))
    return lambda x: tuple(model.encode_image(x).arrays()), (pixels,)


def everything_stage(model: SAM2, points_per_side: int = 8) -> Stage:
    """Automatic masks of a photo; every candidate survives, or random weights would leave none."""
    generator = SAM2AutomaticMaskGenerator(
        model, points_per_side=points_per_side, pred_iou_thresh=0.0, stability_score_thresh=0.0, output_mode="coco_rle"
    )
    photo = noise(PHOTO)
    return Stage(f"everything, {points_per_side} x {points_per_side} points", lambda: generator.generate(photo))


def video_stages(model: SAM2) -> list[Stage]:
    """A tracked frame with a full memory bank, for one object and for several, and its parts."""
    tracker, frame = Tracker(model, fill_hole_area=0), noise(FRAME)
    features = tracker.encode(frame)
    num_frames = 10 * model.config.max_obj_ptrs_in_encoder
    now = num_frames // 2

    def tracked(tracks: list[ObjectTrack]) -> Callable[[], object]:
        return lambda: tracker.track(features, tracks, now, reverse=False, num_frames=num_frames)

    stages = [Stage("frame encode", lambda: tracker.encode(frame))]
    for count in OBJECTS:
        tracks = [full_track(model, now, seed) for seed in range(count)]
        name = f"tracked frame, {count} object{'s' * (count > 1)}"
        stages.append(Stage(name, tracked(tracks), graph=frame_graph(model, features, count)))
    return stages


def frame_graph(model: SAM2, features: ImageFeatures, count: int) -> Graph:
    """A tracked frame with a full memory bank, after its image was encoded."""
    config = model.config
    pointers = config.max_obj_ptrs_in_encoder
    memories = mx.zeros((count, config.num_maskmem, *config.memory_shape), mx.bfloat16)
    times = mx.array([list(range(config.num_maskmem))] * count)
    pointer_times = mx.zeros((count, pointers))

    def frame(memories: mx.array, pointers: mx.array) -> tuple[mx.array, ...]:
        found, memory = model.track(features, memories, times, pointers, pointer_times)
        return found.low_res_mask, found.pointer, found.object_score, memory

    mx.eval(times, pointer_times, model.sam_prompt_encoder.dense_position_encoding())  # cached from frame to frame
    return frame, (memories, mx.zeros((count, pointers, config.neck.d_model)))


def modelled_graphs(model: SAM2) -> dict[str, Callable[[], Graph]]:
    """The stages whose cost is modelled by themselves: encode, click, tracked frame. Nothing is run."""
    config = model.config
    size, side, width = config.image_size, config.embedding_size, config.neck.d_model

    def blank() -> ImageFeatures:
        finer = tuple(mx.zeros((1, n * side, n * side, width // d), model.dtype) for n, d in ((4, 8), (2, 4)))
        high_res = finer if config.use_high_res_features_in_sam else None
        features = ImageFeatures(mx.zeros((1, side, side, width), model.dtype), high_res)
        mx.eval(features.arrays())
        return features

    def clicks(count: int) -> Graph:
        features = blank()
        return (
            lambda points: model.predict_masks(features, points, mx.ones((count, 1), mx.int32)),
            (mx.full((count, 1, 2), size / 2),),
        )

    return {
        "image encode": lambda: encode_graph(model, mx.zeros((1, size, size, 3), model.dtype)),
        "click on an encoded image": lambda: clicks(1),
        f"{POINTS} points on an encoded image": lambda: clicks(POINTS),
        "tracked frame, full memory": lambda: frame_graph(model, blank(), 1),
    }


def full_track(model: SAM2, now: int, seed: int = 0) -> ObjectTrack:
    """An object seen on every frame before ``now``, with all memories and pointers that a frame can recall."""
    config, random = model.config, np.random.default_rng(seed)
    side = config.embedding_size
    track = ObjectTrack.empty(ResultStore(on_disk=False))

    def result() -> FrameResult:
        features = mx.array(random.standard_normal(config.memory_shape, dtype=np.float32)).astype(mx.bfloat16)
        pointer = mx.array(random.standard_normal(config.neck.d_model, dtype=np.float32))
        mx.eval(features, pointer)
        return FrameResult(np.zeros((4 * side, 4 * side), np.float32), pointer, 1.0, features)

    first = now - config.max_obj_ptrs_in_encoder
    track.conditioning[first] = result()
    for t in range(first + 1, now):
        track.tracked[t] = result()
    return track
