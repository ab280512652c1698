"""The official automatic mask generator's records, on two photos: with crops, without, and with refinement."""

from __future__ import annotations

import numpy as np
import pytest

import goldens
from mlx_sam2 import images
from mlx_sam2.automatic_mask_generator import SAM2AutomaticMaskGenerator
from mlx_sam2.masks import mask_iou

# Seen: IoU scores 4e-7. Logits differ by 4e-5 (official against official on another CPU backend, golden/README.md),
# and a pixel of the golden masks lies 4e-6 from its threshold: official code on this machine turns it too.
SCORE_TOL = 4e-6
FLIPPED_PIXELS = 3  # seen: one of each of two masks


@goldens.needs_goldens
@pytest.mark.parametrize("name", ["amg_nano_cars", "amg_nano_cars_m2m", "amg_nano_groceries_nocrop"])
def test_records(name: str) -> None:
    golden = goldens.read(name)
    generator = SAM2AutomaticMaskGenerator(golden.model(), output_mode="uncompressed_rle", **golden.about["kwargs"])
    records = generator.generate(images.read(goldens.input_path(golden.about["image"])))
    expected = golden.tensors
    assert len(records) == golden.about["n_masks"]
    for key, tensor in (("bbox", "bbox_xywh"), ("crop_box", "crop_box_xywh")):
        np.testing.assert_array_equal([record[key] for record in records], expected[tensor])
    np.testing.assert_array_equal([record["point_coords"] for record in records], expected["point"][:, None])
    scores = [record["predicted_iou"] for record in records]
    np.testing.assert_allclose(scores, expected["predicted_iou"], rtol=0, atol=SCORE_TOL)
    height, width = golden.about["image_hw"]
    ends = expected["rle_len"].cumsum()
    for i, (record, area) in enumerate(zip(records, expected["area"].tolist(), strict=True)):
        counts = expected["rle_counts"][ends[i] - expected["rle_len"][i] : ends[i]]
        mask = {"size": [height, width], "counts": counts.tolist()}
        iou = mask_iou([record["segmentation"]], [mask])[0, 0]
        assert iou >= 1 - FLIPPED_PIXELS / area
        assert abs(record["area"] - area) <= FLIPPED_PIXELS
        assert abs(record["stability_score"] - expected["stability_score"][i]) <= FLIPPED_PIXELS / area
