"""Our use of PyAV: opening files, finding the stream, and turning decoded frames into arrays."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from .source import Display, VideoError

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

# Code points of ISO/IEC 23091-2 that name colours; others, and 2, leave them open.
PRIMARIES, TRANSFERS = (1, *range(4, 13), 22), (1, *range(4, 19))
FULL_RANGE = 2
MATRICES = (1, 4, 5, 6, 7, 9)  # those that FFmpeg's scaler knows


def import_av() -> Any:
    """The `av` module, or one line that says how to get it."""
    try:
        import av
    except ImportError as error:
        raise VideoError("reading and writing videos needs PyAV: pip install 'mlx-sam2[video]'") from error
    return av


def open_container(file: Any, options: dict[str, str]) -> InputContainer:
    """Open a file with PyAV, whatever the encoding of its title and other metadata. Raises as ``av.open``."""
    av = import_av()
    if int(av.__version__.partition(".")[0]) < 19:  # a title that is not UTF-8 raises there, unless told otherwise
        return av.open(file, options=options, metadata_errors="replace")
    return av.open(file, options=options)


def video_stream(container: InputContainer, name: str, threaded: bool = False) -> VideoStream:
    """The first stream of moving pictures; `threaded` lets it decode several frames at a time."""
    from av.stream import Disposition

    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:  # the cover of a song
            if stream.codec_context is None:
                container.close()
                raise VideoError(f"{name} is packed in a way that PyAV does not know: convert it to H.264")
            stream.thread_type = "AUTO" if threaded else "SLICE"
            return stream
    container.close()
    raise VideoError(f"{name} has no video stream")


def display_matrix(frame: VideoFrame) -> np.ndarray | None:
    """The upper left 2x2 of the display matrix: where the x and the y axis of the stored picture go."""
    try:
        data = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:
        _allow_unknown_side_data()
        data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return None
    matrix = np.frombuffer(data, dtype=np.int32).reshape(3, 3)[:2, :2].astype(np.int64)
    return matrix if matrix[0, 0] * matrix[1, 1] != matrix[0, 1] * matrix[1, 0] else None


def _allow_unknown_side_data() -> None:
    """Let PyAV list side data that it has no name for, such as the EXIF of Motion JPEG (28 to 31 in FFmpeg 8.1).

    Before version 19 one of them makes ``side_data`` raise whatever is asked for, and nothing else gives the matrix.
    """
    from av.sidedata.sidedata import Type

    for number in range(256):
        Type._value2member_map_.setdefault(number, number)


def display_of(stream: VideoStream, frame: VideoFrame, matrix: np.ndarray | None) -> Display:
    """Shape of pixels and colours as the file states them, the shape turned with the frames."""
    aspect = Fraction(stream.sample_aspect_ratio or 1)
    if matrix is not None and abs(matrix[0, 0]) < abs(matrix[0, 1]):
        aspect = 1 / aspect
    primaries, transfer = int(frame.color_primaries), int(frame.color_trc)
    default = Display()
    primaries = primaries if primaries in PRIMARIES else default.primaries
    transfer = transfer if transfer in TRANSFERS else default.transfer
    matrix = int(frame.colorspace)
    matrix = matrix if matrix in MATRICES else default.matrix
    return Display(aspect, primaries, transfer, matrix, int(frame.color_range) == FULL_RANGE)


def timecode_of(container: InputContainer, stream: VideoStream) -> str | None:
    """The timecode of the first frame, if the file has one."""
    for tags in (stream.metadata, container.metadata, *(other.metadata for other in container.streams)):
        for name, value in tags.items():
            if name.lower() == "timecode":
                return value
    return None


def to_rgb(frame: VideoFrame, matrix: np.ndarray | None) -> np.ndarray:
    """The frame as it is to be seen, (H, W, 3) uint8: mirrored and turned by the display matrix."""
    # One thread: the default takes one per core for a conversion of a few milliseconds.
    rgb = frame.to_ndarray(format="rgb24", threads=1)
    if matrix is None:
        return rgb
    (xx, xy), (yx, yy) = matrix  # the x axis is shown along (xx, xy), the y axis along (yx, yy)
    if abs(xx) < abs(xy):
        rgb = rgb.transpose(1, 0, 2)
        xx, yy = yx, xy
    return np.ascontiguousarray(rgb[:: -1 if yy < 0 else 1, :: -1 if xx < 0 else 1])
