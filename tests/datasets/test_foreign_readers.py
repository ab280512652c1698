"""What is written, read by somebody else's reader and compared to the pixel.

pycocotools is here always. The others are tried where they are installed (label-studio-sdk, datumaro, supervision,
lvis, ultralytics: none is light); beside them stand small readers of our own making, written from the formats'
descriptions and sharing no code with the package.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from dataset_items import decoded, photos, videos
from mlx_sam2.datasets import Item, WriteOptions, write_dataset

Found = dict[str, list[tuple[str, bytes]]]  # photo -> (class, mask) of its objects, sorted


def needs(package: str) -> pytest.MarkDecorator:
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f"{package} is not installed (no part of [test])")


def wanted(items: list[Item]) -> Found:
    return {item.name: decoded(item)[""] for item in items}


def entry(name: str, mask: np.ndarray) -> tuple[str, bytes]:
    return name, np.ascontiguousarray(mask, bool).tobytes()


@pytest.fixture(params=[False, True], ids=["masks", "outlines"])
def options(request: pytest.FixtureRequest) -> WriteOptions:
    return WriteOptions(polygons=request.param)


# ---- COCO, LVIS, YouTube-VIS


def stem(file_name: str) -> str:
    return Path(file_name).with_suffix("").as_posix()


@pytest.mark.parametrize("name", ["coco", "lvis"])
def test_pycocotools(name: str, options: WriteOptions, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    items = photos(tmp_path / "in")
    write_dataset(items, tmp_path / "out", name, options=options)
    coco = COCO(tmp_path / "out/annotations/instances.json")
    found: Found = {}
    for image in coco.loadImgs(coco.getImgIds()):
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=image["id"]))
        for annotation in annotations:
            rle = coco.annToRLE(annotation)
            assert annotation["area"] == coco_mask.area(rle)
            assert annotation["bbox"] == coco_mask.toBbox(rle).tolist()
        found[stem(image["file_name"])] = sorted(
            entry(coco.cats[annotation["category_id"]]["name"], coco.annToMask(annotation))
            for annotation in annotations
        )
        assert (tmp_path / "out/images" / image["file_name"]).is_file()
    assert found == wanted(items)


@needs("lvis")
def test_lvis(options: WriteOptions, tmp_path: Path) -> None:
    from lvis import LVIS

    items = photos(tmp_path / "in")
    write_dataset(items, tmp_path / "out", "lvis", options=options)
    lvis = LVIS(str(tmp_path / "out/annotations/instances.json"))
    found: Found = {}
    for image in lvis.load_imgs(lvis.get_img_ids()):
        annotations = lvis.load_anns(lvis.get_ann_ids(img_ids=[image["id"]]))
        found[stem(image["file_name"])] = sorted(
            entry(lvis.cats[a["category_id"]]["name"], lvis.ann_to_mask(a)) for a in annotations
        )
    assert found == wanted(items)


def test_youtube_vis(options: WriteOptions, tmp_path: Path) -> None:
    """As ``YTVOS.annToMask`` of the youtubevos fork of pycocotools does it: by frame, null where there is nothing."""
    items = videos(tmp_path / "in")
    write_dataset(items, tmp_path / "out", "coco-video", options=options)
    value = json.loads((tmp_path / "out/annotations/instances.json").read_text(encoding="utf-8"))
    names = {category["id"]: category["name"] for category in value["categories"]}
    for video, item in zip(value["videos"], items, strict=True):
        assert len(video["file_names"]) == item.num_frames
        mine = [a for a in value["annotations"] if a["video_id"] == video["id"]]
        assert [names[a["category_id"]] for a in mine] == [found.class_name for found in item.objects]
        for annotation, found in zip(mine, item.objects, strict=True):
            for i, segmentation in enumerate(annotation["segmentations"]):
                assert (segmentation is None) == (i not in found.masks)
                if isinstance(segmentation, list):
                    segmentation = coco_mask.merge(coco_mask.frPyObjects(segmentation, *item.size))
                if segmentation:
                    np.testing.assert_array_equal(coco_mask.decode(segmentation), found.masks[i].decode())
                    assert annotation["areas"][i] == found.masks[i].area()


# ---- YOLO


def test_yolo_by_its_description(tmp_path: Path) -> None:
    items = photos(tmp_path / "in")
    write_dataset(items, tmp_path / "out", "yolo")
    config = yaml.safe_load((tmp_path / "out/data.yaml").read_text(encoding="utf-8"))
    found: Found = {}
    for photo in sorted((tmp_path / "out" / config["train"]).iterdir()):
        height, width = np.array(Image.open(photo)).shape[:2]
        objects = []
        for line in (tmp_path / "out/labels" / f"{photo.stem}.txt").read_text().splitlines():
            number, *shares = line.split()
            assert all(0 <= float(share) <= 1 for share in shares)
            corners = [float(share) * (height if i % 2 else width) for i, share in enumerate(shares)]
            mask = coco_mask.decode(coco_mask.frPyObjects([corners], height, width))[..., 0]
            objects.append(entry(config["names"][int(number)], mask))
        found[photo.stem] = sorted(objects)
    assert found == wanted(items)


@needs("supervision")
def test_yolo_by_supervision(tmp_path: Path) -> None:
    """Its outlines are rounded to whole pixels and filled by OpenCV, edges included: no pixel of ours is missing."""
    from supervision import DetectionDataset

    items = [item for item in photos(tmp_path / "in") if item.objects]
    write_dataset(items, tmp_path / "out", "yolo")
    out = tmp_path / "out"
    dataset = DetectionDataset.from_yolo(
        str(out / "images"), str(out / "labels"), str(out / "data.yaml"), force_masks=True
    )
    for path, _, detections in dataset:
        objects = next(item for item in items if item.name == Path(path).stem).objects
        assert [dataset.classes[i] for i in detections.class_id] == [found.class_name for found in objects]
        for mask, found in zip(detections.mask, objects, strict=True):
            assert not (found.masks[0].decode() & ~mask).any()


@needs("ultralytics")
def test_yolo_by_ultralytics(tmp_path: Path) -> None:
    """Its reader gives each outline's corners, to float32."""
    from ultralytics.data.utils import verify_image_label

    items = [item for item in photos(tmp_path / "in") if min(item.size) > 9]  # it takes no smaller ones
    write_dataset(items, tmp_path / "out", "yolo")
    for item in items:
        out = tmp_path / "out"
        args = (str(out / f"images/{item.name}.jpg"), str(out / f"labels/{item.name}.txt"), "", False, 4, 0, 0, False)
        _, _, shape, segments, *_, corrupt, message = verify_image_label(args)
        assert (shape, corrupt, len(segments), message) == (item.size, 0, len(item.objects), "")
        for found, corners in zip(item.objects, segments, strict=True):
            scaled = (corners * item.size[::-1]).round(3).ravel().tolist()
            rle = coco_mask.frPyObjects([scaled], *item.size)
            np.testing.assert_array_equal(coco_mask.decode(rle)[..., 0], found.masks[0].decode())


