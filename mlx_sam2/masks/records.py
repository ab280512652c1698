"""Records of ``SAM2AutomaticMaskGenerator`` in the forms of other libraries: supervision, labelled images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .rle import rle_runs, rle_size, rle_to_mask

if TYPE_CHECKING:
    import supervision

Record = dict[str, Any]


def record_mask(record: Record) -> np.ndarray:
    """(H, W) bool of a record of any ``output_mode``."""
    segmentation = record["segmentation"]
    return rle_to_mask(segmentation) if isinstance(segmentation, dict) else np.asarray(segmentation, bool)


def to_label_image(records: Sequence[Record], size: tuple[int, int] | None = None) -> np.ndarray:
    """One picture of all masks: (H, W), 0 for none, i + 1 for record i; where masks overlap the smallest is on top.

    Args:
        records: as ``generate`` returns them, in any ``output_mode``; only "segmentation" and "area" are read.
        size: (H, W), needed if there is no record.

    Returns:
        uint16, or uint32 for more than 65,535 records.

    Raises:
        ValueError: no record and no size, a mask that has another size than the first, or more than 179 million
            pixels.
    """
    if not records and size is None:
        raise ValueError("no records: give to_label_image the size of the picture, size=(height, width)")
    if size is None:
        first = records[0]["segmentation"]
        size = first["size"] if isinstance(first, dict) else first.shape
    size = rle_size({"size": size})
    labels = np.zeros((size[1], size[0]), _label_type(len(records)))  # (W, H): runs go down the columns
    flat = labels.reshape(-1)
    for i in sorted(range(len(records)), key=lambda i: -records[i]["area"]):
        segmentation = records[i]["segmentation"]
        found = segmentation["size"] if isinstance(segmentation, dict) else segmentation.shape
        if tuple(found) != size:
            raise ValueError(f"masks of different sizes make no picture: {tuple(found)} and {size}")
        if isinstance(segmentation, dict):
            for begin, end in zip(*rle_runs(segmentation), strict=True):
                flat[begin:end] = i + 1
        else:
            labels.T[np.asarray(segmentation, bool)] = i + 1
    return np.ascontiguousarray(labels.T)


def _label_type(count: int) -> type[np.unsignedinteger[Any]]:
    return np.uint16 if count <= np.iinfo(np.uint16).max else np.uint32


def to_supervision(records: Sequence[Record]) -> supervision.Detections:
    """`supervision.Detections` of records in any ``output_mode``, in their order.

    The fields are those of ``Detections.from_sam`` (xyxy, mask) with the predicted IoU as confidence and the
    stability score under ``data["stability_score"]``. There are no classes: annotators take colours with
    ``color_lookup=ColorLookup.INDEX``. All masks are held at once, a byte a pixel.

    Raises:
        ImportError: supervision is not installed.
    """
    try:
        import supervision
    except ModuleNotFoundError as error:
        if error.name != "supervision":
            raise
        raise ImportError("to_supervision needs the package supervision: pip install supervision") from None

    if not records:
        return supervision.Detections.empty()
    boxes = np.array([record["bbox"] for record in records], np.float64)
    boxes[:, 2:] += boxes[:, :2]
    return supervision.Detections(
        xyxy=boxes,
        mask=np.stack([record_mask(record) for record in records]),
        confidence=np.array([record["predicted_iou"] for record in records], np.float32),
        data={"stability_score": np.array([record["stability_score"] for record in records], np.float32)},
    )
