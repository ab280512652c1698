"""Upscaling of the mask decoder after its two products: normalisation with GELU, and GELU with the masks' product."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from ..text import dtype_name
from .dispatch import Op, Tensor, metal_kernel
from .gelu import METAL_GELU, gelu
from .residual_layer_norm import lanes_of, norm_grid, norm_source, norm_supports
from .shifted_layer_norm import MAX_ELEMENTS, SMALL

MAX_MASKS = 8  # of a prompt: sums in the registers of a thread


def unfold(y: mx.array, more: mx.array | None = None) -> mx.array:
    """Cells of 2x2 pixels side by side, (B, h, w, 4 * C) with channels (dy, dx, c), as pixels (B, 2h, 2w, C).

    ``more``, (B or 1, 2h, 2w, C), is added before the axes are joined, which needs a copy.
    """
    b, h, w, c = y.shape
    y = y.reshape(b, h, w, 2, 2, c // 4).swapaxes(2, 3)  # (B, h, dy, w, dx, C)
    if more is not None:
        y = y + more.reshape(-1, h, 2, w, 2, c // 4)
    return y.reshape(b, 2 * h, 2 * w, c // 4)


# ---- normalisation and GELU

# The row of a pixel's channels among the inputs: pixel (Y, X) is cell (Y / 2, X / 2), and in it (Y % 2, X % 2).
CELLS = """const uint W = 2 * uint(y_shape[2]), H = 2 * uint(y_shape[1]);
        const uint X = row % W, line = row / W, Y = line % H, pixel = row % (uint(more_shape[0]) * H * W);
        const uint cell = ((line / H * (H / 2) + Y / 2) * (W / 2) + X / 2) * 4 + Y % 2 * 2 + X % 2;
        const device T4* from = (const device T4*)y + cell * QUADS;
        const device T4* added = (const device T4*)more + pixel * QUADS;"""
NORM = norm_source(
    "y_shape[0] * y_shape[1] * y_shape[2] * 4",
    CELLS,
    "float4(from[at]) + float4(added[at])",
    "((device T4*)out)[row * QUADS + at] = T4(gelu_of(normed));",
)


def upscaled_layer_norm_reference(
    y: mx.array, more: mx.array, weight: mx.array, bias: mx.array, eps: float
) -> mx.array:
    return gelu(mx.fast.layer_norm(unfold(y, more), weight, bias, eps))


def upscaled_layer_norm_kernel(y: mx.array, more: mx.array, weight: mx.array, bias: mx.array, eps: float) -> mx.array:
    b, h, w, channels = y.shape
    width = channels // 4
    kernel = metal_kernel("upscaled_layer_norm", ("y", "more", "weight", "bias", "eps"), ("out",), NORM, METAL_GELU)
    (out,) = kernel(
        inputs=[y, more, weight, bias, eps],
        template=[("T", y.dtype), ("WIDTH", width), ("LANES", lanes_of(width))],
        **norm_grid(b * h * w * 4, width),
        output_shapes=[(b, 2 * h, 2 * w, width)],
        output_dtypes=[y.dtype],
    )
    return out


def _norm_case(batch: int, grid: tuple[int, int], width: int, shared: bool = True, scale: float = 1) -> tuple[Any, ...]:
    (h, w), vector = grid, Tensor((width,))
    more = Tensor((1 if shared else batch, 2 * h, 2 * w, width), scale=scale)
    return Tensor((batch, h, w, 4 * width), scale=scale), more, vector, vector, 1e-6


upscaled_layer_norm_op = Op(
    name="upscaled_layer_norm",
    reference=upscaled_layer_norm_reference,
    kernel=upscaled_layer_norm_kernel,
    supports=lambda y, *rest: norm_supports(y.shape[-1] // 4, (y, *rest[:3])) and y.shape[-1] % 16 == 0,
    variant=lambda y, *rest: f"{dtype_name(y.dtype)} C={y.shape[-1] // 4}",
    size=lambda y, *rest: f"grid={y.shape[1]}x{y.shape[2]}",
    check_case=lambda y, *rest: _norm_case(2, (3, 5), y.shape[-1] // 4, scale=SMALL),
    minimum_bytes=lambda y, *rest: 2 * y.nbytes + sum(a.nbytes for a in rest[:3]),
    cases=(  # y, more, weight, bias, eps
        _norm_case(1, (1, 2), 8),
        _norm_case(2, (3, 2), 16, shared=False),
        _norm_case(3, (2, 5), 24),
        _norm_case(2, (4, 3), 64, scale=SMALL),
        _norm_case(2, (5, 7), 64),
        _norm_case(2, (64, 64), 64),
    ),
)


def upscaled_layer_norm(y: mx.array, more: mx.array, weight: mx.array, bias: mx.array, eps: float) -> mx.array:
    """GELU of the layer normalisation of ``unfold(y, more)``.

    Args:
        y: (B, h, w, 4 * C), channels (dy, dx, c).
        more: (B or 1, 2h, 2w, C), added before the normalisation.
        weight, bias: (C,).
        eps: added to the variance.

    Returns:
        (B, 2h, 2w, C), the dtype of ``y``; a kernel computes in float32.
    """
    return upscaled_layer_norm_op(y, more, weight, bias, eps)


# ---- GELU and the product with the masks' hypernetworks

# A thread has the two pixels of a cell that lie in one row of the masks: their channels lie side by side, in y and in
# more, and its float2 of each mask beside that of the next thread. Weights are read once for both. Features are read
# once and never written: what is written is the masks, in float32.
PRODUCT = """
    using T4 = metal::vec<T, 4>;
    constexpr uint QUADS = C / 4;
    const uint x = thread_position_in_grid.x, line = thread_position_in_grid.y, b = thread_position_in_grid.z;
    const uint h = uint(y_shape[1]), w = uint(y_shape[2]);
    if (x >= w || line >= 2 * h) return;
    const device T4* from = (const device T4*)y + (((b * h + line / 2) * w + x) * 2 + line % 2) * 2 * QUADS;
    const device T4* added = (const device T4*)more + ((b % uint(more_shape[0]) * 2 * h + line) * w + x) * 2 * QUADS;
    const device T4* rows = (const device T4*)weights + b * MASKS * QUADS;
    float2 sum[MASKS];
    for (uint m = 0; m < MASKS; m++) sum[m] = float2(0.0f);
    for (uint i = 0; i < QUADS; i++) {
        const float4 left = gelu_of(float4(from[i]) + float4(added[i]));
        const float4 right = gelu_of(float4(from[QUADS + i]) + float4(added[QUADS + i]));
        for (uint m = 0; m < MASKS; m++) {
            const float4 of_mask = float4(rows[m * QUADS + i]);
            sum[m] += float2(metal::dot(left, of_mask), metal::dot(right, of_mask));
        }
    }
    for (uint m = 0; m < MASKS; m++)
        ((device float2*)out)[((b * MASKS + m) * 2 * h + line) * w + x] = sum[m];