# ---- pictures: VOC, DAVIS, SA-V


def test_voc_by_its_description(tmp_path: Path) -> None:
    items = photos(tmp_path / "in")
    write_dataset(items, tmp_path / "out", "voc")
    out = tmp_path / "out"
    labels = [line.split(":")[0] for line in (out / "labelmap.txt").read_text(encoding="utf-8").splitlines()[1:]]
    found: Found = {}
    for name in (out / "ImageSets/Segmentation/train.txt").read_text(encoding="utf-8").split():
        numbers, classes = (
            np.array(Image.open(out / folder / f"{name}.png")) for folder in ("SegmentationObject", "SegmentationClass")
        )
        objects = ElementTree.parse(out / f"Annotations/{name}.xml").getroot().findall("object")
        assert len(objects) == numbers.max()
        found[name] = []
        for i, element in enumerate(objects, 1):
            (value,) = np.unique(classes[numbers == i])
            assert element.findtext("name") == labels[value]
            y, x = np.nonzero(numbers == i)
            box = [int(element.findtext(f"bndbox/{tag}")) - 1 for tag in ("xmin", "ymin", "xmax", "ymax")]
            assert box == [x.min(), y.min(), x.max(), y.max()]
            found[name].append(entry(labels[value], numbers == i))
        found[name].sort()
    assert found == wanted(items)


