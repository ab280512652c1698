"""Features of photos, computed once and kept in files, for training that leaves the image encoder alone."""

from __future__ import annotations

import hashlib
from pathlib import Path

import mlx.core as mx

from ..checkpoint.adapter import write_tensors
from ..datasets.items import Item
from ..files import make_folder
from ..formats import safetensors_file
from ..images.preprocess import preprocess_photo
from ..model.results import ImageFeatures
from ..model.sam2 import SAM2

KEPT = 32  # photos whose features stay in memory


class FeatureCache:
    """Features by item. Files hold float16; the same values come from memory.

    Args:
        folder: of the files; None keeps all in memory.
    """

    def __init__(self, model: SAM2, folder: Path | None) -> None:
        self._model, self._folder = model, folder
        self._kept: dict[tuple[str, int], ImageFeatures] = {}

    def get(self, item: Item, frame: int) -> ImageFeatures:
        """The features of a frame of an item. DatasetError if it cannot be read."""
        key = (item.name, frame)
        if key not in self._kept:
            if self._folder is not None and len(self._kept) >= KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[key] = self._load(item, frame)
        return self._kept[key]

    def _load(self, item: Item, frame: int) -> ImageFeatures:
        file = None
        if self._folder is not None:
            file = self._folder / f"{hashlib.sha256(f'{item.name} {frame}'.encode()).hexdigest()[:24]}.safetensors"
            if file.is_file():
                tensors, _ = safetensors_file.read(file)
                high_res = (tensors["stride_4"], tensors["stride_8"]) if "stride_4" in tensors else None
                return ImageFeatures(tensors["embedding"], high_res)
        pixels = preprocess_photo(item.frame(frame), self._model.config.image_size)
        found = self._model.encode_image(pixels)
        tensors = dict(zip(("embedding", "stride_4", "stride_8"), found.arrays(), strict=False))
        tensors = {name: value.astype(mx.float16) for name, value in tensors.items()}
        mx.eval(tensors)
        if file is not None:
            make_folder(file.parent)
            write_tensors(file, tensors, {"item": item.name})
        high_res = (tensors["stride_4"], tensors["stride_8"]) if "stride_4" in tensors else None
        return ImageFeatures(tensors["embedding"], high_res)
