"""Memory of automatic masks of a large photo is bounded, whatever the number of points: tests/measure/amg_memory.py."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

NOISE_MB = 40.0  # seen: 16


def measured(*args: str) -> dict[str, Any]:
    command = [sys.executable, "tests/measure/amg_memory.py", "--width", "6000", "--height", "4000", *args]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="preloads a malloc and counts in kB, as Linux does")
def test_peak_memory() -> None:
    few, many = measured("--points", "3"), measured("--points", "12")
    assert few["masks"] > 0 and many["masks"] > 0
    assert many["peak_mb"] - few["peak_mb"] < NOISE_MB
    assert many["peak_mb"] - many["peak_mb_before"] < 200  # seen: 100
    if "largest_blocks_mb" in many:  # there is a C compiler
        assert many["largest_blocks_mb"][0] <= many["photo_mb"] + 1  # the photo itself
