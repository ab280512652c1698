"""Facts about a machine: versions, chip, precision of products, settings; and the doctor's opinion of them."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import sys
import time
from typing import Any

import mlx.core as mx
import numpy as np

from .. import __version__, _blas, machine
from ..hub.client import HubError, start_client
from ..kernels import choices, rules
from ..text import dtype_name

FULL_PRECISION, ANY_PRECISION = 2e-5, 1e-2  # relative errors of a product; float32 has about 1e-6, TF32 1e-3
YARDSTICK, YARDSTICK_ROUNDS = 4096, 3  # side of the product that other work is held against, and how often it is run
YARDSTICK_DTYPES = (mx.float32, mx.float16)
FUSED_PAIRS = ((56, 56), (64, 64), (72, 72), (80, 80), (96, 96), (128, 128), (256, 64), (256, 256))  # head dims
PROBE_CPU, PROBE_GPU = 512, 2048  # sides of the matrices of the probe


def facts() -> dict[str, Any]:
    """All that a bug report needs, in the order of the report."""
    on_linux = sys.platform.startswith("linux")
    return {
        "mlx_sam2": __version__,
        "mlx": mx.__version__,
        "python": f"{platform.python_version()} ({platform.machine()})",
        "system": machine.system(),
        "chip": machine.chip(),
        "cpu_cores": os.cpu_count(),
        "memory_gb": round(machine.memory_bytes() / 1e9, 1),
        "feature_cache_gb": round(machine.cache_bytes() / 1e9, 1),
        "bandwidth_gb_s": machine.bandwidth(machine.chip(), os.cpu_count() or 0),
        "backend": machine.backend(),
        "blas": machine.loaded_blas() if on_linux else None,
        "MLX_ENABLE_TF32": os.environ.get("MLX_ENABLE_TF32"),
        "MLX_SAM2_KERNELS": os.environ.get(rules.VARIABLE),
        "choices": str(choices.path()),
        "packages": {name: installed(name) for name in ("numpy", "huggingface_hub", "pillow", "av")},
        "hub": hub(),
    }


def installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def hub() -> dict[str, str | None]:
    """The folder of downloads, or the reason why the Hub's client does not start."""
    try:
        start_client(None)
    except HubError as error:
        return {"cache": None, "problem": str(error)}
    from huggingface_hub import constants

    return {"cache": constants.HF_HUB_CACHE, "problem": None}


def probe() -> dict[str, Any]:
    """Multiply two float32 matrices on the default device: largest relative error, and GFLOP/s."""
    random = np.random.default_rng(0)
    side = PROBE_GPU if mx.default_device() == mx.gpu else PROBE_CPU
    a, b = (random.standard_normal((side, side), dtype=np.float32) for _ in range(2))
    exact = a.astype(np.float64) @ b.astype(np.float64)
    left, right = mx.array(a), mx.array(b)
    mx.eval(left @ right)
    start = time.perf_counter()
    result = left @ right
    mx.eval(result)
    seconds = time.perf_counter() - start
    error = float(np.abs(np.array(result) - exact).max() / np.abs(exact).max())
    kind = "float32" if error <= FULL_PRECISION else "reduced" if error <= ANY_PRECISION else "wrong"
    return {"relative_error": error, "precision": kind, "gflop_s": round(2 * side**3 / seconds / 1e9, 1)}


def yardstick() -> dict[str, float]:
    """GFLOP/s of one large product on the default device, by dtype: what other work is held against."""
    found: dict[str, float] = {}
    for dtype in YARDSTICK_DTYPES:
        left, right = (mx.random.normal((YARDSTICK, YARDSTICK)).astype(dtype) for _ in range(2))
        mx.eval(left @ right)
        start = time.perf_counter()
        mx.eval([left @ (right + i) for i in range(YARDSTICK_ROUNDS)])
        seconds = max(time.perf_counter() - start, 1e-9) / YARDSTICK_ROUNDS
        found[dtype_name(dtype)] = round(2 * YARDSTICK**3 / seconds / 1e9, 1)
    return found


def fused_pairs() -> dict[str, bool] | None:
    """Whether MLX has a fused attention of these head dims, of queries and values; None if this MLX can't be asked."""
    found: dict[str, bool] = {}
    for dim, value_dim in FUSED_PAIRS:
        q, v = mx.zeros((1, 1, 64, dim), mx.float16), mx.zeros((1, 1, 64, value_dim), mx.float16)
        try:
            mx.eval(mx.fast.scaled_dot_product_attention(q, q, v, scale=1.0, force_fused=True))
        except TypeError:  # before MLX 0.32.2
            return None
        except (RuntimeError, ValueError):
            found[f"{dim}/{value_dim}"] = False
        else:
            found[f"{dim}/{value_dim}"] = True
    return found


def opinions(facts: dict[str, Any], product: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Two lists of lines: faults of this machine, and notes about it."""
    wrong, notes = [], []
    if product["precision"] == "wrong":
        wrong.append(
            f"float32 products are off by {product['relative_error']:.1e} of the largest value: MLX or its BLAS "
            f"({facts['blas'] or 'built in'}) computes wrongly here"
        )
    elif product["precision"] == "reduced":
        notes.append(
            "float32 products run in reduced precision, as TF32 does, on this GPU; MLX_ENABLE_TF32=0 restores float32"
        )
    if facts["MLX_SAM2_KERNELS"] not in (None, "", "0", "1"):
        wrong.append(f"MLX_SAM2_KERNELS={facts['MLX_SAM2_KERNELS']!r} is ignored: it must be 0, 1 or unset")
    elif facts["MLX_SAM2_KERNELS"] == "0":
        notes.append("MLX_SAM2_KERNELS=0 turns the Metal kernels off")
    if facts["hub"]["problem"]:
        wrong.append(f"nothing can be downloaded: {facts['hub']['problem']}")
    if sys.platform.startswith("linux") and facts["backend"] == "CPU" and facts["blas"] is None:
        notes.append(_blas.ADVICE.removeprefix("mlx_sam2: ").rstrip("."))
    if facts["packages"]["av"] is None:
        notes.append("video files need PyAV: pip install 'mlx-sam2[video]'")
    if sys.platform == "darwin" and not facts["backend"].startswith("Metal"):
        wrong.append("MLX finds no Metal on this Mac (a virtual machine, or a Python for Intel?)")
    return wrong, notes
