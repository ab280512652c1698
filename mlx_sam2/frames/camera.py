"""Live frame sources: cameras and network streams, read as their frames come."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from .pyav import display_matrix, import_av, to_rgb, video_stream
from .source import StreamSource, VideoError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

PATIENCE = 10.0  # seconds without a frame after which a camera or a sender counts as gone


def open_camera(device: str, options: Mapping[str, str]) -> StreamSource:
    """Open a camera by number or name, with AVFoundation on macOS and Video4Linux on Linux.

    Args:
        device: "0" is the first camera; also a name on macOS ("FaceTime HD Camera"), a path on Linux.
        options: of the driver. On macOS `framerate` is 30 unless given: cameras refuse the driver's default.
    """
    if sys.platform == "darwin":
        driver, file, options = "avfoundation", f"{device}:none", {"framerate": "30", **options}
    elif sys.platform.startswith("linux"):
        driver, file, options = "v4l2", f"/dev/video{device}" if device.isdecimal() else device, dict(options)
    else:
        raise VideoError(f"cameras are supported on macOS and Linux, not on {sys.platform}")
    return _open_live(
        file,
        f"camera {device}",
        "is it connected and not in use, may this program use it (macOS: System Settings > Privacy & "
        "Security > Camera), and does it have the frame rate and size asked for",
        driver,
        dict(options),
    )


def open_live(url: str) -> StreamSource:
    """Open a network stream. Its frames are read as they come."""
    return _open_live(url, url, "is the address right, and the sender running", None, {})


def _open_live(file: str, name: str, hint: str, driver: str | None, options: dict[str, str]) -> StreamSource:
    av = import_av()
    try:
        container = av.open(file, format=driver, options=options, timeout=PATIENCE)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise VideoError(f"{name} cannot be opened ({getattr(error, 'strerror', None) or error}): {hint}?") from error
    stream = video_stream(container, name)
    rate = stream.average_rate or stream.guessed_rate
    frames = _live_frames(container, stream, name)
    return StreamSource(frames, name, fps=float(rate) if rate else None, timed=True, on_close=container.close)


def _live_frames(container: InputContainer, stream: VideoStream, name: str) -> Iterator[tuple[float, np.ndarray]]:
    """(seconds, frame) pairs as the device delivers them."""
    av = import_av()
    matrix, waiting_since = None, time.monotonic()
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.error.BlockingIOError:  # AVFoundation raises this whenever the next frame is not there yet
            if time.monotonic() - waiting_since > PATIENCE:
                raise VideoError(f"{name} has sent no frame for {PATIENCE:.0f} seconds") from None
            time.sleep(0.002)
            packets = container.demux(stream)
            continue
        except av.error.FFmpegError as error:
            raise VideoError(f"{name} has stopped: {error.strerror}") from error
        if packet is None:
            return
        waiting_since = time.monotonic()
        try:
            frames = packet.decode()
        except av.error.FFmpegError:  # a packet was lost; the next keyframe mends it
            continue
        for frame in frames:
            matrix = display_matrix(frame) if matrix is None else matrix
            seconds = frame.time if frame.time is not None else time.monotonic()
            yield seconds, to_rgb(frame, matrix)
