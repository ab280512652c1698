"""Resident memory over 2,000 frames: flat in a session and in a stream, growing only where the user asked for it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

FRAMES = 2000
RECORD_MB = (8 * 8 * 16 * 2 + 32 * 32 * 4) / 2**20  # memory and mask of a frame at 128 pixels
NOISE_MB = 3.0  # seen: 0.4 from the first tenth of the run to its end


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads resident memory from /proc, a Linux thing")
@pytest.mark.parametrize("mode", ["disk", "stream", "ram"])
def test_resident_memory(mode: str) -> None:
    command = [
        sys.executable,
        "tests/measure/long_video.py",
        "--frames",
        str(FRAMES),
        "--mode",
        mode,
        "--image-size",
        "128",
    ]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    resident = list(json.loads(done.stdout)["resident_mb"].values())
    grown = resident[-1] - resident[0]  # over eight tenths of the frames
    if mode == "ram":
        assert grown > 0.8 * FRAMES * RECORD_MB - NOISE_MB, resident
    else:
        assert abs(grown) < NOISE_MB, resident
