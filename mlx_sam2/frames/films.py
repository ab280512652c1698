"""Overlay films: a video of the frames with the objects drawn in, written frame by frame."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import numpy as np

from ..images.drawing import draw_masks
from .pyav import import_av
from .sinks import FrameSink, Masks, Scores
from .source import Display, VideoError

VIDEO_SUFFIXES = (".mp4", ".mov")
TICKS = 90_000  # a second, in the clock of overlay videos


class OverlaySink(FrameSink):
    """An H.264 video (`.mp4` or `.mov`) of the frames with the objects tinted, outlined and numbered.

    Frames are shown in the order in which they were written, at the distances in time that `time` gives them,
    else at the rate `fps` (30 if None), with the pixel aspect ratio and colours of `display`, the source's. H.264
    needs even sizes: an odd last column or row is doubled. The file can be played after every frame: until it is
    closed it is a fragmented MP4, then an ordinary one.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        overwrite: bool = False,
        *,
        fps: float | None = None,
        display: Display | None = None,
    ) -> None:
        super().__init__(path, overwrite)
        if self.path.suffix.lower() not in VIDEO_SUFFIXES:
            raise VideoError(f"{self.path} is no name for an overlay video: it needs to end in .mp4 or .mov")
        self._av = import_av()
        if "libx264" not in self._av.codecs_available:
            raise VideoError("this build of PyAV has no H.264 encoder: pip install --force-reinstall av")
        self._fps = fps or 30.0
        self._display = display or Display()
        self._container: Any = None
        self._ticks = 0
        self._time: float | None = None

    def _write(self, i: int, frame: np.ndarray, masks: Masks, scores: Scores, time: float | None) -> None:
        h, w = frame.shape[:2]
        drawn = draw_masks(frame, masks, mark="~" if self._filled else "")
        picture = np.pad(drawn, ((0, h % 2), (0, w % 2), (0, 0)), mode="edge")
        if self._container is None:
            with self._errors(w, h):
                self._open(*picture.shape[:2])
        else:
            step = 1 / self._fps if time is None or self._time is None else abs(time - self._time)
            self._ticks += max(1, round(step * TICKS))
        self._time = time
        if picture.shape[:2] != (self._stream.height, self._stream.width):
            raise VideoError(f"frame {i} is {w}x{h}, not the size that {self.path} was begun with")
        video_frame = self._av.VideoFrame.from_ndarray(picture, format="rgb24")
        video_frame = video_frame.reformat(format="yuv420p", dst_colorspace="ITU709", threads=1)
        video_frame.pts, video_frame.time_base = self._ticks, Fraction(1, TICKS)
        with self._errors(w, h):
            self._container.mux(self._stream.encode(video_frame))

    @contextmanager
    def _errors(self, width: int, height: int) -> Iterator[None]:
        """Report a refusal of the encoder as one line; errors of the disk pass."""
        try:
            yield
        except self._av.error.FFmpegError as error:
            if isinstance(error, OSError):
                raise
            raise VideoError(
                f"{self.path} cannot be encoded: {error.strerror}; H.264 ends near 16,000 pixels a side, and frames "
                f"are {width}x{height}: write masks as .png or .jsonl instead"
            ) from error

    def _open(self, height: int, width: int) -> None:
        self._make_file()
        options = {"movflags": "hybrid_fragmented+frag_every_frame", "flush_packets": "1"}
        self._container = self._av.open(f"file:{self.path}", "w", options=options)
        # No look-ahead: frames must not wait in the encoder. A keyframe every two seconds, for seeking.
        gop = max(1, round(2 * self._fps))
        encoder = {"tune": "zerolatency", "preset": "veryfast", "crf": "18", "g": str(gop)}
        rate = Fraction(self._fps).limit_denominator(1001)
        self._stream = self._container.add_stream("libx264", rate=rate, options=encoder)
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
        context = self._stream.codec_context
        context.time_base = Fraction(1, TICKS)
        context.sample_aspect_ratio = self._display.pixel_aspect
        context.color_primaries, context.color_trc = self._display.primaries, self._display.transfer
        context.colorspace, context.color_range = 1, 1  # the matrix is that of BT.709, the range limited

    def close(self) -> None:
        if self._container is not None:
            container, self._container = self._container, None
            try:
                container.mux(self._stream.encode(None))
            finally:
                container.close()
