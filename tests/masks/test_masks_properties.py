"""Properties of masks under hypothesis: RLE against pycocotools, NMS against a naive one, smooth outlines."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mask_shapes import many, named, shapes_like_objects
from mlx_sam2 import masks

pytest.importorskip("hypothesis", reason="hypothesis is not installed")
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools
quick = settings(deadline=None, database=None, max_examples=50, print_blob=True)


@st.composite
def a_mask(draw: st.DrawFn, max_side: int = 40) -> np.ndarray:
    """Any size from one pixel or one row up; noise of any density, plain, or blocks of pixels."""
    height, width = draw(st.integers(1, max_side)), draw(st.integers(1, max_side))
    kind = draw(st.sampled_from(["empty", "full", "one pixel", "noise", "blocks"]))
    mask = np.full((height, width), kind == "full")
    if kind == "one pixel":
        mask[draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))] = True
    if kind in ("noise", "blocks"):
        random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        side = 1 if kind == "noise" else 5
        small = random.random((-(-height // side), -(-width // side))) < draw(st.floats(0, 1))
        mask = np.kron(small, np.ones((side, side), bool))[:height, :width]
    return mask


@st.composite
def stack_of_masks(draw: st.DrawFn) -> np.ndarray:
    first = draw(a_mask())
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shares = draw(st.lists(st.floats(0, 1), max_size=4))
    return np.stack([first, *(random.random(first.shape) < share for share in shares)])


# ---- run-length encoding


@quick
@given(stack_of_masks())
@example(np.ones((2, 1, 1), bool))
@example(np.stack([np.ones((8, 3), bool), np.zeros((8, 3), bool), np.ones((8, 3), bool)]))  # no padding: no leaks
@example(np.ones((1, 1, 9), bool))
def test_rle_of_packed_bits(stack: np.ndarray) -> None:
    packed = masks.pack_masks(stack)
    height = stack.shape[1]
    np.testing.assert_array_equal(packed, np.packbits(stack, axis=1, bitorder="little").swapaxes(1, 2))
    for compressed in (False, True):
        rles = masks.packed_to_rles(packed, height, compressed)
        assert rles == [masks.mask_to_rle(mask, compressed) for mask in stack]
        assert json.loads(json.dumps(rles)) == rles
        for mask, rle in zip(stack, rles, strict=True):
            np.testing.assert_array_equal(masks.rle_to_mask(rle), mask)
    for mask, rle in zip(stack, masks.packed_to_rles(packed, height, compressed=False), strict=True):
        flat = mask.ravel(order="F")  # the definition: lengths of equal values, an empty run first if need be
        edges = [0, *(i for i in range(1, flat.size) if flat[i] != flat[i - 1]), flat.size]
        assert rle["counts"] == [0] * bool(flat[0]) + np.diff(edges).tolist()


@quick
@given(stack_of_masks())
def test_rle_is_that_of_pycocotools(stack: np.ndarray) -> None:
    coco = pytest.importorskip("pycocotools.mask")
    theirs = coco.encode(np.asfortranarray(stack.transpose(1, 2, 0), np.uint8))
    ours = [masks.mask_to_rle(mask) for mask in stack]
    assert ours == [{"size": rle["size"], "counts": rle["counts"].decode()} for rle in theirs]
    np.testing.assert_array_equal(coco.decode(ours).transpose(2, 0, 1), stack)
    plain = [masks.mask_to_rle(mask, compressed=False) for mask in stack]
    assert [masks.compress_rle(rle) for rle in plain] == ours == [masks.compress_rle(rle) for rle in ours]
    assert coco.frPyObjects(plain, *stack.shape[1:]) == theirs
    for form in (ours, plain, theirs):
        assert [masks.rle_area(rle) for rle in form] == coco.area(theirs).tolist()
        assert [masks.rle_to_bbox(rle) for rle in form] == coco.toBbox(theirs).tolist()
        assert [masks.rle_to_box(rle) for rle in form] == [masks.mask_to_box(mask) for mask in stack]
        iou = masks.mask_iou(form[:2], form)
        np.testing.assert_array_equal(iou, np.array(coco.iou(theirs[:2], theirs, [False] * len(theirs))))
    np.testing.assert_array_equal(masks.mask_iou(stack[:2], plain), iou)


@quick
@given(stack_of_masks(), st.randoms(use_true_random=False))
def test_empty_runs_change_nothing(stack: np.ndarray, random: object) -> None:
    """Encoders may write counts of 0 in the middle; COCO's format allows it."""
    for mask in stack:
        rle = masks.mask_to_rle(mask, compressed=False)
        at = random.randrange(len(rle["counts"]) + 1)
        padded = {**rle, "counts": [*rle["counts"][:at], 0, 0, *rle["counts"][at:]]}
        np.testing.assert_array_equal(masks.rle_to_mask(padded), mask)
        assert masks.rle_area(padded) == mask.sum()
        assert masks.rle_to_bbox(padded) == masks.mask_to_bbox(mask)
        np.testing.assert_array_equal(masks.mask_iou([padded], stack), masks.mask_iou([rle], stack))
        np.testing.assert_array_equal(masks.mask_iou(stack, [padded]), masks.mask_iou(stack, [rle]))


