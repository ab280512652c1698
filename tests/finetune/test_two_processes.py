"""Two processes that average their gradients take the step of one process with twice the batch."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import cells

SCRIPT = Path(__file__).parents[1] / "support" / "two_processes.py"


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.mark.slow
def test_two_processes_are_one_with_twice_the_batch(tmp_path: Path) -> None:
    if not mx.distributed.is_available("ring"):
        pytest.skip("this build of MLX has no ring backend")
    data = cells.write_cells(tmp_path / "data", 4, side=64)
    command = [sys.executable, str(SCRIPT)]
    subprocess.run([*command, str(tmp_path / "single.npz"), str(data), "single"], check=True)
    hosts = tmp_path / "hosts.json"
    hosts.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in free_ports(2)]))
    processes = []
    for rank in range(2):
        environment = dict(os.environ, MLX_RANK=str(rank), MLX_HOSTFILE=str(hosts))
        words = [*command, str(tmp_path / "shared.npz"), str(data), "shared"]
        processes.append(subprocess.Popen(words, env=environment))
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    single, shared = (np.load(tmp_path / f"{name}.npz") for name in ("single", "shared"))
    assert (single["size"], shared["size"]) == (1, 2)
    np.testing.assert_allclose(shared["norms"], single["norms"], rtol=1e-4)
    differences = [np.abs(single[name] - shared[name]).max() for name in single.files if name not in ("size", "norms")]
    assert max(differences) < 2e-4  # of steps of 1e-3; where a gradient is rounding alone, Adam makes a step of it
    assert np.mean([difference < 1e-5 for difference in differences]) > 0.9


@pytest.mark.slow
def test_the_command_under_mlx_launch(tmp_path: Path) -> None:
    """Both processes train; the first one alone writes and speaks."""
    if not mx.distributed.is_available("ring"):
        pytest.skip("this build of MLX has no ring backend")
    data, out = cells.write_cells(tmp_path / "data", 4, side=128), tmp_path / "out"
    launch = [sys.executable, "-c", "from mlx._distributed_utils.launch import main; main()"]
    command = [*launch, "-n", "2", "--starting-port", str(free_ports(1)[0]), "--", sys.executable, "-m"]
    settings = ["corrections=1", "evaluated=1", "max_objects=2"]
    words = [str(data), "--output", str(out), "--model", "demo", "--steps", "2"]
    words += [word for setting in settings for word in ("--set", setting)]
    environment = dict(os.environ, PYTHONPATH=str(Path(__file__).parents[2]))
    done = subprocess.run(
        [*command, "mlx_sam2.finetune", *words], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.count("folder: 4 photos") == done.stdout.count("2 steps, the best") == 1, done.stderr
    assert len((out / "log.jsonl").read_text().splitlines()) == 5  # two evaluations, two steps, the end
