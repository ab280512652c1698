"""What a side of a comparison is: the stages that both sides run, and how a side is measured.

Both sides do the same work with random weights of the same configuration; peers are called through their own functions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

Run = Callable[[], object]  # returns when the result exists
Graph = tuple[Callable[..., Any], tuple[Any, ...]]  # a function of arrays and example arguments

# The stages, as in `mlx_sam2.benchmark.stages.modelled_graphs`.
ENCODE, CLICK, TRACK = "image encode", "click on an encoded image", "tracked frame, full memory"
STAGES = (ENCODE, CLICK, TRACK)
TOGETHER, APART = "16 objects together", "16 objects one by one"  # ours only
OBJECTS = 16
NOW = 100  # the tracked frame; the memory bank holds results of the frames before it
NEEDS = {"mlx-sam": "mlx_sam", "transformers": "transformers", "sam2": "sam2"}  # the module of a peer


@dataclass
class Side:
    """One implementation, ready to be measured."""

    versions: dict[str, str]
    stages: dict[str, Callable[[], Run]]  # each prepares a stage and returns the function to time
    reset_peak: Run
    peak_mb: Callable[[], float | None]  # since `reset_peak`; None if unknown
    graphs: dict[str, Callable[[], Graph]] = field(default_factory=dict)  # for the roofline


def version_of(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"
