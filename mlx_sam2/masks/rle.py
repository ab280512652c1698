"""COCO run-length encoding of masks: from arrays and from packed bits; areas, boxes and IoU without decoding.

An encoding is {"size": [H, W], "counts": ...}: the lengths of the runs of the mask read column by column, the
first one background. `counts` is a list of them, or COCO's compressed string. Pure numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from operator import index
from typing import Any

import numpy as np

from .boxes import as_mask

Rle = dict[str, Any]

MAX_PIXELS = 178_956_970  # of a mask from a file: as of an image
_MAX_CHARACTERS = 12  # of one count: 60 bits

# ---- encoding


def mask_to_rle(mask: np.ndarray, compressed: bool = True) -> Rle:
    """COCO's {"size": [H, W], "counts": ...} of one mask (H, W), true or non-zero inside.

    `counts` is COCO's compressed string, as ``pycocotools.mask.encode`` gives it (there as bytes), or with
    ``compressed=False`` the list of run lengths, as the official ``mask_to_rle_pytorch``.
    """
    mask = as_mask(mask)
    return packed_to_rles(pack_masks(mask)[None], mask.shape[0], compressed)[0]


def pack_masks(masks: np.ndarray) -> np.ndarray:
    """(..., H, W) masks as bits, eight rows a byte and column by column: (..., W, ceil(H / 8)) uint8.

    The lowest bit is the uppermost row; the bits below the last row are 0.
    """
    inside = np.asarray(masks)
    inside = (inside if inside.dtype == bool else inside != 0).view(np.uint8)
    *many, height, width = inside.shape
    packed = np.zeros((*many, -(-height // 8), width), np.uint8)
    for bit in range(8):  # whole rows at a time: np.packbits along columns is five times slower
        rows = inside[..., bit::8, :]
        packed[..., : rows.shape[-2], :] |= rows << np.uint8(bit)
    return np.ascontiguousarray(packed.swapaxes(-1, -2))


def packed_to_rles(packed: np.ndarray, height: int, compressed: bool = True) -> list[Rle]:
    """Encode N packed masks. Only the bytes in which a mask changes are unpacked.

    Args:
        packed: (N, W, ceil(H / 8)) uint8 as from ``pack_masks``; bits below the last row must be 0.
        height: H.
        compressed: as in ``mask_to_rle``.
    """
    count, width, size = packed.shape
    before = np.zeros((count, width * size), np.uint8)  # the last bit of the byte before each one
    flat = packed.reshape(count, width * size)
    np.right_shift(flat[:, :-1], 7, out=before[:, 1:])
    edges = flat ^ (flat << np.uint8(1) | before)
    at = np.flatnonzero(edges)
    byte, bit = np.nonzero(np.unpackbits(edges.ravel()[at, None], axis=1, bitorder="little"))
    byte = at[byte]
    mask, byte = np.divmod(byte, max(width * size, 1))
    column, row = np.divmod(byte, max(size, 1))
    place = column * height + 8 * row + bit  # at the padding, the begin of the next column
    starts = np.searchsorted(mask, np.arange(count + 1))
    rles = []
    for first, end in pairwise(starts):
        counts = _counts_of_edges(place[first:end], height * width)
        rles.append({"size": [height, width], "counts": _compress(counts) if compressed else counts.tolist()})
    return rles


def counts_to_rle(counts: np.ndarray, size: tuple[int, int], compressed: bool = True) -> Rle:
    """The encoding of run lengths (n,), the first one background; they must add up to H x W."""
    return {"size": [int(n) for n in size], "counts": _compress(counts) if compressed else counts.tolist()}


def _counts_of_edges(place: np.ndarray, total: int) -> np.ndarray:
    """Run lengths from the places where a mask of `total` pixels changes.

    A run that goes on in the next column seems to end at the padding and to begin again: both go.
    """
    twice = place[1:] == place[:-1]
    if twice.any():
        place = place[~(np.append(twice, False) | np.append(False, twice))]
    return np.diff(place[place < total], prepend=0, append=total)


def _compress(counts: np.ndarray) -> str:
    """Five bits a character, lowest first, bit 5 set on all but a count's last.

    From the fourth on, counts are differences to the one two before.
    """
    rest = counts.astype(np.int64)
    rest[3:] -= counts[1:-2]
    characters, used = [], []
    going = np.ones(len(rest), bool)
    while going.any():
        bits = rest & 31
        rest >>= 5
        used.append(going)
        going = going & (rest != np.where(bits & 16, -1, 0))
        characters.append(bits + 32 * going + 48)
    return np.stack(characters, 1)[np.stack(used, 1)].astype(np.uint8).tobytes().decode("ascii")


def compress_rle(rle: Rle) -> Rle:
    """The same encoding with COCO's compressed string."""
    counts = rle_counts(rle)
    return {"size": list(rle_size(rle)), "counts": _compress(counts) if len(counts) else ""}


# ---- decoding


def rle_size(rle: Rle) -> tuple[int, int]:
    """Height and width of an encoding, checked.

    Raises:
        ValueError: they are no such numbers, or there are more than 179 million pixels.
    """
    try:
        height, width = map(index, rle["size"])
    except (LookupError, TypeError, ValueError):
        raise ValueError(
            'damaged run-length encoding: it must be {"size": [height, width], "counts": ...}, whole numbers'
        ) from None
    if height < 0 or width < 0 or height * width > MAX_PIXELS:
        raise ValueError(f"a run-length encoding of {height} x {width} pixels: at most {MAX_PIXELS:,} are taken")
    return height, width


