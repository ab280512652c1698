"""Overlays: what they show, and that their pixels stay the same from release to release."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

import synthetic
from mlx_sam2 import images
from mlx_sam2.images import drawing

PHOTO = synthetic.picture(40, 30)


def scene(height: int, width: int, count: int) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """A photo, and discs that overlap, each with pinholes."""
    rng = np.random.default_rng(height * width)
    photo = synthetic.picture(max(height, 40), max(width, 40))[:height, :width].copy()
    y, x = np.mgrid[:height, :width]
    masks = {}
    for i in range(1, count + 1):
        cy, cx, r = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(0.08, 0.3) * min(height, width)
        masks[i] = ((y - cy) ** 2 + (x - cx) ** 2 < r * r) & (rng.random((height, width)) > 0.002)
    return photo, masks


def painted(photo: np.ndarray, masks: dict[int, np.ndarray], film: bool) -> np.ndarray:
    """As the films of ``track`` (without numbers), or the app's exports."""
    picture = photo.copy()
    for i, mask in masks.items():
        colour = np.array(drawing.object_colour(i))
        if film:
            drawing.paint_object(picture, mask, colour, 115 / 255, drawing.without_diamond)
        else:
            drawing.paint_object(picture, mask, colour.astype(np.float32), 0.45, drawing.without_cross, np.floor)
    return picture


# Made with the four painters that were there before this one (commit f1f5a0a).
PIXELS = {
    (40, 60): ["95a31ce97889", "87312c1604d3", "ab6b1084ea62", "ff05365ab49c"],
    (301, 420): ["1ce83e9a8047", "50274f29a8ff", "9a52800dbcf8", "7a0579fffe55"],
    (960, 700): ["2429fbc2d37b", "9e7ca9671bfe", "ee3deb08e3c7", "a99f4a4acb47"],
    (1, 50): ["540109caa68e", "540109caa68e", "540109caa68e", "540109caa68e"],
}


@pytest.mark.parametrize("size", list(PIXELS), ids=str)
def test_the_same_pixels_as_ever(size: tuple[int, int]) -> None:
    photo, masks = scene(*size, 6)
    labels = np.zeros(size, np.uint16)
    for i, mask in masks.items():
        labels[mask] = i
    pictures = [
        images.overlay(photo, masks[1]),
        images.overlay_labels(photo, labels),
        painted(photo, masks, film=True),
        painted(photo, masks, film=False),
    ]
    assert [hashlib.sha256(picture.tobytes()).hexdigest()[:12] for picture in pictures] == PIXELS[size]


def test_strips_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    photo, masks = scene(90, 70, 6)
    labels = sum((mask * np.uint16(i) for i, mask in masks.items()), np.zeros((90, 70), np.uint16))
    whole = images.overlay_labels(photo, labels)
    monkeypatch.setattr(drawing, "STRIP_PIXELS", 500)
    np.testing.assert_array_equal(images.overlay_labels(photo, labels), whole)


# ---- what they show


def test_mask_and_cutout() -> None:
    mask = np.zeros((40, 30), np.float32)
    mask[5:10, 6:20] = 1
    assert images.mask_picture(mask).dtype == np.uint8
    np.testing.assert_array_equal(images.mask_picture(mask), 255 * mask)
    cut = images.cutout(PHOTO, mask)
    np.testing.assert_array_equal(cut[..., 3], 255 * mask)
    np.testing.assert_array_equal(cut[5:10, 6:20, :3], PHOTO[5:10, 6:20])
    assert not cut[..., :3][mask == 0].any()


def test_overlay_marks_the_mask_and_nothing_else() -> None:
    photo = np.full((400, 400, 3), 100, np.uint8)
    mask = np.zeros((400, 400), bool)
    mask[100:200, 150:250] = True
    shown = images.overlay(photo, mask)
    tint = np.rint(0.5 * 100 + 0.5 * np.array(drawing.BLUE))
    assert (shown[mask] == tint).all()  # the mask's own pixels, all of them
    for beside in ((99, 200), (200, 200), (150, 149), (150, 250)):
        assert tuple(shown[beside]) == drawing.WHITE
    assert (shown[98, 160:240] == 50).all()  # the rim
    far = np.ones_like(mask)
    far[90:210, 140:260] = False
    assert (shown[far] == 100).all()
    assert (photo == 100).all()
    np.testing.assert_array_equal(images.overlay(photo, mask & False), photo)


def test_overlay_draws_the_prompts() -> None:
    photo = np.full((300, 400, 3), 100, np.uint8)
    nothing = np.zeros((300, 400), bool)
    shown = images.overlay(photo, nothing, [(50, 60), (200, 100)], [1, 0], [300, 50, 380, 250])
    assert tuple(shown[60, 50]) == tuple(shown[100, 200]) == drawing.WHITE  # the middles of plus and minus
    assert tuple(shown[58, 48]) == drawing.GREEN
    assert tuple(shown[98, 200]) == drawing.RED  # a minus has no vertical stroke
    assert shown[58, 50].min() > 180  # a plus has one
    for y, x in ((50, 340), (250, 340), (150, 300), (150, 380)):
        assert tuple(shown[y, x]) == drawing.YELLOW
    assert tuple(shown[150, 340]) == (100, 100, 100)


def test_prompts_at_the_border_are_drawn() -> None:
    for size in ((1, 1), (1, 60), (60, 1), (33, 47)):
        photo, everything = np.full((*size, 3), 100, np.uint8), np.ones(size, bool)
        corner = (size[1] - 1, size[0] - 1)
        shown = images.overlay(photo, everything, [(0, 0), corner], [1, 0], [0, 0, size[1], size[0]])
        assert shown.shape == photo.shape
        assert (shown != 100).any()
