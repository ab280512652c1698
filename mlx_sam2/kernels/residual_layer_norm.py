"""Layer normalisation of x + y + shift, and its sum with positions: what follows an attention of the image decoder."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from ..text import dtype_name
from .dispatch import Op, Tensor, metal_kernel
from .shifted_layer_norm import BUSY, MAX_ELEMENTS, MAX_WIDTH, SIMDGROUPS, SMALL

# As ``shifted_layer_norm``: a row stays in registers, each element is read and written once. A row of few channels is
# kept by LANES of a simdgroup, a power of 2 that is at least an eighth of its width: then a simdgroup has several rows.
# ``from`` says which row of an input a row of the output is made of; what is added to it may have fewer rows, which
# repeat. The loop is the same for all lanes, which exchange sums: rows beyond the last are computed and not written.
SOURCE = """
    using T4 = metal::vec<T, 4>;
    constexpr uint QUADS = WIDTH / 4, EACH = (QUADS + LANES - 1) / LANES, ROWS = 32 / LANES;
    const uint lane = thread_position_in_grid.x % LANES, own = thread_position_in_grid.x / LANES;
    float4 v[EACH], w[EACH], b[EACH];
    for (uint i = 0; i < EACH; i++) {
        const uint at = metal::min(LANES * i + lane, QUADS - 1);
        w[i] = float4(((const device T4*)weight)[at]);
        b[i] = float4(((const device T4*)bias)[at]);
    }
    const uint count = uint(OUTPUT_ROWS);
    for (uint base = thread_position_in_grid.y * ROWS; base < count; base += threads_per_grid.y * ROWS) {
        const bool inside = base + own < count;
        const uint row = metal::min(base + own, count - 1);
        ROW_OF_INPUTS
        float total = 0.0f;
        for (uint i = 0; i < EACH; i++) {
            const uint at = LANES * i + lane;
            v[i] = float4(0.0f);
            if (at < QUADS) v[i] = SUM;
            total += v[i].x + v[i].y + v[i].z + v[i].w;
        }
        for (ushort n = LANES / 2; n > 0; n /= 2) total += metal::simd_shuffle_xor(total, n);
        const float mean = total / WIDTH;
        float squares = 0.0f;
        for (uint i = 0; i < EACH; i++) {
            v[i] = LANES * i + lane < QUADS ? v[i] - mean : float4(0.0f);
            squares += v[i].x * v[i].x + v[i].y * v[i].y + v[i].z * v[i].z + v[i].w * v[i].w;
        }
        for (ushort n = LANES / 2; n > 0; n /= 2) squares += metal::simd_shuffle_xor(squares, n);
        const float scale = metal::precise::rsqrt(squares / WIDTH + eps);
        for (uint i = 0; i < EACH; i++) {
            const uint at = LANES * i + lane;
            if (!inside || at >= QUADS) continue;
            const float4 normed = v[i] * scale * w[i] + b[i];
            WRITE
        }
    }
