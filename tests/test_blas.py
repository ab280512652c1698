"""The substitution of MLX's slow BLAS on Linux, and that nobody else in the process notices it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlx_sam2 import _blas

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="macOS has Accelerate")

INSTALLED = any(_blas.has_blas(name) for name in _blas.candidates())
needs_blas = pytest.mark.skipif(not INSTALLED, reason="no OpenBLAS or MKL on this machine")

# Which library libmlx calls shows in its rounding: the reference BLAS adds up a row in order, so that
# 2**24 + 1 + 1 + ... stays 2**24 in float32; a blocked product does not.
PRODUCT = """
import mlx.core as mx
a = mx.ones((64, 4096)); a[:, 0] = 2.0**24
fast = (a @ mx.ones((4096, 64))).max().item() != 2.0**24
print("fast" if fast else "slow")
"""


def run_python(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **variables}
    for name in ("MLX_SAM2_BLAS", "OPENBLAS_THREAD_TIMEOUT"):
        if name not in variables:
            environment.pop(name, None)
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)


@needs_blas
def test_mlx_multiplies_with_the_system_blas() -> None:
    done = run_python("import mlx_sam2" + PRODUCT)
    assert done.stdout == "fast\n"
    assert done.stderr == ""


def test_switched_off() -> None:
    done = run_python("import mlx_sam2" + PRODUCT, MLX_SAM2_BLAS="0")
    assert done.stdout == "slow\n"
    assert done.stderr == ""


@needs_blas
def test_only_mlx_sees_it() -> None:
    """In the global scope it would give numpy kernels of another version and break torch.vdot."""
    done = run_python("import mlx_sam2, mlx.core; from mlx_sam2 import _blas; print(_blas.has_blas(None))")
    assert done.stdout == "False\n"


def test_importing_the_package_loads_no_library() -> None:
    code = "import mlx_sam2; print([x for x in open('/proc/self/maps') if 'blas' in x or 'mkl' in x])"
    assert run_python(code).stdout == "[]\n"


def test_advice_is_one_line_and_only_when_mlx_is_used() -> None:
    code = "import mlx_sam2\nfrom mlx_sam2 import _blas\n_blas.OPENBLAS = _blas.MKL = ()\n"
    assert run_python(code).stderr == ""
    done = run_python(code + PRODUCT)
    assert done.stdout == "slow\n"
    assert done.stderr.count("\n") == 1
    assert "apt install libopenblas0-pthread" in done.stderr


def test_a_wrong_library_is_named_and_does_no_harm(tmp_path: Path) -> None:
    wrong = tmp_path / "libwrong.so"
    wrong.write_bytes(b"not a library")
    done = run_python("import mlx_sam2" + PRODUCT, MLX_SAM2_BLAS=str(wrong))
    assert done.stdout == "slow\n"
    assert done.stderr == f"mlx_sam2: MLX keeps its slow BLAS, for MLX_SAM2_BLAS={wrong} offers no cblas_sgemm.\n"


def test_too_late_says_so() -> None:
    done = run_python("import mlx.core, mlx_sam2")
    assert done.stderr.count("\n") == 1
    assert "Import mlx_sam2 first" in done.stderr


@needs_blas
def test_temporary_folder_that_cannot_be_written() -> None:
    code = "import tempfile\ntempfile.tempdir = '/nonexistent'\nimport mlx_sam2" + PRODUCT
    done = run_python(code)
    assert done.stdout == "slow\n"
    assert "can't be loaded behind" in done.stderr


@pytest.mark.slow
@needs_blas
def test_torch_and_numpy_stay_correct() -> None:
    pytest.importorskip("torch", reason="needs the extra `reference`")
    code = """
import mlx_sam2, mlx.core
import numpy, torch
z = torch.complex(torch.arange(9.0), torch.arange(9.0) + 1).to(torch.complex128)
print(complex(torch.vdot(z, z)), complex(numpy.vdot(z.numpy(), z.numpy())))
"""
    assert run_python(code).stdout == "(489+0j) (489+0j)\n"


@needs_blas
@pytest.mark.parametrize(("given", "kept"), [({}, "18"), ({"OPENBLAS_THREAD_TIMEOUT": "20"}, "20")])
def test_idle_threads_sleep_soon_unless_told_otherwise(given: dict[str, str], kept: str) -> None:
    code = "import os, mlx_sam2, mlx.core\nprint(os.environ['OPENBLAS_THREAD_TIMEOUT'])"
    assert run_python(code, **given).stdout == f"{kept}\n"
