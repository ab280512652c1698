"""Masks for still images: a drop-in for the official ``SAM2ImagePredictor``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import mlx.core as mx
import numpy as np

from . import images
from .checkpoint.build import build_model, warn_of_unknown
from .images.preprocess import preprocess_photo
from .model.prompt_encoder import BOTTOM_RIGHT, TOP_LEFT
from .model.results import ImageFeatures
from .model.sam2 import SAM2
from .processes import OneProcess
from .utils.features import FeatureDict, restored
from .utils.image import LOW_RES_CLAMP, OfficialAttributes
from .utils.module import as_official

if TYPE_CHECKING:
    from PIL.Image import Image

    Prompt = np.ndarray | Sequence[Any]


class PromptArguments(NamedTuple):
    """What a caller asks of one image, in the forms that ``predict`` takes; nothing is checked yet."""

    point_coords: Prompt | None
    point_labels: Prompt | None
    box: Prompt | None
    mask_input: Prompt | None
    multimask_output: bool
    normalize_coords: bool


class SAM2ImagePredictor(OfficialAttributes, OneProcess):
    """Encode an image once, then predict masks from prompts (official ``sam2_image_predictor.py``).

    Args:
        sam_model: the model.
        mask_threshold: logits above it are mask.
        max_hole_area: holes of at most this many low-resolution pixels are filled; 0 for none.
        max_sprinkle_area: specks of at most this many low-resolution pixels are removed; 0 for none.
        unknown: ignored with a warning, as the official class ignores it.
    """

    def __init__(
        self,
        sam_model: SAM2,
        mask_threshold: float = 0.0,
        max_hole_area: float = 0.0,
        max_sprinkle_area: float = 0.0,
        **unknown: Any,
    ) -> None:
        warn_of_unknown(unknown, "SAM2ImagePredictor")
        self.model = as_official(sam_model)
        self.mask_threshold = mask_threshold
        self.max_hole_area = max_hole_area
        self.max_sprinkle_area = max_sprinkle_area
        self.reset_predictor()

    @classmethod
    def from_pretrained(
        cls,
        model_id: str,
        *,
        mask_threshold: float = 0.0,
        max_hole_area: float = 0.0,
        max_sprinkle_area: float = 0.0,
        **options: Any,
    ) -> SAM2ImagePredictor:
        """Load a predictor from a Hub id, a short name ("tiny"), a folder or a file.

        ``options`` are those of ``mlx_sam2.checkpoint.build.build_model``: ``apply_postprocessing``, ``device``,
        ``mode``, ``hydra_overrides_extra``, ``config``, ``dtype``, ``revision``, ``token``.
        """
        model = build_model(model_id, **options)
        return cls(model, mask_threshold, max_hole_area, max_sprinkle_area)

    # ---- images

    def set_image(self, image: np.ndarray | Image) -> None:
        """Encode an image.

        Args:
            image: RGB, (H, W, 3) uint8 in 0..255 (or float, taken as already divided by 255), or a PIL image.

        Raises:
            ImageError: for anything else; the previous image then stays set.
        """
        pixels, size = self._prepare(image)
        self.reset_predictor()
        self._images = [self._encode(pixels)]
        self._orig_hw = [size]
        self._is_image_set = True

    def set_image_batch(self, image_list: Sequence[np.ndarray | Image]) -> None:
        """Encode several images, for ``predict_batch``. Arguments and errors as for ``set_image``."""
        if not isinstance(image_list, (list, tuple)):
            raise ValueError(f"set_image_batch needs a list of images, got {type(image_list).__name__}")
        if not image_list:
            raise ValueError("set_image_batch needs at least one image, got an empty list")
        prepared = [self._prepare(image) for image in image_list]
        self.reset_predictor()
        self._images = [self._encode(pixels) for pixels, _ in prepared]
        self._orig_hw = [size for _, size in prepared]
        self._is_image_set = self._is_batch = True

    def _prepare(self, image: np.ndarray | Image) -> tuple[mx.array, tuple[int, int]]:
        """Model input (1, S, S, 3) and the image's (height, width)."""
        array = images.to_array(image)
        return preprocess_photo(array, self.model.config.image_size), array.shape[:2]

    def _encode(self, pixels: mx.array) -> ImageFeatures:
        features = self.model.encode_image(pixels)
        mx.eval(features.arrays())
        return features

    @property
    def image_features(self) -> list[ImageFeatures]:
        """Features of the images that are set, as the model's decoder takes them; empty without an image."""
        return list(self._images)

    def get_image_embedding(self) -> np.ndarray:
        """The stride-16 features that the decoder sees, (B, C, h, w) float32 for B images set."""
        self._require_image()
        embedding = mx.concatenate([self.model.add_no_memory(f.embedding) for f in self._images])
        return np.array(embedding.astype(mx.float32).transpose(0, 3, 1, 2))

    def reset_predictor(self) -> None:
        """Forget the image."""
        self._images: list[ImageFeatures] = []
        self._orig_hw: list[tuple[int, int]] = []
        self._is_image_set = False
        self._is_batch = False

    def _require_image(self) -> None:
        if not self._is_image_set:
            raise RuntimeError("no image is set; call set_image(...) or set_image_batch(...) first")

    def get_features(self) -> FeatureDict:
        """What was learned of the image that is set, to be given back to ``set_features`` instead of encoding again.

        Returns:
            A dict of the official form: ``image_embed`` (B, C, h, w) and ``high_res_feats``, float32.

        Raises:
            RuntimeError: when no image is set.
        """
        self._require_image()
        return FeatureDict(self.model, list(self._images))

    def set_features(self, features: Mapping[str, Any], sizes: Sequence[tuple[int, int]]) -> None:
        """Set images that were encoded before.

        Args:
            features: from ``get_features`` (or official ``_features``), of this model.
            sizes: (height, width) of each image. More than one is a batch, for ``predict_batch``.

        Raises:
            ValueError: for features of another model, or sizes that are not one an image.
        """
        images = restored(self.model, features)
        if len(sizes) != len(images):
            raise ValueError(f"{len(sizes)} sizes are given for the features of {len(images)} images")
        self.reset_predictor()
        self._images, self._orig_hw = images, [tuple(size) for size in sizes]
        self._is_image_set, self._is_batch = True, len(images) > 1

    # ---- prediction

    def predict(
        self,
        point_coords: Prompt | None = None,
        point_labels: Prompt | None = None,
        box: Prompt | None = None,
        mask_input: Prompt | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
        normalize_coords: bool = True,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Predict masks for one prompt, or for B prompts at once, on the image that is set.

        Args:
            point_coords: (N, 2) or (B, N, 2) points as (x, y) in pixels of the image.
            point_labels: (N,) or (B, N): 1 foreground, 0 background, -1 padding.
            box: (4,) or (B, 4) as x0, y0, x1, y1.
            mask_input: (1, S/4, S/4) or (B, 1, S/4, S/4) logits of an earlier prediction.
            multimask_output: return three masks, for ambiguous prompts such as a single click, else one.
            return_logits: return logits instead of thresholded masks.
            normalize_coords: False when points and boxes are already in 0..1.

        Returns:
            Masks (M, H, W) at the image's size, predicted IoU (M,), and logits (M, S/4, S/4) clamped to +-32, all
            float32; each with a leading axis B for B > 1 prompts.

        Raises:
            RuntimeError: when no image is set.
            ValueError: for prompts whose shapes do not fit, or that are not finite.
        """
        self._require_image()
        asked = PromptArguments(point_coords, point_labels, box, mask_input, multimask_output, normalize_coords)
        return self._masks(len(self._images) - 1, asked, return_logits)

    def predict_low_res(
        self,
        point_coords: Prompt | None = None,
        point_labels: Prompt | None = None,
        box: Prompt | None = None,
        mask_input: Prompt | None = None,
        multimask_output: bool = True,
        normalize_coords: bool = True,
        clamp: bool = True,
    ) -> tuple[np.ndarray, np.ndarray]:
        """``predict`` without masks at the image's size, which take most of a click on a large photo: for previews.

        Arguments and errors as for ``predict``; ``max_hole_area`` and ``max_sprinkle_area`` play no part.

        Args:
            clamp: False for the logits that masks are upscaled from (``masks.upscaled``); they are not clamped.

        Returns:
            Predicted IoU (M,) and logits (M, S/4, S/4) clamped to +-32, the last two results of ``predict``.
        """
        self._require_image()
        asked = PromptArguments(point_coords, point_labels, box, mask_input, multimask_output, normalize_coords)
        low_res, ious = self._decode(len(self._images) - 1, asked)
        return _arrays(ious, mx.clip(low_res, -LOW_RES_CLAMP, LOW_RES_CLAMP) if clamp else low_res)

    def predict_batch(
        self,
        point_coords_batch: Sequence[Prompt] | None = None,
        point_labels_batch: Sequence[Prompt] | None = None,
        box_batch: Sequence[Prompt] | None = None,
        mask_input_batch: Sequence[Prompt] | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
        normalize_coords: bool = True,
    ) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
        """``predict`` for every image of ``set_image_batch``: lists with one entry per image, in and out."""
        self._require_image()
        if not self._is_batch:
            raise RuntimeError("predict_batch works on images set with set_image_batch(...)")
        prompts = []
        given = {"point_coords": point_coords_batch, "point_labels": point_labels_batch}
        for name, batch in {**given, "box": box_batch, "mask_input": mask_input_batch}.items():
            if batch is not None and len(batch) != len(self._images):
                raise ValueError(f"{name}_batch has {len(batch)} entries for {len(self._images)} images")
            prompts.append([None] * len(self._images) if batch is None else list(batch))
        results = [
            self._masks(i, PromptArguments(*prompt, multimask_output, normalize_coords), return_logits)
            for i, prompt in enumerate(zip(*prompts, strict=True))
        ]
        all_masks, ious, low_res = (list(column) for column in zip(*results, strict=True))
        return all_masks, ious, low_res

    def _masks(
        self, index: int, asked: PromptArguments, return_logits: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        low_res, ious = self._decode(index, asked)
        full = self.upscale(low_res, self._orig_hw[index])
        if not return_logits:
            full = (full > self.mask_threshold).astype(mx.float32)
        return _arrays(full, ious, mx.clip(low_res, -LOW_RES_CLAMP, LOW_RES_CLAMP))

    def _decode(self, index: int, asked: PromptArguments) -> tuple[mx.array, mx.array]:
        """Logits (B, M, S/4, S/4) and predicted IoU (B, M) of B prompts on one of the images."""
        scale = self._orig_hw[index] if asked.normalize_coords else None
        points, labels = self._point_prompt(asked, scale)
        mask = self._mask_prompt(asked.mask_input, None if points is None else points.shape[0])
        return self.model.predict_masks(self._images[index], points, labels, mask, asked.multimask_output)

    def upscale(self, low_res: mx.array, size: tuple[int, int]) -> mx.array:
        """(B, M, h, w) logits -> (B, M, *size), after filling holes and removing sprinkles."""
        return self._transforms.upscale(low_res, size)

    # ---- prompts

    def _point_prompt(
        self, asked: PromptArguments, size: tuple[int, int] | None
    ) -> tuple[mx.array, mx.array] | tuple[None, None]:
        """Points and boxes as (B, N, 2) pixels of the model's input and (B, N) labels; a box first, as corners."""
        coords, labels = asked.point_coords, asked.point_labels
        parts: list[tuple[np.ndarray, np.ndarray]] = []
        if asked.box is not None:
            corners = _finite(asked.box, "box")
            if corners.shape == (0, 4):  # the official code fails an assertion
                raise ValueError("box has shape (0, 4), no boxes at all: leave the image out where none was detected")
            if corners.size == 0 or (corners.shape[-1:] != (4,) and corners.shape[-2:] != (2, 2)):
                raise ValueError(f"box has shape {corners.shape}; it must be (4,) or (B, 4) as x0, y0, x1, y1")
            corners = corners.reshape(-1, 2, 2)
            parts.append((corners, np.tile([[TOP_LEFT, BOTTOM_RIGHT]], (len(corners), 1))))
        if coords is not None:
            parts.append(_points_and_labels(coords, labels))
        elif labels is not None:
            raise ValueError("point_labels are given without point_coords")
        if not parts:
            return None, None
        if len({len(p) for p, _ in parts}) > 1:
            raise ValueError(
                f"{len(parts[0][0])} boxes do not go with {len(parts[1][0])} sets of points; give one set each"
            )
        points = np.concatenate([p for p, _ in parts], axis=1)
        if size is not None:
            points = points / np.array(size[::-1], np.float32)
        points = points * np.float32(self.model.config.image_size)
        return mx.array(points), mx.array(np.concatenate([n for _, n in parts], axis=1).astype(np.int32))

    def _mask_prompt(self, mask: Prompt | None, num_prompts: int | None) -> mx.array | None:
        """(1, h, w) or (B, 1, h, w) logits -> (B, h, w, 1)."""
        if mask is None:
            return None
        array = _finite(mask, "mask_input")
        array = array[None] if array.ndim == 3 else array
        size = self.model.sam_prompt_encoder.mask_input_size
        if array.ndim != 4 or array.shape[1:] != (1, *size):
            raise ValueError(f"mask_input has shape {np.shape(mask)}; it must be (1, {size[0]}, {size[1]}) logits")
        if num_prompts is not None and len(array) not in (1, num_prompts):
            raise ValueError(f"mask_input holds {len(array)} masks for {num_prompts} prompts; give one each, or one")
        return mx.array(np.ascontiguousarray(array[:, 0, :, :, None]))


def _arrays(*results: mx.array) -> tuple[np.ndarray, ...]:
    """Results (B, ...) as numpy arrays, without the leading axis for one prompt."""
    return tuple(np.array(result)[0] if len(result) == 1 else np.array(result) for result in results)


def _finite(values: Prompt, name: str) -> np.ndarray:
    array = np.asarray(values, np.float32)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds a value that is not a finite number")
    return array


def _points_and_labels(coords: Prompt, labels: Prompt | None) -> tuple[np.ndarray, np.ndarray]:
    """(N, 2) or (B, N, 2) points with their labels -> (B, N, 2) and (B, N)."""
    if labels is None:
        raise ValueError("point_coords are given without point_labels; give one label per point (1 or 0)")
    points, marks = _finite(coords, "point_coords"), np.asarray(labels)
    points = points[None] if points.ndim == 2 else points
    marks = marks[None] if marks.ndim == 1 else marks
    if points.ndim != 3 or points.shape[-1] != 2 or len(points) == 0:
        raise ValueError(f"point_coords has shape {np.shape(coords)}; it must be (N, 2) or (B, N, 2)")
    if marks.shape != points.shape[:2]:
        raise ValueError(f"point_labels has shape {np.shape(labels)} for point_coords of shape {np.shape(coords)}")
    return points, marks
