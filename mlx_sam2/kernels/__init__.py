"""Fused operations: a Metal kernel each, with a reference made of MLX's own operations beside it.

`MLX_SAM2_KERNELS=0` turns the kernels off, `=1` takes them wherever they can serve; unset, the way that was measured to
be the faster one on this machine is taken (`python -m mlx_sam2.doctor`), or a built-in choice.
"""

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


from .attention import attend  # noqa: E402  the ops ask the rules above
from .axial_rope import axial_rope  # noqa: E402
from .mask_unit_attention import mask_unit_attention  # noqa: E402
from .memory_attention import memory_attention  # noqa: E402
from .shifted_layer_norm import shifted_layer_norm  # noqa: E402

__all__ = [
    "attend",
    "axial_rope",
    "mask_unit_attention",
    "memory_attention",
    "metal_allowed",
    "metal_forced",
    "shifted_layer_norm",
]
