"""Opening pictures, videos and folders of frames: told apart by their first bytes, within limits.

Files come from strangers. Video containers are recognised by their own signatures before PyAV sees them: FFmpeg would
otherwise open play lists and scripts, which name other files.
"""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from .. import images
from ..frames.file import VideoFileSource
from ..frames.pyav import import_av, open_container
from ..frames.source import FolderSource, FrameSource, VideoError
from ..images.containers import is_heic
from ..images.files import ImageError
from .moving import check_frames, check_pixels, moves, open_moving
from .schemas import ApiError, Kind

NAME_LENGTH = 200  # characters of a file's name


@dataclass(frozen=True)
class Limits:
    """Limits of what the app accepts and holds. Together they bound its memory: docs/app.md."""

    upload_bytes: int = 1 << 30
    disk_bytes: int = 8 << 30  # of all uploads and exports together
    pixels: int = 50_000_000  # of a picture or a frame: a phone's 48 megapixels
    frames: int = 20_000
    sessions: int = 64
    idle_seconds: float = 2 * 3600
    loaded: int = 3  # sessions that are held encoded
    objects: int = 40  # of a video: each has memories; a picture may have schemas.MAX_OBJECT
    prompts: int = 500  # of a video: a frame with a prompt stays in memory
    mask_bytes: int = 256 << 20  # of all encoded masks together
    listeners: int = 16  # event streams of one session
    grace_seconds: float = 5.0  # a job goes on without its last listener
    rest_seconds: float = 300.0  # a session that no page listens to stays encoded


def shown_name(name: str) -> str:
    """A file's name as pages show it and projects hold it: one line of at most 200 characters, no path, never empty."""
    text = name.encode("utf-8", "replace").decode()  # names of a disk that are not UTF-8 hold lone surrogates
    text = "".join("_" if c in "/\\" or not c.isprintable() else c for c in text)
    return text[:NAME_LENGTH] or "untitled"


def kind_of(path: Path) -> Kind:
    """Whether a file is a picture or a video, by its first bytes.

    Raises:
        ApiError: it is neither.
    """
    if path.is_dir():
        return "video"
    with open(path, "rb") as file:
        head = file.read(400)
    if is_heic(head):
        return "image"  # which the reader of photos reads, or says what that needs
    if _is_video(head) or moves(path):
        return "video"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            Image.open(path).close()
    except Image.UnidentifiedImageError:
        raise ApiError(415, "unsupported", NEITHER) from None
    except (OSError, SyntaxError, ValueError, LookupError, TypeError, MemoryError, Image.DecompressionBombError):
        pass  # a damaged or huge picture: reading it gives the reason
    return "image"


NEITHER = "this is neither a picture (JPEG, PNG, WebP, TIFF, ...) nor a video (MP4, MOV, MKV, WebM, AVI, MPEG-TS)"


