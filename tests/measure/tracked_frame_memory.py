"""Print the most bytes that exist at once in a tracked frame with a full memory, with each way of memory attention.

    python tests/measure/tracked_frame_memory.py [--size tiny] [--dtype float16]

Counted from the graph of a Metal GPU, without weights and inputs; nothing is run. "Its own launch" is the most while
attention to memories itself runs.
"""

from __future__ import annotations

import _paths  # noqa: F401  # isort: skip

import argparse
from unittest.mock import patch

import mlx.core as mx

from mlx_sam2.benchmark import roofline, stages
from mlx_sam2.kernels.axial_memory_attention import axial_memory_attention_op
from mlx_sam2.kernels.memory_attention import memory_attention_op

FRAME = "tracked frame, full memory"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="tiny", help="of the model; default: %(default)s")
    parser.add_argument("--dtype", choices=["float16", "bfloat16"], default="float16")
    options = parser.parse_args()
    mx.set_default_device(mx.cpu)
    model = stages.build_model(options.size, dtype=options.dtype)
    print("| memory attention | live MB | at its own launch | at most while |\n|---|---|---|---|")
    for op, least in ((axial_memory_attention_op, 0), (memory_attention_op, 1 << 30)):
        with patch.dict(axial_memory_attention_op.preferred.__globals__, MIN_MEMORIES=least):
            function, examples = stages.modelled_graphs(model)[FRAME]()
            steps = roofline.trace(function, *examples)
        live = roofline.live_bytes_of_each(steps)
        own = max(size for size, step in zip(live, steps, strict=True) if step.name == op.name)
        most = steps[live.index(max(live))]
        print(f"| {op.name} | {max(live) / 1e6:.1f} | {own / 1e6:.1f} | {most.name} |")


if __name__ == "__main__":
    main()
