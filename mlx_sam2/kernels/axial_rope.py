"""Axial rotary position encoding (official ``modeling/position_encoding.py``; rope-vit, arXiv 2403.13298)."""

from __future__ import annotations

from functools import lru_cache

import mlx.core as mx
import numpy as np

from ..text import dtype_name
from .cpu import PIECE, in_pieces, one_by_one
from .dispatch import Op, Tensor, metal_kernel

RUN = 16  # tokens that one thread turns by the same angle
MAX_ELEMENTS = 1 << 31  # offsets are 32-bit

# Threads (x, y, z) = (pair of channels, run of tokens, frame of a batch item and head). The first half of the pairs
# turns with the column, so a thread of that half walks down RUN rows of one column; a thread of the other half walks
# along RUN columns of one row. Either way one angle serves the whole run: the table is read once for RUN tokens, and
# apart from it each input byte is read once and each output byte written once. Neighbouring threads hold neighbouring
# pairs, so a simdgroup reads 128 (half) or 256 (float) contiguous bytes. Nothing is shared, so there is no threadgroup
# memory and no barrier. The last z of an item copies the tail.
SOURCE = """
    using T2 = metal::vec<T, 2>;
    const uint pair = thread_position_in_grid.x;
    const uint unit = thread_position_in_grid.y;
    const uint W = uint(columns_shape[0]), H = uint(rows_shape[0]), N = uint(x_shape[2]);
    const uint place = N - uint(tail), frames = place / (H * W);
    const uint slots = place < N ? frames + 1 : frames;
    const uint item = thread_position_in_grid.z / slots, frame = thread_position_in_grid.z % slots;
    if (pair >= PAIRS) return;
    const uint base = item * N * PAIRS + pair;

    if (frame == frames) {
        const uint first = place + unit * RUN;
        for (uint n = first; n < metal::min(first + RUN, N); n++)
            ((device T2*)out)[base + n * PAIRS] = ((const device T2*)x)[base + n * PAIRS];
        return;
    }
    const bool along_x = pair >= PAIRS / 2;
    const uint fixed = along_x ? unit % H : unit % W;
    const uint first = RUN * (along_x ? unit / H : unit / W);
    const uint limit = metal::min(first + RUN, along_x ? W : H);
    if (first >= limit) return;
    const uint entry = 2 * (fixed * (PAIRS / 2) + (along_x ? pair - PAIRS / 2 : pair));
    const float c = along_x ? float(rows[entry]) : float(columns[entry]);
    const float s = along_x ? float(rows[entry + 1]) : float(columns[entry + 1]);
    for (uint i = first; i < limit; i++) {
        const uint n = frame * H * W + (along_x ? fixed * W + i : i * W + fixed);
        const T2 v = ((const device T2*)x)[base + n * PAIRS];
        const float re = float(v.x), im = float(v.y);
        ((device T2*)out)[base + n * PAIRS] = T2(T(re * c - im * s), T(re * s + im * c));
    }
"""


@lru_cache(maxsize=16)
def axis_angles(count: int, dim: int, theta: float) -> np.ndarray:
    """Angles along one axis, (count, D / 4): position times frequency."""
    frequency = 1.0 / np.float32(theta) ** (np.arange(0, dim, 4, dtype=np.float32) / np.float32(dim))
    return np.arange(count, dtype=np.float32)[:, None] * frequency


