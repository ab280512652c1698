"""Augmentations of a clip, the same draw for all frames unless said (official ``training/dataset/transforms.py``)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageEnhance

DEGREES, SHEAR = 25.0, 20.0
FILL = (123, 116, 103)  # outside of a turned picture
GRAY_SHARE = 0.05
# brightness, contrast, saturation, each by a factor from 1 - x to 1 + x
JITTER, FRAME_JITTER = (0.1, 0.03, 0.03), (0.1, 0.05, 0.05)
ENHANCERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
Change = Callable[[Image.Image], Image.Image]


def turn(frames: Sequence[Image.Image], masks: np.ndarray, random: np.random.Generator) -> tuple[list, np.ndarray]:
    """Mirror, rotate and shear T frames and their masks (T, B, H, W) bool.

    A rotation that leaves an object of the first frame without a pixel is dropped.
    """
    frames = list(frames)
    if random.random() < 0.5:
        frames = [frame.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for frame in frames]
        masks = masks[..., ::-1]
    angle, shear = random.uniform(-DEGREES, DEGREES), random.uniform(-SHEAR, SHEAR)
    matrix = affine_matrix(angle, shear, frames[0].size)
    turned = np.stack([[_turned_mask(mask, matrix) for mask in of_frame] for of_frame in masks])
    if not turned[0].any(axis=(1, 2)).all():
        return frames, masks
    method = (Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    return [frame.transform(frame.size, *method, fillcolor=FILL) for frame in frames], turned


def affine_matrix(angle: float, shear: float, size: tuple[int, int]) -> tuple[float, ...]:
    """From places of the result to places of the picture: rotation and shear along x, in degrees, round its centre."""
    turned, slope = math.radians(angle), math.tan(math.radians(shear))
    a, c = math.cos(turned), math.sin(turned)
    b, d = -a * slope - c, -c * slope + a
    x, y = size[0] / 2, size[1] / 2
    return d, -b, x - d * x + b * y, -c, a, y + c * x - a * y


def _turned_mask(mask: np.ndarray, matrix: tuple[float, ...]) -> np.ndarray:
    picture = Image.fromarray(np.ascontiguousarray(mask).astype(np.uint8))
    return np.asarray(picture.transform(picture.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST)) > 0


def recolour(frames: Sequence[Image.Image], random: np.random.Generator) -> list[Image.Image]:
    """Change colours of all frames alike, turn one clip in twenty grey, then change each frame's a little."""
    alike = jitter(JITTER, random)
    gray = random.random() < GRAY_SHARE
    result = []
    for frame in frames:
        frame = alike(frame)
        frame = frame.convert("L").convert("RGB") if gray else frame
        result.append(jitter(FRAME_JITTER, random)(frame))
    return result


def jitter(amounts: tuple[float, float, float], random: np.random.Generator) -> Change:
    """Brightness, contrast and saturation, in a drawn order, by drawn factors."""
    factors = [random.uniform(1 - amount, 1 + amount) for amount in amounts]
    order = random.permutation(len(amounts))

    def change(frame: Image.Image) -> Image.Image:
        for i in order:
            frame = ENHANCERS[i](frame).enhance(factors[i])
        return frame

    return change
