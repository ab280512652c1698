"""Layer normalisation of x + shift, for a residual stream whose biases are summed apart (``model/residual.py``)."""

from __future__ import annotations

import mlx.core as mx

from ..text import dtype_name
from .dispatch import Op, Tensor, metal_kernel

MAX_ELEMENTS = 1 << 31  # offsets are 32-bit
MAX_WIDTH = 2048  # 16 float4 a lane
SIMDGROUPS = 8  # of a threadgroup
SMALL = 2**-10  # scale of numbers with a variance near eps, so that eps counts
BUSY = 2048  # simdgroups fill a GPU; with more rows than that, each takes several

# A simdgroup keeps a row in registers: each element is read once and written once, neighbouring lanes read neighbouring
# elements, and nothing is shared. Shift, weight and bias stay in registers from row to row. Mean and variance are taken
# one after the other, in float32.
SOURCE = """
    using T4 = metal::vec<T, 4>;
    constexpr uint QUADS = WIDTH / 4;
    constexpr int EACH = (QUADS + 31) / 32;
    const uint lane = thread_position_in_grid.x;
    float4 v[EACH], s[EACH];
    T4 w[EACH], b[EACH];
    for (int i = 0; i < EACH; i++) {
        const uint at = metal::min(32 * i + lane, QUADS - 1);
        s[i] = ((const device float4*)shift)[at];
        w[i] = ((const device T4*)weight)[at];
        b[i] = ((const device T4*)bias)[at];
    }
    for (uint row = thread_position_in_grid.y; row < uint(x_shape[0]); row += threads_per_grid.y) {
        const device T4* from = (const device T4*)x + row * QUADS;
        device T4* to = (device T4*)out + row * QUADS;
        float total = 0.0f;
        for (int i = 0; i < EACH; i++) {
            v[i] = 32 * i + lane < QUADS ? float4(from[32 * i + lane]) + s[i] : float4(0.0f);
            total += v[i].x + v[i].y + v[i].z + v[i].w;
        }
        const float mean = simd_sum(total) / WIDTH;
        float squares = 0.0f;
        for (int i = 0; i < EACH; i++) {
            v[i] = 32 * i + lane < QUADS ? v[i] - mean : float4(0.0f);
            squares += v[i].x * v[i].x + v[i].y * v[i].y + v[i].z * v[i].z + v[i].w * v[i].w;
        }
        const float scale = metal::precise::rsqrt(simd_sum(squares) / WIDTH + eps);
        for (int i = 0; i < EACH; i++)
            if (32 * i + lane < QUADS) to[32 * i + lane] = T4(v[i] * scale * float4(w[i]) + float4(b[i]));
    }
"""


def shifted_layer_norm_reference(
    x: mx.array, shift: mx.array, weight: mx.array, bias: mx.array, eps: float
) -> mx.array:
    return mx.fast.layer_norm((x.astype(mx.float32) + shift).astype(x.dtype), weight, bias, eps)


def shifted_layer_norm_kernel(x: mx.array, shift: mx.array, weight: mx.array, bias: mx.array, eps: float) -> mx.array:
    width, rows = x.shape[-1], x.size // x.shape[-1]
    each = -(-rows // BUSY)
    kernel = metal_kernel("shifted_layer_norm", ("x", "shift", "weight", "bias", "eps"), ("out",), SOURCE)
    (out,) = kernel(
        inputs=[x.reshape(rows, width), shift, weight, bias, eps],
        template=[("T", x.dtype), ("WIDTH", width)],
        grid=(32, -(-rows // each), 1),
        threadgroup=(32, SIMDGROUPS, 1),
        output_shapes=[(rows, width)],
        output_dtypes=[x.dtype],
    )
    return out.reshape(x.shape)


def _supports(x: mx.array, shift: mx.array, weight: mx.array, bias: mx.array, eps: float) -> bool:
    # MLX binds inputs of fewer than 8 elements as `constant`, which the kernel does not expect of vectors
    fits = x.shape[-1] % 4 == 0 and 8 <= x.shape[-1] <= MAX_WIDTH and 0 < x.size < MAX_ELEMENTS
    return fits and x.dtype in (mx.float32, mx.float16, mx.bfloat16) and weight.dtype == bias.dtype == x.dtype


def _case(rows: int, width: int, scale: float = 1) -> tuple[object, ...]:
    vector = Tensor((width,))
    return Tensor((rows, width), scale=scale), Tensor((width,), mx.float32, scale), vector, vector, 1e-6


shifted_layer_norm_op = Op(
    name="shifted_layer_norm",
    reference=shifted_layer_norm_reference,
    kernel=shifted_layer_norm_kernel,
    supports=_supports,
    variant=lambda x, *rest: f"{dtype_name(x.dtype)} C={x.shape[-1]}",
    size=lambda x, *rest: f"N={x.size // x.shape[-1]}",
    check_case=lambda x, *rest: _case(SIMDGROUPS + 3, x.shape[-1], SMALL),
    minimum_bytes=lambda x, *rest: 2 * x.nbytes + (4 + 2 * x.dtype.size) * x.shape[-1],
    cases=(  # x, shift, weight, bias, eps
        _case(1, 8),
        _case(5, 20),
        _case(9, 128),
        _case(64, 132),
        _case(11, 96, SMALL),
        *(_case(19, width << stage) for width in (96, 112, 144) for stage in range(4)),  # the published models
        _case(5000, 96),
    ),
)


def shifted_layer_norm(x: mx.array, shift: mx.array, weight: mx.array, bias: mx.array, eps: float) -> mx.array:
    """Layer normalisation of x + shift over the last axis.

    Args:
        x: (..., C).
        shift: (C,) float32, the same for all places.
        weight, bias: (C,).
        eps: added to the variance.

    Returns:
        The shape and dtype of ``x``; computed in float32.
    """
    return shifted_layer_norm_op(x, shift, weight.astype(x.dtype), bias.astype(x.dtype), eps)