"""


def mask_logits_reference(y: mx.array, more: mx.array, weights: mx.array) -> mx.array:
    pixels = gelu(unfold(y, more))
    b, height, width, channels = pixels.shape
    flat = pixels.astype(mx.float32).reshape(b, height * width, channels)
    return (weights.astype(mx.float32) @ flat.swapaxes(1, 2)).reshape(b, -1, height, width)


def mask_logits_kernel(y: mx.array, more: mx.array, weights: mx.array) -> mx.array:
    (b, h, w, channels), masks = y.shape, weights.shape[1]
    kernel = metal_kernel("mask_logits", ("y", "more", "weights"), ("out",), PRODUCT, METAL_GELU)
    (out,) = kernel(
        inputs=[y, more, weights],
        template=[("T", y.dtype), ("C", channels // 4), ("MASKS", masks)],
        grid=(-(-w // 32) * 32, -(-2 * h // 4) * 4, b),
        threadgroup=(32, 4, 1),
        output_shapes=[(b, masks, 2 * h, 2 * w)],
        output_dtypes=[mx.float32],
    )
    return out


def _serves_masks(y: mx.array, more: mx.array, weights: mx.array) -> bool:
    arrays = (y, more, weights)
    dtypes = {a.dtype for a in arrays}
    fits = y.shape[-1] % 16 == 0 and 1 <= weights.shape[1] <= MAX_MASKS
    fits = fits and all(8 <= a.size < MAX_ELEMENTS for a in arrays)
    return fits and len(dtypes) == 1 and dtypes <= {mx.float32, mx.float16, mx.bfloat16}


def _mask_case(batch: int, grid: tuple[int, int], channels: int, masks: int, shared: bool = True) -> tuple[Any, ...]:
    h, w = grid
    more = Tensor((1 if shared else batch, 2 * h, 2 * w, channels))
    return Tensor((batch, h, w, 4 * channels)), more, Tensor((batch, masks, channels))


mask_logits_op = Op(
    name="mask_logits",
    reference=mask_logits_reference,
    kernel=mask_logits_kernel,
    supports=_serves_masks,
    variant=lambda y, more, weights: f"{dtype_name(y.dtype)} C={y.shape[-1] // 4} masks={weights.shape[1]}",
    size=lambda y, *rest: f"grid={y.shape[1]}x{y.shape[2]}",
    check_case=lambda y, more, weights: _mask_case(2, (3, 5), y.shape[-1] // 4, weights.shape[1]),
    minimum_bytes=lambda y, more, weights: (
        y.nbytes + more.nbytes + weights.nbytes + 4 * y.size // weights.shape[2] * weights.shape[1]
    ),
    cases=(  # y, more, weights
        _mask_case(1, (1, 2), 4, 2),
        _mask_case(3, (3, 5), 8, 4),
        _mask_case(2, (5, 37), 12, 3, shared=False),
        _mask_case(2, (4, 3), 32, 1),
        _mask_case(2, (3, 33), 32, 4),
        _mask_case(2, (128, 128), 32, 4),
    ),
    dtype=mx.float32,
    flops=lambda y, more, weights: 2 * y.size * weights.shape[1],
)


def mask_logits(y: mx.array, more: mx.array, weights: mx.array) -> mx.array:
    """The product of mask weights with the GELU of ``unfold(y, more)``.

    Args:
        y: (B, h, w, 4 * C), channels (dy, dx, c).
        more: (B or 1, 2h, 2w, C).
        weights: (B, M, C).

    Returns:
        (B, M, 2h, 2w) float32, also from half precision.
    """
    return mask_logits_op(y, more, weights)
