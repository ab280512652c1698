"""Masks of everything in an image: a drop-in for the official ``SAM2AutomaticMaskGenerator``."""

from __future__ import annotations

import inspect
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np

from . import images, masks
from .checkpoint.build import build_model, warn_of_unknown
from .images.crops import Crop, check_grids, crops, layer_grids, near_crop_edge
from .masks.upscaled import PackedLogits, UpscaledMask, surely_unstable
from .model.prompt_encoder import POSITIVE
from .model.sam2 import SAM2
from .processes import OneProcess
from .sam2_image_predictor import SAM2ImagePredictor
from .utils.generator import GeneratorMethods
from .utils.image import LOW_RES_CLAMP
from .utils.transforms import FILL_MARGIN

if TYPE_CHECKING:
    from PIL.Image import Image

Stages = Generator[tuple[int, int], None, list[Any]]  # yields (done, of how many), returns what was found

OUTPUT_MODES = ("binary_mask", "uncompressed_rle", "coco_rle")
NUMBERS = (  # arguments that are numbers of any kind
    "pred_iou_thresh",
    "stability_score_thresh",
    "stability_score_offset",
    "mask_threshold",
    "box_nms_thresh",
    "crop_nms_thresh",
    "crop_overlap_ratio",
    "crop_n_points_downscale_factor",
    "min_mask_region_area",
)


@dataclass(frozen=True)
class Candidate:
    """A mask that has passed the thresholds."""

    crop: Crop
    point: np.ndarray  # (2,) float32: x, y in pixels of the image
    predicted_iou: np.float32
    stability: np.float32
    box: np.ndarray  # (4,) float32: x0, y0, x1, y1 in pixels of the image, both ends included
    logits: PackedLogits  # of low resolution


