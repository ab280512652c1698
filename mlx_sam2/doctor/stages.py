"""The stages of a model, timed as they run, and their operations a second as a share of one large product's."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from ..kernels import dispatch
from ..model.sam2 import SAM2

ROUNDS, QUICK_ROUNDS = 5, 2
Graph = tuple[Callable[..., Any], tuple[mx.array, ...]]  # a function of arrays, and arrays to call it with


@dataclass(frozen=True)
class StageTime:
    """One row of the doctor's second table."""

    stage: str
    milliseconds: float
    gflop: float  # of its products, convolutions and attentions, as MLX's own operations take them
    of_product: float | None = None  # its operations a second over those of one large product of the model's dtype


def graphs(model: SAM2) -> dict[str, Graph]:
    """The stages of a click on a photo and of a tracked frame of one object with a full memory."""
    config = model.config
    size, side, width = config.image_size, config.embedding_size, config.neck.d_model
    image = mx.zeros((1, size, size, 3), model.dtype)
    features = model.encode_image(image)
    mx.eval(features.arrays())
    embedding = features.embedding
    found: dict[str, Graph] = {
        "image encoder": (lambda x: model.encode_image(x).arrays(), (image,)),
        "mask decoder": (
            lambda points: model.predict_masks(features, points, mx.ones((1, 1), mx.int32)),
            (mx.full((1, 1, 2), size / 2),),
        ),
    }
    if config.num_maskmem == 0 or "memory_attention" not in model:
        return found
    times = mx.arange(config.num_maskmem)[None]
    pointers = mx.zeros((1, config.max_obj_ptrs_in_encoder, width)) if config.use_obj_ptrs_in_encoder else None
    ages = None if pointers is None else mx.zeros(pointers.shape[:2])
    memories = mx.zeros((1, config.num_maskmem, *config.memory_shape), mx.bfloat16)
    found["memory attention"] = (
        lambda memories: (model.attend_memory(embedding, memories, times, pointers, ages),),
        (memories,),
    )
    score = mx.zeros((1, 1))
    found["memory encoder"] = (
        lambda mask: (model.encode_memory(embedding, mask, score),),
        (mx.zeros((1, 16 * side, 16 * side, 1)),),
    )
    return found


def measure(model: SAM2, quick: bool, product: float | None) -> Iterator[StageTime]:
    """Time each stage on the default device.

    Args:
        model: with weights of any value.
        quick: fewer repetitions.
        product: GFLOP/s of one large product of the model's dtype (``examination.yardstick``).
    """
    for name, (function, examples) in graphs(model).items():
        gflop = operations(function, examples) / 1e9
        mx.eval(function(*examples))  # compiles, and checks kernels
        times = []
        for _ in range(QUICK_ROUNDS if quick else ROUNDS):
            start = time.perf_counter()
            mx.eval(function(*examples))
            times.append(time.perf_counter() - start)
        seconds = statistics.median(times)
        share = None if product is None or not seconds else gflop / seconds / product
        yield StageTime(name, 1e3 * seconds, gflop, share)


def operations(function: Callable[..., Any], examples: tuple[mx.array, ...]) -> int:
    """Multiplications and additions of the products, convolutions and attentions of a graph; nothing is evaluated.

    Those of the references: what a kernel saves is a share above one, not fewer operations.
    """
    records: list[dict[str, Any]] = []
    with dispatch.references_only(), dispatch.recorded():  # recorded: no stage is compiled into one primitive
        mx.export_function(records.append, function, *examples)
    return sum(_operations(record) for record in records if record["type"] == "primitive")


def _operations(record: dict[str, Any]) -> int:
    shapes = [shape for _, shape, *_ in record["inputs"]]
    size = sum(math.prod(shape) for _, shape, *_ in record["outputs"])
    if record["name"] in ("Matmul", "AddMM"):
        return 2 * size * shapes[0][-1]
    if record["name"] == "QuantizedMatmul":  # the products of the unpacked weights
        return 2 * size * shapes[0][-1]
    if record["name"] == "Convolution":  # weights (O, kH, kW, I / groups); a transposed one multiplies zeros
        return 2 * size * math.prod(shapes[1][1:]) // math.prod(record["arguments"][4])
    if record["name"] == "ScaledDotProductAttention":
        return 2 * math.prod(shapes[0][:-1]) * shapes[1][-2] * (shapes[0][-1] + shapes[2][-1])
    return 0
