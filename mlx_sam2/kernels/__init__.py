"""Fused operations: each has a Metal kernel, and a reference in plain MLX beside it.

`MLX_SAM2_KERNELS=0` turns the kernels off, `=1` uses them wherever they can be used. Unset, the way that
`python -m mlx_sam2.doctor` measured to be faster on this machine is used, or a built-in choice.
"""

from __future__ import annotations

from .attention import attend
from .axial_memory_attention import axial_memory_attention, expand_bias
from .axial_rope import axial_rope
from .gelu import gelu
from .mask_unit_attention import mask_unit_attention
from .memory_attention import global_attention, memory_attention
from .residual_layer_norm import residual_layer_norm
from .rules import metal_allowed, metal_forced
from .shifted_layer_norm import shifted_layer_norm
from .upscaling import mask_logits, unfold, upscaled_layer_norm

__all__ = [
    "attend",
    "axial_memory_attention",
    "axial_rope",
    "expand_bias",
    "gelu",
    "global_attention",
    "mask_logits",
    "mask_unit_attention",
    "memory_attention",
    "metal_allowed",
    "metal_forced",
    "residual_layer_norm",
    "shifted_layer_norm",
    "unfold",
    "upscaled_layer_norm",
]
