"""Records in other libraries' forms: a labelled image, supervision's detections."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mask_shapes import shapes_like_objects
from mlx_sam2 import masks

SIZE = (40, 60)


def records(output_mode: str = "binary_mask") -> list[dict[str, object]]:
    """Three overlapping masks, neither the largest nor the smallest first."""
    stack = np.zeros((3, *SIZE), bool)
    stack[0, 5:25, 5:40] = True
    stack[1, 2:38, 10:55] = True
    stack[2, 8:12, 12:20] = True
    entries = []
    for i, mask in enumerate(stack):
        x0, y0, x1, y1 = masks.mask_to_box(mask)
        rle = masks.mask_to_rle(mask, compressed=output_mode == "coco_rle")
        entries.append(
            {
                "segmentation": mask if output_mode == "binary_mask" else rle,
                "area": int(mask.sum()),
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "predicted_iou": 0.9 - 0.1 * i,
                "point_coords": [[15.0, 10.0]],
                "stability_score": 0.95 - 0.01 * i,
                "crop_box": [0, 0, SIZE[1], SIZE[0]],
            }
        )
    return entries


@pytest.mark.parametrize("output_mode", ["binary_mask", "uncompressed_rle", "coco_rle"])
def test_label_image(output_mode: str) -> None:
    entries = records(output_mode)
    labels = masks.to_label_image(entries)
    assert labels.dtype == np.uint16
    first, second, third = (masks.record_mask(entry) for entry in entries)
    expected = np.where(third, 3, np.where(first, 1, np.where(second, 2, 0)))  # the smallest on top
    np.testing.assert_array_equal(labels, expected)
    np.testing.assert_array_equal(masks.to_label_image(entries, SIZE), expected)


def test_label_image_of_nothing() -> None:
    empty = masks.to_label_image([], (3, 5))
    assert (empty.shape, empty.dtype, empty.any()) == ((3, 5), np.uint16, False)
    with pytest.raises(ValueError, match=r"size=\(height, width\)"):
        masks.to_label_image([])
    with pytest.raises(ValueError, match="different sizes"):
        masks.to_label_image(records(), (3, 5))


def test_label_image_of_a_hostile_size() -> None:
    rle = {"size": [10**6, 10**6], "counts": [10**12]}
    with pytest.raises(ValueError, match="at most 178,956,970 are taken"):
        masks.to_label_image([{"segmentation": rle, "area": 1}])
    with pytest.raises(ValueError, match="whole numbers"):
        masks.to_label_image([{"segmentation": np.zeros((1, 3, 3), bool), "area": 0}])


@pytest.mark.slow
def test_label_image_of_very_many() -> None:
    one = {"segmentation": {"size": [1, 2], "counts": [1, 1]}, "area": 1}
    labels = masks.to_label_image([one] * 65_536)
    assert (labels.dtype, labels.tolist()) == (np.uint32, [[0, 65_536]])
    assert masks.to_label_image([one] * 65_535).tolist() == [[0, 65_535]]


@pytest.mark.parametrize("output_mode", ["binary_mask", "uncompressed_rle", "coco_rle"])
@pytest.mark.filterwarnings("ignore:OpenCV:UserWarning")
def test_supervision(output_mode: str) -> None:
    supervision = pytest.importorskip("supervision", reason="supervision is not installed (no part of [test])")
    found = masks.to_supervision(records(output_mode))
    by_area = np.argsort(-found.area, kind="stable")
    theirs = supervision.Detections.from_sam(records())  # largest first
    np.testing.assert_array_equal(found.xyxy[by_area], theirs.xyxy)
    np.testing.assert_array_equal(found.mask[by_area], theirs.mask)
    np.testing.assert_allclose(found.confidence, [0.9, 0.8, 0.7], rtol=1e-6)
    np.testing.assert_allclose(found.data["stability_score"], [0.95, 0.94, 0.93], rtol=1e-6)
    kept = found[found.confidence > 0.75]  # their filtering takes our fields along
    assert (len(kept), len(kept.data["stability_score"])) == (2, 2)
    picture = np.zeros((*SIZE, 3), np.uint8)
    drawn = supervision.MaskAnnotator(color_lookup=supervision.ColorLookup.INDEX).annotate(picture.copy(), found)
    np.testing.assert_array_equal(drawn.any(axis=2), found.mask.any(axis=0))
    assert len(masks.to_supervision([])) == 0


def test_without_supervision(tmp_path: Path) -> None:
    script = (
        "import sys\nsys.modules['supervision'] = None\nfrom mlx_sam2 import masks\n"
        "try:\n    masks.to_supervision([])\nexcept ImportError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "to_supervision needs the package supervision: pip install supervision\n"


def test_the_records_mask_is_bool() -> None:
    mask = shapes_like_objects(20, 30, 1)
    for segmentation in (mask, mask.astype(np.uint8), masks.mask_to_rle(mask)):
        result = masks.record_mask({"segmentation": segmentation})
        assert result.dtype == bool
        np.testing.assert_array_equal(result, mask)
