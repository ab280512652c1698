"""Attention of a frame to its memories, with scores in the memories' channels (rotary encoding: ``axial_rope``).

The rotary encoding is axial: the first half of a key's channels turns with its column x, the second with its row y.
A key is W m + b of a token m of M channels, so a score is exactly

    score(i, j) = (A[i, x_j] + B[i, y_j]) . m_j + a[i, x_j] + b[i, y_j]
    A[i, x] = W_x^T R_x^T q_i[: D / 2]     a[i, x] = b_x . R_x^T q_i[: D / 2]     B and b: the other half, and y

for a rotated query q_i; W_x and b_x are the first half of the rows of W and b. A token without a place (an object
pointer) is one at x = y = 0. Keys are neither projected nor rotated, and a score costs M products instead of D.
"""

from __future__ import annotations

import math
from typing import Any

import mlx.core as mx
import numpy as np

from ..text import dtype_name
from . import gpu
from .axial_memory_source import COLUMNS, KEYS, SOURCE
from .axial_rope import axial_rope, axis_angles
from .dispatch import Op, Tensor, metal_kernel
from .memory_attention import (
    HEADER,
    LEAST_BIAS,
    MAX_ELEMENTS,
    QUERIES,
    REGISTERS,
    SCRATCH,
    THREADGROUPS,
    THREADS,
    memory_attention,
    merge_parts,
)

MIN_MEMORIES = 5  # below, the empty rows of the 8 and the products for A and B cost more than they save
MAX_PRODUCTS = 1 << 23  # elements of B at once: half of the queries of a 64x64 grid, 17 MB in half precision


def expand_bias(bias: mx.array | None, num_tail: int, cells: int) -> mx.array | None:
    """A bias for each frame and each token of the tail, (B, T + num_tail), as one for each key, (B, Nk)."""
    if bias is None:
        return None
    frames = bias.shape[1] - num_tail
    return mx.concatenate([mx.repeat(bias[:, :frames], cells, axis=1), bias[:, frames:]], axis=1)


def axial_memory_attention_reference(
    q: mx.array,
    keys: mx.array,
    values: mx.array,
    weight: mx.array,
    offset: mx.array,
    grid: tuple[int, int],
    theta: float,
    num_tail: int,
    bias: mx.array | None = None,
) -> mx.array:
    k = axial_rope(mx.addmm(offset, keys, weight.T)[:, None], *grid, theta, num_tail)
    q = mx.broadcast_to(q, (len(k), *q.shape[1:]))[:, None]
    bias = expand_bias(bias, num_tail, grid[0] * grid[1])
    return memory_attention(q, k, values[:, None], bias).squeeze(1)


def axial_memory_attention_kernel(
    q: mx.array,
    keys: mx.array,
    values: mx.array,
    weight: mx.array,
    offset: mx.array,
    grid: tuple[int, int],
    theta: float,
    num_tail: int,
    bias: mx.array | None = None,
) -> mx.array:
    table, row_table, offset_table = _tables(weight, offset, grid, theta, q.dtype)
    if bias is not None:
        bias = mx.maximum(bias.astype(mx.float32) * math.log2(math.e), LEAST_BIAS)
    (b, _, width), n = keys.shape, q.shape[1]
    items, queries = pieces(b, n, grid, width)
    found: list[mx.array] = []
    for i in range(0, b, items):
        some, parts = slice(i, i + items), []
        bias_of_some = None if bias is None else bias[some]
        for j in range(0, n, queries):
            piece = (q if len(q) == 1 else q[some])[:, j : j + queries]
            rows = piece[..., q.shape[-1] // 2 :] @ row_table.T  # B, (B, N, H * M)
            offsets = piece.astype(mx.float32) @ offset_table.T
            parts.append(_launch(piece, rows, offsets, table, keys[some], values[some], grid, num_tail, bias_of_some))
        found.append(parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=1))
    return found[0] if len(found) == 1 else mx.concatenate(found)


