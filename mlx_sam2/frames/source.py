"""Frame sources: the frames of a folder, a sequence or a stream, one interface for all.

Frames are read when they are asked for and held as uint8; nothing here grows with the length of a video. Where a
source can go back (`random_access`), any frame can be read again for a correction.
"""

from __future__ import annotations

import os
import re
import struct
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from operator import index as as_index
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ..images import MAX_PIXELS, MAX_SIDE, ImageError, Levels, span_of, to_array

JPEG_SUFFIXES = (".jpg", ".jpeg")
CACHE_BYTES = 128 * 2**20

# Frames are read in these formats only, whatever their names: PIL would hand an EPS file to Ghostscript.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
# PIL raises these for a file that is no image, or only a part of one.
_PIL_ERRORS = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, OverflowError, MemoryError)
_PIL_ERRORS = (*_PIL_ERRORS, struct.error, zlib.error, Image.DecompressionBombError)


class VideoError(ValueError):
    """A video, a folder of frames or an output that cannot be used. The message is one line for the user."""


class Display(NamedTuple):
    """How a player should show the frames. A film that is made of them hands it on.

    Colours are code points of ISO/IEC 23091-2: frames keep the values of their file, so HDR stays HDR.
    """

    pixel_aspect: Fraction = Fraction(1)  # width of a pixel by its height
    primaries: int = 1  # 1 BT.709, 9 BT.2020
    transfer: int = 1  # 1 BT.709, 16 PQ, 18 HLG
    matrix: int = 1  # of the file's YUV: 1 BT.709, 5 and 6 BT.601, 9 BT.2020
    full_range: bool = False  # whether its YUV uses all values


class FrameSource:
    """The frames of one video, each a read-only uint8 array of shape (height, width, 3), RGB.

    Error messages call the source by its `name`; `num_frames` is None where the end is not known beforehand
    (a generator, a camera), and `fps` where the source has no rate. A source with `random_access` gives
    any frame by `source[i]`, and iterates from the start each time. One without it is read once, in order, and
    a second loop continues where the first one stopped.

    A source with `reads_ahead` may be read by several threads, and before a frame is needed.
    """

    name: str = "frames"
    height: int
    width: int
    num_frames: int | None = None
    fps: float | None = None
    rate: Fraction | None = None  # `fps`, exactly
    timecode: str | None = None  # of the first frame, "01:00:00:00"
    random_access: bool = True
    reads_ahead: bool = False  # whether another thread may read frames before they are asked for
    display: Display = Display()

    def __len__(self) -> int:
        if self.num_frames is None:
            raise TypeError(f"{self.name} has no known length")
        return self.num_frames

    def __getitem__(self, i: int) -> np.ndarray:
        """Frame `i`, counted from 0 (from the end if negative). IndexError where there is no such frame."""
        if not self.random_access:
            raise VideoError(f"{self.name} can only be read in order: it keeps no past frames")
        n = len(self)
        i = as_index(i)
        if not -n <= i < n:
            raise IndexError(f"{self.name} has no frame {i}: its frames are 0 to {n - 1}")
        return self._read(i % n)

    def __iter__(self) -> Iterator[np.ndarray]:
        for i in range(len(self)):
            yield self[i]

    def time(self, i: int) -> float | None:
        """When frame `i` is shown, in seconds after the first frame; None if the source does not say."""
        return None if self.fps is None else i / self.fps

    def frame_name(self, i: int) -> str:
        """The name of frame `i` without a suffix: its file's name, or its number in five digits."""
        return f"{i:05d}"

    def close(self) -> None:
        """Release files and devices."""

    def __enter__(self) -> FrameSource:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _read(self, i: int) -> np.ndarray:
        raise NotImplementedError

    def _checked(self, frame: np.ndarray, what: str) -> np.ndarray:
        """Return `frame` read-only. VideoError if it has not the size of the video; `what` names it there."""
        if frame.shape[:2] != (self.height, self.width):
            raise VideoError(
                f"{what} is {frame.shape[1]}x{frame.shape[0]}, but the video is {self.width}x{self.height}: "
                "all frames of a video need the same size"
            )
        frame = frame.view()
        frame.flags.writeable = False
        return frame


def require_size(height: int, width: int, name: str) -> None:
    """Raise a VideoError, before anything is decoded, for frames larger than the largest photo."""
    if height * width > MAX_PIXELS or max(height, width) > MAX_SIDE:
        raise VideoError(
            f"{name} is too large: {width} x {height} pixels; frames may have {MAX_PIXELS:,}, and {MAX_SIDE:,} a side"
        )


