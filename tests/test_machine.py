"""Facts about this machine, and the one table of chips."""

from __future__ import annotations

import os
import sys

import mlx.core as mx
import pytest

from mlx_sam2 import machine


def test_the_table_gives_a_bandwidth_where_apple_states_one() -> None:
    assert machine.bandwidth("Apple M3 Max", 16) == machine.CHIPS["M3 Max"].bandwidth
    assert machine.bandwidth("Apple M5 Max", 18) is None
    assert machine.bandwidth("AMD EPYC", 12) is None


@pytest.mark.parametrize("name", machine.CHIPS)
def test_every_number_of_cores_has_at_most_the_whole_bandwidth(name: str) -> None:
    chip = machine.CHIPS[name]
    parts = (chip.bandwidth_by_cpu_cores or {}).values()
    assert max(parts, default=chip.bandwidth) == chip.bandwidth


def test_facts() -> None:
    assert machine.chip() not in ("", "unknown")
    assert machine.backend().startswith("Metal") == mx.metal.is_available()
    assert machine.system().startswith("macOS" if sys.platform == "darwin" else "Linux")
    assert machine.memory_bytes() > 1 << 30 and machine.memory_bytes() % os.sysconf("SC_PAGE_SIZE") == 0
