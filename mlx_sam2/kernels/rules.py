"""The setting `MLX_SAM2_KERNELS`: whether Metal kernels may be used, and whether they must be."""

from __future__ import annotations

import os
import warnings

import mlx.core as mx

VARIABLE = "MLX_SAM2_KERNELS"


def metal_allowed() -> bool:
    """Whether Metal kernels may be used now. Asked at every call; tests replace it."""
    return setting() != "0" and mx.metal.is_available() and mx.default_device().type == mx.gpu


def metal_forced() -> bool:
    """Whether kernels are used wherever they can be, regardless of speed."""
    return setting() == "1"


def setting() -> str:
    """The value of MLX_SAM2_KERNELS: "0", "1", or "" for the faster way. Other values are ignored with one warning."""
    value = os.environ.get(VARIABLE, "")
    if value in ("", "0", "1"):
        return value
    if value not in _complained:
        _complained.add(value)
        warnings.warn(
            f"mlx_sam2: {VARIABLE}={value!r} is ignored: 0 turns the Metal kernels off, 1 takes them wherever they "
            "can serve, unset takes the faster way",
            RuntimeWarning,
            stacklevel=3,
        )
    return ""


_complained: set[str] = set()
