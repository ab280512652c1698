"""What MLX fuses on a GPU, and the way that attention takes there until the doctor has measured.

Matrix units ("NAX" in MLX's source) stand beside the shader cores from the M5 on. MLX's products and its fused
attention use them; kernels of ``mx.fast.metal_kernel`` cannot. A product on them is some three times as fast.
"""

from __future__ import annotations

import os
import platform
import re
from functools import lru_cache
from typing import NamedTuple

import mlx.core as mx

FUSED, KERNEL, PRODUCTS = "fused", "kernel", "products"
NAX_GENERATION, NAX_PHONE_GENERATION, NAX_MACOS = 17, 18, (26, 2)  # of MLX's `is_nax_available`
NAX_WIDTH, NAX_QUERIES = 96, 512  # 72 and 80 channels are faster as 96 there, from so many queries on


class Gpu(NamedTuple):
    """A GPU and what runs on it: all that the choice depends on."""

    architecture: str  # as MLX names it: "applegpu_g14s" is an M2 Max
    macos: tuple[int, ...]
    mlx: tuple[int, ...]
    tf32: bool = True  # whether float32 products may run in reduced precision (MLX_ENABLE_TF32)

    def has_nax(self, dtype: mx.Dtype) -> bool:
        """Whether MLX multiplies matrices of this dtype on matrix units."""
        found = re.fullmatch(r"applegpu_g(\d+)(\w?)", self.architecture)
        if not found or self.macos < NAX_MACOS or (dtype == mx.float32 and not self.tf32):
            return False
        return int(found[1]) >= (NAX_PHONE_GENERATION if found[2] == "p" else NAX_GENERATION)

    def fused_head_dims(self) -> tuple[int, ...]:
        """The head dims of MLX's full attention on Metal."""
        return (64, 72, 80, 96, 128) if self.mlx >= (0, 32, 1) else (64, 80, 128)


# A GPU without matrix units, and an MLX of today: what graphs are traced for, and what other machines are taken for.
SHADERS = Gpu("", (), (0, 32, 4))
MATRIX_UNITS = Gpu("applegpu_g17s", NAX_MACOS, (0, 32, 4))  # an M5 Max


_HAS_METAL = mx.metal.is_available()  # truly: what tests and the roofline pretend, no device can be asked about


@lru_cache(maxsize=1)
def this_gpu() -> Gpu:
    """The GPU, macOS, MLX and TF32 setting of this process. The roofline and tests replace this function."""
    if not _HAS_METAL:
        return SHADERS
    architecture = str(mx.device_info(mx.gpu).get("architecture", ""))
    tf32 = os.environ.get("MLX_ENABLE_TF32", "1") != "0"
    return Gpu(architecture, _numbers(platform.mac_ver()[0]), _numbers(mx.__version__), tf32)


def attention_way(gpu: Gpu, dtype: mx.Dtype, queries: int, dim: int, value_dim: int) -> tuple[str, int]:
    """The way of attention on a GPU, unless another one was measured.

    Args:
        queries: N, of one head.
        dim, value_dim: channels of a head, in queries and keys and in values.

    Returns:
        FUSED and the head dim to pad to with zeros, which is exact; or KERNEL (``memory_attention``) or PRODUCTS, with
        the head dim as it is.
    """
    width = max(dim, value_dim)
    nax = gpu.has_nax(dtype)
    near = [w for w in gpu.fused_head_dims() if width <= w <= 1.5 * width]
    if nax and queries >= NAX_QUERIES and NAX_WIDTH in near and dtype != mx.float32:
        near = [w for w in near if w not in (72, 80)]
    if near:
        return FUSED, near[0]
    # Our kernel never writes the scores. That pays if the results are small (at D = Dv = 256 MLX's maintainers measured
    # that even their own fused attention loses to two large products), and if products are no faster elsewhere.
    return (KERNEL if 2 * value_dim <= dim and not nax else PRODUCTS), dim


def _numbers(version: str) -> tuple[int, ...]:
    """ "26.2.1" -> (26, 2, 1); what is no number ends it."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, found[0].split("."))) if found else ()