class FrameCache:
    """A cache of the most recently used frames, all of one size: at most `CACHE_BYTES`, at least two frames."""

    def __init__(self, height: int, width: int) -> None:
        self.capacity = max(2, CACHE_BYTES // (height * width * 3))
        self._frames: OrderedDict[int, np.ndarray] = OrderedDict()

    def get(self, i: int) -> np.ndarray | None:
        frame = self._frames.get(i)
        if frame is not None:
            self._frames.move_to_end(i)
        return frame

    def put(self, i: int, frame: np.ndarray) -> None:
        self._frames[i] = frame
        self._frames.move_to_end(i)
        if len(self._frames) > self.capacity:
            self._frames.popitem(last=False)


class FolderSource(FrameSource):
    """A folder of numbered JPEG files, or PNG files if it has no JPEG; each is a frame.

    As in the official loader, files named by whole numbers are sorted by them, EXIF orientation is not
    applied, and pixels are what PIL's `convert("RGB")` gives. Unlike it: names that share one pattern around
    their numbers (`frame_0001.jpg`) are sorted by those numbers instead of being refused; a folder without
    any JPEG may hold PNG; hidden files are passed over; frames of different sizes are an error (the official
    loader takes the size of the last one for all).

    Args:
        levels: how grey PNG files of 16 bits become 8 bits, else they are refused; "auto" is one range for all of them.
    """

    reads_ahead = True

    def __init__(self, folder: str | os.PathLike[str], levels: Levels | None = None) -> None:
        self._lock = threading.Lock()
        self.name = os.fspath(folder)
        self.paths = numbered_images(Path(folder))
        self.num_frames = len(self.paths)
        for i, path in enumerate(self.paths):
            with _open_image(path, levels) as image:
                size = image.size
            if i == 0:
                self.width, self.height = size
            elif size != (self.width, self.height):
                raise VideoError(
                    f"{path} is {size[0]}x{size[1]}, but {self.paths[0].name} is {self.width}x{self.height}: "
                    "all frames of a video need the same size"
                )
        self._levels = span_of(map(self._values, self.paths)) if levels == "auto" else levels
        self._cache = FrameCache(self.height, self.width)

    def frame_name(self, i: int) -> str:
        return self.paths[i].stem

    def _read(self, i: int) -> np.ndarray:
        with self._lock:
            frame = self._cache.get(i)
            if frame is None:
                frame = self._checked(self._decoded(self.paths[i]), str(self.paths[i]))
                self._cache.put(i, frame)
            return frame

    def _decoded(self, path: Path) -> np.ndarray:
        with _open_image(path, self._levels) as image:
            try:
                return np.array(image.convert("RGB")) if self._levels is None else to_array(image, self._levels)
            except (*_PIL_ERRORS, ImageError) as error:
                raise VideoError(f"{path} is a broken image: {error}") from error

    def _values(self, path: Path) -> np.ndarray:
        with _open_image(path, "auto") as image:
            try:
                return np.asarray(image)
            except _PIL_ERRORS as error:
                raise VideoError(f"{path} is a broken image: {error}") from error


def _open_image(path: Path, levels: Levels | None) -> Image.Image:
    """Open an image, a deep one if there are levels for it; its header is read, its pixels are not yet."""
    try:
        image = Image.open(path, formats=_FORMATS)
    except _PIL_ERRORS as error:
        raise VideoError(f"{path} cannot be read as an image: {error}") from error
    if image.mode[0] in "IF" and levels is None:  # PIL would clip these to 255 without a word
        image.close()
        raise VideoError(
            f"{path} is not 8-bit (its mode is {image.mode}): give levels, the values that become black and white "
            "(--levels LOW,HIGH), or convert it to 8-bit RGB first"
        )
    if image.mode[0] not in "IF" and levels is not None:
        image.close()
        raise VideoError(f"{path} has 8 bits: levels are for grey pictures of more")
    return image


def numbered_images(folder: Path) -> list[Path]:
    """The frames in `folder` in the order of their numbers."""
    try:
        visible = [path for path in folder.iterdir() if not path.name.startswith(".") and not path.is_dir()]
    except OSError as error:
        raise VideoError(f"{folder} cannot be read: {error.strerror}") from error
    # JPEG goes first, so that masks saved as PNG beside the frames are not taken for frames.
    images = [path for path in visible if path.suffix.lower() in JPEG_SUFFIXES]
    images = images or [path for path in visible if path.suffix.lower() == ".png"]
    if not images:
        raise VideoError(f"{folder} holds no frames: numbered .jpg or .png files are needed (00000.jpg, ...)")
    for path in images:
        if not path.is_file():  # left out, it would move all later frames without a word
            raise VideoError(f"{path} is no file: it is a link that leads nowhere, or a pipe; mend it or take it away")
    try:
        return sorted(images, key=lambda path: (int(path.stem), path.name))
    except ValueError:
        pass  # not plain numbers: perhaps numbers within one pattern
    patterns = {re.sub(r"[0-9]+", "#", path.stem): path.name for path in images}
    if len(patterns) > 1 or "#" not in next(iter(patterns)):
        names = " and ".join(sorted(patterns.values())[:2])
        raise VideoError(
            f"{folder}: {names} are not of one numbered sequence; name the frames 00000.jpg, 00001.jpg, ... "
            "and keep other images elsewhere"
        )
    return sorted(images, key=lambda path: ([int(n) for n in re.findall(r"[0-9]+", path.stem)], path.name))


class SequenceSource(FrameSource):
    """Frames behind `len()` and `[i]`: a list, an array (N, H, W, 3), a memory map."""

    def __init__(self, frames: Sequence[Any], fps: float | None = None, name: str = "the sequence of frames") -> None:
        self.name = name
        self.fps = fps
        self._frames = frames
        self.reads_ahead = isinstance(frames, (list, tuple, np.ndarray))  # others may make frames when asked for them
        self._lock = threading.Lock()
        self.num_frames = len(frames)
        if self.num_frames == 0:
            raise VideoError(f"{name} is empty: at least one frame is needed")
        self.height, self.width = as_frame(frames[0], 0).shape[:2]

    def _read(self, i: int) -> np.ndarray:
        with self._lock:  # PIL may read an image only now
            return self._checked(as_frame(self._frames[i], i), f"frame {i}")


class StreamSource(FrameSource):
    """Frames that come one by one: a generator, a camera, a network stream.

    The first frame is fetched at once, for its size. `timed` says that the items are (seconds, frame) pairs;
    then `time` knows when the latest frame was taken. `on_close` is called once by `close`.
    """

    random_access = False

    def __init__(
        self,
        frames: Iterable[Any],
        name: str = "the stream of frames",
        fps: float | None = None,
        timed: bool = False,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        self.name = name
        self.fps = fps
        self._timed = timed
        self._on_close = on_close
        self._items = iter(frames)
        self._count = 0  # frames handed out
        self._now: float | None = None
        self._start: float | None = None
        try:
            self._first: Any = next(self._items)
        except StopIteration:
            self.close()
            raise VideoError(f"{name} ended before its first frame: at least one frame is needed") from None
        first = self._first[1] if timed else self._first
        self.height, self.width = as_frame(first, 0).shape[:2]

    def __iter__(self) -> Iterator[np.ndarray]:
        return self

    def __next__(self) -> np.ndarray:
        if self._first is not None:
            item, self._first = self._first, None
        else:
            item = next(self._items)
        if self._timed:
            self._now, item = item
            self._start = self._now if self._start is None else self._start
        i = self._count
        self._count += 1
        return self._checked(as_frame(item, i), f"frame {i} of {self.name}")

    def time(self, i: int) -> float | None:
        if not self._timed:
            return super().time(i)
        if i != self._count - 1 or self._now is None or self._start is None:
            return None
        return self._now - self._start

    def close(self) -> None:
        self._items = iter(())
        self._first = None
        if self._on_close is not None:
            self._on_close()
            self._on_close = None


def as_frame(frame: Any, i: int) -> np.ndarray:
    """Frame `i` of an iterable as a uint8 array (H, W, 3)."""
    if isinstance(frame, Image.Image):
        return np.array(frame.convert("RGB"))
    if not isinstance(frame, np.ndarray):
        given = type(frame).__name__
    elif frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or frame.size == 0:
        given = f"an array of {frame.dtype} with shape {frame.shape}"
    else:
        return np.ascontiguousarray(frame)
    raise VideoError(f"frame {i} is {given}: a frame is a uint8 RGB array (height, width, 3) or a PIL image")
