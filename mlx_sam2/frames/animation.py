"""Animated GIF, WebP and PNG, and TIFF stacks as frame sources: read by Pillow, without PyAV."""

from __future__ import annotations

import io
import itertools
import os
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image

from ..images import ImageError, Levels, is_deep_mode, span_of, to_array
from ..text import message_of
from .source import FrameCache, FrameSource, VideoError, require_size

_FORMATS = ("GIF", "WEBP", "PNG", "TIFF")
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, OverflowError, MemoryError)
_DAMAGE = (*_DAMAGE, RuntimeError, struct.error, zlib.error, Image.DecompressionBombError)
SHORTEST, ASSUMED = 20, 100  # milliseconds: browsers show a frame that asks for less than 20 for 100
SUBFILE_TYPE, NO_PAGE = 254, 5  # the TIFF tag, and its bits for a smaller copy and a mask


def is_animation(head: bytes) -> bool:
    """Whether a file that begins so is GIF, WebP, TIFF or animated PNG.

    Args:
        head: the first 64 bytes or more. In an animated PNG the mark of the animation stands among them, unless a
            program put comments first.
    """
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return True
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return b"acTL" in head
    return head.startswith((b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"))


class AnimationSource(FrameSource):
    """The pictures of one GIF, WebP, PNG or TIFF file, as Pillow's ``convert("RGB")`` gives them.

    16-bit grey pages of a TIFF are divided by 257, as photos are. A TIFF has no times. GIF and WebP are decoded once
    when they are opened, and again from the start for a step back beyond the cache.

    Args:
        file: the path of a file, or its content as bytes.
        levels: how grey pages of 16 bits, 32 bits or floats become 8 bits; "auto" is one range for all of them.

    Raises:
        VideoError: the file cannot be read, its pictures have different sizes, or they are deeper than 16 bits and no
            `levels` are given; or `levels` are given, and it is not that deep.
    """

    reads_ahead = True

    def __init__(self, file: bytes | str | os.PathLike[str], levels: Levels | None = None) -> None:
        self.name = "the animation in memory" if isinstance(file, bytes) else os.fspath(file)
        self._lock = threading.Lock()
        self._file, self._levels = file, levels
        self._image = self._open()
        try:
            require_size(self._image.height, self._image.width, self.name)
            self._pages, durations = self._scan()
            self.num_frames = len(self._pages)
            if levels is not None and not is_deep_mode(self._image.mode):
                raise VideoError(f"{self.name} has 8 bits: levels are for grey pictures of more")
            if levels == "auto":
                self._levels = span_of(self._values(page) for page in self._pages)
            self.height, self.width = self._decode(0).shape[:2]
        except BaseException:
            self.close()
            raise
        self._starts = None if durations is None else [0, *itertools.accumulate(durations)]  # milliseconds
        if self._starts is not None:
            self.fps = 1000 * self.num_frames / self._starts[-1]
        self._cache = FrameCache(self.height, self.width)

    def time(self, i: int) -> float | None:
        return None if self._starts is None else self._starts[i] / 1000

    def close(self) -> None:
        with self._lock:
            self._image.close()

    def _open(self) -> Image.Image:
        with self._errors("cannot be read"):
            return Image.open(io.BytesIO(self._file) if isinstance(self._file, bytes) else self._file, formats=_FORMATS)

    def _scan(self) -> tuple[list[int], list[float] | None]:
        """List the pages that are frames, and how many milliseconds each is shown."""
        is_stack, pages, durations = self._image.format == "TIFF", [], []
        size = self._image.size
        for page in itertools.count():
            with self._errors(f"is damaged in frame {page}"):
                try:
                    self._image.seek(page)
                except EOFError:
                    break
                require_size(self._image.height, self._image.width, self.name)
                if self._image.format == "WEBP":
                    self._image.load()  # only then Pillow knows the duration
            if is_stack and self._image.tag_v2.get(SUBFILE_TYPE, 0) & NO_PAGE:
                continue
            if self._image.size != size:
                raise VideoError(
                    f"{self.name}: page {page} is {self._image.width}x{self._image.height}, but page 0 is "
                    f"{size[0]}x{size[1]}: all frames of a video need the same size"
                )
            if self._image.mode in ("F", "I") and self._levels is None:
                raise VideoError(
                    f"{self.name} is deeper than 16 bits (its mode is {self._image.mode}): give levels, the values "
                    "that become black and white (--levels LOW,HIGH), or convert it to 16 bits first"
                )
            shown = float(self._image.info.get("duration") or 0)
            pages.append(page)
            durations.append(shown if shown >= SHORTEST else float(ASSUMED))
        if not pages:
            raise VideoError(f"{self.name} holds no picture")
        return pages, None if is_stack else durations

    def _read(self, i: int) -> np.ndarray:
        with self._lock:
            frame = self._cache.get(i)
            if frame is None:
                frame = self._checked(self._decode(i), f"frame {i} of {self.name}")
                self._cache.put(i, frame)
            return frame

    def _decode(self, i: int) -> np.ndarray:
        if self._image.format == "PNG" and self._pages[i] < self._image.tell():  # Pillow goes back wrongly
            self._image.close()
            self._image = self._open()
        with self._errors(f"is damaged in frame {i}"):
            self._image.seek(self._pages[i])
            return to_array(self._image, self._levels or "full")

    def _values(self, page: int) -> np.ndarray:
        with self._errors(f"is damaged in page {page}"):
            self._image.seek(page)
            return np.asarray(self._image)

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        """Report whatever Pillow raises in the block as one line."""
        try:
            with warnings.catch_warnings():  # Pillow's, about odd metadata and sizes below its limit
                warnings.simplefilter("ignore")
                yield
        except (VideoError, ImageError) as error:
            raise VideoError(str(error)) from None
        except _DAMAGE as error:
            why = message_of(getattr(error, "strerror", None) or error)
            raise VideoError(f"{self.name} {what}: {why}") from None