def _is_video(head: bytes) -> bool:
    """Signatures of MP4 and QuickTime, Matroska and WebM, AVI, MPEG-TS (188-byte packets)."""
    if head[4:8] == b"ftyp":
        return head[8:12] not in (b"avif", b"avis", b"mif1", b"msf1")  # pictures in the same box
    if head[4:8] in (b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"):
        return True
    is_riff = head[:4] == b"RIFF" and head[8:12] == b"AVI "
    return is_riff or head[:4] == b"\x1aE\xdf\xa3" or (head[:1] == b"G" == head[188:189] and head[376:377] == b"G")


class ImageSource(FrameSource):
    """A picture as a video of one frame, turned as its EXIF orientation says."""

    num_frames = 1

    def __init__(self, path: Path, max_pixels: int) -> None:
        self.name = str(path)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with Image.open(path) as image:
                    width, height = image.size
        except Image.DecompressionBombError:  # Pillow does not say how large
            text = f"more than {2 * images.MAX_PIXELS:,} pixels: the app takes {max_pixels:,}; make it smaller"
            raise ApiError(413, "too_large", text) from None
        except (OSError, SyntaxError, ValueError, LookupError, TypeError, MemoryError):
            width = height = 0  # the reader below gives the reason
        check_pixels(width, height, max_pixels)
        self._pixels = images.read(path)
        check_pixels(self._pixels.shape[1], self._pixels.shape[0], max_pixels)  # of HEIC, known only now
        self.height, self.width = self._pixels.shape[:2]
        self._pixels.flags.writeable = False

    def _read(self, i: int) -> np.ndarray:
        return self._pixels


class SharedSource(FrameSource):
    """A source that several threads read, one at a time; errors have `shown_name` in place of its path.

    `opened` is the source itself: not to be read from.
    """

    def __init__(self, source: FrameSource, shown_name: str) -> None:
        self._source = self.opened = source
        self._lock = threading.Lock()
        self.name, self.fps, self.display = shown_name, source.fps, source.display
        self.rate, self.timecode = source.rate, source.timecode
        self.height, self.width, self.num_frames = source.height, source.width, source.num_frames

    def _read(self, i: int) -> np.ndarray:
        with self._lock:
            try:
                return self._source[i]
            except VideoError as error:
                raise VideoError(str(error).replace(self._source.name, self.name)) from None

    def time(self, i: int) -> float | None:
        return self._source.time(i)

    def frame_name(self, i: int) -> str:
        return self._source.frame_name(i)

    def close(self) -> None:
        with self._lock:
            self._source.close()


def open_media(path: Path, kind: Kind, shown_name: str, limits: Limits) -> SharedSource:
    """Open a file or a folder of frames.

    Raises:
        ApiError: it cannot be read or is too large; the line has `shown_name` in place of the path.
    """
    try:
        if kind == "image":
            return SharedSource(ImageSource(path, limits.pixels), shown_name)
        return SharedSource(_open_video(path, limits), shown_name)
    except (ImageError, VideoError) as error:
        raise ApiError(415, "unsupported", str(error).replace(str(path), shown_name)) from None
    except OSError as error:
        raise ApiError(415, "unsupported", f"{shown_name} cannot be read: {error.strerror or error}") from None


def _open_video(path: Path, limits: Limits) -> FrameSource:
    if path.is_dir():
        folder = FolderSource(path)
        check_pixels(folder.width, folder.height, limits.pixels)
        check_frames(folder.num_frames, limits.frames)
        return folder
    if moves(path):
        return open_moving(path, limits.pixels, limits.frames)
    av = import_av()
    try:
        with open_container(f"file:{path}", {"protocol_whitelist": "file"}) as container:
            for stream in container.streams.video:
                if (codec := stream.codec_context) is not None:  # else VideoFileSource refuses it
                    check_pixels(codec.width, codec.height, limits.pixels)
    except (av.error.FFmpegError, OSError) as error:
        raise VideoError(f"{path} cannot be opened as a video: {error.strerror}") from None
    source = VideoFileSource(path)
    try:
        check_pixels(source.width, source.height, limits.pixels)
        check_frames(source.num_frames, limits.frames)
    except ApiError:
        source.close()
        raise
    return source


def size_of(path: Path) -> int:
    """Bytes of a file, or of the files in a folder."""
    return sum(part.stat().st_size for part in path.iterdir()) if path.is_dir() else path.stat().st_size


def jpeg(frame: np.ndarray, side: int | None) -> bytes:
    """A frame (H, W, 3) uint8 as JPEG, made smaller where its longer side has more than `side` pixels."""
    picture = Image.fromarray(frame)
    if side is not None and max(picture.size) > side:
        picture.thumbnail((side, side), Image.Resampling.BILINEAR, reducing_gap=2.0)
    file = io.BytesIO()
    picture.save(file, format="JPEG", quality=90)
    return file.getvalue()


def frame_suffix(head: bytes) -> str:
    """ ".jpg" or ".png" for the first bytes of a frame in a folder.

    Raises:
        ApiError: it is neither.
    """
    if head.startswith(b"\xff\xd8\xff"):
        return ".jpg"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return ".png"
    raise ApiError(415, "unsupported", "the frames of a video must be JPEG or PNG files")


def frame_order(names: Sequence[str]) -> list[int]:
    """The order of frames by the last number in their names.

    Raises:
        ApiError: a name has no number, or two have the same.
    """
    numbers = []
    for name in names:
        stem = name.rsplit(".", 1)[0]
        digits = "".join(c if c.isascii() and c.isdecimal() else " " for c in stem).split()
        if not digits or len(digits[-1]) > 12:
            raise ApiError(415, "unsupported", f"{name!r:.100} has no number: frames must be numbered (00000.jpg, ...)")
        numbers.append(int(digits[-1]))
    if len(set(numbers)) < len(numbers):
        raise ApiError(415, "unsupported", "two frames have the same number: open frames of one video only")
    return sorted(range(len(names)), key=numbers.__getitem__)