@lru_cache(maxsize=8)
def _rotation_table(height: int, width: int, dim: int, theta: float) -> tuple[mx.array, mx.array]:
    """Cosine and sine of every angle, (height * width, D / 2): first those that turn with x, then with y."""
    shape = (height, width, dim // 4)
    angle_x = np.broadcast_to(axis_angles(width, dim, theta)[None], shape)
    angle_y = np.broadcast_to(axis_angles(height, dim, theta)[:, None], shape)
    angle = np.concatenate([angle_x, angle_y], axis=-1).reshape(height * width, dim // 2)
    return mx.array(np.cos(angle)), mx.array(np.sin(angle))


def axial_rope_reference(x: mx.array, height: int, width: int, theta: float, num_tail: int) -> mx.array:
    b, heads, n, d = x.shape
    if n == num_tail:
        return x
    cos, sin = _rotation_table(height, width, d, theta)
    frames = x[:, :, : n - num_tail].reshape(-1, height * width, d)  # the table repeats as a whole for every frame
    if in_pieces():
        rows = max(PIECE // d, 1)  # pieces that fit the cache take half the time
        places = [(i, slice(j, j + rows)) for i in range(len(frames)) for j in range(0, height * width, rows)]
        turned = mx.concatenate(one_by_one(_turn, [(frames[i, j], cos[j], sin[j]) for i, j in places]))
    else:
        turned = _turn(frames, cos, sin)
    turned = turned.reshape(b, heads, n - num_tail, d)
    return mx.concatenate([turned, x[:, :, n - num_tail :]], axis=2) if num_tail else turned


def _turn(x: mx.array, cos: mx.array, sin: mx.array) -> mx.array:
    """(..., N, D) by angles (N, D / 2); in float32."""
    pairs = x.astype(mx.float32).reshape(*x.shape[:-1], -1, 2)
    even, odd = pairs[..., 0], pairs[..., 1]
    return mx.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1).reshape(x.shape).astype(x.dtype)


def axial_rope_kernel(x: mx.array, height: int, width: int, theta: float, num_tail: int) -> mx.array:
    b, heads, n, d = x.shape
    columns, rows = (mx.array(_cos_sin(count, d, theta)) for count in (width, height))
    kernel = metal_kernel("axial_rope", ("x", "columns", "rows", "tail"), ("out",), SOURCE)
    runs_of_tail = -(-num_tail // RUN)
    units = max(width * -(-height // RUN), height * -(-width // RUN), runs_of_tail)
    slots = (n - num_tail) // (height * width) + (1 if num_tail else 0)
    (out,) = kernel(
        inputs=[x, columns, rows, num_tail],
        template=[("T", x.dtype), ("PAIRS", d // 2), ("RUN", RUN)],
        grid=(d // 2, units, b * heads * slots),
        threadgroup=(min(d // 2, 32), 8, 1),
        output_shapes=[x.shape],
        output_dtypes=[x.dtype],
    )
    return out


def _cos_sin(count: int, dim: int, theta: float) -> np.ndarray:
    """(count, D / 4, 2): cosine and sine beside each other."""
    angle = axis_angles(count, dim, theta)
    return np.stack([np.cos(angle), np.sin(angle)], axis=-1)


def _supports(x: mx.array, height: int, width: int, theta: float, num_tail: int) -> bool:
    # MLX binds inputs of fewer than 8 elements as `constant`; the kernel reads x as `device`
    return x.dtype in (mx.float32, mx.float16, mx.bfloat16) and 8 <= x.size < MAX_ELEMENTS


def _minimum_bytes(x: mx.array, height: int, width: int, theta: float, num_tail: int) -> int:
    return 2 * x.nbytes + 4 * (height + width) * x.shape[-1] // 2


def _check_case(x: mx.array, *rest: object) -> tuple[object, ...]:
    return Tensor((1, 2, 2 * 5 * 7 + 3, x.shape[-1])), 5, 7, 10000.0, 3


axial_rope_op = Op(
    name="axial_rope",
    reference=axial_rope_reference,
    kernel=axial_rope_kernel,
    supports=_supports,
    variant=lambda x, *rest: f"{dtype_name(x.dtype)} D={x.shape[-1]}",
    size=lambda x, height, width, theta, num_tail: f"N={x.shape[2]} grid={height}x{width} tail={num_tail}",
    check_case=_check_case,
    minimum_bytes=_minimum_bytes,
    cases=(  # x, height, width, theta, num_tail
        (Tensor((1, 1, 35, 16)), 5, 7, 10000.0, 0),
        (Tensor((2, 3, 2 * 35 + 5, 12)), 7, 5, 10000.0, 5),
        (Tensor((1, 2, 40, 8)), 1, 40, 100.0, 0),
        (Tensor((1, 1, 3 * 17 + 33, 64)), 17, 1, 10000.0, 33),
        (Tensor((2, 1, 19, 24)), 4, 4, 10000.0, 19),
        (Tensor((1, 1, 16 * 16, 64)), 16, 16, 10000.0, 0),
        (Tensor((1, 1, 1, 8)), 1, 1, 10000.0, 0),  # the smallest that is served
        (Tensor((1, 1, 32 * 32 + 64, 256)), 32, 32, 10000.0, 64),  # at 512 pixels
        (Tensor((1, 1, 7 * 4096 + 64, 256)), 64, 64, 10000.0, 64),
        (Tensor((1, 1, 4096, 256)), 64, 64, 10000.0, 0),
    ),
)


def axial_rope(x: mx.array, height: int, width: int, theta: float = 10000.0, num_tail: int = 0) -> mx.array:
    """Rotate queries or keys by their place in a grid.

    Args:
        x: (B, heads, N, D), N = frames * height * width + num_tail, row by row within a frame; D is a multiple of 4.
            Channels 2i and 2i + 1 are one complex number.
        height, width: the grid; keys of several frames repeat it, frame after frame.
        theta: base of the frequencies.
        num_tail: tokens at the end that have no place in the grid (object pointers); they are not rotated.

    Returns:
        The shape and dtype of ``x``; computed in float32.

    Raises:
        ValueError: N - num_tail is negative or no multiple of height * width, or D is no multiple of 4.
    """
    n, d = x.shape[-2:]
    if min(height, width) < 1 or d % 4 or (n - num_tail) % (height * width) or not 0 <= num_tail <= n:
        raise ValueError(
            f"axial_rope: {n} tokens of {d} channels with a tail of {num_tail} do not fit a {height}x{width} grid: "
            "tokens without the tail must be a multiple of the grid, channels a multiple of 4"
        )
    return axial_rope_op(x, height, width, theta, num_tail)
