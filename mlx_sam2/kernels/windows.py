"""Windows of a grid, and pooling (official ``modeling/backbones/utils.py``)."""

from __future__ import annotations

import mlx.core as mx


def window_partition(x: mx.array, window: int, outside: mx.array) -> mx.array:
    """(B, H, W, C) -> (B * windows, window, window, C); places beyond the right and bottom edges hold ``outside``.

    They are not masked: as in the official code they are tokens like the others.
    """
    b, h, w, c = x.shape
    pad_h, pad_w = -h % window, -w % window
    if pad_w:
        x = mx.concatenate([x, mx.broadcast_to(outside, (b, h, pad_w, c))], axis=2)
    if pad_h:
        x = mx.concatenate([x, mx.broadcast_to(outside, (b, pad_h, w + pad_w, c))], axis=1)
    rows, columns = (h + pad_h) // window, (w + pad_w) // window
    x = x.reshape(b, rows, window, columns, window, c)
    return x.swapaxes(2, 3).reshape(-1, window, window, c)  # (B, rows, columns, window, window, C)


def window_unpartition(x: mx.array, rows: int, columns: int, height: int, width: int) -> mx.array:
    """(B * rows * columns, window, window, C) -> (B, height, width, C), cropped to the grid."""
    window, c = x.shape[2:]
    x = x.reshape(-1, rows, columns, window, window, c).swapaxes(2, 3)
    x = x.reshape(-1, rows * window, columns * window, c)
    return x[:, :height, :width]


def max_pool(x: mx.array, stride: int) -> mx.array:
    """Non-overlapping max-pooling of (B, H, W, C); rows and columns that fill no cell are dropped."""
    b, h, w, c = x.shape
    x = x[:, : h // stride * stride, : w // stride * stride]
    return x.reshape(b, h // stride, stride, w // stride, stride, c).max(axis=(2, 4))