def test_iou_of_masks_is_the_definition() -> None:
    stack = np.stack([shapes_like_objects(90, 130, seed) for seed in range(4)])
    stack[3] = False
    iou = masks.mask_iou(stack, stack)
    for i, a in enumerate(stack):
        for j, b in enumerate(stack):
            assert iou[i, j] == ((a & b).sum() / (a | b).sum() if (a | b).any() else 0)
    assert masks.mask_iou([], stack).shape == (0, 4)
    assert masks.mask_iou(stack, []).shape == (4, 0)
    with pytest.raises(ValueError, match=r"different sizes have no IoU: \[\(2, 3\), \(3, 2\)\]"):
        masks.mask_iou([np.ones((2, 3), bool)], [np.ones((3, 2), bool)])


def test_a_mask_of_a_hostile_size_is_refused() -> None:
    for size in ([10**6, 10**6], [-1, -1]):
        with pytest.raises(ValueError, match="at most 178,956,970 are taken"):
            masks.rle_to_mask({"size": size, "counts": [size[0] * size[1]]})


def test_views_are_encoded_as_they_look() -> None:
    mask = shapes_like_objects(37, 52, 5)
    big = np.zeros((74, 104), np.uint8)
    big[::2, ::2] = 255 * mask
    for view in (big[::2, ::2], np.asfortranarray(mask), mask[::-1][::-1], mask.astype(np.float32) * -0.5):
        assert masks.mask_to_rle(view) == masks.mask_to_rle(mask)


# ---- boxes


def naive_nms(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> list[int]:
    """torchvision's loop, in its float32."""
    order = sorted(range(len(boxes)), key=lambda i: -scores[i])
    kept: list[int] = []
    for i in order:
        x0, y0, x1, y1 = boxes[i]
        for j in kept:
            u0, v0, u1, v1 = boxes[j]
            w = max(np.float32(0), min(x1, u1) - max(x0, u0))
            h = max(np.float32(0), min(y1, v1) - max(y0, v0))
            with np.errstate(invalid="ignore"):
                overlap = w * h / ((u1 - u0) * (v1 - v0) + (x1 - x0) * (y1 - y0) - w * h)
            if float(overlap) > threshold:
                break
        else:
            kept.append(i)
    return kept


corners = hnp.arrays(np.float32, st.tuples(st.integers(0, 25), st.just(4)), elements=st.integers(0, 6).map(float))


@quick
@given(corners, st.data(), st.sampled_from([0.0, 0.1, 1 / 3, 0.5, 0.6, 0.7, 0.99, 1.0]))
def test_nms_is_the_naive_one(boxes: np.ndarray, data: st.DataObject, threshold: float) -> None:
    """Small whole numbers, so that equal scores, equal boxes, boxes without area and IoUs at the threshold occur."""
    boxes = np.concatenate([np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])], axis=1)
    scores = data.draw(hnp.arrays(np.float32, len(boxes), elements=st.sampled_from([0.0, 0.25, 0.5, 1.0])))
    kept = masks.nms(boxes, scores, threshold)
    assert kept.dtype == np.int64
    assert kept.tolist() == naive_nms(boxes, scores, threshold)


