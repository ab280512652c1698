"""Data sets of masks: read, checked, written, converted. ``python -m mlx_sam2.datasets`` converts one.

``open_dataset`` recognises a layout, ``check`` says what is in it and what is odd, ``open_writer`` writes one.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .checking import Report, check
    from .command import main
    from .formats import open_writer, write_dataset
    from .frames import photo_item
    from .items import Dataset, DatasetError, DatasetObject, Item
    from .masks import Mask, PictureMask, PolygonMask, RleMask
    from .opening import open_dataset
    from .sink import DatasetSink
    from .writing import WriteOptions

_ROOMS = {
    "Dataset": "items",
    "DatasetError": "items",
    "DatasetObject": "items",
    "DatasetSink": "sink",
    "Item": "items",
    "Mask": "masks",
    "PictureMask": "masks",
    "PolygonMask": "masks",
    "Report": "checking",
    "RleMask": "masks",
    "WriteOptions": "writing",
    "check": "checking",
    "main": "command",
    "open_dataset": "opening",
    "open_writer": "formats",
    "photo_item": "frames",
    "write_dataset": "formats",
}
__all__ = [
    "Dataset",
    "DatasetError",
    "DatasetObject",
    "DatasetSink",
    "Item",
    "Mask",
    "PictureMask",
    "PolygonMask",
    "Report",
    "RleMask",
    "WriteOptions",
    "check",
    "main",
    "open_dataset",
    "open_writer",
    "photo_item",
    "write_dataset",
]

if not TYPE_CHECKING:  # so that --help of the command loads no numpy

    def __getattr__(name: str) -> Any:
        if name not in _ROOMS:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{__name__}.{_ROOMS[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