def rle_counts(rle: Rle) -> np.ndarray:
    """The run lengths (n,) int64 of an encoding, compressed or not, checked.

    Raises:
        ValueError: the counts are damaged or do not add up to the size, or there are more than 179 million
            pixels.
    """
    height, width = rle_size(rle)
    counts = rle.get("counts")
    counts = _decompress(counts) if isinstance(counts, (str, bytes)) else _whole_numbers(counts)
    # Each count on its own first: a sum that wraps around would agree with any size.
    if (counts < 0).any() or (counts > height * width).any() or counts.sum() != height * width:
        raise ValueError(f"damaged run-length encoding: its counts do not add up to {height} x {width}")
    return counts


def _whole_numbers(counts: Any) -> np.ndarray:
    """A list of them as (n,) int64."""
    try:
        array = np.asarray(counts)
    except ValueError:  # lists of different lengths
        array = np.zeros(())
    if array.ndim != 1 or (len(array) and array.dtype.kind not in "iu"):
        raise ValueError("damaged run-length encoding: its counts are no list of whole numbers, and no text")
    return array.astype(np.int64)


def rle_to_mask(rle: Rle) -> np.ndarray:
    """(H, W) bool of an encoding, compressed or not. ValueError as ``rle_counts``."""
    height, width = rle_size(rle)
    counts = rle_counts(rle)
    inside = np.arange(len(counts)) % 2 == 1
    return np.repeat(inside, counts).reshape(width, height).T


def _decompress(text: str | bytes) -> np.ndarray:
    code = np.frombuffer(text.encode("latin-1", "replace") if isinstance(text, str) else text, np.uint8)
    code = code.astype(np.int64) - 48
    last = np.flatnonzero(code & 32 == 0)
    if len(code) and (code.min() < 0 or code.max() > 63 or len(last) == 0 or last[-1] != len(code) - 1):
        raise ValueError("damaged run-length encoding: not COCO's compressed counts")
    if len(code) == 0:
        return np.zeros(0, np.int64)
    first = np.concatenate([[0], last[:-1] + 1])
    if (last - first).max() >= _MAX_CHARACTERS:
        raise ValueError("damaged run-length encoding: a count is too long")
    place = np.arange(len(code)) - np.repeat(first, last - first + 1)
    counts = np.add.reduceat((code & 31) << (5 * place), first)
    negative = code[last] & 16 != 0
    counts -= np.where(negative, np.int64(1) << (5 * (last - first + 1)), 0)
    counts[1::2] = counts[1::2].cumsum()
    counts[2::2] = counts[2::2].cumsum()
    return counts


# ---- without decoding


def rle_area(rle: Rle) -> int:
    """Pixels inside (official ``area_from_rle``, ``pycocotools.mask.area``)."""
    return int(rle_counts(rle)[1::2].sum())


def rle_to_box(rle: Rle) -> list[int]:
    """[x0, y0, x1, y1], the first and last pixels inside, as ``mask_to_box``; zeros when empty."""
    height, _ = rle_size(rle)
    begin, end = rle_runs(rle)
    if len(begin) == 0:
        return [0, 0, 0, 0]
    (left, top), (right, bottom) = np.divmod(begin, height), np.divmod(end - 1, height)
    wraps = (left != right).any()  # a run over a column's end touches the last row and the first
    y0, y1 = (0, height - 1) if wraps else (top.min(), bottom.max())
    return [int(left[0]), int(y0), int(right[-1]), int(y1)]


def rle_to_bbox(rle: Rle) -> list[int]:
    """COCO's [x, y, width, height] (``pycocotools.mask.toBbox``); zeros when empty."""
    x0, y0, x1, y1 = rle_to_box(rle)
    return [x0, y0, x1 - x0 + 1, y1 - y0 + 1] if rle_area(rle) else [0, 0, 0, 0]


def mask_iou(a: Sequence[Rle | np.ndarray], b: Sequence[Rle | np.ndarray]) -> np.ndarray:
    """Intersection over union of every mask of `a` with every mask of `b`: (N, M) float64.

    Args:
        a, b: encodings, or masks (H, W), all of one size; none is decoded.

    Returns:
        0 where both are empty, as ``pycocotools.mask.iou``.

    Raises:
        ValueError: sizes differ, or an encoding is damaged.
    """
    a, b = ([m if isinstance(m, dict) else mask_to_rle(m, compressed=False) for m in masks] for masks in (a, b))
    sizes = {rle_size(rle) for rle in [*a, *b]}
    if len(sizes) > 1:
        raise ValueError(f"masks of different sizes have no IoU: {sorted(sizes)}")
    iou = np.zeros((len(a), len(b)))
    if not (a and b):
        return iou
    runs = [rle_runs(rle) for rle in a]
    owner = np.repeat(np.arange(len(a)), [len(begin) for begin, _ in runs])
    begin, end = (np.concatenate(ends) for ends in zip(*runs, strict=True))
    area = np.bincount(owner, weights=end - begin, minlength=len(a))
    for j, rle in enumerate(b):
        edges = rle_counts(rle).cumsum()
        inside = np.append(0, np.diff(edges, prepend=0) * (np.arange(len(edges)) % 2)).cumsum()
        place = np.append(0, edges)
        # Pixels of b before a place: linear between its edges, so exact. Their difference lies in the run.
        shared = np.interp(end, place, inside) - np.interp(begin, place, inside)
        shared = np.bincount(owner, weights=shared, minlength=len(a))
        union = area + inside[-1] - shared
        np.divide(shared, union, out=iou[:, j], where=union > 0)
    return iou


def rle_runs(rle: Rle) -> tuple[np.ndarray, np.ndarray]:
    """Begin and end (n,) of each run inside, as places in the mask read column by column; none is empty."""
    edges = rle_counts(rle).cumsum()
    begin, end = edges[0::2], edges[1::2]
    begin = begin[: len(end)]
    return begin[begin < end], end[begin < end]
