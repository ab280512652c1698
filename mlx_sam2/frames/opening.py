"""Opening: the source for whatever holds the frames of a video, and the sink that an output's name asks for."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from ..images import ImageError, Levels, containers, decode
from .animation import AnimationSource, is_animation
from .camera import open_camera, open_live
from .file import VideoFileSource
from .films import VIDEO_SUFFIXES, OverlaySink
from .sinks import FrameSink, PngSink, RleSink
from .source import Display, FolderSource, FrameSource, SequenceSource, StreamSource, VideoError

_LEVELS_ARE_FOR = "levels are for TIFF stacks and folders of 16-bit PNG files"
HEAD = 4096  # bytes that tell what a file is
FILM_HEIC = (b"msf1", b"hevc", b"hevx", b"hevm", b"hevs")  # first brands of HEIF sequences, which PyAV reads


def open_source(
    source: Any, *, camera_options: Mapping[str, str] | None = None, levels: Levels | None = None
) -> FrameSource:
    """Open the frames of a video, whatever holds them.

    Args:
        source: one of
            a folder of numbered JPEG or PNG files (`FolderSource`);
            a video file in any container that PyAV opens, by its path or as its bytes (`VideoFileSource`);
            an animated GIF, WebP or PNG, or a TIFF stack, by its path or as its bytes (`AnimationSource`);
            a list, array or other sequence of frames (`SequenceSource`);
            any other iterable of frames, read once in order (`StreamSource`);
            a camera, as its number or as "camera:NUMBER_OR_NAME" (`open_camera`);
            the URL of a live stream, "rtsp://..." or the like (`open_live`);
            an open `FrameSource`, which is returned as it is.
            A frame in memory is a uint8 RGB array (H, W, 3) or a PIL image.
        camera_options: options for the camera's driver, e.g. {"framerate": "15", "video_size": "1280x720"}.
        levels: how grey frames of a folder of 16-bit PNG files, or of a TIFF stack, become 8 bits: "full", "auto" or
            (low, high), see ``images.levels``; "auto" is one range for all frames.

    Raises:
        VideoError: the source does not exist, cannot be read, or holds no frame.
    """
    is_camera = (isinstance(source, int) and not isinstance(source, bool)) or (
        isinstance(source, str) and re.match("camera(:|$)", source) is not None
    )
    if camera_options is not None and not is_camera:
        raise VideoError(f"camera_options are for cameras, and {source!r:.60} is none")
    if isinstance(source, (bytearray, memoryview)):
        source = bytes(source)
    if isinstance(source, (bytes, str, os.PathLike)) and source and not is_camera:
        return open_file(source, levels)
    if levels is not None:
        what = f"{source!r:.60}" if isinstance(source, (int, str)) else f"a {type(source).__name__}"
        raise VideoError(f"{_LEVELS_ARE_FOR}, and {what} is neither")
    if isinstance(source, FrameSource):
        return source
    if is_camera:
        device = str(source) if isinstance(source, int) else source.partition(":")[2] or "0"
        return open_camera(device, camera_options or {})
    is_file = isinstance(source, (bytes, str)) or hasattr(source, "read")  # empty, or open: give its path or its bytes
    if isinstance(source, Iterable) and not is_file and not isinstance(source, (Mapping, set, frozenset, Image.Image)):
        indexed = hasattr(source, "__len__") and hasattr(source, "__getitem__")
        return SequenceSource(source) if indexed else StreamSource(source)
    kind = f"an empty {type(source).__name__}" if isinstance(source, (bytes, str)) else type(source).__name__
    raise VideoError(
        f"{kind} is no source of frames: give a folder of frames, a video file, "
        'its bytes, an iterable of frames, or a camera ("camera:0")'
    )


def open_file(source: bytes | str | os.PathLike[str], levels: Levels | None = None) -> FrameSource:
    """Open a path, an address or the bytes of a file. ``levels`` as for ``open_source``.

    Raises:
        VideoError: as ``open_source``.
    """
    if not isinstance(source, bytes):
        path = Path(source)
        if isinstance(source, str) and re.match("[a-z0-9+]+://", source):
            if levels is not None:
                raise VideoError(f"{_LEVELS_ARE_FOR}, and {source} is neither")
            return open_live(source)
        if path.is_dir():
            return FolderSource(path, levels)
        if not path.exists():
            raise VideoError(f"{path} does not exist: give a video file or a folder of frames")
        if not path.is_file():  # opening a named pipe would wait for its other end
            raise VideoError(f"{path} is a pipe or a device: give a video file, a folder of frames or camera:0")
    name = "the file in memory" if isinstance(source, bytes) else os.fspath(source)
    try:
        with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file:
            head = file.read(HEAD)
            if levels is not None and not is_animation(head):
                raise VideoError(f"{_LEVELS_ARE_FOR}, and {name} is neither")
            if containers.is_raw(file):
                raise VideoError(f"{name} {containers.RAW_REFUSED}")
            if containers.is_heic(head) and head[8:12] not in FILM_HEIC:
                file.seek(0)
                return SequenceSource([decode(file, name).pixels], name=name)
    except ImageError as error:
        raise VideoError(str(error)) from None
    except OSError as error:
        raise VideoError(f"{name} cannot be read: {error.strerror}") from error
    return AnimationSource(source, levels) if is_animation(head) else VideoFileSource(source)


def open_sink(
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    fps: float | None = None,
    display: Display | None = None,
    frame_name: Callable[[int], str] | None = None,
) -> FrameSink:
    """The sink that a name asks for: `.mp4`, `.mov` overlay video, `.jsonl` COCO RLE, no suffix a PNG folder.

    `fps` and `display` (the source's) are for the video, `frame_name` for the PNG files.
    """
    suffix = Path(path).suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        return OverlaySink(path, overwrite, fps=fps, display=display)
    if suffix == ".jsonl":
        return RleSink(path, overwrite)
    if suffix == "" or Path(path).is_dir():
        return PngSink(path, overwrite, frame_name=frame_name)
    raise VideoError(f"{path}: outputs end in .mp4 or .mov (overlay), .jsonl (RLE), or are a folder for PNG masks")
