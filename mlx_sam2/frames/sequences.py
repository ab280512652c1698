"""Cut-outs as folders of pictures: PNG of 8 bits, TIFF of 16, OpenEXR of half floats. A file a frame."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from ..files import beside
from .cut import Cut, FilmTags, straight
from .exr import write_exr
from .sinks import hold
from .source import VideoError
from .tiff import write_tiff
from .timecode import later

SEQUENCES = {"png": ".png", "tiff": ".tif", "exr": ".exr"}


class PictureSequence:
    """A folder with a picture for each frame. Each file is complete or absent.

    Args:
        folder: it is made with the first frame.
        form: "png", "tiff" or "exr".
        kind: "cutout", "matte" or "composite".
        premultiply: whether colours are multiplied by alpha. PNG holds straight ones, OpenEXR multiplied ones.
        frame_name: gives a frame's name for its index.

    Raises:
        VideoError: the form holds no such alpha.
    """

    def __init__(
        self,
        folder: Path,
        form: str,
        kind: str,
        tags: FilmTags,
        *,
        premultiply: bool,
        frame_name: Callable[[int], str],
    ) -> None:
        self.folder, self._form, self._kind, self._tags = folder, form, kind, tags
        self._premultiply, self._frame_name = premultiply, frame_name
        self._unlock: Callable[[], object] | None = None
        self._first: int | None = None
        if kind == "cutout" and form == "png" and premultiply:
            raise VideoError("PNG holds straight alpha alone: use --codec tiff or exr for --alpha premultiplied")
        if form == "exr" and kind == "cutout" and not premultiply:
            raise VideoError("OpenEXR holds premultiplied alpha alone: use --codec tiff or png for --alpha straight")

    @property
    def wants_layers(self) -> bool:
        return self._form == "exr"

    def write(self, cut: Cut) -> None:
        if self._unlock is None:
            self.folder.mkdir(exist_ok=True)
            self._unlock = hold(self.folder, self)
            self._first = cut.index
        place = self.folder / f"{self._frame_name(cut.index)}{SEQUENCES[self._form]}"
        with beside(place, replace=True) as part:
            if self._form == "exr":
                self._write_exr(part, cut)
            elif self._form == "tiff":
                write_tiff(part, self._deep(cut), self._premultiply)
            else:
                Image.fromarray(self._plain(cut)).save(part, format="PNG")

    def close(self) -> None:
        if self._unlock is not None:
            self._unlock()
            self._unlock = None

    def _plain(self, cut: Cut) -> np.ndarray:
        """(H, W), (H, W, 3) or (H, W, 4) uint8."""
        if self._kind == "composite":
            return cut.own
        alpha = np.rint(255 * cut.matte).astype(np.uint8)
        return alpha if self._kind == "matte" else np.dstack([straight(cut), alpha])

    def _deep(self, cut: Cut) -> np.ndarray:
        """(H, W) or (H, W, 4) uint16; of a composite (H, W, 3)."""
        if self._kind == "composite":
            return cut.own * np.uint16(257)
        alpha = np.rint(65535 * cut.matte).astype(np.uint16)
        if self._kind == "matte":
            return alpha
        colours = straight(cut) * np.uint16(257)
        if self._premultiply:
            colours = np.rint(colours * cut.matte[..., None]).astype(np.uint16)
        return np.dstack([colours, alpha])

    def _write_exr(self, part: Path, cut: Cut) -> None:
        tags = self._tags
        timecode = later(tags.timecode, cut.index - (self._first or 0), tags.rate) if tags.timecode else None
        write_exr(part, cut, self._kind, tags, timecode)
