"""Strangers' files: bounded memory, no entities, no path that leads out; and a writer that is killed."""

from __future__ import annotations

import contextlib
import json
import random
import re
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataset_items import photos, videos
from mlx_sam2.datasets import DatasetError, Item, check, open_dataset, open_writer, write_dataset
from mlx_sam2.datasets.brush import decode_brush, encode_brush
from mlx_sam2.datasets.hostile import read_json, read_xml
from mlx_sam2.datasets.masks import read_picture
from mlx_sam2.datasets.names import WRITTEN
from mlx_sam2.datasets.writing import safe_name
from mlx_sam2.files import sweep_once
from processes import environment

MOST = 40 << 20  # bytes that a small file may cost


@pytest.fixture
def bounded() -> Any:
    tracemalloc.start()
    yield
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < MOST


def coco(path: Path, **changes: Any) -> Path:
    image = {"id": 1, "file_name": "a.jpg", "height": 20, "width": 30}
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[1, 1, 9, 1, 5, 9]]}
    value: dict[str, Any] = {"images": [image], "annotations": [annotation], "categories": [{"id": 1, "name": "x"}]}
    for key, change in changes.items():
        target = {"image": image, "annotation": annotation}.get(key)
        target.update(change) if target is not None else value.update({key: change})
    path.write_text(json.dumps(value))
    return path


def read_all(path: Path, **options: Any) -> None:
    """Open it and decode every mask."""
    for item in open_dataset(path, **options):
        for found in item.objects:
            for mask in found.masks.values():
                mask.decode()


# ---- JSON


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"image": {"height": 10**9, "width": 10**9}}, "whole numbers of a picture"),
        ({"image": {"height": -1}}, "whole numbers of a picture"),
        ({"image": {"height": "20"}}, "whole numbers of a picture"),
        ({"image": {"height": 0}}, "0 pixels"),
        ({"annotation": {"image_id": 7}}, "belongs to 7, which there is not"),
        ({"annotation": {"category_id": 7}}, "category 7, which there is not"),
        ({"annotation": {"segmentation": [[1, 2, 3]]}}, "x and y in turn"),
        ({"annotation": {"segmentation": [["1", 2, 3, 4, 5, 6]]}}, "x and y in turn"),
        ({"annotation": {"segmentation": [[1e999, 2, 3, 4, 5, 6]]}}, "x and y in turn|no number"),
        ({"annotation": {"segmentation": [[10**400, 2, 3, 4, 5, 6]]}}, "x and y in turn"),
        ({"annotation": {"segmentation": "abc"}}, "segmentation must be list"),
        ({"annotation": {"segmentation": {"size": [10**5, 10**5], "counts": [0, 10**10]}}}, "at most 178,956,970"),
        ({"annotation": {"segmentation": {"size": [20, 30], "counts": [10**400]}}}, "damaged|too large"),
        ({"annotation": {"segmentation": {"size": [20, 30], "counts": "\x7f" * 50}}}, "damaged"),
        ({"annotation": {"segmentation": {"size": [20, 30]}}}, "damaged"),
        ({"images": [{"id": 1}, {"id": 1}]}, "there twice"),
        ({"images": [3]}, "must be dict"),
        ({"categories": [{"id": 1, "name": 5}]}, "must be str"),
    ],
)
def test_damaged_coco(changes: dict[str, Any], reason: str, tmp_path: Path, bounded: None) -> None:
    with pytest.raises(DatasetError, match=reason) as caught:
        read_all(coco(tmp_path / "c.json", **changes))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_scores_that_are_no_number_are_none(tmp_path: Path) -> None:
    (item,) = open_dataset(coco(tmp_path / "c.json", annotation={"score": 10**400}))
    assert item.objects[0].scores == {}


