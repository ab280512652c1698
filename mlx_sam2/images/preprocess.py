"""The model's input: photos and video frames side by side, and masks as prompts.

The official code prepares the two differently, and the model sees the difference (mean 0.01, at most 0.55 after
normalisation), so both ways are kept:

- a photo (``SAM2ImagePredictor``, ``SAM2Transforms``): divided by 255, then resized in float, bilinear, antialiased;
- a frame (``SAM2VideoPredictor``, ``load_video_frames``): resized as uint8 by Pillow, bicubic, rounded, then divided.

Neither keeps the aspect ratio. Both end in the same normalisation.
"""

from __future__ import annotations

import mlx.core as mx
import numpy as np
from PIL import Image

from ..model.resize import resize_bilinear
from ..processes import before_computing

MEAN = (0.485, 0.456, 0.406)  # of ImageNet, RGB in 0..1
STD = (0.229, 0.224, 0.225)
STRIP_PIXELS = 1 << 20  # that are resized at once


def preprocess_photo(image: np.ndarray, image_size: int) -> mx.array:
    """The model's input for a photo, (1, S, S, 3) float32 (official ``SAM2Transforms``).

    Args:
        image: (H, W, 3) uint8, or float32 in 0..1, as from ``to_array``.
        image_size: S.
    """
    before_computing()
    strips = []
    rows = max(1, STRIP_PIXELS // image.shape[1])
    for i in range(0, image.shape[0], rows):  # or a photo of 24 megapixels would need 288 MB as floats, and again
        strip = mx.array(np.ascontiguousarray(image[i : i + rows]))  # MLX takes no view turned round
        strip = strip.astype(mx.float32) / 255 if image.dtype == np.uint8 else strip
        strips.append(resize_bilinear(strip[None], (strip.shape[0], image_size), antialias=True))
        mx.eval(strips)
    pixels = resize_bilinear(mx.concatenate(strips, axis=1), (image_size, image_size), antialias=True)
    return (pixels - mx.array(MEAN)) / mx.array(STD)


def model_frame(frame: np.ndarray, image_size: int) -> np.ndarray:
    """Squeeze a frame (H, W, 3) uint8 to (S, S, 3) uint8 with Pillow's default filter, bicubic."""
    return np.array(Image.fromarray(frame).resize((image_size, image_size)))


def preprocess_frame(frame: np.ndarray, image_size: int) -> np.ndarray:
    """The model's input for a frame of video, (1, S, S, 3) float32 (official ``load_video_frames``).

    The bits are those of the official loader on a folder of JPEG files (there (3, S, S)): the division by 255 is
    done in float64 and rounded, the normalisation in float32.

    Args:
        frame: (H, W, 3) uint8.
        image_size: S.
    """
    pixels = (model_frame(frame, image_size) / 255.0).astype(np.float32)
    return ((pixels - np.float32(MEAN)) / np.float32(STD))[None]


def mask_prompt(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Turn a mask into a mask prompt, (1, *size) float32 logits.

    The mask is resized with antialiasing, then 20 m - 10, as the official video predictor does with masks. The
    prompt covers the whole photo, whatever the two aspect ratios.

    Args:
        mask: (H, W) bool, such as from ``images.read_mask``.
        size: the prompt encoder's, (S/4, S/4).
    """
    resized = resize_bilinear(mx.array(mask.astype(np.float32))[None, :, :, None], size, antialias=True)
    return np.array(20 * resized[..., 0] - 10)
