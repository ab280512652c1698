"""The picture of many masks: colours, tints, outlines."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import synthetic
from mlx_sam2 import images, masks
from mlx_sam2.images.drawing import label_colours


def test_colours_are_unlike_and_stay() -> None:
    colours = label_colours(40).astype(int)
    assert label_colours(0).shape == (0, 3)
    np.testing.assert_array_equal(label_colours(7), colours[:7])
    # 8 bits in 3 channels; half of what 12 evenly spread hues would have
    assert min(np.abs(a - b).sum() for a, b in combinations(colours[:12], 2)) >= 60
    assert len({tuple(c) for c in colours}) == 40
    assert (colours.max(axis=1) - colours.min(axis=1)).min() > 80  # none is grey


@pytest.mark.parametrize("opacity", [0.0, 0.5, 1.0])
def test_tint_and_outline(opacity: float) -> None:
    photo = synthetic.picture(60, 80)
    labels = np.zeros((60, 80), np.uint16)
    labels[10:40, 10:40] = 1
    labels[20:50, 30:70] = 3  # over the first; 2 has nothing left
    shown = images.overlay_labels(photo, labels, opacity)
    colours = label_colours(3)
    np.testing.assert_array_equal(shown[labels == 0], photo[labels == 0])
    for label in (1, 3):
        inside = labels == label
        inner = inside.copy()
        inner[1:] &= inside[:-1]
        inner[:-1] &= inside[1:]
        inner[:, 1:] &= inside[:, :-1]
        inner[:, :-1] &= inside[:, 1:]
        tint = np.rint((1 - opacity) * photo.astype(np.float32) + opacity * colours[label - 1].astype(np.float32))
        np.testing.assert_array_equal(shown[inner], tint[inner])
        outline = inside & ~inner
        assert outline.sum() > 100
        assert (shown[outline] == colours[label - 1]).all()


def test_a_mask_at_the_border_has_no_outline_there() -> None:
    photo = np.full((30, 30, 3), 100, np.uint8)
    labels = np.ones((30, 30), np.uint16)
    shown = images.overlay_labels(photo, labels)
    assert len(np.unique(shown.reshape(-1, 3), axis=0)) == 1
    assert not (shown[0, 0] == label_colours(1)[0]).all()


def test_outlines_grow_with_the_photo() -> None:
    photo = np.zeros((40, 1800, 3), np.uint8)
    labels = np.zeros((40, 1800), np.uint32)
    labels[:, 900:] = 1
    shown = images.overlay_labels(photo, labels, opacity=0.0)
    assert (shown[20].any(axis=1)).nonzero()[0].tolist() == [900, 901, 902]


def test_nothing_found_shows_the_photo() -> None:
    photo = synthetic.picture(20, 30)
    shown = images.overlay_labels(photo, masks.to_label_image([], (20, 30)))
    np.testing.assert_array_equal(shown, photo)
    assert shown is not photo


@pytest.mark.parametrize("name", ["labels.png", "labels.tif"])
def test_labels_are_written_in_16_bits(tmp_path: Path, name: str) -> None:
    labels = np.arange(60_000, dtype=np.uint16).reshape(200, 300)
    images.write(tmp_path / name, labels, suffixes=images.LOSSLESS)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / name)), labels)
