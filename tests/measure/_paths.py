"""Imported first by the scripts of this folder: the tests' helpers and the package come on the path.

The package is imported here, before MLX: mlx_sam2/_blas.py.
"""

import sys
from pathlib import Path

_TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(_TESTS.parent), str(_TESTS / "support"), str(_TESTS / "reference")]

import mlx_sam2  # noqa: E402, F401
