"""``python -m mlx_sam2.datasets``: what it prints, writes and refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataset_items import decoded, photos, videos
from mlx_sam2.datasets import Item, open_dataset, write_dataset
from mlx_sam2.datasets.command import main
from mlx_sam2.datasets.names import WRITTEN
from processes import call_main


@pytest.fixture
def items(tmp_path: Path) -> list[Item]:
    found = photos(tmp_path / "in")
    write_dataset(found, tmp_path / "coco", "coco")
    return found


def test_a_check(items: list[Item], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, stdout, stderr = call_main(main, capsys, tmp_path / "coco")
    assert (code, stderr) == (0, "")
    names = '自転車 16, a "quoted" & <odd> name 14, chat noir 12, Bär 12'
    assert stdout.splitlines() == [
        "coco: 5 photos, 5 annotated frames",
        f"54 objects ({names}), 54 masks, at most 50 objects an item",
        "odd: no object (1): nobody",
    ]


def test_a_chain_through_every_format_of_photos(
    items: list[Item], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From each to the next, and what comes out at the end is what went in."""
    before = "coco"
    for name in [name for name in WRITTEN if name not in ("coco", "coco-video", "davis", "sav")]:
        code, stdout, stderr = call_main(main, capsys, tmp_path / before, tmp_path / name, "--to", name)
        assert (code, stderr) == (0, "")
        assert stdout == f"{tmp_path / before} ({before}): 5 items -> {tmp_path / name} ({name})\n"
        before = name
    found = {item.name: decoded(item) for item in open_dataset(tmp_path / before)}
    assert found == {item.name: decoded(item) for item in items}


def test_what_is_lost_takes_a_line_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset(videos(tmp_path / "in"), tmp_path / "davis", "davis")
    code, stdout, _ = call_main(main, capsys, tmp_path / "davis", tmp_path / "yolo", "--to", "yolo")
    assert code == 0
    assert stdout.splitlines()[1:] == [
        "not held by yolo: videos: objects are not the same ones from frame to frame (1)",
    ]


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["nowhere"], "there is no data set nowhere"),
        (["coco", "out"], "give both OUT and --to FORMAT"),
        (["coco", "--to", "yolo"], "give both OUT and --to FORMAT"),
        (["coco", "coco", "--to", "yolo"], "coco exists: give another name, or --overwrite"),
        (["coco", "coco", "--to", "yolo", "--overwrite"], "coco holds coco, which is read"),
        (["coco/annotations", "coco", "--to", "yolo", "--overwrite"], "coco holds coco/annotations, which is read"),
        (["coco", "out.xml", "--to", "coco"], "coco is written as a folder, or a file that ends in .json"),
        (["coco", "x/out", "--to", "coco"], "there is no folder"),
        (["in", "out", "--to", "coco"], "has no layout that is known"),
        (["coco", "--from", "voc"], "has no folder SegmentationObject"),
        (["coco", "--tolerance", "0.2"], "is not 0, nor 0.5 or more"),
    ],
)
def test_what_is_refused(
    args: list[str],
    reason: str,
    items: list[Item],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        code, stdout, stderr = call_main(main, capsys, *args)
    except SystemExit as left:  # argparse
        code, (stdout, stderr) = left.code, capsys.readouterr()
    assert (code, stdout, stderr.count("\n")) == (2, "", 1)
    assert reason in stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["coco", "in"]
