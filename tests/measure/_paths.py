"""Imported first by the scripts of this folder: puts the tests' helpers and the package on the path."""

import sys
from pathlib import Path

_TESTS = Path(__file__).resolve().parents[1]
_FOLDERS = ("support", "reference", "api", "checkpoint", "model")
sys.path[:0] = [str(_TESTS.parent), *(str(_TESTS / name) for name in _FOLDERS)]
