"""Masks, against scipy's labels, pycocotools' encodings, and a filling rule of our own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mask_shapes import many, named
from mlx_sam2 import masks

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools


# ---- components


def test_components_are_those_of_scipy() -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    for mask in many():
        labels, areas = masks.connected_components(mask)
        expected, count = ndimage.label(mask, np.ones((3, 3)))
        assert labels.dtype == np.int32
        np.testing.assert_array_equal(labels, expected)
        np.testing.assert_array_equal(areas[1:], np.bincount(expected.ravel(), minlength=count + 1)[1:])
        assert areas[0] == 0


def test_components_of_a_batch_stay_in_their_map() -> None:
    stack = np.random.default_rng(1).random((2, 3, 16, 11)) < 0.6
    stack[:, :, -1] = stack[:, :, 0] = True  # the last row of a map must not touch the first of the next
    labels, areas = masks.connected_components(stack)
    before = 0
    for labelled, mask in zip(labels.reshape(-1, 16, 11), stack.reshape(-1, 16, 11), strict=True):
        alone, alone_areas = masks.connected_components(mask)
        np.testing.assert_array_equal(labelled, np.where(alone > 0, alone + before, 0))
        np.testing.assert_array_equal(areas[before + 1 :][: len(alone_areas) - 1], alone_areas[1:])
        before += len(alone_areas) - 1
    assert before == len(areas) - 1


def test_components_of_a_spiral() -> None:
    """One component whose parts meet only at the very end, both ways round."""
    spiral = np.zeros((101, 101), bool)
    top, left, bottom, right = 0, 0, 100, 100
    while right - left > 4:
        spiral[top, left : right + 1] = spiral[top : bottom + 1, right] = spiral[bottom, left : right + 1] = True
        spiral[top + 2 : bottom + 1, left] = spiral[top + 2, left : left + 3] = True
        top, left, bottom, right = top + 2, left + 2, bottom - 2, right - 2
    for turned in (spiral, spiral[::-1], spiral[:, ::-1], spiral.T):
        labels, areas = masks.connected_components(turned)
        assert areas.tolist() == [0, int(spiral.sum())]
        np.testing.assert_array_equal(labels, turned)


# ---- holes and specks

PICTURE = np.array(
    [
        [+5, +5, +5, +5, -5, -5],
        [+5, -3, +5, +5, -5, +2],
        [+5, +5, -3, +5, -5, -5],
        [+5, +5, +5, +5, +0, -5],
    ],
    np.float32,
)  # a hole of 2 (joined by a corner), a speck of 1, and an outside of 7 with a 0 in it


def test_fill_holes_fills_components_up_to_the_area() -> None:
    np.testing.assert_array_equal(masks.fill_holes(PICTURE, 1, 0.1), PICTURE)
    expected = PICTURE.copy()
    expected[1, 1] = expected[2, 2] = 0.1
    filled = masks.fill_holes(PICTURE, 2, 0.1)
    np.testing.assert_array_equal(filled, expected)
    assert filled.dtype == np.float32
    np.testing.assert_array_equal(masks.fill_holes(PICTURE, 6, 0.1), expected)
    assert (masks.fill_holes(PICTURE, 7, 0.1)[PICTURE <= 0] == np.float32(0.1)).all()  # the 0 counts as outside


def test_fill_holes_treats_each_map_alone() -> None:
    other = np.full_like(PICTURE, -1024)
    filled = masks.fill_holes(np.stack([other, PICTURE])[:, None], 2, 0.1)
    np.testing.assert_array_equal(filled[0, 0], other)
    np.testing.assert_array_equal(filled[1, 0], masks.fill_holes(PICTURE, 2, 0.1))


def test_zero_area_changes_nothing() -> None:
    assert masks.fill_holes(PICTURE, 0, 0.1) is PICTURE
    assert masks.clean_logits(PICTURE, 0.0, 0, 0, 10.0) is PICTURE


def test_clean_logits_looks_at_the_logits_as_given() -> None:
    cleaned = masks.clean_logits(PICTURE, 0.0, 2, 1, 10.0)
    expected = PICTURE.copy()
    expected[1, 1] = expected[2, 2] = 10  # not joined to the mask before specks are looked for
    expected[1, 5] = -10
    np.testing.assert_array_equal(cleaned, expected)
    # a speck inside a hole: both change, neither sees the other's change
    nested = np.full((5, 5), 3, np.float32)
    nested[1:4, 1:4] = -3
    nested[2, 2] = 3
    cleaned = masks.clean_logits(nested, 0.0, 8, 1, 10.0)
    assert cleaned[2, 2] == -10
    assert (cleaned[1:4, 1:4] == 10).sum() == 8


def test_a_logit_at_the_threshold_is_outside() -> None:
    logits = np.full((3, 3), 2, np.float32)
    logits[1, 1] = 1.5
    assert masks.clean_logits(logits, 1.5, 1, 0, 10.0)[1, 1] == 11.5
    assert masks.clean_logits(-logits, -2.0, 0, 8, 10.0)[1, 1] == -12
    np.testing.assert_array_equal(masks.clean_logits(-logits, -1.5, 0, 9, 10.0), -logits)


def test_clean_logits_uses_the_threshold() -> None:
    cleaned = masks.clean_logits(PICTURE, 4.0, 2, 3, 10.0)
    expected = PICTURE.copy()
    expected[1, 1] = expected[2, 2] = 14.0
    np.testing.assert_array_equal(cleaned, expected)  # the 2 at the right is no speck: it lies below 4


def test_cleaning_equals_the_definition() -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    logits = np.random.default_rng(3).normal(0.3, 1, (3, 4, 40, 56)).astype(np.float32)
    expected = logits.copy()
    for index in np.ndindex(3, 4):
        for region, value in ((logits[index] <= 0.25, 10.25), (logits[index] > 0.25, -9.75)):
            labels, count = ndimage.label(region, np.ones((3, 3)))
            for i in range(1, count + 1):
                if (labels == i).sum() <= 5:
                    expected[index][labels == i] = value
    np.testing.assert_array_equal(masks.clean_logits(logits, 0.25, 5, 5, 10.0), expected)


# ---- boxes and run-length encoding


def test_boxes() -> None:
    mask = np.zeros((7, 9), bool)
    mask[2, 3] = mask[5, 6] = True
    assert masks.mask_to_box(mask) == [3, 2, 6, 5]
    assert masks.mask_to_bbox(mask) == [3, 2, 4, 4]
    assert masks.mask_to_box(mask & False) == masks.mask_to_bbox(mask & False) == [0, 0, 0, 0]


def test_known_rle() -> None:
    mask = np.array([[1, 0], [1, 1], [0, 1]], bool)  # columns 110 and 011
    assert masks.mask_to_rle(mask, compressed=False) == {"size": [3, 2], "counts": [0, 2, 2, 2]}
    assert masks.mask_to_rle(mask) == {"size": [3, 2], "counts": "0220"}


def test_rle_comes_back() -> None:
    for mask in many():
        for compressed in (True, False):
            back = masks.rle_to_mask(masks.mask_to_rle(mask, compressed))
            assert back.dtype == bool
            np.testing.assert_array_equal(back, mask)


def test_rle_takes_numbers_for_masks() -> None:
    mask = np.array([[0, 255, 255], [0, 0, 255]], np.uint8)
    assert masks.mask_to_rle(mask) == masks.mask_to_rle(mask > 0)
    np.testing.assert_array_equal(masks.connected_components(mask)[0], mask > 0)
    assert masks.mask_to_polygons(mask.astype(np.float32)) == masks.mask_to_polygons(mask > 0)


def test_rle_and_boxes_are_those_of_pycocotools() -> None:
    coco = pytest.importorskip("pycocotools.mask")
    for mask in many():
        expected = coco.encode(np.asfortranarray(mask, np.uint8))
        ours = masks.mask_to_rle(mask)
        assert ours == {"size": expected["size"], "counts": expected["counts"].decode()}
        np.testing.assert_array_equal(masks.rle_to_mask(expected), mask)
        assert masks.mask_to_bbox(mask) == coco.toBbox(expected).tolist()


@pytest.mark.parametrize(
    "counts",
    [
        [3, 2],
        [7, -1],
        [],
        "",
        "3",
        "0220" + "0",
        "02\x7f",
        "02 0",
        "o" * 3,
        "o" * 20 + "0",
        "0é",
        [2**62, 2**62, 2**62, 2**62 + 6],
    ],
)
def test_damaged_rle_is_refused(counts: object) -> None:
    with pytest.raises(ValueError, match="damaged run-length encoding"):
        masks.rle_to_mask({"size": [3, 2], "counts": counts})


@pytest.mark.parametrize("counts", [[2.5, 3.5], ["6"], [[6]], [[1], [2, 3]], None, {}, [2**70], [True], [float("nan")]])
def test_counts_that_are_no_numbers_are_refused(counts: object) -> None:
    with pytest.raises(ValueError, match="damaged run-length encoding: its counts are no list of whole numbers") as why:
        masks.rle_area({"size": [3, 2], "counts": counts})
    assert "\n" not in str(why.value)


@pytest.mark.parametrize(
    "rle", [{"counts": [6]}, {"size": [6]}, {"size": "ab"}, {"size": [2.5, 2]}, {"size": None}, [6]]
)
@pytest.mark.parametrize("function", [masks.rle_to_mask, masks.rle_to_bbox, masks.compress_rle])
def test_an_encoding_without_a_size_is_refused(rle: object, function: Callable[[object], object]) -> None:
    with pytest.raises(ValueError, match=r'it must be {"size": \[height, width\], "counts"'):
        function(rle)


@pytest.mark.parametrize("function", [masks.mask_to_rle, masks.mask_to_box, masks.mask_to_bbox, masks.mask_to_polygons])
def test_one_mask_at_a_time(function: Callable[[np.ndarray], object]) -> None:
    for shape in ((1, 4, 5), (5,)):
        with pytest.raises(ValueError, match=r"a mask must have the shape \(H, W\), got \("):
            function(np.ones(shape, bool))
    assert function([[0, 1], [1, 1]]) == function(np.array([[0, 1], [1, 1]], bool))


def test_components_of_no_pixels() -> None:
    for shape in ((0, 0), (0, 4), (4, 0), (0, 3, 4), (2, 0, 4)):
        labels, areas = masks.connected_components(np.zeros(shape, bool))
        assert labels.shape == shape and areas.tolist() == [0]


# ---- polygons


def fill(polygon: list[int], height: int, width: int, nonzero: bool) -> np.ndarray:
    """Pixels whose centre lies inside: a ray to the left crosses vertical sides."""
    winding = np.zeros((height, width + 1), int)
    points = list(zip(polygon[::2], polygon[1::2], strict=True))
    for (x0, y0), (x1, y1) in zip(points, [*points[1:], points[0]], strict=True):
        assert x0 == x1 or y0 == y1
        if x0 == x1:
            winding[min(y0, y1) : max(y0, y1), x0] += 1 if y1 > y0 else -1
    crossings = winding.cumsum(axis=1)[:, :width]
    return crossings != 0 if nonzero else crossings % 2 == 1


@pytest.mark.parametrize("nonzero", [True, False])
def test_polygons_fill_to_their_components(nonzero: bool) -> None:
    for mask in many():
        labels, areas = masks.connected_components(mask)
        polygons = masks.mask_to_polygons(mask)
        assert len(polygons) == len(areas) - 1
        found = set()
        for polygon in polygons:
            inside = fill(polygon, *mask.shape, nonzero)
            (component,) = np.unique(labels[inside])
            assert inside.sum() == areas[component]
            found.add(int(component))
        assert found == set(range(1, len(areas)))


def test_polygons_fill_in_pycocotools() -> None:
    coco = pytest.importorskip("pycocotools.mask")
    for mask in many():
        polygons = masks.mask_to_polygons(mask)
        if polygons:
            merged = coco.merge(coco.frPyObjects(polygons, *mask.shape))
            np.testing.assert_array_equal(coco.decode([merged])[..., 0], mask)


def test_a_square_has_four_corners() -> None:
    mask = np.zeros((5, 6), bool)
    mask[1:3, 2:5] = True
    assert masks.mask_to_polygons(mask) == [[2, 1, 5, 1, 5, 3, 2, 3]]


def test_a_hole_is_cut_open_from_above() -> None:
    mask = np.ones((5, 5), bool)
    mask[2, 2] = False
    (polygon,) = masks.mask_to_polygons(mask)
    corners = list(zip(polygon[::2], polygon[1::2], strict=True))
    cut = [(0, 0), (2, 0), (2, 2), (2, 3), (3, 3), (3, 2), (2, 2), (2, 0), (5, 0), (5, 5), (0, 5)]
    assert corners == cut


def test_cuts_leave_a_side_from_west_to_east() -> None:
    """Two holes below one side: the outline goes along it once, and down to each hole in passing."""
    (polygon,) = masks.mask_to_polygons(named()["two holes, one side"])
    first = [(0, 0), (1, 0), (1, 1), (1, 2), (2, 2), (2, 1), (1, 1), (1, 0)]
    second = [(3, 0), (3, 1), (3, 2), (4, 2), (4, 1), (3, 1), (3, 0)]
    corners = list(zip(polygon[::2], polygon[1::2], strict=True))
    assert corners == [*first, *second, (5, 0), (5, 3), (0, 3)]
