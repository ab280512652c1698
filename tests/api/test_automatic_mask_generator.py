"""Automatic masks: upscaled masks known without upscaling, crops, records, what is computed and what is refused."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

import synthetic
from mlx_sam2.automatic_mask_generator import SAM2AutomaticMaskGenerator
from mlx_sam2.checkpoint.loading import save
from mlx_sam2.images.crops import Crop, crops, layer_grids, near_crop_edge, point_grid
from mlx_sam2.images.files import ImageError
from mlx_sam2.masks import mask_to_box, mask_to_rle, rle_to_mask
from mlx_sam2.masks.upscaled import PackedLogits, UpscaledMask, _samples, surely_unstable
from mlx_sam2.model.resize import resize_bilinear

SIZES = [(64, 64), (100, 37), (37, 100), (400, 613), (1, 300), (300, 1), (5, 3), (65, 129), (63, 62), (1, 1)]
OVERRIDES = {  # small masks with high scores, as in the goldens
    **synthetic.NANO_OVERRIDES,
    **{f"sam_mask_decoder.output_hypernetworks_mlps.{i}.layers.2.bias": {"mul": 1.0, "add": -2.6} for i in range(4)},
    "sam_mask_decoder.iou_prediction_head.layers.2.bias": {"mul": 1.0, "add": 1.0},
}
NMS = {"box_nms_thresh": 0.99, "crop_nms_thresh": 0.98}
LOOSE = {"points_per_side": 4, "pred_iou_thresh": 0.3, "stability_score_thresh": 0.4, "stability_score_offset": 0.3}


def logits_of(kind: str, shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    if kind == "noise":
        return draw.normal(-1, 4, shape).astype(np.float32)
    if kind == "flat":  # steps that touch the level
        return draw.integers(-1, 2, shape).astype(np.float32)
    y, x = np.mgrid[: shape[0], : shape[1]]
    return (shape[0] / 4 - np.hypot(y - shape[0] * 0.4, x - shape[1] * 0.6)).astype(np.float32)


def upscaled(logits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """All of it: interpolated along rows, then along columns."""
    rows, columns = _samples(logits.shape[0], size[0]), _samples(logits.shape[1], size[1])
    across = logits[:, columns.low] * (1 - columns.weight) + logits[:, columns.high] * columns.weight
    weight = rows.weight[:, None]
    return across[rows.low] * (1 - weight) + across[rows.high] * weight


# ---- upscaled masks


@pytest.mark.parametrize("kind", ["noise", "flat", "disc"])
@pytest.mark.parametrize("size", SIZES)
def test_upscaled_mask_is_that_of_upscaled_logits(kind: str, size: tuple[int, int]) -> None:
    for seed, shape in enumerate([(64, 64), (16, 16), (256, 256)]):
        logits = logits_of(kind, shape, seed)
        whole = upscaled(logits, size)
        mask = UpscaledMask(logits, size, -1.5)
        for level in (-1.5, 0.0, 0.7):
            inside = whole > np.float32(level)
            assert mask.area(level) == inside.sum()
            assert mask.box(level) == mask_to_box(inside)
            assert mask.rle(level, size) == mask_to_rle(inside, compressed=False)


@pytest.mark.parametrize("size", [(400, 600), (37, 101), (64, 64), (64, 200)])
def test_upscaling_is_the_predictors(size: tuple[int, int]) -> None:
    logits = logits_of("noise", (64, 64))
    expected = np.array(resize_bilinear(mx.array(logits)[None, :, :, None], size))[0, :, :, 0]
    np.testing.assert_allclose(upscaled(logits, size), expected, rtol=0, atol=1e-5)  # noise 0 on x86; 1e-6 if fused


def test_a_mask_on_a_canvas() -> None:
    logits, size, canvas = logits_of("noise", (16, 16)), (30, 20), (47, 50)
    for x, y in [(0, 0), (30, 17), (30, 0), (11, 5)]:
        expected = np.zeros(canvas, bool)
        expected[y : y + 30, x : x + 20] = upscaled(logits, size) > 0
        assert UpscaledMask(logits, size, 0).rle(0, canvas, (x, y)) == mask_to_rle(expected, compressed=False)


def test_full_and_empty_masks() -> None:
    for value, area, counts in ((1.0, 12, [0, 12]), (-1.0, 0, [12])):
        mask = UpscaledMask(np.full((8, 8), value, np.float32), (3, 4), 0)
        assert (mask.area(0), mask.rle(0, (3, 4))["counts"]) == (area, counts)
        assert mask.box(0) == ([0, 0, 3, 2] if area else [0, 0, 0, 0])


@pytest.mark.parametrize("size", [(50, 61), (300, 431), (9, 7)])
def test_what_low_resolution_rules_out_is_unstable(size: tuple[int, int]) -> None:
    draw = np.random.default_rng(3)
    y, x = np.mgrid[:64, :64]
    discs = [
        draw.uniform(0.05, 2) * (draw.uniform(3, 30) - np.hypot(y - draw.uniform(0, 64), x - draw.uniform(0, 64)))
        for _ in range(60)
    ]
    logits = np.stack([*discs, *draw.normal(-1, 3, (20, 64, 64)), np.full((64, 64), -9), np.full((64, 64), 9)])
    logits = logits.astype(np.float32)
    whole = [upscaled(plane, size) for plane in logits]
    for threshold, offset, least in ((0.0, 1.0, 0.9), (0.5, 0.3, 0.8)):
        with np.errstate(invalid="ignore"):
            exact = np.array([(p > threshold + offset).sum() / (p > threshold - offset).sum() for p in whole])
        out = surely_unstable(mx.array(logits), size, threshold, offset, least)
        assert not (out & (exact >= least)).any()
        assert out[:60].sum() > 0.3 * (exact < least)[:60].sum()  # and it is of use
        assert out[-2] and not out[-1]


@pytest.mark.parametrize("kind", ["noise", "flat", "disc"])
def test_packed_logits_have_the_same_mask(kind: str) -> None:
    for threshold in (0.0, 0.4):
        logits = logits_of(kind, (64, 64))
        packed = PackedLogits.pack(logits, threshold)
        restored = packed.unpack()
        for size in ((200, 311), (31, 64)):
            before, after = (UpscaledMask(x, size, threshold).rle(threshold, size) for x in (logits, restored))
            assert before == after
    if kind == "disc":
        assert packed.edge.nbytes + packed.above.nbytes + packed.is_edge.nbytes < logits.nbytes / 7


# ---- crops and points


def test_crops_are_the_official_ones() -> None:
    assert crops((400, 600), 1, 512 / 1500) == [
        Crop(0, 0, 600, 400, 0),
        Crop(0, 0, 368, 268, 1),
        Crop(0, 132, 368, 400, 1),
        Crop(232, 0, 600, 268, 1),
        Crop(232, 132, 600, 400, 1),
    ]
    second = crops((400, 600), 2, 512 / 1500)[5:]
    assert len(second) == 16
    assert second[:2] == [Crop(0, 0, 201, 151, 2), Crop(0, 83, 201, 234, 2)]
    assert [crop.box for crop in crops((1, 3), 1, 0.5)] == [(0, 0, 3, 1), (0, 0, 2, 1), (2, 0, 3, 1)]


def test_points_are_centres_of_cells() -> None:
    np.testing.assert_allclose(point_grid(2), [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]])
    assert [len(grid) for grid in layer_grids(8, 2, 2)] == [64, 16, 4]


def test_boxes_cut_off_by_a_crop() -> None:
    crop, image = Crop(100, 0, 300, 200, 1), (200, 400)
    boxes = np.array([[21, 50, 179, 150], [20, 50, 150, 150], [50, 50, 180, 150], [50, 0, 150, 199]])
    assert near_crop_edge(boxes, crop, image).tolist() == [False, True, True, False]
    assert not near_crop_edge(boxes, Crop(0, 0, 400, 200), image).any()


# ---- the generator


@pytest.fixture(scope="module")
def model() -> Any:
    return synthetic.nano_model(5, OVERRIDES)


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return synthetic.picture(130, 150, 10)


@pytest.fixture(scope="module")
def records(model: Any, image: np.ndarray) -> list[dict[str, Any]]:
    found = SAM2AutomaticMaskGenerator(model, **LOOSE, **NMS, crop_n_layers=1).generate(image)
    assert len(found) > 3 and len({record["crop_box"][1] for record in found}) > 1
    return found


def test_records_describe_their_masks(records: list[dict[str, Any]], image: np.ndarray) -> None:
    for record in records:
        mask, (x, y, w, h) = record["segmentation"], record["bbox"]
        assert mask.shape == image.shape[:2] and mask.dtype == bool
        assert record["area"] == mask.sum() > 0
        assert [x, y, x + w, y + h] == mask_to_box(mask)
        left, top, width, height = record["crop_box"]
        assert mask[int(top) : int(top + height), int(left) : int(left + width)].sum() == record["area"]
        ((px, py),) = record["point_coords"]
        share = np.array([(px - left) / width, (py - top) / height])
        assert np.isclose(point_grid(4), share).all(axis=1).any()
        assert record["predicted_iou"] > 0.3 and record["stability_score"] >= 0.4


def test_smaller_crops_first_and_then_better_masks(records: list[dict[str, Any]], image: np.ndarray) -> None:
    order = [(record["crop_box"][2] * record["crop_box"][3], record["crop_box"]) for record in records]
    assert [area for area, _ in order] == sorted(area for area, _ in order)
    for a, b in pairwise(records):
        assert a["crop_box"] != b["crop_box"] or a["predicted_iou"] >= b["predicted_iou"]


def test_output_modes_agree(model: Any, image: np.ndarray, records: list[dict[str, Any]]) -> None:
    for mode in ("uncompressed_rle", "coco_rle"):
        generator = SAM2AutomaticMaskGenerator(model, **LOOSE, **NMS, crop_n_layers=1, output_mode=mode)
        found = generator.generate(image)
        assert len(found) == len(records)
        for a, b in zip(found, records, strict=True):
            np.testing.assert_array_equal(rle_to_mask(a["segmentation"]), b["segmentation"])
            assert {**a, "segmentation": None} == {**b, "segmentation": None}
            if mode == "coco_rle":
                np.testing.assert_array_equal(coco.decode(a["segmentation"]), b["segmentation"])
            else:
                assert type(a["segmentation"]["counts"]) is list


def test_a_crop_is_encoded_once(model: Any, image: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = SAM2AutomaticMaskGenerator(model, **LOOSE, crop_n_layers=1, points_per_batch=3)
    sizes, encode = [], generator.predictor.set_image
    monkeypatch.setattr(generator.predictor, "set_image", lambda crop: (sizes.append(crop.shape[:2]), encode(crop)))
    generator.generate(image)
    assert sizes == [crop.size for crop in crops(image.shape[:2], 1, 512 / 1500)]


def test_batches_and_grids_change_nothing(model: Any, image: np.ndarray) -> None:
    options = {**LOOSE, **NMS, "output_mode": "coco_rle"}
    expected = SAM2AutomaticMaskGenerator(model, **options).generate(image)
    grids = [point_grid(4)]
    for other in ({"points_per_batch": 5}, {"points_per_side": None, "point_grids": grids}):
        found = SAM2AutomaticMaskGenerator(model, **{**options, **other}).generate(image)
        assert [r["segmentation"] for r in found] == [r["segmentation"] for r in expected]


def test_pillow_images_and_views(model: Any, image: np.ndarray) -> None:
    generator = SAM2AutomaticMaskGenerator(model, **LOOSE, output_mode="coco_rle")
    expected = generator.generate(image)
    assert generator.generate(Image.fromarray(image)) == expected
    assert generator.generate(image[:, ::-1].copy()[:, ::-1]) == expected
    with pytest.raises(ImageError, match=r"shape \(H, W, 3\)"):
        generator.generate(image[..., 0])


def test_nothing_found(model: Any, image: np.ndarray) -> None:
    for layers in (0, 1):
        options = {"points_per_side": 2, "pred_iou_thresh": 1.0, "crop_n_layers": layers}
        assert SAM2AutomaticMaskGenerator(model, **options).generate(image) == []
    assert SAM2AutomaticMaskGenerator(model, points_per_side=1, crop_n_layers=2).generate(image[:1, :1]) == []


def test_scores_that_are_no_numbers(image: np.ndarray) -> None:
    broken = synthetic.nano_model(5, {**OVERRIDES, "no_mem_embed": {"mul": float("nan")}})
    with pytest.raises(ArithmeticError, match="dtype='float32'"):
        SAM2AutomaticMaskGenerator(broken, points_per_side=1).generate(image)


def test_no_array_of_the_photos_size(model: Any) -> None:
    """Not even one float mask of 6 megapixels, 24 MB."""
    photo = synthetic.picture(200, 300, 3).repeat(10, 0).repeat(10, 1)
    generator = SAM2AutomaticMaskGenerator(model, **LOOSE, output_mode="coco_rle")
    generator.predictor.set_image(photo)  # resized in floats, by the image predictor
    generator.predictor.set_image = lambda crop: None
    tracemalloc.start()
    found = generator.generate(photo)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found
    assert peak < 12e6  # seen: 8.1e6


# ---- arguments


def test_from_pretrained_takes_options_of_both(model: Any, tmp_path: Path, image: np.ndarray) -> None:
    save(model, tmp_path / "nano")
    generator = SAM2AutomaticMaskGenerator.from_pretrained(
        str(tmp_path / "nano"), apply_postprocessing=False, points_per_side=2, output_mode="coco_rle"
    )
    assert len(generator.point_grids[0]) == 4
    assert not generator.predictor.model.config.decoder.dynamic_multimask_via_stability
    assert generator.output_mode == "coco_rle"
    with pytest.warns(UserWarning, match="no option points_per_row: ignored"):
        SAM2AutomaticMaskGenerator.from_pretrained(str(tmp_path / "nano"), points_per_row=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"points_per_side": None}, "exactly one of points_per_side and point_grids"),
        ({"point_grids": [np.zeros((1, 2))]}, "exactly one of points_per_side and point_grids"),
        ({"points_per_side": 0}, "points_per_side=0: it must be a whole number from 1 up"),
        ({"points_per_batch": 0}, "points_per_batch=0: it must be a whole number from 1 up"),
        ({"crop_n_layers": -1}, "crop_n_layers=-1: it must be a whole number from 0 up"),
        ({"crop_n_layers": 3, "points_per_side": 4, "crop_n_points_downscale_factor": 2}, "leaves crop layer 3"),
        ({"crop_n_points_downscale_factor": 0}, "crop_n_points_downscale_factor=0: it must be above 0"),
        ({"crop_overlap_ratio": 1.5}, "crop_overlap_ratio=1.5"),
        ({"pred_iou_thresh": "0.5"}, "pred_iou_thresh='0.5': it must be a number"),
        ({"stability_score_thresh": float("nan")}, "stability_score_thresh=nan: it must be a number"),
        ({"mask_threshold": None}, "mask_threshold=None: it must be a number"),
        ({"min_mask_region_area": [3]}, "min_mask_region_area=.*: it must be a number"),
        ({"output_mode": "polygons"}, "output_mode='polygons' is not known; use 'binary_mask'"),
        ({"points_per_side": None, "point_grids": [np.zeros((1, 2))], "crop_n_layers": 1}, "has 1 grids"),
        ({"points_per_side": None, "point_grids": [np.zeros(4)]}, r"point_grids\[0\] has shape \(4,\)"),
    ],
)
def test_arguments_that_cannot_be_used(model: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        SAM2AutomaticMaskGenerator(model, **options)
    assert "\n" not in str(caught.value)


def test_a_name_is_no_model() -> None:
    with pytest.raises(TypeError, match="got str: use"):
        SAM2AutomaticMaskGenerator("tiny")
