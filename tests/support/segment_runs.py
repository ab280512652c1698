"""Running ``segment`` in tests: in this process or one of its own, and what it leaves."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import synthetic
from mlx_sam2.model.sam2 import SAM2
from mlx_sam2.segment import command
from processes import call_main, environment, run_command

ENVIRONMENT = environment()
HEIGHT, WIDTH = 90, 120  # of the photo
CLICK = ["--point", "40,30"]
# Random weights are sure of nothing: every mask is kept but for those of one box.
FEW = {"points_per_side": 3, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "box_nms_thresh": 0.9}
FLAGS = ["--points-per-side", 3, "--pred-iou", 0, "--stability", 0, "--nms", 0.9]


def small_masks(seed: int = 7) -> SAM2:
    """The nano model with logits lowered, so that masks are parts of a picture and many differ."""
    overrides = {key: dict(value) for key, value in synthetic.NANO_OVERRIDES.items()}
    for i in range(4):
        overrides.setdefault(f"sam_mask_decoder.output_hypernetworks_mlps.{i}.layers.2.bias", {})["add"] = -2.6
    return synthetic.nano_model(seed, overrides)


def run(*args: object, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    return run_command("segment", *args, cwd=cwd, **env)


def call(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    return call_main(command.main, capsys, *args)


def everything(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    return call(capsys, *args, "--everything")


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def one_line(text: str) -> str:
    assert text.startswith("mlx_sam2.segment: error: "), text
    assert text.count("\n") == 1, text
    assert text.endswith("\n")
    return text
