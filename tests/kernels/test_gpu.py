"""The built-in choice of attention as a table: chips, versions, dtypes and shapes."""

from __future__ import annotations

import mlx.core as mx
import pytest

from mlx_sam2.kernels import gpu
from mlx_sam2.kernels.gpu import FUSED, KERNEL, PRODUCTS, Gpu
from mlx_sam2.kernels.memory_attention import global_attention_op, memory_attention_op

TODAY = (0, 32, 4)
CHIPS = {
    "M1": Gpu("applegpu_g13g", (15, 1), TODAY),
    "M2 Max": Gpu("applegpu_g14s", (26, 2), TODAY),
    "M4 Max": Gpu("applegpu_g16s", (26, 3), TODAY),
    "M5": Gpu("applegpu_g17g", (26, 2), TODAY),
    "M5 Max": Gpu("applegpu_g17s", (27,), TODAY),
    "M5, macOS 26.1": Gpu("applegpu_g17g", (26, 1), TODAY),
    "M5 without TF32": Gpu("applegpu_g17g", (26, 2), TODAY, tf32=False),
    "A phone of g17": Gpu("applegpu_g17p", (26, 2), TODAY),
    "A phone of g18": Gpu("applegpu_g18p", (26, 2), TODAY),
    "M2 Max, MLX 0.32.0": Gpu("applegpu_g14s", (26, 2), (0, 32, 0)),
    "not known": gpu.SHADERS,
}
NAX = {"M5", "M5 Max", "A phone of g18"}  # in every dtype
NAX_OF_HALVES = NAX | {"M5 without TF32"}


@pytest.mark.parametrize("name", CHIPS)
def test_matrix_units(name: str) -> None:
    assert CHIPS[name].has_nax(mx.float16) == CHIPS[name].has_nax(mx.bfloat16) == (name in NAX_OF_HALVES)
    assert CHIPS[name].has_nax(mx.float32) == (name in NAX)


# dim, value_dim, queries -> on shader cores; on matrix units in half precision; with MLX 0.32.0
TABLE = {
    "memory attention": ((256, 64, 4096), (KERNEL, 256), (PRODUCTS, 256), (KERNEL, 256)),
    "its self-attention": ((256, 256, 4096), (PRODUCTS, 256), (PRODUCTS, 256), (PRODUCTS, 256)),
    "global, T and S": ((96, 96, 4096), (FUSED, 96), (FUSED, 96), (FUSED, 128)),
    "global, B+": ((56, 56, 4096), (FUSED, 64), (FUSED, 64), (FUSED, 64)),
    "global, L": ((72, 72, 4096), (FUSED, 72), (FUSED, 96), (FUSED, 80)),
    "windows, L": ((72, 72, 256), (FUSED, 72), (FUSED, 72), (FUSED, 80)),
    "80 channels": ((80, 80, 512), (FUSED, 80), (FUSED, 96), (FUSED, 80)),
    "the mask decoder": ((16, 16, 8), (PRODUCTS, 16), (PRODUCTS, 16), (PRODUCTS, 16)),
}


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16], ids=["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("name", CHIPS)
@pytest.mark.parametrize("what", TABLE)
def test_the_way(what: str, name: str, dtype: mx.Dtype) -> None:
    (dim, value_dim, queries), shaders, nax, old = TABLE[what]
    chip = CHIPS[name]
    expected = shaders
    if name == "M2 Max, MLX 0.32.0":
        expected = old
    elif chip.has_nax(dtype):
        expected = (PRODUCTS, 256) if what == "memory attention" else nax if dtype != mx.float32 else shaders
    assert gpu.attention_way(chip, dtype, queries, dim, value_dim) == expected


@pytest.mark.parametrize("name", CHIPS)
def test_the_ops_ask_for_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "this_gpu", lambda: CHIPS[name])
    for dtype in (mx.float32, mx.float16):
        q, k, v = (mx.zeros((1, 1, n, d), dtype) for n, d in ((4096, 256), (28736, 256), (28736, 64)))
        assert memory_attention_op.preferred(q, k, v) is not CHIPS[name].has_nax(dtype)
        assert not global_attention_op.preferred(*[mx.zeros((1, 4, 4096, 96), dtype)] * 3)


@pytest.mark.parametrize(("version", "numbers"), [("26.2", (26, 2)), ("0.32.4.dev1", (0, 32, 4)), ("", ())])
def test_versions(version: str, numbers: tuple[int, ...]) -> None:
    assert gpu._numbers(version) == numbers


def test_this_machine_can_be_asked() -> None:
    assert gpu.this_gpu().mlx >= (0, 32) and gpu.this_gpu().fused_head_dims()
