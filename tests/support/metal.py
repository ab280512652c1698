"""Metal kernels on a machine without Metal: the house's emulator, where it is."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import pkgutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

import mlx_sam2.kernels as kernels
from mlx_sam2.kernels import rules
from mlx_sam2.kernels.dispatch import Op, forget_checks

FOLDER = Path(__file__).parents[3] / "shared" / "metalcpu"
NAMES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}
# of the largest value: float32 sums in another order; a half's own rounding is up to 4.9e-4, a bfloat16's 3.9e-3
RELATIVE = {mx.float32: 1e-5, mx.float16: 2e-3, mx.bfloat16: 4e-3}
# Products that are rounded before scores (its reference rounds more); a result that is rounded and then added to.
ROUNDED_MORE = {"axial_memory_attention": 3, "residual_layer_norm": 2}


def allowed(op: Op, dtype: mx.Dtype) -> float:
    """The largest difference of a kernel from its reference in float32, a share of the largest value."""
    return RELATIVE[dtype] * (1 if dtype == mx.float32 else ROUNDED_MORE.get(op.name, 1))


def emulator() -> Any:
    """The module ``metalcpu``; skips the test where it can't run."""
    if mx.metal.is_available():
        pytest.skip("this machine has Metal: tests/kernels/test_on_metal.py runs the kernels on it")
    if not (FOLDER / "metalcpu.py").is_file():
        pytest.skip(f"no Metal here, and no emulator at {FOLDER}: it is not part of the repository")
    if importlib.util.find_spec("ziglang") is None:
        pytest.skip("no Metal here, and the emulator needs `pip install ziglang`")
    cache = f"metalcpu_cache_{os.environ.get('PYTEST_XDIST_WORKER', 'gw0')}"  # its files are not made for two writers
    os.environ.setdefault("METALCPU_CACHE", str(Path(tempfile.gettempdir()) / cache))
    if str(FOLDER) not in sys.path:
        sys.path.insert(0, str(FOLDER))
    import metalcpu

    return metalcpu


def all_ops() -> list[Op]:
    """Every op of the package."""
    modules = [importlib.import_module(f"{kernels.__name__}.{m.name}") for m in pkgutil.iter_modules(kernels.__path__)]
    found = {id(value): value for module in modules for value in vars(module).values() if isinstance(value, Op)}
    return sorted(found.values(), key=lambda op: op.name)


@contextlib.contextmanager
def emulated(mode: str = "fast", order: str = "forward", forced: bool = True) -> Iterator[list[Any]]:
    """Inside the block the package believes that it has Metal; kernels run in the emulator. Yields its reports."""
    metalcpu = emulator()
    forget_checks()
    with pytest.MonkeyPatch.context() as patch, metalcpu.emulate(mode=mode, order=order) as reports:
        patch.setattr(rules, "metal_allowed", lambda: True)
        patch.setattr(rules, "metal_forced", lambda: forced)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "mlx_sam2: ")  # a kernel that fails its first-use check fails the test
            yield reports
    forget_checks()
