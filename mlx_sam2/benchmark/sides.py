"""One side of a comparison, in a process of its own; ``benchmark_peers.py`` starts it and asks.

A request is one line of JSON on standard input, its answer one line on standard output. A stage is prepared (made, and
run once to warm up), timed as often as asked, dropped. Both sides do the same work with random weights of the same
configuration; the peers are called through their own functions.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

Run = Callable[[], object]  # returns when the result exists
Graph = tuple[Callable[..., Any], tuple[Any, ...]]  # a function of arrays and example arguments

ENCODE, CLICK, TRACK = "image encode", "click on an encoded image", "tracked frame, full memory"
STAGES = (ENCODE, CLICK, TRACK)
TOGETHER, APART = "16 objects together", "16 objects one by one"  # ours only
OBJECTS = 16
NOW = 100  # the frame that is tracked; the bank holds what the frames before it left
NEEDS = {"mlx-sam": "mlx_sam", "transformers": "transformers", "sam2": "sam2"}  # the module to import


@dataclass
class Side:
    """What can be asked of one side."""

    versions: dict[str, str]
    stages: dict[str, Callable[[], Run]]  # makes what is timed
    reset_peak: Run
    peak_mb: Callable[[], float | None]  # since `reset_peak`; None where it is not known
    graphs: dict[str, Callable[[], Graph]] = field(default_factory=dict)  # for the roofline


# ---- sides on MLX


def _mlx_side(versions: dict[str, str], stages: dict[str, Any], graphs: dict[str, Any]) -> Side:
    import mlx.core as mx

    about = {"mlx": mx.__version__, "device": str(mx.default_device()), "blas": _blas(), **versions}

    def peak_mb() -> float:  # MLX's is 0 after a reset until something is allocated
        return max(mx.get_peak_memory(), mx.get_active_memory()) / 1e6

    return Side(about, stages, mx.reset_peak_memory, peak_mb, graphs)


def _blas() -> str:
    """The BLAS that this process has loaded for MLX; Linux only."""
    if not os.path.exists("/proc/self/maps"):
        return "the system's"
    with open("/proc/self/maps") as file:
        paths = re.findall(r"(/\S*/(?:libopenblas|libmkl_rt)\S*)$", file.read(), re.MULTILINE)
    return next((os.path.basename(p) for p in paths if ".libs/" not in p), "MLX's own")  # .libs: a wheel's, of numpy


def ours(spec: dict[str, Any]) -> Side:
    """This package."""
    import mlx.core as mx

    from .. import __version__
    from ..model.results import ImageFeatures
    from ..video.tracker import Tracker
    from . import stages

    model = stages.build_model(spec["size"], spec["model"], spec["dtype"])
    config = model.config
    size = config.image_size

    def pixels() -> mx.array:
        return mx.random.normal((1, size, size, 3)).astype(model.dtype)

    def encoded() -> ImageFeatures:
        features = model.encode_image(pixels())
        mx.eval(features.arrays())
        return features

    def encode() -> Run:
        image = pixels()
        mx.eval(image)
        return lambda: mx.eval(model.encode_image(image).arrays())

    def click() -> Run:
        features = encoded()
        points, labels = mx.full((1, 1, 2), size / 2), mx.ones((1, 1), mx.int32)
        return lambda: mx.eval(model.predict_masks(features, points, labels))

    def track(count: int, together: bool) -> Run:
        tracker, features = Tracker(model, fill_hole_area=0), encoded()
        tracks = [stages.full_track(model, NOW, seed) for seed in range(count)]
        batches = [tracks] if together else [[one] for one in tracks]
        return lambda: [tracker.track(features, b, NOW, reverse=False, num_frames=2 * NOW) for b in batches]

    def blank() -> ImageFeatures:
        side, width = config.embedding_size, config.neck.d_model
        finer = tuple(mx.zeros((1, n * side, n * side, width // d), model.dtype) for n, d in ((4, 8), (2, 4)))
        high_res = finer if config.use_high_res_features_in_sam else None
        features = ImageFeatures(mx.zeros((1, side, side, width), model.dtype), high_res)
        mx.eval(features.arrays())
        return features

    def click_graph() -> Graph:
        features = blank()
        return (
            lambda points: model.predict_masks(features, points, mx.ones((1, 1), mx.int32)),
            (mx.full((1, 1, 2), size / 2),),
        )

    makers = {
        ENCODE: encode,
        CLICK: click,
        TRACK: lambda: track(1, together=True),
        TOGETHER: lambda: track(OBJECTS, together=True),
        APART: lambda: track(OBJECTS, together=False),
    }
    graphs = {
        ENCODE: lambda: stages.encode_graph(model, pixels()),
        CLICK: click_graph,
        TRACK: lambda: stages.frame_graph(model, blank(), 1),
    }
    return _mlx_side({"mlx_sam2": __version__}, makers, graphs)


def mlx_sam(spec: dict[str, Any]) -> Side:
    """mlx-sam 0.3.0. Where it would compute in float32 with weights in half precision, it is given the halves.

    mlx_sam2 comes before mlx here too: it is what lets MLX multiply with the machine's BLAS on Linux.
    """
    import mlx.core as mx
    from mlx.utils import tree_map
    from mlx_sam.config import FpnConfig, HieraConfig, Sam2ImageEncoderConfig
    from mlx_sam.models.segmenter import Sam2ImageSegmenter

    config = spec["config"]
    trunk, neck, size = config["trunk"], config["neck"], config["image_size"]
    names = ("embed_dim", "num_heads", "stages", "global_att_blocks", "window_spec", "q_pool", "mlp_ratio")
    widths, levels = (tuple(neck[n]) for n in ("backbone_channel_list", "fpn_top_down_levels"))
    hiera = HieraConfig(
        image_size=size,
        pos_embed_hw=(size // 4, size // 4),
        **{n: tuple(v) if isinstance(v := trunk[n], list) else v for n in names},
    )
    fpn = FpnConfig(d_model=neck["d_model"], backbone_channel_list=widths, fpn_top_down_levels=levels)
    model = Sam2ImageSegmenter(Sam2ImageEncoderConfig(hiera=hiera, fpn=fpn))
    model.set_image_size(size)
    dtype = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}[spec["dtype"]]
    model.update(tree_map(lambda w: w.astype(dtype), model.parameters()))
    mx.eval(model.parameters())
    model.eval()
    model.memory_attention_dtype = None if dtype == mx.float32 else spec["dtype"]
    side, width, mem_dim = size // 16, neck["d_model"], config["memory_encoder"]["out_dim"]

    def encoding(pixels: mx.array) -> tuple[mx.array, ...]:
        out = model.encode_image(pixels)
        return out["vision_features"], *out["high_res_features"]

    def pixels() -> mx.array:
        return mx.random.normal((1, 3, size, size)).astype(dtype)

    def encode() -> Run:
        image = pixels()
        mx.eval(image)
        return lambda: mx.eval(encoding(image))

    def click() -> Run:
        out = model.encode_image(pixels())
        points, labels = mx.full((1, 1, 2), size / 2), mx.ones((1, 1), mx.int32)
        mx.eval(out)

        def run() -> None:
            found = model.predict_from_encoded(out, points, labels, multimask_output=True)
            mx.eval(found["low_res_masks"], found["ious"])

        return run

    def memory(frame: int) -> dict[str, Any]:
        features = mx.random.normal((1, mem_dim, side, side)).astype(dtype)
        position = model.memory_encoder.position_encoding(features)
        pointer = mx.random.normal((1, width)).astype(dtype)
        mx.eval(features, position, pointer)
        return {"maskmem_features": features, "maskmem_pos_enc": position, "obj_ptr": pointer, "frame_idx": frame}

    def frame() -> Callable[..., tuple[mx.array, ...]]:
        first = NOW - config["max_obj_ptrs_in_encoder"]
        prompted, tracked = [memory(first)], [memory(t) for t in range(first + 1, NOW)]
        grids = [mx.zeros((1, width, n * side, n * side), dtype) for n in (4, 2, 1)]
        positions = [model.neck.position_encoding(grid) for grid in grids]
        mx.eval(positions)

        def run(features: mx.array, *high_res: mx.array) -> tuple[mx.array, ...]:
            image = {"vision_features": features, "vision_pos_enc": positions, "high_res_features": list(high_res)}
            attended = model.condition_with_memories(image, tracked, cond_memories=prompted, current_frame_idx=NOW)
            image["vision_features"] = attended
            # one mask, without the no-memory embedding: as its own video predictor asks
            found = model.predict_from_encoded(image, None, None, multimask_output=False, add_no_mem_embed=False)
            mask, score = found["low_res_masks"], found["object_score_logits"]
            return mask, found["obj_ptr"], score, model.encode_memory(features, mask, score)["vision_features"]

        return run

    def track() -> Run:
        run, features = frame(), [f.astype(dtype) for f in encoding(pixels())]
        mx.eval(features)
        return lambda: mx.eval(run(*features))

    def frame_graph() -> Graph:
        shapes = ((width, side), (width // 8, 4 * side), (width // 4, 2 * side))
        examples = tuple(mx.zeros((1, c, n, n), dtype) for c, n in shapes)
        mx.eval(examples)
        run = frame()
        run(*examples)  # fills its caches of encodings, which tracing could not
        return run, examples

    def click_graph() -> Graph:
        _, (features, *high_res) = frame_graph()
        image = {"vision_features": features, "high_res_features": high_res}
        labels = mx.ones((1, 1), mx.int32)

        def run(points: mx.array) -> tuple[mx.array, ...]:
            found = model.predict_from_encoded(image, points, labels, multimask_output=True)
            return found["low_res_masks"], found["ious"]

        points = mx.full((1, 1, 2), size / 2)
        run(points)
        return run, (points,)

    def encode_graph() -> Graph:
        image = pixels()
        encoding(image)
        return encoding, (image,)

    makers = {ENCODE: encode, CLICK: click, TRACK: track}
    return _mlx_side(
        {"mlx_sam": _version("mlx-sam")}, makers, {ENCODE: encode_graph, CLICK: click_graph, TRACK: frame_graph}
    )


def _version(package: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"


# ---- answering


def serve(spec: dict[str, Any], requests: Iterator[str], answer: Callable[[dict[str, Any]], None]) -> None:
    """Answer requests until there are no more. The first answer says who this is, or which module is missing."""
    if (module := NEEDS.get(spec["side"])) is not None:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            answer({"missing": error.name or module})
            return
    if spec["side"] in ("transformers", "sam2"):
        from .torch import torch_side

        side = torch_side(spec)
    else:
        side = {"ours": ours, "mlx-sam": mlx_sam}[spec["side"]](spec)
    answer({"python": platform.python_version(), **side.versions})
    prepared: dict[str, Run] = {}
    for line in requests:
        request = json.loads(line)
        answer(_answer(side, request["do"], request["stage"], request, prepared))


def _answer(
    side: Side, verb: str, stage: str, request: dict[str, Any], prepared: dict[str, Run]
) -> dict[str, float | None]:
    if verb == "drop":
        prepared.pop(stage, None)
        gc.collect()
        return {}
    if verb == "model":
        return _modelled(*side.graphs[stage](), request["chip"])
    if verb == "prepare":
        if stage not in side.stages:
            return {"missing": None}
        prepared[stage] = side.stages[stage]()
        if request["warm_up"]:
            prepared[stage]()
        return {}
    gc.collect()
    side.reset_peak()
    start = time.perf_counter()
    prepared[stage]()
    return {"seconds": time.perf_counter() - start, "peak_mb": side.peak_mb()}


def _modelled(function: Callable[..., Any], examples: tuple[Any, ...], chip: str) -> dict[str, float]:
    from . import roofline

    return roofline.cost(roofline.trace(function, *examples), roofline.CHIPS[chip])._asdict()


def main() -> None:
    """Serve standard input; what a peer prints goes to stderr."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(values: dict[str, Any]) -> None:
        print(json.dumps(values), file=out, flush=True)

    serve(json.loads(sys.argv[1]), iter(sys.stdin), answer)
