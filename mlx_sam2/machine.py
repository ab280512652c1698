"""Facts about this machine: chip, backend, BLAS, system; and the peak rates of Apple's chips."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple


class Chip(NamedTuple):
    """Peak rates of an Apple GPU with all its cores; half precision is taken to be as fast as float32."""

    bandwidth: float  # GB/s of memory, from Apple's technical specifications
    tflops: float  # float32: cores x 128 lanes x 2 x clock; docs/performance.md has the sources
    # where chips of one name differ in bandwidth: what Apple states for a number of CPU cores
    bandwidth_by_cpu_cores: Mapping[int, float] | None = None
    matrix_units: bool = False  # whether it has some beside the shader cores, which alone `tflops` counts


CHIPS = {
    "M1": Chip(68.25, 2.6),
    "M1 Pro": Chip(200, 5.2),
    "M1 Max": Chip(400, 10.4),
    "M1 Ultra": Chip(800, 20.8),
    "M2": Chip(100, 3.6),
    "M2 Pro": Chip(200, 6.8),
    "M2 Max": Chip(400, 13.6),
    "M2 Ultra": Chip(800, 27.2),
    "M3": Chip(100, 4.1),
    "M3 Pro": Chip(150, 7.4),
    "M3 Max": Chip(400, 16.4, {14: 300, 16: 400}),
    "M3 Ultra": Chip(819, 32.8),
    "M4": Chip(120, 4.4),
    "M4 Pro": Chip(273, 8.8),
    "M4 Max": Chip(546, 17.6, {14: 410, 16: 546}),
    "M5": Chip(153, 4.45, matrix_units=True),  # M5: shader cores alone, without the matrix units beside them
    "M5 Pro": Chip(307, 8.9, matrix_units=True),
    "M5 Max": Chip(614, 17.8, {}, matrix_units=True),  # its two sizes differ in GPU cores only
}


def chip() -> str:
    """Return the name of the chip that MLX computes on, such as "Apple M2 Max"."""
    import mlx.core as mx

    device = mx.gpu if mx.metal.is_available() else mx.cpu
    return str(mx.device_info(device).get("device_name", platform.processor() or "unknown"))


def bandwidth(name: str, cpu_cores: int) -> float | None:
    """Look up the peak memory bandwidth in GB/s by MLX's name of the chip; None if Apple states none."""
    known = CHIPS.get(name.removeprefix("Apple ")) if name.startswith("Apple ") else None
    if known is None or known.bandwidth_by_cpu_cores is None:
        return known and known.bandwidth
    return known.bandwidth_by_cpu_cores.get(cpu_cores)


def backend() -> str:
    """Say where MLX computes by default: Metal, CUDA or CPU."""
    import mlx.core as mx

    if mx.metal.is_available():
        return "Metal" if mx.default_device() == mx.gpu else "Metal, but the default device is the CPU"
    return "CUDA" if mx.default_device() == mx.gpu else "CPU"


def system() -> str:
    """Name the system and its version: "macOS 15.1", "Linux 6.8.0"."""
    if sys.platform == "darwin":
        return f"macOS {platform.mac_ver()[0]}"
    return f"{platform.system()} {platform.release()}"


def memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def cache_bytes() -> int:
    """Memory that a cache may take unasked: an eighth of what this process may use at all."""
    import mlx.core as mx

    device = mx.device_info(mx.gpu if mx.is_available(mx.gpu) else mx.cpu)
    limits = [memory_bytes(), device.get("max_recommended_working_set_size"), _container_bytes()]
    return min(int(limit) for limit in limits if limit) // 8


def _container_bytes() -> int | None:
    """The limit that a container sets (Linux)."""
    for file in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            return int(Path("/sys/fs/cgroup", file).read_text())
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return None


def loaded_blas() -> str | None:
    """Return the path of the BLAS that this process has loaded for MLX (Linux); None: the slow one inside MLX."""
    maps = Path("/proc/self/maps").read_text(errors="replace")
    found = re.search(r"\S*/lib(?:openblas\w*|mkl_rt|blis\w*)(?:-[\w.]+)?\.so[\w.]*$", maps, re.MULTILINE)
    return found[0] if found else None
