"""Every command in the table "Where it goes" of docs/datasets.md is run, in its order; what it writes is opened."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path

import pytest

import doc_pages
from doc_pages import ROOT
from mlx_sam2.datasets import check, open_dataset

pytest.importorskip("av", reason="PyAV is not installed: pip install -e '.[video]'")
PAGE = ROOT / "docs" / "datasets.md"


def run(program: str, args: list[str]) -> None:
    command = importlib.import_module(f"{program}.command")
    demo = ["--model", "demo"] if program != "mlx_sam2.datasets" else []
    few = ["--points-per-side", "8", "--pred-iou", "0.6", "--stability", "0.8"] if "--everything" in args else []
    assert command.main([*args, *demo, *few]) == 0, args


@pytest.mark.slow
def test_where_it_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for name in ("coins.png", "coffee.jpg"):
        shutil.copy(ROOT / "examples" / name, tmp_path / "photos")
    shutil.copy(ROOT / "examples/clip.mp4", tmp_path)
    run("mlx_sam2.segment", ["photos", "--everything", "--coco", "out.json"])
    found = [command for command in doc_pages.commands(PAGE) if not command.apart]
    targets = [c for c in found if len(c.args) > 2]
    assert len(targets) == 7, "a row of the table, and its command"
    for command in targets:
        run(command.program, command.args)
        is_track = command.program == "mlx_sam2.track"
        place = command.args[command.args.index("--output") + 1] if is_track else command.args[1]
        wanted = command.args[command.args.index("--format" if is_track else "--to") + 1]
        dataset = open_dataset(place)
        assert dataset.format == wanted
        report = check(dataset)
        assert report.objects > 0
        assert set(report.odd) <= {"no object"}, report.lines()