"""


def norm_source(rows: str, row_of_inputs: str, total: str, write: str) -> str:
    """The source with its four gaps filled."""
    gaps = {"OUTPUT_ROWS": rows, "ROW_OF_INPUTS": row_of_inputs, "SUM": total, "WRITE": write}
    source = SOURCE
    for name, text in gaps.items():
        source = source.replace(name, text)
    return source


ADDED = norm_source(
    "y_shape[0]",
    """const device T4* from_x = (const device T4*)x + row % uint(x_shape[0]) * QUADS;
        const device T4* from_y = (const device T4*)y + row * QUADS;
        const device T4* places = (const device T4*)position + row % uint(position_shape[0]) * QUADS;""",
    "float4(from_x[at]) + float4(from_y[at]) + float4(((const device T4*)shift)[at])",
    """const T4 rounded = T4(normed);
            ((device T4*)out)[row * QUADS + at] = rounded;
            ((device T4*)placed)[row * QUADS + at] = T4(float4(rounded) + float4(places[at]));""",
)


def lanes_of(width: int) -> int:
    """The lanes of a simdgroup that keep a row: at most two float4 each for up to 256 channels."""
    return next((lanes for lanes in (4, 8, 16) if 8 * lanes >= width), 32)


def norm_grid(rows: int, width: int) -> dict[str, tuple[int, int, int]]:
    """Grid and threadgroup of a launch: each simdgroup takes several turns if there are many rows."""
    simdgroups = -(-rows * lanes_of(width) // 32)
    return {"grid": (32, -(-simdgroups // -(-simdgroups // BUSY)), 1), "threadgroup": (32, SIMDGROUPS, 1)}


def residual_layer_norm_reference(
    x: mx.array, y: mx.array, shift: mx.array, weight: mx.array, bias: mx.array, position: mx.array, eps: float
) -> tuple[mx.array, mx.array]:
    normed = mx.fast.layer_norm(x + (y + shift), weight, bias, eps)
    return normed, normed + position


def residual_layer_norm_kernel(
    x: mx.array, y: mx.array, shift: mx.array, weight: mx.array, bias: mx.array, position: mx.array, eps: float
) -> tuple[mx.array, mx.array]:
    width = y.shape[-1]
    inputs = ("x", "y", "shift", "weight", "bias", "position", "eps")
    kernel = metal_kernel("residual_layer_norm", inputs, ("out", "placed"), ADDED)
    x, rows, position = (a.reshape(-1, width) for a in (x, y, position))
    out, placed = kernel(
        inputs=[x, rows, shift, weight, bias, position, eps],
        template=[("T", y.dtype), ("WIDTH", width), ("LANES", lanes_of(width))],
        **norm_grid(len(rows), width),
        output_shapes=[rows.shape] * 2,
        output_dtypes=[y.dtype] * 2,
    )
    return out.reshape(y.shape), placed.reshape(y.shape)


def norm_supports(width: int, arrays: tuple[mx.array, ...]) -> bool:
    """Whether a normalisation over this width reads these arrays."""
    # MLX binds inputs of fewer than 8 elements as `constant`, which the kernel does not expect of vectors
    fits = width % 4 == 0 and 8 <= width <= MAX_WIDTH and all(0 < a.size < MAX_ELEMENTS for a in arrays)
    dtypes = {a.dtype for a in arrays}
    return fits and len(dtypes) == 1 and dtypes <= {mx.float32, mx.float16, mx.bfloat16}


def _case(batch: int, tokens: int, width: int, one_image: bool = False, scale: float = 1) -> tuple[Any, ...]:
    vector, x = Tensor((width,)), Tensor((1 if one_image else batch, tokens, width), scale=scale)
    y, shift = Tensor((batch, tokens, width), scale=scale), Tensor((width,), scale=scale)
    return x, y, shift, vector, vector, Tensor((1, tokens, width)), 1e-5


residual_layer_norm_op = Op(
    name="residual_layer_norm",
    reference=residual_layer_norm_reference,
    kernel=residual_layer_norm_kernel,
    supports=lambda *args: norm_supports(args[1].shape[-1], args[:6]),
    variant=lambda x, y, *rest: f"{dtype_name(y.dtype)} C={y.shape[-1]}",
    size=lambda x, y, *rest: f"N={y.shape[1]}{' one image' if len(x) < len(y) else ''}",
    check_case=lambda x, y, *rest: _case(2, SIMDGROUPS + 3, y.shape[-1], True, SMALL),
    minimum_bytes=lambda x, y, *rest: sum(a.nbytes for a in (x, *rest[:-1])) + 3 * y.nbytes,
    cases=(  # x, y, shift, weight, bias, position, eps
        _case(1, 3, 8),
        _case(3, 5, 20, one_image=True),
        _case(2, 19, 64),
        _case(2, 7, 132, scale=SMALL),
        _case(2, 11, 260, one_image=True, scale=SMALL),
        _case(3, 37, 256, one_image=True),
        _case(2, 4096, 256),
    ),
)


def residual_layer_norm(
    x: mx.array, y: mx.array, shift: mx.array, weight: mx.array, bias: mx.array, position: mx.array, eps: float
) -> tuple[mx.array, mx.array]:
    """Layer normalisation of x + (y + shift) over the last axis, and that plus positions.

    Args:
        x: (B or 1, N, C), the residual stream.
        y: (B, N, C), what a layer adds to it, without its bias.
        shift: (C,), the bias of that layer.
        weight, bias: (C,), of the normalisation.
        position: (1, N, C).
        eps: added to the variance.

    Returns:
        Two arrays of the shape and dtype of ``y``; a kernel computes in float32.
    """
    return residual_layer_norm_op(x, y, shift, weight, bias, position, eps)
