"""Axial rotary position encoding (official ``modeling/position_encoding.py``; rope-vit, arXiv 2403.13298)."""

from __future__ import annotations

from functools import lru_cache

import mlx.core as mx
import numpy as np


@lru_cache(maxsize=8)
def _rotation_table(height: int, width: int, dim: int, theta: float) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and sine of every angle, (height * width, dim / 2): first those that turn with x, then with y."""
    frequency = 1.0 / np.float32(theta) ** (np.arange(0, dim, 4, dtype=np.float32) / np.float32(dim))
    index = np.arange(height * width)
    angle_x = (index % width).astype(np.float32)[:, None] * frequency
    angle_y = (index // width).astype(np.float32)[:, None] * frequency
    angle = np.concatenate([angle_x, angle_y], axis=-1)
    return np.cos(angle), np.sin(angle)


def axial_rope_reference(x: mx.array, height: int, width: int, theta: float, num_tail: int) -> mx.array:
    b, heads, n, d = x.shape
    cos, sin = (mx.array(t) for t in _rotation_table(height, width, d, theta))
    rotated = (n - num_tail) // (height * width)
    # (B, heads, frames, h * w, D / 2, 2): the table repeats as a whole for every frame of keys
    pairs = x[:, :, : n - num_tail].astype(mx.float32).reshape(b, heads, rotated, height * width, d // 2, 2)
    even, odd = pairs[..., 0], pairs[..., 1]
    turned = mx.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1)
    turned = turned.reshape(b, heads, n - num_tail, d).astype(x.dtype)
    return mx.concatenate([turned, x[:, :, n - num_tail :]], axis=2) if num_tail else turned


def axial_rope(x: mx.array, height: int, width: int, theta: float = 10000.0, num_tail: int = 0) -> mx.array:
    """Rotate queries or keys by their place in a grid.

    Args:
        x: (B, heads, N, D), N = frames * height * width + num_tail, row by row within a frame; D a multiple of 4.
            Channels 2i and 2i + 1 are one complex number.
        height, width: the grid; a key sequence of several frames repeats it whole, frame after frame.
        theta: base of the frequencies.
        num_tail: tokens at the end that keep no position (object pointers).

    Returns:
        The shape and dtype of ``x``; computed in float32.

    Raises:
        ValueError: when N - num_tail is negative or no multiple of height * width, or D none of 4.
    """
    n, d = x.shape[-2:]
    if d % 4 or (n - num_tail) % (height * width) or not 0 <= num_tail <= n:
        raise ValueError(
            f"axial_rope: {n} tokens of {d} channels with a tail of {num_tail} do not fit a {height}x{width} grid: "
            "tokens without the tail must be a multiple of the grid, channels a multiple of 4"
        )
    return axial_rope_reference(x, height, width, theta, num_tail)
