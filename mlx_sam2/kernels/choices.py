"""Choices between a kernel and MLX's own path that were measured on this machine (`python -m mlx_sam2.doctor`)."""

from __future__ import annotations


def lookup(key: str) -> bool | None:
    """Whether the kernel was the faster way for this op, variant and size; None where nothing was measured."""
    return None