def test_a_number_of_frames_allocates_nothing(tmp_path: Path, bounded: None) -> None:
    size = "<original_size><width>3</width><height>3</height></original_size>"
    text = f"<annotations><meta><task><size>90000000</size><mode>interpolation</mode>{size}</task></meta></annotations>"
    (tmp_path / "x.xml").write_text(text)
    with pytest.raises(DatasetError, match="states 90,000,000 frames"):
        open_dataset(tmp_path / "x.xml")


def test_polygons_far_away_cost_nothing(tmp_path: Path, bounded: None) -> None:
    read_all(coco(tmp_path / "c.json", annotation={"segmentation": [[-1e300, -1e300, 1e300, 0, 1e300, 1e300]]}))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 100_000, "no JSON"),
        ('{"a": NaN}', "no number in JSON"),
        ("{", "no JSON"),
        ("9" * 5000, "no JSON"),
    ],
)
def test_what_is_no_json(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(DatasetError, match=reason):
        open_dataset(tmp_path / "x.json")


def test_files_are_bounded(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[1, 2, 3]")
    (tmp_path / "x.xml").write_text("<a>123</a>")
    assert read_json(tmp_path / "x.json", 9) == [1, 2, 3]
    for read, name in ((read_json, "x.json"), (read_xml, "x.xml")):
        with pytest.raises(DatasetError, match="has more than 8 bytes"):
            read(tmp_path / name, 8)
    with pytest.raises(DatasetError, match="is no file"):
        read_json(tmp_path)


# ---- XML


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotations>&b;</annotations>', "document type or an entity"),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotations/>', "document type or an entity"),
        ("<annotations>&b;</annotations>", "is no XML"),
        ("<annotations>" + "<a>" * 100 + "</a>" * 100 + "</annotations>", "more than 64 levels"),
        ("<annotations><image></annotations>", "is no XML"),
        ("<svg/>", "its root is <svg>"),
        ('<?xml version="1.0" encoding="utf1"?><annotations/>', "is no XML: unknown encoding"),
        ('<annotations><image id="0" name="../x.jpg" width="3" height="3"/></annotations>', "leads out"),
        ('<annotations><image id="0" name="x.jpg" width="3e9" height="3"/></annotations>', "width must be a whole"),
    ],
)
def test_damaged_xml(text: str, reason: str, tmp_path: Path, bounded: None) -> None:
    (tmp_path / "x.xml").write_text(text)
    with pytest.raises(DatasetError, match=reason):
        open_dataset(tmp_path / "x.xml")


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ('<mask label="a" left="0" top="0" width="99999" height="99999" rle="9"/>', "outside of 30x20"),
        ('<mask label="a" left="0" top="0" width="2" height="2" rle="999999999"/>', "do not add up"),
        ('<mask label="a" left="0" top="0" width="2" height="2" rle="1,x"/>', "rle must be whole numbers"),
        ('<polygon label="a" points="1,1;2"/>', "points must be"),
        ('<polygon label="a" points="1,1;2,inf;3,3"/>', "points must be"),
    ],
)
def test_damaged_shapes_of_cvat(shape: str, reason: str, tmp_path: Path, bounded: None) -> None:
    text = f'<annotations><image id="0" name="x.jpg" width="30" height="20">{shape}</image></annotations>'
    (tmp_path / "x.xml").write_text(text)
    with pytest.raises(DatasetError, match=reason):
        read_all(tmp_path / "x.xml")


# ---- brushes


