"""DAVIS: mask pictures, the layout of the data set, and J and F against cases counted by hand and against scipy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlx_sam2.datasets.davis import (
    boundary,
    boundary_accuracy,
    dilate,
    find_sequences,
    mean_scores,
    region_similarity,
    score_sequence,
)
from mlx_sam2.datasets.pictures import is_binary, read_indexed, split_objects
from mlx_sam2.frames.sinks import davis_palette
from mlx_sam2.frames.source import VideoError


def rectangle(y0: int, x0: int, y1: int, x1: int, shape: tuple[int, int] = (100, 100)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[y0:y1, x0:x1] = True
    return mask


def blobs(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Smooth random regions that also touch the edges of the picture."""
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(rng.standard_normal(shape), 4, mode="nearest") > 0.02


def save(path: Path, indices: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(indices.astype(np.uint8))
    image.putpalette(davis_palette())
    image.save(path)


# ---- J


def test_region_similarity_by_hand() -> None:
    a, b = rectangle(0, 0, 10, 20), rectangle(0, 10, 10, 30)
    assert region_similarity(a, b) == 100 / 300
    assert region_similarity(a, ~a) == 0
    assert region_similarity(a, np.zeros_like(a)) == 0
    assert region_similarity(np.zeros_like(a), np.zeros_like(a)) == 1
    assert region_similarity(a, b, void=rectangle(0, 20, 10, 25)) == 100 / 250
    assert region_similarity(a, b, void=a | b) == 1


# ---- F


def test_boundary_is_seg2bmap() -> None:
    """Written out pixel by pixel, with the edges as in the Matlab code that the measure comes from."""
    rng = np.random.default_rng(3)
    for shape in ((1, 1), (1, 7), (6, 1), (17, 23)):
        mask = rng.random(shape) > 0.5
        h, w = shape
        expected = np.zeros(shape, bool)
        for y in range(h):
            for x in range(w):
                right, below = mask[y, min(x + 1, w - 1)], mask[min(y + 1, h - 1), x]
                corner = mask[y + 1, x + 1] if y + 1 < h and x + 1 < w else (right if y == h - 1 else below)
                expected[y, x] = mask[y, x] != right or mask[y, x] != below or mask[y, x] != corner
        assert not expected[-1, -1]
        np.testing.assert_array_equal(boundary(mask), expected)


def test_boundary_of_a_square_by_hand() -> None:
    # Rows 9 and 12, columns 9 and 12 of a 3x3 square at 10..12: the pixels just above and left, and its own last ones.
    expected = rectangle(9, 9, 13, 13, (30, 30)) & ~rectangle(10, 10, 12, 12, (30, 30))
    np.testing.assert_array_equal(boundary(rectangle(10, 10, 13, 13, (30, 30))), expected)


@pytest.mark.parametrize("radius", [1, 2, 8])
def test_dilate_is_by_a_disc(radius: int) -> None:
    from scipy.ndimage import binary_dilation

    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    mask = np.random.default_rng(radius).random((40, 50)) > 0.99
    mask[0, 49] = mask[39, 0] = True
    np.testing.assert_array_equal(dilate(mask, radius), binary_dilation(mask, y**2 + x**2 <= radius**2))


def test_boundary_accuracy_by_hand() -> None:
    whole, none = rectangle(20, 20, 60, 60), np.zeros((100, 100), bool)
    assert boundary_accuracy(whole, whole) == 1
    assert boundary_accuracy(none, none) == 1
    assert boundary_accuracy(whole, none) == boundary_accuracy(none, whole) == 0
    # The diagonal is 141.4, so boundaries may lie ceil(1.13) = 2 pixels apart: a shift by 2 is free.
    assert boundary_accuracy(rectangle(20, 22, 60, 62), whole) == 1
    # Boundaries are rings of 160 pixels: rows 19 and 59, columns 19 and 59 for the true one, columns 22 and 62 for one
    # shifted by 3. Of the latter, within 2 pixels of the true one are columns 22 to 61 of both rows, and of column 22
    # rows 20, 21, 57 and 58, which are near the true rows. Column 62 is 3 away.
    found, matched = 160, 2 * 40 + 4
    assert np.count_nonzero(boundary(whole)) == found
    assert boundary_accuracy(rectangle(20, 23, 60, 63), whole) == matched / found  # precision = recall by symmetry
    # Void pixels are cut out of both masks before their boundaries are drawn.
    void = rectangle(0, 40, 100, 100)
    assert boundary_accuracy(rectangle(20, 20, 60, 90), whole, void) == 1


def test_boundary_accuracy_against_distances() -> None:
    """Precision and recall from exact distance transforms instead of dilation."""
    from scipy.ndimage import distance_transform_edt

    rng = np.random.default_rng(11)
    for shape in ((90, 160), (120, 120), (480, 854)):
        a, b = blobs(rng, shape), blobs(rng, shape)
        b = np.where(rng.random(shape) < 0.5, a, b) if shape[0] == 120 else a ^ (b & rectangle(0, 0, 40, 90, shape))
        radius = np.ceil(0.008 * np.hypot(*shape))
        edges = boundary(a), boundary(b)
        near = [distance_transform_edt(~edge) <= radius for edge in edges]
        precision, recall = (edges[0] & near[1]).sum() / edges[0].sum(), (edges[1] & near[0]).sum() / edges[1].sum()
        assert 0.1 < precision <= 1
        assert boundary_accuracy(a, b) == pytest.approx(2 * precision * recall / (precision + recall), rel=1e-12)


# ---- sequences


def make_sequence(root: Path, name: str, truth: list[np.ndarray], results: list[np.ndarray]) -> tuple[Path, Path]:
    annotations, found = root / "Annotations/480p" / name, root / "out" / name
    for i, (a, b) in enumerate(zip(truth, results, strict=True)):
        save(annotations / f"{i:05d}.png", a)
        save(found / f"{i:05d}.png", b)
    return found, annotations


NAMES = [f"{i:05d}" for i in range(5)]


def test_first_and_last_frame_do_not_count(tmp_path: Path) -> None:
    a, b = rectangle(0, 0, 10, 20) * 1 + rectangle(50, 50, 90, 90) * 2, rectangle(0, 10, 10, 30) * 1
    found, annotations = make_sequence(tmp_path, "x", [a] * 5, [b, a, a, b, b])
    score = score_sequence(found, annotations, NAMES)
    one, two = (1 + 1 + 100 / 300) / 3, (1 + 1 + 0) / 3
    assert score.j == pytest.approx({1: one, 2: two}, rel=1e-12)
    f = boundary_accuracy(b == 1, a == 1)
    assert 0 < f < 1
    assert score.f == pytest.approx({1: (1 + 1 + f) / 3, 2: two}, rel=1e-12)


def test_void_and_extra_objects_do_not_count(tmp_path: Path) -> None:
    truth = rectangle(20, 20, 40, 40) * 1
    later = np.where(rectangle(20, 40, 40, 60), 255, truth)
    result = rectangle(20, 20, 40, 60) * 1 + rectangle(70, 70, 80, 80) * 7
    found, annotations = make_sequence(tmp_path, "x", [truth * 3, *[later] * 4], [result] * 5)
    assert score_sequence(found, annotations, NAMES).j == {3: 1.0}  # 3 is nowhere later, in neither
    found, annotations = make_sequence(tmp_path, "y", [truth, *[later] * 4], [result] * 5)
    assert score_sequence(found, annotations, NAMES).j == {1: 1.0}


def test_black_and_white_annotations_are_one_object(tmp_path: Path) -> None:
    truth = rectangle(20, 20, 40, 40) * 255
    found, annotations = make_sequence(tmp_path, "x", [truth] * 5, [truth // 255] * 5)
    score = score_sequence(found, annotations, NAMES)
    assert (score.j, score.f) == ({1: 1.0}, {1: 1.0})


def test_without_annotations_there_is_no_score(tmp_path: Path) -> None:
    truth = rectangle(20, 20, 40, 40) * 1
    found, annotations = make_sequence(tmp_path, "x", [truth] * 5, [truth] * 5)
    (annotations / "00004.png").unlink()  # the last one is not needed
    assert score_sequence(found, annotations, NAMES) is not None
    assert score_sequence(found, annotations, NAMES[:2]) is None
    (annotations / "00002.png").unlink()
    assert score_sequence(found, annotations, NAMES) is None


def test_unusable_results_are_named(tmp_path: Path) -> None:
    truth = rectangle(20, 20, 40, 40) * 1
    found, annotations = make_sequence(tmp_path, "x", [truth] * 5, [truth] * 5)
    save(found / "00002.png", truth[:50])
    with pytest.raises(VideoError, match=r"out/x/00002\.png and .*Annotations.* different sizes, 100x50 and 100x100"):
        score_sequence(found, annotations, NAMES)
    (found / "00002.png").unlink()
    with pytest.raises(VideoError, match=r"00002\.png cannot be read as a mask: No such file"):
        score_sequence(found, annotations, NAMES)


def test_mean_is_over_objects(tmp_path: Path) -> None:
    square, empty = rectangle(20, 20, 40, 40), np.zeros((100, 100), int)
    pair = square * 1 + rectangle(60, 60, 80, 80) * 2
    good = score_sequence(*make_sequence(tmp_path, "good", [pair] * 5, [pair] * 5), NAMES)
    bad = score_sequence(*make_sequence(tmp_path, "bad", [square * 1] * 5, [empty] * 5), NAMES)
    assert mean_scores([good, bad]) == pytest.approx((2 / 3, 2 / 3, 2 / 3), rel=1e-12)


# ---- files


def test_mask_pictures(tmp_path: Path) -> None:
    indices = rectangle(0, 0, 4, 4, (8, 9)) * 3 + rectangle(4, 4, 8, 8, (8, 9)) * 255
    save(tmp_path / "indexed.png", indices)
    np.testing.assert_array_equal(read_indexed(tmp_path / "indexed.png"), indices)
    objects = split_objects(indices)
    assert list(objects) == [3]
    np.testing.assert_array_equal(objects[3], indices == 3)
    white = (indices > 0).astype(np.uint8) * 255
    for name, image in {
        "bits": Image.fromarray(white > 0),
        "grey": Image.fromarray(white),
        "rgb": Image.fromarray(white).convert("RGB"),
    }.items():
        image.save(tmp_path / f"{name}.png")
        read = read_indexed(tmp_path / f"{name}.png")
        assert is_binary(read)
        np.testing.assert_array_equal(split_objects(read)[1], indices > 0)
    assert split_objects(np.zeros((4, 4), np.uint8)) == {}


def test_what_is_no_mask_picture(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), (255, 0, 0)).save(tmp_path / "colour.png")
    Image.new("RGBA", (4, 4)).save(tmp_path / "alpha.png")
    (tmp_path / "text.png").write_text("no picture")
    Image.new("L", (400, 400)).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:60])
    for name in ("colour", "alpha"):
        with pytest.raises(VideoError, match=f"{name}.png is no mask"):
            read_indexed(tmp_path / f"{name}.png")
    for name in ("text", "cut", "absent"):
        with pytest.raises(VideoError, match=f"{name}.png cannot be read as a mask"):
            read_indexed(tmp_path / f"{name}.png")


@pytest.mark.parametrize("resolution", ["480p", "Full-Resolution", ""])
def test_layouts(tmp_path: Path, resolution: str) -> None:
    for name in ("bear", "camel", "cows"):
        for part in ("JPEGImages", "Annotations"):
            (tmp_path / part / resolution / name).mkdir(parents=True)
    assert [s.name for s in find_sequences(tmp_path)] == ["bear", "camel", "cows"]
    (tmp_path / "ImageSets/2017").mkdir(parents=True)
    (tmp_path / "ImageSets/2017/val.txt").write_text("cows\nbear\n")
    assert [s.name for s in find_sequences(tmp_path)] == ["cows", "bear"]
    (sequence,) = find_sequences(tmp_path, ["camel"])
    assert sequence.frames == tmp_path / "JPEGImages" / resolution / "camel"
    assert sequence.annotations == tmp_path / "Annotations" / resolution / "camel"
    with pytest.raises(VideoError, match="sequence 'dog' is not in"):
        find_sequences(tmp_path, ["dog"])
    with pytest.raises(VideoError, match="is no DAVIS data set"):
        find_sequences(tmp_path / "JPEGImages")