@pytest.mark.parametrize("name", ["davis", "sav"])
def test_sequences_by_their_description(name: str, tmp_path: Path) -> None:
    items = videos(tmp_path / "in")
    write_dataset(items, tmp_path / "out", name)
    annotations = tmp_path / "out" / {"davis": "Annotations/480p", "sav": "Annotations_6fps"}[name]
    for item in items:
        for i in range(item.num_frames):
            for found in item.objects:
                mask = found.masks[i].decode() if i in found.masks else np.zeros(item.size, bool)
                place = f"{i:05d}.png" if name == "davis" else f"{found.id:03d}/{i:05d}.png"
                with Image.open(annotations / item.name / place) as picture:
                    assert picture.mode == "P"
                    value = found.id if name == "davis" else 1
                    np.testing.assert_array_equal(np.array(picture) == value, mask)


@needs("datumaro")
@pytest.mark.parametrize("name", ["coco", "voc", "cvat"])
def test_datumaro(name: str, tmp_path: Path) -> None:
    """Its readers of COCO, PASCAL VOC and CVAT."""
    from datumaro.components.annotation import AnnotationType
    from datumaro.components.dataset import Dataset

    items = photos(tmp_path / "in")
    write_dataset(items, tmp_path / "out", name)
    kind, path = {
        "coco": ("coco_instances", tmp_path / "out/annotations/instances.json"),
        "voc": ("voc_segmentation", tmp_path / "out"),
        "cvat": ("cvat", tmp_path / "out/annotations.xml"),
    }[name]
    dataset = Dataset.import_from(str(path), kind)
    classes = dataset.categories()[AnnotationType.label]
    found: Found = {}
    for item in dataset:
        masks = [a for a in item.annotations if a.type == AnnotationType.mask]
        found[Path(item.id).name] = sorted(entry(classes[mask.label].name, mask.image) for mask in masks)
    assert found == wanted(items)


# ---- Label Studio


