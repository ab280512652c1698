"""Print how far kernels are from their definitions in float64, at shapes of this script's own.

    python tests/measure/kernel_shapes.py [--count 40] [--mode fast] [--dtype float32 float16 ...]

The shapes are drawn at random, the same every time: grids, frames, tails, left-out frames, batches, widths. A line is
an op and a dtype: how many shapes, the largest difference as a share of the largest value, and where that was.
"""

from __future__ import annotations

import _paths  # noqa: F401  # isort: skip

import argparse
import math
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np

from kernel_definitions import by_definition, difference
from metal import NAMES, emulated
from mlx_sam2.kernels.axial_memory_attention import axial_memory_attention_op
from mlx_sam2.kernels.dispatch import Op, Tensor, make_arguments
from mlx_sam2.kernels.residual_layer_norm import residual_layer_norm_op
from mlx_sam2.kernels.upscaling import mask_logits_op, upscaled_layer_norm_op

Random = np.random.Generator


def of_memory(random: Random) -> tuple[Any, ...]:
    dim, width = [(32, 16), (64, 16), (96, 32), (64, 32)][random.integers(4)]
    grid = tuple(int(n) for n in random.integers(1, 12, 2))
    frames, tail, batch, queries = (int(random.integers(*ends)) for ends in ((1, 19), (0, 70), (1, 4), (1, 140)))
    tokens = frames * math.prod(grid) + tail
    first = int(random.integers(0, frames + tail))
    excluded = ((first, int(random.integers(first, frames + tail))),)
    bias = (Tensor((batch, frames + tail), mx.float32, excluded=excluded),) if random.integers(2) else ()
    q = Tensor((1 if random.integers(3) == 0 else batch, queries, dim), scale=float(random.choice([0.1, 1, 3])))
    keys, values = Tensor((batch, tokens, width)), Tensor((batch, tokens, width))
    weight = Tensor((dim, width), scale=1 / math.sqrt(width))
    return q, keys, values, weight, Tensor((dim,)), grid, float(random.choice([100, 10000])), tail, *bias


def of_residual(random: Random) -> tuple[Any, ...]:
    width = 4 * int(random.choice([2, 3, 7, 8, 9, 16, 31, 32, 33, 64, 65, 128]))
    batch, tokens = (int(n) for n in random.integers(1, 70, 2))
    scale, vector = float(random.choice([2**-10, 1, 30])), Tensor((width,))
    x = Tensor((1 if random.integers(2) else batch, tokens, width), scale=scale)
    y, shift = Tensor((batch, tokens, width), scale=scale), Tensor((width,), scale=scale)
    return x, y, shift, vector, vector, Tensor((1, tokens, width)), float(random.choice([1e-6, 1e-5]))


def of_norm(random: Random) -> tuple[Any, ...]:
    width = 4 * int(random.choice([2, 3, 7, 8, 9, 16, 24, 33]))
    batch, h, w = (int(n) for n in random.integers(1, 14, 3))
    scale, vector = float(random.choice([2**-10, 1, 30])), Tensor((width,))
    more = Tensor((1 if random.integers(2) else batch, 2 * h, 2 * w, width), scale=scale)
    return Tensor((batch, h, w, 4 * width), scale=scale), more, vector, vector, 1e-6


def of_masks(random: Random) -> tuple[Any, ...]:
    channels = 4 * int(random.choice([1, 2, 3, 8, 16]))
    batch, h, masks = (int(n) for n in random.integers(1, 9, 3))
    w, scale = int(random.integers(1, 70)), float(random.choice([0.1, 1, 4]))
    more = Tensor((1 if random.integers(2) else batch, 2 * h, 2 * w, channels), scale=scale)
    return Tensor((batch, h, w, 4 * channels), scale=scale), more, Tensor((batch, masks, channels))


SHAPES: list[tuple[Op, Callable[[Random], tuple[Any, ...]]]] = [
    (axial_memory_attention_op, of_memory),
    (residual_layer_norm_op, of_residual),
    (upscaled_layer_norm_op, of_norm),
    (mask_logits_op, of_masks),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=40, help="shapes of each op and dtype; default: %(default)s")
    parser.add_argument("--mode", choices=("fast", "check"), default="fast", help="of the emulator; check is slow")
    parser.add_argument("--dtype", nargs="+", choices=NAMES, default=["float32", "float16"])
    options = parser.parse_args()
    print("| op | dtype | shapes | largest difference | at |\n|---|---|---|---|---|")
    for op, draw in SHAPES:
        for name in options.dtype:
            random, found = np.random.default_rng(0), []
            while len(found) < options.count:
                args = make_arguments(draw(random), NAMES[name], seed=len(found))
                if op.supports(*args):
                    with emulated(options.mode):
                        got = op.kernel(*args)
                        mx.eval(got)
                    found.append((difference(got, by_definition(op, args)), f"{op.variant(*args)} {op.size(*args)}"))
            worst, where = max(found)
            print(f"| {op.name} | {name} | {len(found)} | {worst:.1e} | {where} |", flush=True)


if __name__ == "__main__":
    main()
