"""Fixtures that several rooms share, and the order of imports that Linux needs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

# Several test processes share the cores: without this each would start a BLAS thread for every one of them.
_PROCESSES = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if _PROCESSES > 1:
    os.environ.setdefault("OPENBLAS_NUM_THREADS", str(max((os.cpu_count() or 1) // _PROCESSES, 1)))

import mlx_sam2  # noqa: E402, F401  before MLX: mlx_sam2/_blas.py
import synthetic  # noqa: E402

if TYPE_CHECKING:
    from mlx_sam2.config.sam2 import SAM2Config
    from mlx_sam2.model.sam2 import SAM2


@pytest.fixture(scope="session", autouse=True)
def on_the_cpu() -> None:
    """Tolerances are those of float32 on a CPU, on a Mac too."""
    import mlx.core as mx

    mx.set_default_device(mx.cpu)


@pytest.fixture(scope="session", autouse=True)
def app_data(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Sessions of apps that tests start are saved in a folder of the tests."""
    os.environ["MLX_SAM2_APP_DATA"] = str(tmp_path_factory.mktemp("app_data"))


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of the house's large goldens."""
    if not synthetic.GOLDEN.is_dir():
        pytest.skip(f"no goldens at {synthetic.GOLDEN}: they are not part of the repository")
    return synthetic.GOLDEN


@pytest.fixture(scope="session")
def nano_config() -> SAM2Config:
    return synthetic.nano_config()


@pytest.fixture
def nano_state() -> dict[str, np.ndarray]:
    return synthetic.nano_state()


@pytest.fixture(scope="session")
def nano_model() -> SAM2:
    """Shared by every test of the session: do not change its weights."""
    return synthetic.nano_model()


@pytest.fixture(scope="session")
def app_server() -> Iterator[str]:
    """The address of an app on the demo model, shared by the tests of its page."""
    import page_browser

    with page_browser.serving() as url:
        yield url


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium."""
    import page_browser

    with page_browser.browsing() as found:
        yield found