def brush_by_its_description(code: list[int], size: tuple[int, int]) -> np.ndarray:
    """A bit string, read from the left."""
    bits, at = "".join(f"{byte:08b}" for byte in code), 0

    def read(count: int) -> int:
        nonlocal at
        at += count
        return int(bits[at - count : at], 2)

    total, word = read(32), read(5) + 1
    lengths = [read(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < total:
        is_run = read(1)
        count = read(lengths[read(2)]) + 1
        values += [read(word)] * count if is_run else [read(word) for _ in range(count)]
    return np.reshape(values, (*size, 4))[:, :, 3] == 255


def label_studio(tmp_path: Path, decode: Any) -> tuple[list[Item], Found]:
    items = photos(tmp_path / "in")
    write_dataset(items, tmp_path / "out", "label-studio")
    found: Found = {}
    for task in json.loads((tmp_path / "out/tasks.json").read_text(encoding="utf-8")):
        name = Path(task["data"]["image"].partition("?d=images/")[2]).stem
        found[name] = []
        for region in task["annotations"][0]["result"]:
            size = region["original_height"], region["original_width"]
            (label,) = region["value"]["brushlabels"]
            found[name].append(entry(label, decode(region["value"]["rle"], size)))
        found[name].sort()
    return items, found


def test_label_studio_by_its_description(tmp_path: Path) -> None:
    items, found = label_studio(tmp_path, brush_by_its_description)
    assert found == wanted(items)
    config = ElementTree.parse(tmp_path / "out/label_config.xml").getroot()
    names = {label.get("value") for label in config.iter("Label")}
    assert names == {found.class_name for item in items for found in item.objects}


@needs("label_studio_sdk")
def test_label_studio_by_its_sdk(tmp_path: Path) -> None:
    from label_studio_sdk.converter.brush import decode_rle

    items, found = label_studio(tmp_path, lambda code, size: np.reshape(decode_rle(code), (*size, 4))[:, :, 3] == 255)
    assert found == wanted(items)


@needs("label_studio_sdk")
def test_brushes_of_its_sdk_are_read(tmp_path: Path) -> None:
    from label_studio_sdk.converter.brush import mask2rle

    from mlx_sam2.datasets.brush import decode_brush

    for item in photos(tmp_path):
        for found in item.objects[:3]:
            mask = found.masks[0].decode()
            np.testing.assert_array_equal(decode_brush(mask2rle(mask.astype(np.uint8) * 255), item.size), mask)


def test_label_studio_polygons(tmp_path: Path) -> None:
    """Hundredths of width and height, as its editor shows them."""
    items = photos(tmp_path / "in")
    write_dataset(items, tmp_path / "out", "label-studio", options=WriteOptions(polygons=True))
    for task, item in zip(json.loads((tmp_path / "out/tasks.json").read_text()), items, strict=True):
        for region, found in zip(task["annotations"][0]["result"], item.objects, strict=True):
            assert region["value"]["polygonlabels"] == [found.class_name]
            corners = np.array(region["value"]["points"]) * item.size[::-1] / 100
            rle = coco_mask.frPyObjects([corners.ravel().tolist()], *item.size)
            np.testing.assert_array_equal(coco_mask.decode(rle)[..., 0], found.masks[0].decode())


# ---- CVAT


def cvat_mask(shape: ElementTree.Element, size: tuple[int, int]) -> np.ndarray:
    """As CVAT's ``rle2Mask``: row by row within the box, background first."""
    mask = np.zeros(size, bool)
    if shape.tag == "polygon":
        corners = [float(c) for pair in shape.get("points").split(";") for c in pair.split(",")]
        return coco_mask.decode(coco_mask.frPyObjects([corners], *size))[..., 0] == 1
    left, top, width, height = (int(shape.get(name)) for name in ("left", "top", "width", "height"))
    values: list[bool] = []
    for i, count in enumerate(shape.get("rle").split(",")):
        values += [i % 2 == 1] * int(count)
    mask[top : top + height, left : left + width] = np.reshape(values, (height, width))
    return mask


def test_cvat_photos_by_its_description(options: WriteOptions, tmp_path: Path) -> None:
    items = photos(tmp_path / "in")
    write_dataset(items, tmp_path / "out", "cvat", options=options)
    root = ElementTree.parse(tmp_path / "out/annotations.xml").getroot()
    labels = {label.findtext("name") for label in root.iter("label")}
    found: Found = {}
    for image in root.findall("image"):
        size = int(image.get("height")), int(image.get("width"))
        objects: dict[Any, tuple[str, np.ndarray]] = {}
        for number, shape in enumerate(image):
            assert shape.get("label") in labels
            key = shape.get("group_id", f"alone {number}")
            _, before = objects.get(key, ("", np.zeros(size, bool)))
            objects[key] = shape.get("label"), before | cvat_mask(shape, size)
        name = Path(image.get("name")).with_suffix("").as_posix()
        found[name] = sorted(entry(label, mask) for label, mask in objects.values())
    assert found == wanted(items)


def test_cvat_video_by_its_description(options: WriteOptions, tmp_path: Path) -> None:
    """A mask is taken of a track's first shape only, as CVAT's import does it; a polygon of every shape."""
    items = videos(tmp_path / "in")
    write_dataset(items, tmp_path / "out", "cvat", options=options)
    for item in items:
        root = ElementTree.parse(tmp_path / f"out/{item.name}.xml").getroot()
        assert root.findtext("meta/task/size") == str(item.num_frames)
        found: dict[int, list[tuple[str, bytes]]] = {i: [] for i in range(item.num_frames)}
        for track in root.findall("track"):
            shapes = list(track)[:1] if track[0].tag == "mask" else list(track)
            assert [shape.get("keyframe") for shape in shapes] == ["1"] * len(shapes)
            for shape in shapes:
                if shape.get("outside") == "0":
                    found[int(shape.get("frame"))].append(entry(track.get("label"), cvat_mask(shape, item.size)))
        assert {i: sorted(masks) for i, masks in found.items()} == dict(enumerate(decoded(item).values()))
        if options.polygons:
            assert len(root.findall("track")) == len(item.objects)
