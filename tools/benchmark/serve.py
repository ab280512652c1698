"""One side of a comparison in a process of its own; ``workers.py`` starts it and sends requests.

A request is one line of JSON on standard input, its answer one line on standard output. A stage is prepared (built, and
run once to warm up), timed as often as asked, and dropped.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from sides import NEEDS, Run, Side


def serve(spec: dict[str, Any], requests: Iterator[str], answer: Callable[[dict[str, Any]], None]) -> None:
    """Answer requests until there are no more. The first answer names the versions, or the missing module."""
    if (module := NEEDS.get(spec["side"])) is not None:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            answer({"missing": error.name or module})
            return
    side = _make(spec)
    answer({"python": platform.python_version(), **side.versions})
    prepared: dict[str, Run] = {}
    for line in requests:
        request = json.loads(line)
        answer(_answer(side, request, prepared))


def _make(spec: dict[str, Any]) -> Side:
    if spec["side"] in ("transformers", "sam2"):
        from torch_sides import torch_side  # without MLX

        return torch_side(spec)
    import mlx_sides  # without PyTorch

    return {"ours": mlx_sides.ours, "mlx-sam": mlx_sides.mlx_sam}[spec["side"]](spec)


def _answer(side: Side, request: dict[str, Any], prepared: dict[str, Run]) -> dict[str, Any]:
    verb, stage = request["do"], request["stage"]
    if verb == "drop":
        prepared.pop(stage, None)
        gc.collect()
        return {}
    if verb == "model":
        return _modelled(*side.graphs[stage](), request["chip"])
    if verb == "prepare":
        if stage not in side.stages:
            return {"missing": None}
        prepared[stage] = side.stages[stage]()
        if request["warm_up"]:
            prepared[stage]()
        return {}
    gc.collect()
    side.reset_peak()
    start = time.perf_counter()
    prepared[stage]()
    return {"seconds": time.perf_counter() - start, "peak_mb": side.peak_mb()}


def _modelled(function: Callable[..., Any], examples: tuple[Any, ...], chip: str) -> dict[str, float]:
    from mlx_sam2.benchmark import roofline  # with MLX
    from mlx_sam2.machine import CHIPS

    return roofline.cost(roofline.trace(function, *examples, chip=CHIPS[chip]), CHIPS[chip])._asdict()


def main() -> None:
    """Serve standard input. Whatever a peer prints goes to stderr."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(values: dict[str, Any]) -> None:
        print(json.dumps(values), file=out, flush=True)

    serve(json.loads(sys.argv[1]), iter(sys.stdin), answer)
