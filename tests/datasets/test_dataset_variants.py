"""Layouts as other programs write them: variants of each format, and parts of a data set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from dataset_items import blob, decoded, frames, photos, videos
from mlx_sam2.datasets import DatasetError, Item, WriteOptions, check, open_dataset, write_dataset
from mlx_sam2.datasets.brush import encode_brush

SIZE = (20, 30)


def photo(path: Path, size: tuple[int, int] = SIZE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((*size, 3), np.uint8)).save(path)
    return path


def rle(mask: np.ndarray) -> dict[str, Any]:
    found = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": found["size"], "counts": found["counts"].decode()}


# ---- COCO


@pytest.mark.parametrize(
    "places",
    [("annotations/instances_val2017.json", "val2017"), ("_annotations.coco.json", ""), ("labels.json", "images"),
     ("annotations/lvis_v1_val.json", "val2017")],
    ids=["official", "roboflow", "beside images", "lvis"],
)  # fmt: skip
def test_where_the_photos_of_coco_lie(places: tuple[str, str], tmp_path: Path) -> None:
    file, folder = tmp_path / places[0], tmp_path / places[1]
    photo(folder / "000000000139.jpg")
    image = {"id": 139, "height": 20, "width": 30}
    if "lvis" in places[0]:
        image |= {"coco_url": "http://images.cocodataset.org/val2017/000000000139.jpg"}
        image |= {"not_exhaustive_category_ids": [], "neg_category_ids": []}
    else:
        image["file_name"] = "000000000139.jpg"
    file.parent.mkdir(exist_ok=True)
    annotation = {"image_id": 139, "category_id": 5, "segmentation": rle(blob(1, SIZE))}
    box = {"image_id": 139, "category_id": 5, "bbox": [0, 0, 4, 4]}  # of detection: has no mask
    value = {"images": [image], "annotations": [annotation, box], "categories": [{"id": 5, "name": "a"}]}
    file.write_text(json.dumps(value))
    dataset = open_dataset(file)
    assert dataset.format == ("lvis" if "lvis" in places[0] else "coco")
    (item,) = dataset
    assert item.frame(0).shape == (*SIZE, 3)
    (found,) = item.objects
    np.testing.assert_array_equal(found.masks[0].decode(), blob(1, SIZE))
    assert open_dataset(file, images=folder)[0].has_pixels(0) == ("lvis" not in places[0])
    if places[1] != "val2017":
        assert [item.name for item in open_dataset(tmp_path)] == ["000000000139"]


def test_uncompressed_run_lengths(tmp_path: Path) -> None:
    """As COCO's crowds have them."""
    image = {"id": 1, "file_name": "a.jpg", "height": 2, "width": 3}
    annotation = {"image_id": 1, "iscrowd": 1, "segmentation": {"size": [2, 3], "counts": [1, 2, 3]}}
    (tmp_path / "a.json").write_text(json.dumps({"images": [image], "annotations": [annotation]}))
    dataset = open_dataset(tmp_path / "a.json")
    assert set(check(dataset).odd) == {"crowd, not one object"}
    write_dataset(dataset, tmp_path / "b.json", "coco")
    for (item,) in (dataset, open_dataset(tmp_path / "b.json")):
        (found,) = item.objects
        assert (found.class_name, found.crowd) == ("object", True)
        assert found.masks[0].decode().tolist() == [[False, True, False], [True, False, False]]


