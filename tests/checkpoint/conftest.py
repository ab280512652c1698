"""What every layout must give."""

from __future__ import annotations

import numpy as np
import pytest

from checkpoint_layouts import State
from mlx_sam2.checkpoint import key_map
from synthetic import nano_state


@pytest.fixture(scope="session")
def expected() -> State:
    """The parameters that every layout must give, by way of numpy alone."""
    return {key: np.ascontiguousarray(value) for key, value in key_map.from_official(nano_state()).items()}
