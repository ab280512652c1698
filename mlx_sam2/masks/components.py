"""Connected components of binary masks; holes and specks are small ones.

Masks are (H, W) arrays, true or non-zero inside; components are 8-connected, as in the official code. Pure numpy.
"""

from __future__ import annotations

import numpy as np

# ---- connected components, by runs of set pixels in a row


def _runs(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Starts and ends of the runs in all rows of (..., H, W), in order, and the length P of a padded row.

    Positions count along the padded, flattened array: one clear column after each row and one clear row after
    each map keep runs of different rows, and rows of different maps, from touching.
    """
    height, width = mask.shape[-2:]
    flat = np.zeros((int(np.prod(mask.shape[:-2])), height + 1, width + 1), bool)
    flat[:, :height, :width] = mask.reshape(len(flat), height, width)
    steps = np.diff(flat.ravel().view(np.int8), prepend=np.int8(0))
    return np.flatnonzero(steps == 1), np.flatnonzero(steps == -1), width + 1


def _paint(shape: tuple[int, ...], starts: np.ndarray, ends: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The inverse of ``_runs``: int32 of `shape` with each run filled with its value."""
    height, width = shape[-2:]
    steps = np.zeros(int(np.prod(shape[:-2])) * (height + 1) * (width + 1), np.int32)
    steps[starts] = values
    steps[ends] -= values.astype(np.int32)
    return steps.cumsum(dtype=np.int32).reshape(*shape[:-2], height + 1, width + 1)[..., :height, :width]


def _join(count: int, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """For `count` nodes joined by the edges a[i]-b[i]: the smallest node that each one is connected to.

    Every round hooks the larger root of each edge below the smaller one, then flattens the trees (Liu and
    Tarjan, "Simple concurrent labeling algorithms for connected components", 2019): O(log^2) rounds.
    """
    root = np.arange(count)
    while len(a):
        np.minimum.at(root, np.maximum(a, b), np.minimum(a, b))
        while not np.array_equal(up := root[root], root):
            root = up
        a, b = root[a], root[b]
        apart = a != b
        a, b = a[apart], b[apart]
    return root


def _components(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Runs of (..., H, W), the component 0, 1, ... of each in raster order, and each component's area."""
    starts, ends, row = _runs(mask)
    # Runs of the row above that touch, corners included: end >= start - P, start <= end - P.
    first = np.searchsorted(ends, starts - row, side="left")
    last = np.searchsorted(starts, ends - row, side="right")
    touching = np.maximum(last - first, 0)
    below = np.repeat(np.arange(len(starts)), touching)
    offset = np.arange(len(below)) - np.repeat(touching.cumsum() - touching, touching)
    above = first[below] + offset
    _, component = np.unique(_join(len(starts), below, above), return_inverse=True)
    return starts, ends, component, np.bincount(component, weights=ends - starts).astype(np.int64)


def connected_components(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Label the 8-connected components of each map of (..., H, W).

    Returns:
        Labels (..., H, W) int32, 0 outside and 1..n inside, numbered over all maps in raster order; and areas
        (n + 1,) int64 in pixels, with areas[0] = 0, so that ``areas[labels]`` is what the official
        ``get_connected_components`` returns as counts.
    """
    starts, ends, component, areas = _components(mask)
    return _paint(mask.shape, starts, ends, component + 1), np.concatenate([[0], areas])


def _small(mask: np.ndarray, max_area: float) -> np.ndarray:
    """The pixels of (..., H, W) in components of at most `max_area` pixels, bool."""
    starts, ends, component, areas = _components(mask)
    keep = areas[component] <= max_area
    return _paint(mask.shape, starts[keep], ends[keep], np.ones(keep.sum())) > 0


def fill_holes(logits: np.ndarray, max_area: float, value: float) -> np.ndarray:
    """Raise small holes of mask logits (official ``misc.py``, ``fill_holes_in_mask_scores``).

    Args:
        logits: (..., H, W); positive is mask.
        max_area: components of (logits <= 0) with at most this many pixels are filled; 0 or less for none.
        value: the logit that they get (0.1 in the official video predictor).
    """
    if max_area <= 0:
        return logits
    return np.where(_small(logits <= 0, max_area), np.asarray(value, logits.dtype), logits)


def clean_logits(
    logits: np.ndarray, threshold: float, max_hole_area: float, max_sprinkle_area: float, margin: float
) -> np.ndarray:
    """Fill small holes and remove small specks of mask logits, both looked for in the logits as given.

    Official ``SAM2Transforms.postprocess_masks``.

    Args:
        logits: (..., H, W).
        threshold: logits above it are mask.
        max_hole_area: components outside the mask with at most this many pixels become threshold + margin.
        max_sprinkle_area: components of the mask with at most this many pixels become threshold - margin.
            0 or less turns either off.
        margin: 10 in the official code.
    """
    cleaned = logits
    if max_hole_area > 0:
        holes = _small(logits <= threshold, max_hole_area)
        cleaned = np.where(holes, np.asarray(threshold + margin, logits.dtype), cleaned)
    if max_sprinkle_area > 0:
        specks = _small(logits > threshold, max_sprinkle_area)
        cleaned = np.where(specks, np.asarray(threshold - margin, logits.dtype), cleaned)
    return cleaned


def remove_small_regions(mask: np.ndarray, area_thresh: float, mode: str) -> tuple[np.ndarray, bool]:
    """Fill the small holes of a mask, or remove its small islands (official ``amg.py``, same name).

    Args:
        mask: (H, W) bool.
        area_thresh: components with fewer pixels are small (fewer: ``fill_holes`` takes this many, too).
        mode: "holes" or "islands". Of islands that are all small the largest, the first of equals, is kept.

    Returns:
        The mask, (H, W) bool, and whether anything changed; if not, it is `mask` itself.
    """
    if mode not in ("holes", "islands"):
        raise ValueError(f'mode must be "holes" or "islands", got {mode!r}')
    inside = np.asarray(mask, bool)
    starts, ends, component, areas = _components(~inside if mode == "holes" else inside)
    small = areas < area_thresh
    if not small.any():
        return mask, False
    if mode == "islands" and small.all():
        small[areas.argmax()] = False
    chosen = small[component]
    changed = _paint(inside.shape, starts[chosen], ends[chosen], np.ones(chosen.sum())) > 0
    return inside ^ changed, True