class SAM2AutomaticMaskGenerator(GeneratorMethods, OneProcess):
    """Prompt an image with a grid of points and keep the good masks, each once.

    Official ``automatic_mask_generator.py``; arguments, defaults, records and their order are those. Candidates are
    judged by their low-resolution logits (``masks/upscaled.py``): only masks that are left at the end get the image's
    size.

    Args:
        model: the model.
        points_per_side: points along each side of the image; None where ``point_grids`` gives them.
        points_per_batch: points decoded at once; memory grows with it.
        pred_iou_thresh: masks with a predicted IoU above it are kept; 0 keeps all.
        stability_score_thresh: masks whose stability score is at least this are kept; 0 keeps all.
        stability_score_offset: the score is the IoU of the masks thresholded this much higher and lower.
        mask_threshold: logits above it are mask.
        box_nms_thresh: of two masks of a crop whose boxes have an IoU above it, the one predicted better is kept.
        crop_n_layers: layer i looks again at 2**i x 2**i crops of the image.
        crop_nms_thresh: as ``box_nms_thresh`` between crops; the mask of the smaller crop is kept.
        crop_overlap_ratio: how far crops of layer 1 overlap, of the image's short side, 0..1.
        crop_n_points_downscale_factor: a layer has this many times fewer points along a side than the one before.
        point_grids: grids of points (N, 2) in 0..1, one for each layer, instead of ``points_per_side``.
        min_mask_region_area: holes and specks of at most this many low-resolution pixels are filled and removed,
            as in the official code.
        output_mode: "binary_mask", "uncompressed_rle" or "coco_rle": the form of ``segmentation``.
        use_m2m: refine every mask once with itself as prompt.
        multimask_output: three masks for every point, or one.
        unknown: ignored with a warning, as the official class ignores it.

    Raises:
        ValueError: for an argument that cannot be used.
    """

    def __init__(
        self,
        model: SAM2,
        points_per_side: int | None = 32,
        points_per_batch: int = 64,
        pred_iou_thresh: float = 0.8,
        stability_score_thresh: float = 0.95,
        stability_score_offset: float = 1.0,
        mask_threshold: float = 0.0,
        box_nms_thresh: float = 0.7,
        crop_n_layers: int = 0,
        crop_nms_thresh: float = 0.7,
        crop_overlap_ratio: float = 512 / 1500,
        crop_n_points_downscale_factor: int = 1,
        point_grids: Sequence[np.ndarray] | None = None,
        min_mask_region_area: int = 0,
        output_mode: str = "binary_mask",
        use_m2m: bool = False,
        multimask_output: bool = True,
        **unknown: Any,
    ) -> None:
        warn_of_unknown(unknown, "SAM2AutomaticMaskGenerator")
        if not isinstance(model, SAM2):
            raise TypeError(
                f"a model is needed, got {type(model).__name__}: use mlx_sam2.load(...) or "
                "SAM2AutomaticMaskGenerator.from_pretrained(...)"
            )
        self.points_per_side = points_per_side
        self.points_per_batch = points_per_batch
        self.pred_iou_thresh = pred_iou_thresh
        self.stability_score_thresh = stability_score_thresh
        self.stability_score_offset = stability_score_offset
        self.mask_threshold = mask_threshold
        self.box_nms_thresh = box_nms_thresh
        self.crop_n_layers = crop_n_layers
        self.crop_nms_thresh = crop_nms_thresh
        self.crop_overlap_ratio = crop_overlap_ratio
        self.crop_n_points_downscale_factor = crop_n_points_downscale_factor
        self.min_mask_region_area = min_mask_region_area
        self.output_mode = output_mode
        self.use_m2m = use_m2m
        self.multimask_output = multimask_output
        self._check_options()
        if (points_per_side is None) == (point_grids is None):
            raise ValueError("give exactly one of points_per_side and point_grids, and None for the other")
        if point_grids is not None:
            self.point_grids = check_grids(point_grids, crop_n_layers)
        else:
            self.point_grids = layer_grids(points_per_side, crop_n_layers, crop_n_points_downscale_factor)
        self.predictor = SAM2ImagePredictor(
            model, max_hole_area=min_mask_region_area, max_sprinkle_area=min_mask_region_area
        )

    def _check_options(self) -> None:
        if self.output_mode not in OUTPUT_MODES:
            known = ", ".join(map(repr, OUTPUT_MODES))
            raise ValueError(f"output_mode={self.output_mode!r} is not known; use {known}")
        for name in NUMBERS:
            value = getattr(self, name)
            if not isinstance(value, (int, float, np.number)) or np.isnan(value):
                raise ValueError(f"{name}={value!r}: it must be a number")
        if not 0 <= self.crop_overlap_ratio <= 1:
            raise ValueError(f"crop_overlap_ratio={self.crop_overlap_ratio}: it must be a share of the image, 0 to 1")
        whole = {"points_per_batch": 1, "crop_n_layers": 0}
        whole |= {} if self.points_per_side is None else {"points_per_side": 1}
        for name, least in whole.items():
            value = getattr(self, name)
            if not isinstance(value, (int, np.integer)) or value < least:
                raise ValueError(f"{name}={value!r}: it must be a whole number from {least} up")

    @classmethod
    def from_pretrained(cls, model_id: str, **options: Any) -> SAM2AutomaticMaskGenerator:
        """Load a generator from a Hub id, a short name ("tiny"), a folder or a file.

        ``options`` are the constructor's and those of ``mlx_sam2.checkpoint.build.build_model``
        (``apply_postprocessing``, ``device``, ``hydra_overrides_extra``, ``config``, ``dtype``, ``revision``,
        ``token``), all by their names.
        """
        known = inspect.signature(cls).parameters.keys() - {"model", "unknown"}
        ours = {name: options.pop(name) for name in known & options.keys()}
        return cls(build_model(model_id, **options), **ours)

    def generate(self, image: np.ndarray | Image) -> list[dict[str, Any]]:
        """Masks of everything in an image.

        Args:
            image: RGB, (H, W, 3) uint8 in 0..255 (or float, taken as already divided by 255), or a PIL image.

        Returns:
            A record for each mask, best first; those of smaller crops before those of larger ones. Each is a dict of

            - ``segmentation``: (H, W) bool, or COCO's {"size": [H, W], "counts": ...} of run lengths: a list for
              "uncompressed_rle", a str for "coco_rle"
            - ``area``: int, pixels
            - ``bbox``: [x, y, width, height] floats; width and height are the distance of the first pixel and the
              last, so one less than COCO's
            - ``predicted_iou``: float, the model's own estimate
            - ``point_coords``: [[x, y]] floats, the point that led to the mask
            - ``stability_score``: float
            - ``crop_box``: [x, y, width, height] floats of the crop that it was found in

            Empty if nothing passes the thresholds (with crops the official code raises an IndexError then).

        Raises:
            ImageError: for anything but an image.
            ArithmeticError: when the model's scores are not finite.
        """
        stages = self.generate_in_stages(image)
        while True:
            try:
                next(stages)
            except StopIteration as end:
                return end.value

    def generate_in_stages(self, image: np.ndarray | Image) -> Stages:
        """Run ``generate`` in stages: yields (batches done, of how many) after each, and returns the records.

        A caller may stop between any two. An image that was begun is finished or left before the next one begins.
        """
        array = images.to_array(image)
        size = array.shape[:2]
        parts = crops(size, self.crop_n_layers, self.crop_overlap_ratio)
        batches = [-(-len(self.point_grids[crop.layer]) // self.points_per_batch) for crop in parts]
        found: list[Candidate] = []
        for i, crop in enumerate(parts):
            found += yield from self._search(array, crop, sum(batches[:i]), sum(batches))
        if len(parts) > 1:
            areas = np.array([np.prod(candidate.crop.size) for candidate in found], np.float32)
            found = _suppress(found, np.float32(1) / areas, self.crop_nms_thresh)
        return [self._record(candidate, size) for candidate in found]

    # ---- one crop

    def _search(self, image: np.ndarray, crop: Crop, done: int, total: int) -> Stages:
        """The masks of a crop, each once, best first."""
        self.predictor.set_image(crop.of(image))
        yield done, total
        grid = self.point_grids[crop.layer]
        points = (grid * np.array(crop.size[::-1])).astype(np.float32)
        found = []
        for i in range(0, len(points), self.points_per_batch):
            found += self._search_batch(points[i : i + self.points_per_batch], crop, image.shape[:2])
            done += 1
            yield done, total
        self.predictor.reset_predictor()
        scores = np.array([candidate.predicted_iou for candidate in found], np.float32)
        return _suppress(found, scores, self.box_nms_thresh)

    def _search_batch(self, points: np.ndarray, crop: Crop, size: tuple[int, int]) -> list[Candidate]:
        """Decode (P, 2) points of a crop and keep the masks that pass, cheapest test first."""
        logits, ious = self._decode(points, crop, None, self.multimask_output)
        points = np.repeat(points, len(ious) // len(points), axis=0)
        if self.use_m2m:
            logits, ious = self._refine(points, crop, logits)
        if not np.isfinite(ious).all():
            raise ArithmeticError("the model gave a score that is not a finite number; try dtype='float32'")
        passed = np.arange(len(ious))
        if self.pred_iou_thresh > 0:
            passed = np.flatnonzero(ious > np.float32(self.pred_iou_thresh))
        logits = self._cleaned(logits[mx.array(passed)])
        corner = np.array([crop.x0, crop.y0], np.float32)
        found = []
        for i, plane in self._maybe_stable(logits, crop.size):
            stability, box = self._measured(plane, crop.size)
            if box is not None and not near_crop_edge(box[None], crop, size)[0]:
                j = passed[i]
                packed = PackedLogits.pack(plane, self.mask_threshold)
                found.append(Candidate(crop, points[j] + corner, ious[j], stability, box + np.tile(corner, 2), packed))
        return found

    def _maybe_stable(self, logits: mx.array, size: tuple[int, int]) -> Iterator[tuple[int, np.ndarray]]:
        """Number and (h, w) logits of each mask that low resolution cannot rule out."""
        kept = np.arange(len(logits))
        if self.stability_score_thresh > 0 and len(kept):
            levels = (self.mask_threshold, self.stability_score_offset, self.stability_score_thresh)
            kept = np.flatnonzero(~surely_unstable(logits, size, *levels))
        yield from zip(kept, np.array(logits[mx.array(kept)]), strict=True)

    def _measured(self, logits: np.ndarray, size: tuple[int, int]) -> tuple[np.float32, np.ndarray | None]:
        """Stability score of a mask at full size, NaN where even the lower threshold leaves nothing; and its box (4,)
        if the score is good enough.
        """
        levels = [self.mask_threshold + step * self.stability_score_offset for step in (1, -1)]
        mask = UpscaledMask(logits, size, min(self.mask_threshold, *levels))
        inner, outer = (np.float32(mask.area(level)) for level in levels)
        with np.errstate(invalid="ignore", divide="ignore"):
            stability = inner / outer
        least = self.stability_score_thresh
        is_good = least <= 0 or stability >= np.float32(least)
        return stability, np.array(mask.box(self.mask_threshold), np.float32) if is_good else None

    def _decode(
        self, points: np.ndarray, crop: Crop, prompts: mx.array | None, multimask: bool
    ) -> tuple[mx.array, np.ndarray]:
        """Low-resolution logits (N, h, w) and predicted IoU (N,) of P points, with or without mask prompts."""
        model, (height, width) = self.predictor.model, crop.size
        coords = points / np.array([width, height], np.float32) * np.float32(model.config.image_size)
        labels = mx.full((len(points), 1), POSITIVE, mx.int32)
        (features,) = self.predictor.image_features
        logits, ious = model.predict_masks(features, mx.array(coords)[:, None], labels, prompts, multimask)
        mx.eval(logits, ious)
        return logits.flatten(0, 1), np.array(ious).reshape(-1)

    def _refine(self, points: np.ndarray, crop: Crop, logits: mx.array) -> tuple[mx.array, np.ndarray]:
        """Every mask again, with its logits as prompt beside its point (official ``refine_with_m2m``)."""
        prompts = mx.clip(logits, -LOW_RES_CLAMP, LOW_RES_CLAMP)[..., None]
        step = self.points_per_batch
        refined = [
            self._decode(points[i : i + step], crop, prompts[i : i + step], multimask=False)
            for i in range(0, len(points), step)
        ]
        return mx.concatenate([part for part, _ in refined]), np.concatenate([ious for _, ious in refined])

    def _cleaned(self, logits: mx.array) -> mx.array:
        """Without the holes and specks that ``min_mask_region_area`` calls small."""
        p = self.predictor
        if p.max_hole_area <= 0 and p.max_sprinkle_area <= 0:
            return logits
        args = (p.mask_threshold, p.max_hole_area, p.max_sprinkle_area, FILL_MARGIN)
        return mx.array(masks.clean_logits(np.array(logits), *args))

    # ---- what is left

    def _record(self, candidate: Candidate, size: tuple[int, int]) -> dict[str, Any]:
        crop = candidate.crop
        logits, corner = candidate.logits.unpack(), (crop.x0, crop.y0)
        mask = UpscaledMask(logits, crop.size, self.mask_threshold)
        rle = mask.rle(self.mask_threshold, size, corner)
        area = sum(rle["counts"][1::2])
        x0, y0, x1, y1 = map(float, masks.rle_to_box(rle) if area else corner * 2)
        if self.output_mode == "binary_mask":
            segmentation = masks.rle_to_mask(rle)
        else:
            segmentation = rle if self.output_mode == "uncompressed_rle" else masks.compress_rle(rle)
        return {
            "segmentation": segmentation,
            "area": area,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "predicted_iou": float(candidate.predicted_iou),
            "point_coords": [candidate.point.tolist()],
            "stability_score": float(candidate.stability),
            "crop_box": [float(n) for n in (crop.x0, crop.y0, *crop.size[::-1])],
        }


def _suppress(found: list[Candidate], scores: np.ndarray, threshold: float) -> list[Candidate]:
    """Non-maximum suppression of their boxes; best first."""
    boxes = np.array([candidate.box for candidate in found], np.float32).reshape(-1, 4)
    return [found[i] for i in masks.nms(boxes, scores, threshold)]