def pieces(batch: int, queries: int, grid: tuple[int, int], width: int) -> tuple[int, int]:
    """The items and the queries of each that are worked on at once, so that B stays small."""
    most = max(MAX_PRODUCTS // (grid[0] * width), QUERIES)  # queries
    if most < queries:
        return 1, most // QUERIES * QUERIES
    return min(most // queries, batch), queries


def _tables(
    weight: mx.array, offset: mx.array, grid: tuple[int, int], theta: float, dtype: mx.Dtype
) -> tuple[mx.array, mx.array, mx.array]:
    """W_x^T R_x^T of every column, (W, M, D / 2); the same of every row, (H * M, D / 2); and of the bias, by which
    rotated queries give the offsets a and b, (W + H, D) float32. Their unit is the logarithm to base 2."""
    (dim, width), (height, columns) = weight.shape, grid
    half, scale = dim // 2, math.log2(math.e) / math.sqrt(dim)
    of_columns, of_rows = (scale * _turns(count, dim, theta) for count in (columns, height))  # (2, count, D / 2)
    by_column = _turned(weight.T[None, :, :half], of_columns[:, :, None]).astype(dtype)
    by_row = _turned(weight.T[None, :, half:], of_rows[:, :, None]).astype(dtype)
    apart = np.zeros((2, columns + height, dim), np.float32)  # a row of columns knows nothing of the other half
    apart[:, :columns, :half], apart[:, columns:, half:] = of_columns, of_rows
    return by_column, by_row.reshape(height * width, half), _turned(offset, apart)


def _turns(count: int, dim: int, theta: float) -> np.ndarray:
    """What a rotation multiplies a channel with, and its partner in the pair: (2, count, D / 2)."""
    angle = axis_angles(count, dim, theta)
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([np.stack(pair, axis=-1).reshape(count, -1) for pair in ((cos, cos), (-sin, sin))])


def _turned(x: mx.array, turns: np.ndarray) -> mx.array:
    """Rotate the pairs of channels of x; float32."""
    x = x.astype(mx.float32)
    partners = x.reshape(*x.shape[:-1], -1, 2)[..., ::-1].reshape(x.shape)
    return x * mx.array(turns[0]) + partners * mx.array(turns[1])


def _launch(
    q: mx.array,
    rows: mx.array,
    offsets: mx.array,
    table: mx.array,
    keys: mx.array,
    values: mx.array,
    grid: tuple[int, int],
    num_tail: int,
    bias: mx.array | None,
) -> mx.array:
    (_, n, dim), (b, num_keys, width) = q.shape, keys.shape
    frames, splits = (num_keys - num_tail) // math.prod(grid), strip_splits(b, n, grid)
    dtype = q.dtype if splits == 1 else mx.float32
    inputs = [q, rows.reshape(*rows.shape[:2], grid[0], width), offsets, table, keys, values, frames, splits]
    kernel = _kernel(bias is not None)
    constants = {"D": dim, "M": width, "CHUNK": _chunk(dim), "COLUMNS": COLUMNS, "QUERIES": QUERIES, "THREADS": THREADS}
    out, weight = kernel(
        inputs=inputs if bias is None else [*inputs, bias],
        template=[("T", q.dtype), ("U", dtype), *constants.items()],
        grid=(THREADS, -(-n // QUERIES), b * splits),
        threadgroup=(THREADS, 1, 1),
        output_shapes=[(splits, b, 1, n, width), (splits, b, 1, n, 1)],
        output_dtypes=[dtype, mx.float32],
    )
    return merge_parts(out, weight, q.dtype).squeeze(1)


def _kernel(biased: bool) -> Any:
    inputs = ("q", "rows", "offsets", "table", "keys", "values", "frames", "splits")
    if not biased:
        return metal_kernel("axial_memory_attention", inputs, ("out", "weight"), SOURCE.replace("BIAS", ""), HEADER)
    source = SOURCE.replace("BIAS", "+ bias[item * (used + tail) + (pointers ? used : 0) + at]")
    return metal_kernel("axial_memory_attention_biased", (*inputs, "bias"), ("out", "weight"), source, HEADER)


def _chunk(dim: int) -> int:
    """The channels of half a query that pass through threadgroup memory at once."""
    return next(size for size in (64, 32, 16) if dim // 2 % size == 0)


def strip_splits(batch: int, queries: int, grid: tuple[int, int]) -> int:
    """The number of parts that the strips of columns of a piece are split into, so that all cores have threadgroups."""
    threadgroups = batch * -(-queries // QUERIES)
    return max(min(-(-THREADGROUPS // threadgroups), -(-grid[1] // COLUMNS)), 1)


def threadgroup_bytes(dim: int, width: int, itemsize: int) -> int:
    """Of a block of keys and values, or of a piece of the table, which share their place."""
    block = KEYS * (width + 4) + width * (KEYS + 16 // itemsize)
    return max(block, width * (_chunk(dim) + 4)) * itemsize


def registers(width: int, itemsize: int) -> int:
    """32-bit registers of a lane that hold A of a strip, results and the scores of a block."""
    return COLUMNS * width // 8 * itemsize // 2 + 2 * (width // 8 + COLUMNS)


def _supports(
    q: mx.array, keys: mx.array, values: mx.array, weight: mx.array, offset: mx.array, grid: Any, *rest: Any
) -> bool:
    dim, width, n = q.shape[-1], keys.shape[-1], q.shape[1]
    same = {x.dtype for x in (q, keys, values, weight, offset)}
    if len(same) > 1 or q.dtype not in (mx.float32, mx.float16, mx.bfloat16):
        return False
    if dim % 32 or not (width == 16 or width % 32 == 0) or not min(q.size, keys.size):
        return False
    if threadgroup_bytes(dim, width, q.itemsize) > SCRATCH or registers(width, q.itemsize) > REGISTERS:
        return False
    return max(len(q) * n * dim, keys.size, math.prod(grid) * dim) < MAX_ELEMENTS


def _preferred(
    q: mx.array, keys: mx.array, values: mx.array, weight: mx.array, offset: mx.array, grid: Any, *rest: Any
) -> bool:
    memories = (keys.shape[1] - rest[1]) // math.prod(grid)
    way, _ = gpu.attention_way(gpu.this_gpu(), q.dtype, q.shape[1], q.shape[-1], keys.shape[-1])
    return way == gpu.KERNEL and memories >= MIN_MEMORIES and q.itemsize == 2 and q.shape[-1] >= 4 * keys.shape[-1]


def _is_split(q: mx.array, keys: mx.array, grid: tuple[int, int]) -> bool:
    return strip_splits(*pieces(len(keys), q.shape[1], grid, keys.shape[-1]), grid) > 1


def _variant(q: mx.array, keys: mx.array, *rest: Any) -> str:
    split = "columns split" if _is_split(q, keys, rest[3]) else "columns whole"
    return f"{dtype_name(q.dtype)} D={q.shape[-1]} M={keys.shape[-1]} {split}{' biased' if len(rest) > 6 else ''}"


def _size(q: mx.array, keys: mx.array, *rest: Any) -> str:
    (height, width), num_tail = rest[3], rest[5]
    return f"N={q.shape[1]} grid={height}x{width} memories={(keys.shape[1] - num_tail) // (height * width)}"


def _case(
    batch: int,
    queries: int,
    grid: tuple[int, int],
    frames: int,
    num_tail: int,
    dim: int,
    width: int,
    *excluded: tuple[int, int],
    biased: bool = False,
    one_query: bool = False,
) -> tuple[object, ...]:
    """Arguments of the op; ``excluded`` are ranges of left-out frames and tokens, ``one_query`` the same for all."""
    tokens = frames * math.prod(grid) + num_tail
    bias = (Tensor((batch, frames + num_tail), mx.float32, excluded=excluded),) if biased or excluded else ()
    return (
        Tensor((1 if one_query else batch, queries, dim)),
        Tensor((batch, tokens, width)),
        Tensor((batch, tokens, width)),
        Tensor((dim, width), scale=1 / math.sqrt(width)),
        Tensor((dim,)),
        grid,
        10000.0,
        num_tail,
        *bias,
    )


def _check_case(q: mx.array, keys: mx.array, *rest: Any) -> tuple[object, ...]:
    """Ragged strips if columns are split; 9 frames, the last of which is in a matrix of its own; ragged pointers."""
    grid = (3, 10) if _is_split(q, keys, rest[3]) else (5, 3)
    excluded = ((0, 1), (4, 8), (9 + 20, 9 + 35)) if len(rest) > 6 else ()
    return _case(1, QUERIES + 5, grid, 9, 37, q.shape[-1], keys.shape[-1], *excluded)


def _minimum_bytes(q: mx.array, *rest: Any) -> int:
    arrays = [x for x in rest if isinstance(x, mx.array)]
    return q.nbytes + sum(x.nbytes for x in arrays) + len(arrays[0]) * q.shape[1] * arrays[0].shape[-1] * q.itemsize


def _flops(q: mx.array, keys: mx.array, *rest: Any) -> int:
    """Of the kernel, its products for A and B included: 8 frames of a cell at a time, some of which may be empty."""
    (batch, count, width), (height, columns), num_tail = keys.shape, rest[3], rest[5]
    frames = (count - num_tail) // (height * columns)
    computed = -(-frames // 8) * 8 * height * columns + -(-num_tail // KEYS) * KEYS
    return q.shape[1] * width * (4 * batch * computed + q.shape[-1] * (batch * columns + len(q) * height))


axial_memory_attention_op = Op(
    name="axial_memory_attention",
    reference=axial_memory_attention_reference,
    kernel=axial_memory_attention_kernel,
    supports=_supports,
    variant=_variant,
    size=_size,
    check_case=_check_case,
    minimum_bytes=_minimum_bytes,
    cases=(
        _case(1, 20, (4, 5), 3, 4, 64, 16),
        _case(2, 70, (3, 4), 5, 0, 32, 16),
        _case(2, 40, (5, 9), 8, 33, 96, 32, one_query=True),
        _case(1, 65, (2, 6), 9, 1, 64, 16, (2, 3), (7, 8)),
        _case(2, 33, (3, 3), 17, 70, 64, 16, (0, 8), (17, 52)),
        _case(1, 5, (1, 1), 1, 0, 32, 16),
        _case(86, 1, (1, 17), 1, 0, 32, 16),  # five strips in three parts
        # the variants of the published models: columns split and whole, without and with padded memories
        _case(1, 20, (5, 10), 7, 64, 256, 64),
        _case(2, 40, (5, 4), 7, 64, 256, 64),
        _case(1, 20, (4, 6), 7, 8, 256, 64, (3, 7), (11, 15)),
        _case(2, 40, (3, 4), 7, 8, 256, 64, (3, 7), (11, 15)),
        _case(1, 1024, (32, 32), 7, 64, 256, 64),  # at 512 pixels
        _case(1, 4096, (64, 64), 7, 64, 256, 64),
    ),
    preferred=_preferred,
    flops=_flops,
)


def axial_memory_attention(
    q: mx.array,
    keys: mx.array,
    values: mx.array,
    weight: mx.array,
    offset: mx.array,
    grid: tuple[int, int],
    theta: float = 10000.0,
    num_tail: int = 0,
    bias: mx.array | None = None,
) -> mx.array:
    """softmax(q k^T / sqrt(D) + bias) values for k = ``axial_rope(keys @ weight.T + offset)``; one head.

    Args:
        q: (B or 1, N, D), rotated by ``axial_rope``.
        keys, values: (B, Nk, M), Nk = T * h * w + num_tail: T frames, row by row, then tokens without a place.
        weight, offset: (D, M) and (D,), the projection of the keys.
        grid: (h, w).
        theta: base of the rotary frequencies.
        num_tail: tokens at the end that are not rotated.
        bias: (B, T + num_tail), added to the scores of a frame or token; -inf excludes it exactly. None adds nothing.

    Returns:
        (B, N, M), the dtype of ``q``; softmax in float32.

    Raises:
        ValueError: the shapes do not fit each other.
    """
    cells = math.prod(grid)
    fits = q.ndim == keys.ndim == 3 and keys.shape == values.shape and len(q) in (1, len(keys)) and min(grid) > 0
    fits = fits and weight.shape == (q.shape[-1], keys.shape[-1]) and offset.shape == weight.shape[:1]
    if not fits or num_tail < 0 or keys.shape[1] < num_tail or (keys.shape[1] - num_tail) % cells:
        raise ValueError(
            f"axial_memory_attention: q {q.shape}, keys {keys.shape}, values {values.shape}, weight {weight.shape} and "
            f"offset {offset.shape} do not fit a {grid[0]}x{grid[1]} grid and a tail of {num_tail}: (B or 1, N, D), "
            "(B, T * h * w + tail, M) twice, (D, M) and (D,) are needed"
        )
    frames = (keys.shape[1] - num_tail) // cells
    if bias is not None and bias.shape != (len(keys), frames + num_tail):
        raise ValueError(
            f"axial_memory_attention: bias {bias.shape} does not fit: {(len(keys), frames + num_tail)} is needed"
        )
    extra = () if bias is None else (bias,)
    return axial_memory_attention_op(q, keys, values, weight, offset, grid, theta, num_tail, *extra)