def test_brushes_come_back() -> None:
    for size in ((1, 1), (3, 5), (40, 70_000)):
        mask = np.random.default_rng(1).random(size) < 0.01
        np.testing.assert_array_equal(decode_brush(encode_brush(mask), size), mask)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ([], "cut short"),
        ([300], "list of bytes"),
        (["a"], "list of bytes"),
        ([255] * 40, "values"),
        ([0, 0, 0, 24, *encode_brush(np.ones((2, 3), bool))[4:8]], "cut short"),
    ],
)
def test_damaged_brushes(code: list[Any], reason: str, bounded: None) -> None:
    with pytest.raises(ValueError, match=reason):
        decode_brush(code, (2, 3))


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        ({"annotations": 3}, "annotations must be list, got 3"),
        ({"annotations": [], "predictions": 0.5}, "predictions must be list, got 0.5"),
        ({"data": {"image": "http://[1/a.jpg"}, "annotations": []}, "is no address of an image"),
        ({"data": {"image": "x" * 300 + ".jpg"}, "annotations": []}, "a file name of 304 bytes"),
        ({"data": {"image": "x/" * 600 + "a.jpg"}, "annotations": []}, "a file name of 1205 bytes"),
    ],
)
def test_damaged_tasks(task: dict[str, Any], reason: str, tmp_path: Path) -> None:
    """Found by tests/measure/fuzz_readers.py."""
    path = tmp_path / "tasks.json"
    path.write_text(json.dumps([{"id": 1, "data": {"image": "a.jpg"}, **task}]))
    with pytest.raises(DatasetError, match=reason) as found:
        open_dataset(path)
    assert "\n" not in str(found.value) and len(str(found.value)) < 500


def test_tasks_that_name_files_elsewhere(tmp_path: Path) -> None:
    for name in ("/data/local-files/?d=../../etc/passwd", "../x.jpg", "/data/local-files/?d=a/../../b.jpg"):
        (tmp_path / "t.json").write_text(json.dumps([{"data": {"image": name}, "annotations": []}]))
        with pytest.raises(DatasetError, match="leads out"):
            open_dataset(tmp_path / "t.json")


# ---- YOLO


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ("train: /etc\nnames: [a]\n", "a folder inside the data set is needed"),
        ("names: {a: b}\n", "numbers with names"),
        ("- a\n", "must hold names"),
        ("a: !!python/object/apply:os.system ['true']\n", "is no YAML"),
        ("x: [" * 5000, "is no YAML"),
    ],
)
def test_damaged_yolo_config(config: str, reason: str, tmp_path: Path, bounded: None) -> None:
    (tmp_path / "data.yaml").write_text(config)
    with pytest.raises(DatasetError, match=reason):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    ("line", "reason"),
    [("0 .1 .1 .2 .2", "is a box"), ("0 a b", "must be numbers"), ("0.5 0 0 1 1 1 0", "must be a class"),
     ("-1 0 0 1 1 1 0", "must be a class"), ("1e300 0 0 1 1 1 0", "must be a class"),
     ("0 nan 0 1 1 1 0", "must be a class"), ("0 0 0 1 1 1", "must be a class")],
)  # fmt: skip
def test_damaged_yolo_lines(line: str, reason: str, tmp_path: Path) -> None:
    (item, *_) = photos(tmp_path / "in")
    write_dataset([item], tmp_path / "out", "yolo")
    (tmp_path / f"out/labels/{item.name}.txt").write_text(line)
    with pytest.raises(DatasetError, match=f"line 1 {reason}"):
        read_all(tmp_path / "out")
    assert set(check(open_dataset(tmp_path / "out")).odd) == {"cannot be read"}, "a finding, not the end"


# ---- anything


TOKENS = [b"-1", b"1e999", b"null", b"{}", b"[]", b"true", b'"x"', b"9" * 20, b"0.5", b"NaN", b"\xff\xfe", b"<", b""]


def damaged(data: bytes, rng: random.Random) -> bytes:
    """A byte, a stretch, a number or a text changed, or the end cut off."""
    kind, at = rng.randrange(4), rng.randrange(len(data) + 1)
    if kind == 0:
        return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
    if kind == 1:
        return data[:at] + data[at + rng.randrange(1, 40) :]
    found = [match.span() for match in re.finditer(rb'[-\d.]+|"[^"]*"|null|\[\]', data)]
    if kind == 2 and found:
        first, last = rng.choice(found)
        return data[:first] + rng.choice(TOKENS) + data[last:]
    return data[:at]


