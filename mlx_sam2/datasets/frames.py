"""The pixels of items: in files of their own, in a film, or nowhere."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from .. import images
from ..frames.opening import open_source
from ..frames.source import FolderSource, FrameSource, SequenceSource, VideoError
from .items import DatasetError, DatasetObject, Item
from .pictures import picture_size

PHOTOS = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".avif", ".jp2", ".ppm", ".heic", ".heif")


class Frames:
    """The frames of an item. ``count`` of them; ``path(i)`` is the file of one, if it has a file of its own."""

    count: int

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        raise NotImplementedError

    def name(self, i: int) -> str:
        """The name of frame `i`, without a suffix."""
        return f"{i:05d}"

    def path(self, i: int) -> Path | None:
        return None

    def has_pixels(self, i: int) -> bool:
        """Whether frame `i` is there to be read."""
        path = self.path(i)
        return path is None or path.is_file()

    def where(self, i: int) -> str:
        """Frame `i` in messages."""
        return str(self.path(i) or f"frame {i}")

    def read(self, i: int) -> np.ndarray:
        """(H, W, 3) uint8. DatasetError if it cannot be read."""
        raise NotImplementedError

    def source(self) -> FrameSource:
        """A source of these frames for the video predictor; read as ``read`` does."""
        return SequenceSource(_Indexed(self))


class FileFrames(Frames):
    """Frames in files of their own.

    Args:
        paths: in order.
        size: (H, W) if the data set states it; else the first file says.
        folder: they are all frames of this folder, which ``source`` reads as the predictor does.
        names: of the frames; else those of the files.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        size: tuple[int, int] | None = None,
        *,
        folder: Path | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        self.paths, self.folder = paths, folder
        self.count = len(paths)
        self._stated, self._names = size, names

    @cached_property
    def size(self) -> tuple[int, int]:  # type: ignore[override]
        return self._stated or picture_size(self.paths[0])

    def name(self, i: int) -> str:
        return self.paths[i].stem if self._names is None else self._names[i]

    def path(self, i: int) -> Path | None:
        return self.paths[i]

    def read(self, i: int) -> np.ndarray:
        """As the photo is meant to be seen: turned by its EXIF orientation, as the annotation tools show it."""
        try:
            return images.read(self.paths[i])
        except images.ImageError as error:
            raise DatasetError(str(error)) from None

    def source(self) -> FrameSource:
        return FolderSource(self.folder) if self.folder else super().source()


def photo_item(
    path: Path, objects: Sequence[DatasetObject], name: str | None = None, size: tuple[int, int] | None = None
) -> Item:
    """A photo and its objects as an item, to be written. Its name is that of the file unless given."""
    return Item(name or path.stem, FileFrames([path], size), False, (0,), lambda: objects)


class FilmFrames(Frames):
    """The frames of a video file. It is opened when a frame, or what is not stated, is asked for."""

    def __init__(
        self, file: Path, count: int | None = None, size: tuple[int, int] | None = None, names: Sequence[str] = ()
    ) -> None:
        self.file = file
        self._count, self._size, self._names = count, size, names
        self._lock = threading.Lock()

    @property
    def count(self) -> int:  # type: ignore[override]
        return len(self._film) if self._count is None else self._count

    @property
    def size(self) -> tuple[int, int]:
        return self._size or (self._film.height, self._film.width)

    def name(self, i: int) -> str:
        return self._names[i] if self._names else super().name(i)

    def where(self, i: int) -> str:
        return f"frame {i} of {self.file}"

    def read(self, i: int) -> np.ndarray:
        with self._lock:
            try:
                return self._film[i]
            except (VideoError, IndexError) as error:
                raise DatasetError(str(error)) from None

    def source(self) -> FrameSource:
        return open_source(self.file)

    @cached_property
    def _film(self) -> FrameSource:
        try:
            return open_source(self.file)
        except VideoError as error:
            raise DatasetError(str(error)) from None


class NoFrames(Frames):
    """Frames whose pixels the data set does not have; their names and their size are known."""

    def __init__(self, count: int, size: tuple[int, int], names: Sequence[str] = ()) -> None:
        self.count, self._size, self._names = count, size, names

    @property
    def size(self) -> tuple[int, int]:
        return self._size

    def name(self, i: int) -> str:
        return self._names[i] if self._names else super().name(i)

    def has_pixels(self, i: int) -> bool:
        return False

    def read(self, i: int) -> np.ndarray:
        raise DatasetError(f"the data set holds no pixels of frame {self.name(i)}: only its masks can be used")


class _Indexed(Sequence):
    """Frames behind ``len()`` and ``[i]``."""

    def __init__(self, frames: Frames) -> None:
        self._frames = frames

    def __len__(self) -> int:
        return self._frames.count

    def __getitem__(self, i: int) -> np.ndarray:  # type: ignore[override]
        return self._frames.read(i)
