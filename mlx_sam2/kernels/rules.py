"""Whether Metal kernels may be used, and whether they must be: `MLX_SAM2_KERNELS`."""

from __future__ import annotations

import os
import warnings

import mlx.core as mx

VARIABLE = "MLX_SAM2_KERNELS"


def metal_allowed() -> bool:
    """Whether Metal kernels may be used now. The one rule; asked at every call, replaceable in tests."""
    return setting() != "0" and mx.metal.is_available() and mx.default_device().type == mx.gpu


def metal_forced() -> bool:
    """Whether kernels are taken without regard to speed."""
    return setting() == "1"


def setting() -> str:
    """What MLX_SAM2_KERNELS asks for: "0", "1", or "" for the faster way. Anything else is told once, and ignored."""
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