@pytest.mark.parametrize("name", WRITTEN)
def test_any_damage_is_a_dataset_error(name: str, tmp_path: Path) -> None:
    """Whatever is done to a file of a data set, opening, checking and converting it give results or a DatasetError."""
    items = videos(tmp_path / "in") if name in ("davis", "sav", "coco-video") else photos(tmp_path / "in")[:2]
    write_dataset(items, tmp_path / "data", name)
    files = sorted(path for path in (tmp_path / "data").rglob("*") if path.is_file() and path.suffix != ".jpg")
    for seed in range(10):
        rng = random.Random(f"{name} {seed}")
        file = rng.choice(files)
        before = file.read_bytes()
        file.write_bytes(damaged(before, rng))
        read_picture.cache_clear()
        with contextlib.suppress(DatasetError):
            dataset = open_dataset(tmp_path / "data", name)
            check(dataset).lines()
            write_dataset(dataset, tmp_path / f"out{seed}", rng.choice(WRITTEN))
        file.write_bytes(before)


# ---- writing


@pytest.mark.parametrize("name", WRITTEN)
def test_names_of_strangers_stay_inside(name: str, tmp_path: Path) -> None:
    """And two names that a disk takes for one become two files."""
    (item, other, *_) = photos(tmp_path / "in")
    item.name, other.name = "../../a\0b/c:d", "../../A\0B/C:D"
    (tmp_path / "x").mkdir()
    write_dataset([item, other], tmp_path / "x/out", name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "x"]
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["out"]
    assert len(open_dataset(tmp_path / "x/out")) == 2


def test_safe_names() -> None:
    assert [safe_name(name) for name in ("a b", "..", "", "a:b*", "Größe", "x" * 300)] == [
        "a b", "item", "item", "a_b_", "Größe", "x" * 180
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["coco", "yolo", "cvat"])
def test_nothing_is_replaced_unasked(name: str, tmp_path: Path) -> None:
    items = photos(tmp_path / "in")
    write_dataset(items[:1], tmp_path / "out", name)
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    with pytest.raises(DatasetError, match="exists: give another name"):
        write_dataset(items, tmp_path / "out", name)
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before
    write_dataset(items, tmp_path / "out", name, overwrite=True)
    assert len(open_dataset(tmp_path / "out")) == len(items)


def test_an_item_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    good, bad, *_ = photos(tmp_path / "in")
    bad.frames.path(0).write_bytes(b"no photo")
    broken: Callable[[], None] = lambda: write_dataset([good, bad], tmp_path / "out", "coco")  # noqa: E731
    with pytest.raises(DatasetError, match="cannot be read as an image"):
        broken()
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


WRITES = """
import sys
from pathlib import Path
sys.path.insert(0, {support!r})
from dataset_items import photos, videos
from mlx_sam2.datasets import open_writer
with open_writer({out!r}, {name!r}, overwrite=True) as writer:
    for item in photos(Path({folder!r}))[:2]:
        writer.add(item)
    writer.finish()
    print("written", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize(("name", "file"), [("yolo", "out"), ("coco", "out.json"), ("davis", "out")])
def test_kill_9_leaves_nothing_under_the_final_name(name: str, file: str, tmp_path: Path) -> None:
    """Killed when all is on the disk but the name; what was there before stays, and the next run clears up."""
    out = tmp_path / file
    items: list[Item] = photos(tmp_path / "in")
    write_dataset(items[:1], out, name)
    support = str(Path(__file__).parents[1] / "support")
    code = WRITES.format(support=support, out=str(out), name=name, folder=str(tmp_path / "in2"))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], env=environment(), **pipes) as process:
        assert process.stdout.readline() == "written\n"
        process.kill()
    assert len(open_dataset(out)) == 1
    assert any(path.name.endswith(".part") for path in tmp_path.iterdir()), "it was killed while it wrote"
    sweep_once.cache_clear()  # as in a new process
    with open_writer(tmp_path / "next", "coco") as writer:
        writer.add(items[0])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["in", "in2", "next", file])