def test_several_files_are_not_guessed(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    for name in ("instances_train.json", "instances_val.json"):
        (tmp_path / "annotations" / name).write_text("{}")
    with pytest.raises(DatasetError, match="several annotation files, give one of them: instances_train"):
        open_dataset(tmp_path)


# ---- YOLO


@pytest.mark.parametrize("layout", ["split folders", "roboflow", "no data.yaml"])
def test_layouts_of_yolo(layout: str, tmp_path: Path) -> None:
    """images/train and labels/train; train/images and train/labels; and without names."""
    folder = tmp_path / {"split folders": "images/train", "roboflow": "train/images", "no data.yaml": "images"}[layout]
    photo(folder / "a.jpg")
    photo(folder / "b.jpg")
    labels = Path(str(folder).replace("images", "labels"))
    labels.mkdir(parents=True)
    (labels / "a.txt").write_text("1 0 0 .5 0 .5 .5 0 .5\n\n")
    text = {"split folders": "path: ..\ntrain: images/train\n", "roboflow": "train: ../train/images\n"}.get(layout)
    if text:
        (tmp_path / "data.yaml").write_text(f"{text}val: nowhere\nnc: 2\nnames: ['x', 'ö']\n", encoding="utf-8")
    dataset = open_dataset(tmp_path)
    assert dataset.format == "yolo"
    (found,) = dataset[0].objects
    assert found.class_name == ("ö" if text else "1" if dataset.classes != ("object",) else "object")
    expected = np.zeros(SIZE, bool)
    expected[:10, :15] = True
    np.testing.assert_array_equal(found.masks[0].decode(), expected)
    assert dataset[1].objects == ()
    if text:
        assert len(open_dataset(tmp_path / "data.yaml", split="train")) == 2
        with pytest.raises(DatasetError, match="no split 'test'"):
            open_dataset(tmp_path, split="test")


# ---- Label Studio


def test_tasks_as_label_studio_exports_them(tmp_path: Path) -> None:
    """An upload with a prefix; labels apart from their brush; an annotation that was cancelled; a box."""
    photo(tmp_path / "images/3f2a-photo.jpg")
    mask = blob(2, SIZE)
    shape = {"original_height": 20, "original_width": 30, "image_rotation": 0, "to_name": "image"}
    brush = {**shape, "id": "b", "type": "brush", "value": {"format": "rle", "rle": encode_brush(mask)}}
    labels = {**shape, "id": "b", "type": "labels", "value": {"labels": ["Zelle"]}}
    points = {"points": [[0, 0], [50, 0], [50, 50], [0, 50]], "polygonlabels": ["Rand"]}
    polygon = {**shape, "id": "p", "type": "polygonlabels", "value": points, "score": 0.5}
    box = {**shape, "id": "r", "type": "rectanglelabels", "value": {"x": 1, "rectanglelabels": ["Rand"]}}
    task = {
        "id": 7,
        "data": {"captured": "/data/upload/1/3f2a-photo.jpg"},
        "annotations": [
            {"was_cancelled": True, "result": []},
            {"result": [brush, labels, polygon, box]},
            {"result": []},
        ],
        "predictions": [{"result": []}],
    }
    (tmp_path / "export.json").write_text(json.dumps([task]))
    dataset = open_dataset(tmp_path / "export.json")
    assert dataset.notes == (f"{tmp_path / 'export.json'}: annotations of tasks beyond the first one are left out: 1",)
    (item,) = dataset
    assert (item.name, item.size, item.has_pixels(0)) == ("3f2a-photo", SIZE, True)
    cell, edge = item.objects
    assert (cell.class_name, edge.class_name, edge.scores) == ("Zelle", "Rand", {0: 0.5})
    np.testing.assert_array_equal(cell.masks[0].decode(), mask)
    assert edge.masks[0].area() == 150


def test_predictions_are_read_where_nobody_has_annotated(tmp_path: Path) -> None:
    items = photos(tmp_path / "in")
    write_dataset(items, tmp_path / "out", "label-studio", options=WriteOptions(predictions=True))
    tasks = json.loads((tmp_path / "out/tasks.json").read_text(encoding="utf-8"))
    assert all("predictions" in task and "annotations" not in task for task in tasks)
    assert [decoded(item) for item in open_dataset(tmp_path / "out")] == [decoded(item) for item in items]


# ---- CVAT


def test_shapes_of_cvat(tmp_path: Path) -> None:
    """A group is one object; boxes and points are passed over; a mask keeps within its box."""
    (tmp_path / "x.xml").write_text(
        """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version>
  <meta><job><labels><label><name>Käfer</name></label></labels></job></meta>
  <image id="4" name="sub/a.jpg" width="30" height="20">
    <polygon label="Käfer" source="manual" occluded="0" points="0.00,0.00;5.00,0.00;5.00,5.00" group_id="3"/>
    <mask label="Käfer" rle="0, 4" left="10" top="10" width="2" height="2" z_order="0" group_id="3"/>
    <box label="Käfer" xtl="1" ytl="1" xbr="9" ybr="9"/>
    <mask label="Käfer" rle="1, 2, 1" left="28" top="18" width="2" height="2" z_order="0"/>
  </image>
</annotations>"""
    )
    dataset = open_dataset(tmp_path / "x.xml")
    assert (dataset.format, dataset.classes) == ("cvat", ("Käfer",))
    both, corner = dataset["sub/a"].objects
    triangle = coco_mask.decode(coco_mask.frPyObjects([[0, 0, 5, 0, 5, 5.0]], *SIZE))[..., 0].astype(bool)
    triangle[10:12, 10:12] = True
    np.testing.assert_array_equal(both.masks[0].decode(), triangle)
    assert np.argwhere(corner.masks[0].decode()).tolist() == [[18, 29], [19, 28]]


# ---- SA-V


def test_training_videos_of_sav(tmp_path: Path) -> None:
    """Every fourth frame is annotated; an empty list is an object that is absent."""
    av = pytest.importorskip("av", reason="PyAV is not installed: pip install -e '.[video]'")
    size, masks = (32, 48), [blob(1, (32, 48)), blob(2, (32, 48))]
    with av.open(str(tmp_path / "sav_000001.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.height, stream.width = size
        for i in range(6):
            frame = av.VideoFrame.from_ndarray(np.full((*size, 3), 40 * i, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    value = {
        "video_id": "sav_000001", "video_frame_count": 6.0, "video_height": 32.0, "video_width": 48.0,
        "masklet_id": [0, 3], "masklet": [[rle(masks[0]), []], [rle(masks[0]), rle(masks[1])]],
    }  # fmt: skip
    (tmp_path / "sav_000001_manual.json").write_text(json.dumps(value))
    (item,) = open_dataset(tmp_path / "sav_000001_manual.json")
    assert (item.name, item.num_frames, item.keyframes, item.size) == ("sav_000001", 6, (0, 4), size)
    assert [(found.id, list(found.masks)) for found in item.objects] == [(0, [0, 4]), (3, [4])]
    np.testing.assert_array_equal(item.masks(4)[3].decode(), masks[1])
    assert abs(int(item.frame(4).mean()) - 160) < 8  # H.264
    assert check(open_dataset(tmp_path)).odd == {}


# ---- what a format cannot hold


def overlapping(folder: Path) -> Item:
    from dataset_items import item

    one, two = np.zeros(SIZE, bool), np.zeros(SIZE, bool)
    one[:8], two[4:12] = True, True
    return item(folder, "both", {1: {0: one}, 300: {0: two}, 301: {0: np.zeros(SIZE, bool)}}, size=SIZE, scores=True)


LOST = {
    "coco": {},
    "coco-video": {},
    "label-studio": {},
    "lvis": {},
    "sav": {"scores": 3},
    "yolo": {"scores": 3, "empty masks": 1},
    "cvat": {"scores": 3, "empty masks": 1},
    "davis": {
        "scores": 3,
        "objects that got another number": 3,
        "pixels where objects overlap: the lowest number is on top": 120,
    },
    "voc": {
        "scores": 3,
        "objects that got another number": 3,
        "pixels where objects overlap: the lowest number is on top": 120,
        "empty masks: their class is kept, with a box of one pixel": 1,
    },
}


@pytest.mark.parametrize("name", LOST)
def test_what_is_lost_is_counted(name: str, tmp_path: Path) -> None:
    lost = write_dataset([overlapping(tmp_path / "in")], tmp_path / "out", name)
    assert {what: count for what, count in lost.items() if "meta.json" not in what} == LOST[name]
    found = open_dataset(tmp_path / "out")[0].objects
    areas = [found.masks[0].area() if 0 in found.masks else 0 for found in found]
    assert [area for area in areas if area] == [240, 120 if name in ("davis", "voc") else 240]


def test_photos_that_exif_turns_are_stored_upright(tmp_path: Path) -> None:
    """As their masks see them; other photos are copied as they are."""
    from mlx_sam2.datasets import DatasetObject, RleMask, photo_item

    path = tmp_path / "turned.jpg"
    image = Image.fromarray(np.zeros((20, 30, 3), np.uint8))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(path, exif=exif)
    mask = blob(1, (30, 20))
    item = photo_item(path, [DatasetObject(1, "a", {0: RleMask(rle(mask))})])
    assert item.size == (30, 20)
    write_dataset([item], tmp_path / "out", "yolo")
    (stored,) = (tmp_path / "out/images").iterdir()
    with Image.open(stored) as picture:
        assert (picture.format, picture.size) == ("PNG", (20, 30))
    np.testing.assert_array_equal(open_dataset(tmp_path / "out")[0].objects[0].masks[0].decode(), mask)


def test_photos_may_be_left_out(tmp_path: Path) -> None:
    write_dataset(videos(tmp_path / "in"), tmp_path / "out", "davis", options=WriteOptions(photos=False))
    assert not (tmp_path / "out/JPEGImages").exists()
    assert len(list((tmp_path / "out/Annotations/480p/late").iterdir())) == 4


def test_a_photo_of_the_wrong_size_is_refused_when_it_is_read(tmp_path: Path) -> None:
    frames(tmp_path, 1, (9, 9))
    value = {"images": [{"id": 1, "file_name": "00000.jpg", "height": 20, "width": 30}], "annotations": []}
    (tmp_path / "c.json").write_text(json.dumps(value))
    with pytest.raises(DatasetError, match="is 9x9, but the data set states 30x20"):
        open_dataset(tmp_path / "c.json")[0].frame(0)