def test_box_iou() -> None:
    a = np.array([[0, 0, 4, 4], [1, 1, 1, 1]])
    b = np.array([[2, 2, 6, 4], [0, 0, 4, 4], [5, 5, 9, 9], [1, 1, 1, 1]])
    expected = np.array([[4 / 20, 1, 0, 0], [0, 0, 0, np.nan]])
    np.testing.assert_array_equal(masks.box_iou(a, b), expected.astype(np.float32))
    assert masks.box_iou(a, b).dtype == np.float32
    np.testing.assert_array_equal(masks.box_iou(a.astype(np.float64), b), expected)
    assert masks.box_iou([], b).shape == (0, 4)
    with pytest.raises(ValueError, match=r"\(N, 4\)"):
        masks.box_iou(np.zeros((3, 5)), b)


def test_nms_of_special_cases() -> None:
    point = [3, 3, 3, 3]
    assert masks.nms([point, point, point], [0.1, 0.2, 0.2], 0.0).tolist() == [1, 2, 0]  # NaN suppresses nothing
    square = [0, 0, 5, 5]
    assert masks.nms([square, square], [0.1, 0.2], 1.0).tolist() == [1, 0]  # above, not at, the threshold
    assert masks.nms([square, square], [0.1, 0.2], 0.999).tolist() == [1]
    three_fifths = [square, [0, 0, 3, 5]]  # 0.6 is a little more in float32
    assert masks.nms(three_fifths, [2, 1], 0.6).tolist() == [0]
    assert masks.nms(np.array(three_fifths, np.float64), [2, 1], 0.6).tolist() == [0, 1]
    assert masks.nms([], [], 0.5).tolist() == []
    apart = [[0, 0, 1, 1], [5, 5, 6, 6], [9, 9, 10, 10]]
    assert masks.nms(apart, [0.3, np.nan, 0.5], 0.5).tolist() == [1, 2, 0]
    with pytest.raises(ValueError, match="one score a box: 1 boxes"):
        masks.nms([square], [1, 2], 0.5)


# ---- small regions


@quick
@given(a_mask(), st.integers(0, 12))
def test_small_regions_by_scipy(mask: np.ndarray, area: int) -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    before = mask.copy()
    for mode, region in (("holes", ~mask), ("islands", mask)):
        labels, count = ndimage.label(region, np.ones((3, 3)))
        sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
        small = np.flatnonzero(sizes < area) + 1
        if mode == "islands" and len(small) == count > 0:
            small = small[small != sizes.argmax() + 1]
        expected = mask ^ np.isin(labels, small)
        result, changed = masks.remove_small_regions(mask, area, mode)
        np.testing.assert_array_equal(result, expected)
        assert result.dtype == bool
        assert changed == (sizes < area).any()
        assert changed or result is mask
    np.testing.assert_array_equal(mask, before)


def test_the_largest_of_small_islands_stays() -> None:
    mask = np.array([[1, 0, 1, 1, 0, 1, 1]], bool)
    result, changed = masks.remove_small_regions(mask, 5, "islands")
    assert changed
    assert result.astype(int).tolist() == [[0, 0, 1, 1, 0, 0, 0]]
    with pytest.raises(ValueError, match="'speckles'"):
        masks.remove_small_regions(mask, 5, "speckles")


# ---- smooth outlines


def winding(polygon: list[float], height: int, width: int) -> np.ndarray:
    """Winding number of a polygon round the centre of each pixel: sides that cross the ray to the right."""
    y, x = np.mgrid[:height, :width] + 0.5 + 1e-7  # off the corners, which lie at halves
    total = np.zeros((height, width), int)
    points = np.array(polygon).reshape(-1, 2)
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
        if y0 != y1:
            crosses = (y0 <= y) != (y1 <= y)
            total += np.where(crosses & (x0 + (y - y0) / (y1 - y0) * (x1 - x0) > x), 1 if y1 > y0 else -1, 0)
    return total


def distance_to(points: np.ndarray, polygon: list[float]) -> np.ndarray:
    """From each point to the nearest side."""
    a = np.array(polygon, float).reshape(-1, 2)
    along = np.roll(a, -1, axis=0) - a
    share = ((points[:, None] - a) * along).sum(-1) / np.maximum((along**2).sum(-1), 1e-12)
    return np.linalg.norm(points[:, None] - a - np.clip(share, 0, 1)[..., None] * along, axis=-1).min(axis=1)


