"""Mattes: the soft alpha of an object, from the model's logits and the photo; and the colours of its edge.

``Edges`` are the settings. ``refined_mask`` is the mask under them, ``alpha`` the matte: where the mask ends, the matte
is one half, unless the guided filter or the feather has moved it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import ceil, isfinite

import numpy as np

from ..masks.components import clean_logits
from ..model.resize import source_positions
from .drawing import part_around
from .filters import blur, box_mean, enlarged, grow, guided_filter, weighted_means

KINDS = ("hard", "soft", "guided")
CELLS = 256  # logits along a side of the picture, of the published models
EPSILON = 1e-4  # of the guided filter: a standard deviation of 2.5 of 255
SURE = 0.1  # what the guided filter leaves below it is outside, and above 1 - it inside
MAX_PIXELS = 200  # of growing, feather and radius
CLEAN_MARGIN = 10.0  # logits, as in the official clean-up
COLOUR_RADII = ((24, 8), (4, 2))  # pixels of the two passes over colours: of a picture whose side is 1024; the least


@dataclass(frozen=True)
class Edges:
    """How masks become mattes. The defaults leave a mask as the model gives it.

    Raises:
        ValueError: a value is out of range. One line.
    """

    edge: str = "hard"  # "soft": a ramp over the logits; "guided": the ramp, then it follows the photo's edges
    width: float = 8.0  # of the ramp, in logits: 0 at -width / 2, 1 at width / 2
    radius: int | None = None  # of the guided filter, in pixels; None: two cells of the logits
    feather: float = 0.0  # standard deviation of a Gaussian blur, in pixels
    grow: int = 0  # by so many pixels; negative shrinks
    fill_holes: int = 0  # holes of at most so many pixels
    min_area: int = 0  # specks of at most so many pixels are removed
    decontaminate: bool = False  # take the background's colour out of the edge
    smooth: int = 0  # films: so many frames before and after are averaged where the picture has not changed

    def __post_init__(self) -> None:
        if self.edge not in KINDS:
            raise ValueError(f"edge={self.edge!r}: it must be one of {', '.join(KINDS)}")
        limits = {"width": (0.1, 100), "feather": (0, MAX_PIXELS), "grow": (-MAX_PIXELS, MAX_PIXELS), "smooth": (0, 8)}
        limits |= {"fill_holes": (0, None), "min_area": (0, None)}
        limits |= {"radius": (1, MAX_PIXELS)} if self.radius is not None else {}
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)
            is_whole = is_number and (name in ("width", "feather") or value == int(value))
            if not is_whole or value < low or (high is not None and value > high):
                kind = "a number" if name in ("width", "feather") else "a whole number"
                span = f"from {low} up" if high is None else f"from {low} to {high}"
                raise ValueError(f"{name}={value!r}: it must be {kind} {span}")

    @property
    def is_default(self) -> bool:
        return all(getattr(self, field.name) == field.default for field in fields(self))

    @property
    def changes_masks(self) -> bool:
        """Whether masks differ from the model's even where nothing is soft."""
        return bool(self.grow or self.fill_holes or self.min_area)

    @property
    def is_soft(self) -> bool:
        return self.edge != "hard" or self.feather > 0

    def radius_for(self, size: tuple[int, int], cells: int = CELLS) -> int:
        """The radius of the guided filter for a picture of (height, width) and logits of `cells` a side."""
        return self.radius or min(max(4, round(2 * max(size) / cells)), MAX_PIXELS)


def refined_mask(mask: np.ndarray, edges: Edges) -> np.ndarray:
    """A mask (H, W) bool with holes filled, specks removed, grown or shrunk."""
    if not edges.changes_masks:
        return mask
    cleaned = clean_logits(np.where(mask, np.int8(1), np.int8(-1)), 0, edges.fill_holes, edges.min_area, 1) > 0
    return grow(cleaned, edges.grow)


def alpha(logits: np.ndarray, pixels: np.ndarray, edges: Edges, cells: int | None = None) -> np.ndarray:
    """The matte of one object: (H, W) float32 in 0..1.

    Args:
        logits: (H, W), or low-resolution (h, w), which are upscaled as the model's masks are; or a bool mask (H, W),
            which has no soft edge of its own (the guided filter and the feather give it one).
        pixels: the photo, (H, W, 3) uint8.
        edges: the settings.
        cells: how many logits the model gives a side; None: those given, 256 where they are upscaled already.

    Raises:
        ValueError: a bool mask of another size than the photo.
    """
    size = pixels.shape[:2]
    cells = cells or (CELLS if logits.shape == size else max(logits.shape))
    field = _field(logits, size, edges.width)
    if edges.fill_holes or edges.min_area:
        field = _cleaned(field, edges, 2 * ceil(max(size) / cells) + 4)
    soft, half = edges.edge != "hard", edges.width / 2 if edges.edge != "hard" else 0.0
    radius = edges.radius_for(size, cells) if edges.edge == "guided" else 0
    margin = max(edges.grow, 0) + ceil(3 * edges.feather) + 2 * radius + 2
    part = part_around(field > -half, margin)
    out = np.zeros(size, np.float32)
    if part[0].stop == 0:
        return out
    values = grow(field[part], edges.grow) if edges.grow else field[part]
    values = np.clip(values / edges.width + 0.5, 0, 1) if soft else (values > 0).astype(np.float32)
    if radius:
        values = _guided(values, pixels[part], radius)
    out[part] = np.clip(blur(values, edges.feather), 0, 1)
    return out


