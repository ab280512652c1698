"""Fused operations: a Metal kernel each, with a reference made of MLX's own operations beside it.

`MLX_SAM2_KERNELS=0` turns the kernels off, `=1` takes them wherever they can serve; unset, the way that was measured to
be the faster one on this machine is taken (`python -m mlx_sam2.doctor`), or a built-in choice.
"""

from __future__ import annotations

from .attention import attend
from .axial_rope import axial_rope
from .mask_unit_attention import mask_unit_attention
from .memory_attention import memory_attention
from .rules import metal_allowed, metal_forced
from .shifted_layer_norm import shifted_layer_norm

__all__ = [
    "attend",
    "axial_rope",
    "mask_unit_attention",
    "memory_attention",
    "metal_allowed",
    "metal_forced",
    "shifted_layer_norm",
]