def check_smooth(mask: np.ndarray, tolerance: float) -> None:
    exact, smooth = masks.mask_to_polygons(mask), masks.mask_to_polygons(mask, tolerance)
    assert len(smooth) == len(exact)
    inside = np.zeros(mask.shape, bool)
    near = np.full(mask.shape, np.inf)
    centres = np.argwhere(np.ones(mask.shape))[:, ::-1] + 0.5
    for before, after in zip(exact, smooth, strict=True):
        assert len(after) >= 6
        assert len(after) <= 4 * len(before)
        for one, other in ((before, after), (after, before)):
            corners = np.array(one, float).reshape(-1, 2)
            along = np.linspace(corners, np.roll(corners, -1, axis=0), 9).reshape(-1, 2)
            assert distance_to(along, other).max() <= tolerance + 1e-9
        inside |= winding(after, *mask.shape) != 0
        near = np.minimum(near, distance_to(centres, before).reshape(mask.shape))
    deep = near > tolerance + 1e-6
    np.testing.assert_array_equal(inside[deep], mask[deep])


@settings(quick, max_examples=25)
@given(a_mask(24), st.sampled_from([0.5, 0.75, 1.0, 2.5, 30.0]))
def test_smooth_outlines_keep_within_the_tolerance(mask: np.ndarray, tolerance: float) -> None:
    check_smooth(mask, tolerance)


@pytest.mark.parametrize("tolerance", [0.5, 1.5])
def test_smooth_outlines_of_objects(tolerance: float) -> None:
    for mask in [*named().values(), shapes_like_objects(30, 40, 1)]:
        check_smooth(mask, tolerance)


def test_smooth_outlines_are_smooth() -> None:
    diagonal = np.tri(50, dtype=bool)
    ((*corners,),) = masks.mask_to_polygons(diagonal, 0.5)
    assert len(corners) == 2 * 6  # a triangle, whose corners are cut off
    assert len(masks.mask_to_polygons(diagonal)[0]) == 2 * 102
    y, x = np.mgrid[:200, :200] - 100
    disc = x**2 + y**2 <= 80**2
    (exact,), (smooth,) = masks.mask_to_polygons(disc), masks.mask_to_polygons(disc, 1.0)
    assert len(smooth) < len(exact) / 5


@pytest.mark.parametrize("tolerance", [0, 0.5, 3.0])
def test_cuts_to_holes_have_no_width(tolerance: float) -> None:
    y, x = np.mgrid[:90, :120] - 40
    ring = (x**2 + y**2 <= 38**2) & (x**2 + y**2 > 15**2) & ~((x - 5) ** 2 + (y - 25) ** 2 <= 16)
    (polygon,) = masks.mask_to_polygons(ring, tolerance)
    corners = list(zip(polygon[::2], polygon[1::2], strict=True))
    sides = set(zip(corners, corners[1:] + corners[:1], strict=True))
    assert sum((b, a) in sides for a, b in sides) == 2 * 2  # two holes, each cut walked down and up


def test_pycocotools_takes_smooth_outlines() -> None:
    coco = pytest.importorskip("pycocotools.mask")
    ring = shapes_like_objects(90, 130, 1)
    polygons = masks.mask_to_polygons(ring, 1.0)
    merged = coco.decode(coco.merge(coco.frPyObjects(polygons, *ring.shape)))
    assert (merged & ring).sum() / (merged | ring).sum() > 0.9


@pytest.mark.parametrize("tolerance", [0.3, -1, np.inf, np.nan])
def test_a_tolerance_that_cannot_be_kept(tolerance: float) -> None:
    with pytest.raises(ValueError, match="tolerance must be 0 "):
        masks.mask_to_polygons(np.ones((2, 2), bool), tolerance)


def test_many_masks_are_known() -> None:
    """The masks that have broken encoders before, and noise, through the same properties."""
    coco = pytest.importorskip("pycocotools.mask")
    for mask in many():
        rle = masks.mask_to_rle(mask)
        assert masks.rle_area(rle) == mask.sum() == coco.area(rle)
        assert masks.rle_to_bbox(rle) == masks.mask_to_bbox(mask)
        assert masks.mask_iou([rle], [mask, ~mask]).tolist() == [[float(mask.any()), 0.0]]