def _guided(values: np.ndarray, pixels: np.ndarray, radius: int) -> np.ndarray:
    """The matte (H, W) after the guided filter. What lies deep inside stays, whatever its colours."""
    core = box_mean(grow(values > 0.5, -ceil(radius / 2)).astype(np.float32), ceil(radius / 4))
    values = guided_filter(values, pixels, radius, EPSILON)
    return np.maximum(np.clip((values - SURE) / (1 - 2 * SURE), 0, 1), core)


def _field(logits: np.ndarray, size: tuple[int, int], width: float) -> np.ndarray:
    """Logits (H, W) float32 at the size of the photo."""
    if logits.dtype == bool:
        if logits.shape != size:
            raise ValueError(f"the mask is {logits.shape}: it must be {size}, as the photo is")
        return np.where(logits, np.float32(width), np.float32(-width))
    if logits.shape == size:
        return logits.astype(np.float32)
    across = _interpolated(logits.astype(np.float32), size[1])
    return np.ascontiguousarray(_interpolated(across.T, size[0]).T)


def _interpolated(x: np.ndarray, size: int) -> np.ndarray:
    """(N, M) -> (N, size), linear between the M values, as ``resize_bilinear``."""
    place = np.maximum(source_positions(x.shape[1], size), 0)
    low = np.minimum(place.astype(np.int64), x.shape[1] - 1)
    weight = place - low.astype(np.float32)
    return x[:, low] * (1 - weight) + x[:, np.minimum(low + 1, x.shape[1] - 1)] * weight


def _cleaned(field: np.ndarray, edges: Edges, ring: int) -> np.ndarray:
    """Logits with holes filled and specks removed, without a soft ring of `ring` pixels where they were."""
    half = edges.width / 2
    cleaned = clean_logits(field, 0, edges.fill_holes, edges.min_area, CLEAN_MARGIN + half)
    for sign in (1, -1):  # filled, removed
        same = (cleaned > 0) == (sign > 0)
        changed = same & ((field > 0) != (sign > 0))
        part = part_around(changed, ring)
        if part[0].stop:
            near = grow(changed[part], ring) & same[part]
            cleaned[part] = np.where(near & (sign * cleaned[part] < half), sign * half, cleaned[part])
    return cleaned


# ---- colours


def decontaminated(pixels: np.ndarray, matte: np.ndarray) -> np.ndarray:
    """The object's own colours, (H, W, 3) uint8: without the background's in the pixels that show both.

    Blur-Fusion (Forte, "Approximate Fast Foreground Colour Estimation", ICIP 2021), whose first pass takes colours
    from pixels that are the object's alone, or the background's alone, where there are any near. Pixels of the object
    alone keep their values; outside, near the edge, its colours go on.

    Args:
        pixels: the photo, (H, W, 3) uint8.
        matte: (H, W) float32 in 0..1.
    """
    scale = max(pixels.shape[:2]) / 1024
    first, second = (max(least, round(scale * radius)) for radius, least in COLOUR_RADII)
    part = part_around((matte > 0) & (matte < 1), 2 * first)
    if part[0].stop == 0:
        return pixels
    photo, a = pixels[part], matte[part]
    size, coarse, fine = photo.shape[:2], max(1, first // 8), max(1, second // 4)
    ground = weighted_means(photo, _sure(1 - a), first, coarse)
    own = np.empty(photo.shape, np.float32)
    means = np.concatenate([weighted_means(photo, _sure(a), first, coarse), ground], axis=2)
    for strip, found in enlarged(means, coarse, size):
        own[strip] = _fused(photo[strip], a[strip, :, None], found[..., :3], found[..., 3:])
    finer = enlarged(weighted_means(own, a, second, fine), fine, size)
    near = (a < 1) & grow(a > 0, second)
    out = pixels.copy()
    for (strip, found), (_, behind) in zip(finer, enlarged(ground, coarse, size), strict=True):
        clean = np.rint(np.clip(_fused(photo[strip], a[strip, :, None], found, behind), 0, 255)).astype(np.uint8)
        out[part][strip] = np.where(near[strip, :, None], clean, photo[strip])
    return out


def _fused(photo: np.ndarray, a: np.ndarray, own: np.ndarray, ground: np.ndarray) -> np.ndarray:
    """The object's colours (H, W, 3) that, over the background's, are nearest to the photo's."""
    return own + a * (photo - a * own - (1 - a) * ground)


def _sure(a: np.ndarray) -> np.ndarray:
    """Weights that prefer pixels that show one thing alone."""
    return np.maximum(a - 0.95, 0) * 20 + 1e-3 * a
