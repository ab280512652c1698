"""What the tests of several examples share."""

from __future__ import annotations

import os
from typing import Any

import pytest

from mlx_sam2 import SAM2ImagePredictor

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")  # for every Qt of these tests


@pytest.fixture(scope="module")
def demo() -> SAM2ImagePredictor:
    return SAM2ImagePredictor.from_pretrained("demo", dtype="float32")


@pytest.fixture
def qt() -> Any:
    """The QApplication of this process."""
    widgets = pytest.importorskip("PySide6.QtWidgets", reason="PySide6 is not installed: pip install -e '.[examples]'")
    return widgets.QApplication.instance() or widgets.QApplication([])
