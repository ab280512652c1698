"""Films with alpha, mattes as grey films, and composites: ProRes 4444, HEVC, VP9, FFV1, H.264, through PyAV.

A film is written as ``NAME.part.SUFFIX`` and takes its name when it is complete. Until then it can be played up to the
last frames: a fragmented MOV, or Matroska with short clusters.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .audio import AudioCopy
from .cut import BLEED, Cut, FilmTags, premultiplied, straight
from .pyav import import_av
from .sinks import hold
from .source import VideoError

if TYPE_CHECKING:
    from av import VideoFrame

LEAST_TICKS = 10_000  # a second
FRAGMENTED = {"movflags": "hybrid_fragmented+frag_every_frame", "flush_packets": "1"}
CLUSTERS = {"flush_packets": "1", "cluster_time_limit": "200"}


class Codec(NamedTuple):
    """How a film is encoded."""

    encoder: str
    suffix: str
    with_alpha: str | None  # pixel format
    opaque: str | None
    options: dict[str, str]
    container: dict[str, str]
    lossless: bool = False
    keeps_range: bool = False  # else the range is limited, as players expect


CODECS = {
    "prores": Codec(
        "prores_ks", ".mov", "yuva444p10le", "yuv444p10le", {"profile": "4444", "vendor": "apl0"}, FRAGMENTED
    ),
    # VideoToolbox takes colours as premultiplied unless it is told otherwise, which FFmpeg does not do
    "hevc": Codec("hevc_videotoolbox", ".mov", "bgra", None, {"alpha_quality": "1"}, FRAGMENTED),
    "vp9": Codec(
        "libvpx-vp9",
        ".webm",
        "yuva420p",
        "yuv420p",
        {"crf": "10", "b": "0", "auto-alt-ref": "0", "lag-in-frames": "0", "cpu-used": "4", "row-mt": "1"},
        CLUSTERS,
        keeps_range=True,
    ),
    "ffv1": Codec(
        "ffv1",
        ".mkv",
        "yuva444p16le",
        "yuv444p16le",
        {"level": "3", "slices": "4", "slicecrc": "1"},
        CLUSTERS,
        lossless=True,
        keeps_range=True,
    ),
    "h264": Codec("libx264", ".mp4", None, "yuv420p", {"crf": "16", "preset": "veryfast", "tune": "zerolatency"},
                  FRAGMENTED),
}  # fmt: skip
FILM_SUFFIXES = {".mov": "prores", ".webm": "vp9", ".mkv": "ffv1", ".mp4": "h264"}


def codec_for(path: Path, name: str | None, kind: str) -> Codec:
    """The codec of a film by its name or suffix, if it can hold the kind.

    Raises:
        VideoError: there is none. One line.
    """
    chosen = name or FILM_SUFFIXES.get(path.suffix.lower())
    codec = CODECS.get(chosen or "")
    if codec is None or codec.suffix != path.suffix.lower():
        forms = ", ".join(f"{suffix} ({known})" for suffix, known in FILM_SUFFIXES.items())
        raise VideoError(f"{path} does not go with --codec {name}" if name else f"{path}: films end in {forms}")
    if kind == "cutout" and codec.with_alpha is None:
        raise VideoError(
            f"{path}: H.264 holds no transparency: name .mov (ProRes 4444), .webm (VP9) or .mkv (FFV1), "
            "or put something behind the object with --background"
        )
    if kind != "cutout" and codec.opaque is None:
        raise VideoError(f"{path}: HEVC is for films with alpha: leave out --codec hevc")
    if codec.encoder not in import_av().codecs_available:
        if chosen == "hevc":
            raise VideoError("HEVC with alpha needs a Mac (VideoToolbox): use --codec prores, or name a .webm")
        raise VideoError(f"this build of PyAV has no encoder {codec.encoder}: pip install --force-reinstall av")
    return codec


class AlphaFilm:
    """One film, frame by frame, at the distances in time that the frames state.

    Args:
        path: its name in the end; its suffix and `codec` agree.
        kind: "cutout", "matte" or "composite".
        premultiply: whether colours are multiplied by alpha.
        overwrite: replace a film of that name.

    Raises:
        VideoError: the film cannot say what `tags` say, the encoder refuses, or another run writes it.
    """

    def __init__(
        self, path: Path, codec: Codec, kind: str, tags: FilmTags, *, premultiply: bool = False, overwrite: bool = False
    ) -> None:
        self.path, self._codec, self._kind, self._tags = path, codec, kind, tags
        self._premultiply, self._overwrite = premultiply, overwrite
        self._av = import_av()
        self._part = path.with_name(f"{path.stem}.part{path.suffix}")
        if tags.display.pixel_aspect != 1 and codec.container is CLUSTERS:
            aspect = tags.display.pixel_aspect
            raise VideoError(
                f"{path} cannot say that pixels are {aspect.numerator}:{aspect.denominator}: name a .mov instead"
            )
        self._container: Any = None
        self._unlock: Callable[[], object] | None = None
        self._audio: AudioCopy | None = None
        factor = -(-LEAST_TICKS // tags.rate.numerator)
        self._tick = Fraction(1, tags.rate.numerator * factor)
        self._frame_ticks = tags.rate.denominator * factor
        self._ticks, self._time = 0, None

    def write(self, cut: Cut) -> None:
        with self._errors(cut.size):
            if self._container is None:
                self._open(cut)
            else:
                known = cut.time is not None and self._time is not None
                step = round(abs(cut.time - self._time) / self._tick) if known else self._frame_ticks
                self._ticks += max(1, step)
            self._time = cut.time
            frame = self._frame(cut)
            frame.pts, frame.time_base = self._ticks, self._tick
            self._container.mux(self._stream.encode(frame))
            if self._audio is not None:
                self._audio.copy_until(float((self._ticks + self._frame_ticks) * self._tick))

    def close(self) -> None:
        """Finish the film and give it its name."""
        if self._container is None:
            return
        container, self._container = self._container, None
        try:
            with self._errors((self._stream.height, self._stream.width)):
                try:
                    container.mux(self._stream.encode(None))
                finally:
                    container.close()
            self._refuse_taken()
            os.replace(self._part, self.path)
        finally:
            if self._audio is not None:
                self._audio.close()
            self._unlock()

    def _open(self, cut: Cut) -> None:
        codec, display = self._codec, self._tags.display
        height, width = self._coded(cut.matte).shape
        self._refuse_taken()
        os.close(os.open(self._part, os.O_WRONLY | os.O_CREAT, 0o666))
        self._unlock = hold(self._part, self)
        container = self._av.open(f"file:{self._part}", "w", options=codec.container)
        with_alpha = self._kind == "cutout"
        options = dict(codec.options)
        if codec.encoder == "prores_ks" and with_alpha:
            options["alpha_bits"] = "16"
        self._stream = container.add_stream(codec.encoder, rate=self._tags.rate, options=options)
        self._stream.width, self._stream.height = width, height
        self._stream.pix_fmt = codec.with_alpha if with_alpha else codec.opaque
        context = self._stream.codec_context
        context.time_base = self._tick
        context.sample_aspect_ratio = display.pixel_aspect
        context.color_primaries, context.color_trc = display.primaries, display.transfer
        context.colorspace, context.color_range = display.matrix, 1 + self._is_full
        if codec.encoder == "hevc_videotoolbox":
            context.codec_tag = "hvc1"  # the one that Apple's players know
        if codec.encoder == "libvpx-vp9" and with_alpha:
            self._stream.metadata["alpha_mode"] = "1"
        if self._tags.timecode:
            self._stream.metadata["timecode"] = self._tags.timecode
        if self._tags.audio is not None:
            self._audio = AudioCopy(self._tags.audio, cut.time or 0.0, container, self.path)
        self._container = container

    def _refuse_taken(self) -> None:
        if not self._overwrite and os.path.lexists(self.path):  # another run's, since this one began
            raise VideoError(f"{self.path} exists already: give another name, or overwrite it (--overwrite)")

    @property
    def _is_full(self) -> bool:
        return self._codec.keeps_range and self._tags.display.full_range

    def _coded(self, picture: np.ndarray) -> np.ndarray:
        """With an odd last column or row doubled, where the encoder needs even sizes."""
        h, w = picture.shape[:2]
        if self._codec.encoder != "libx264" or not (h % 2 or w % 2):
            return picture
        return np.pad(picture, [(0, h % 2), (0, w % 2)] + [(0, 0)] * (picture.ndim - 2), mode="edge")

    def _frame(self, cut: Cut) -> VideoFrame:
        matte = self._coded(cut.matte)
        if self._container is not None and matte.shape != (self._stream.height, self._stream.width):
            h, w = cut.size
            raise VideoError(f"frame {cut.index} is {w}x{h}, not the size that {self.path} was begun with")
        if self._kind == "matte":
            return self._grey(matte)
        if self._kind == "composite":
            return self._colours(self._coded(cut.own))
        colours = premultiplied(cut) if self._premultiply else straight(cut, 0 if self._codec.lossless else BLEED)
        if self._codec.with_alpha == "bgra":
            picture = np.dstack([colours[..., ::-1], np.rint(255 * matte).astype(np.uint8)])
            return self._av.VideoFrame.from_ndarray(picture, format="bgra")
        plain = self._colours(colours)
        frame = self._av.VideoFrame(plain.width, plain.height, self._codec.with_alpha)
        for to, of in zip(frame.planes, plain.planes, strict=False):
            to.update(memoryview(of))
        _fill(frame.planes[3], matte, 1.0, 0.0, self._bits)
        return self._labelled(frame)

    def _colours(self, rgb: np.ndarray) -> VideoFrame:
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
        return self._labelled(
            frame.reformat(
                format=self._codec.opaque or "bgra",
                dst_colorspace=self._tags.display.matrix,
                dst_color_range=1 + self._is_full,
                threads=1,
            )
        )

    def _grey(self, matte: np.ndarray) -> VideoFrame:
        frame = self._av.VideoFrame(matte.shape[1], matte.shape[0], self._codec.opaque)
        scale, black = (1.0, 0.0) if self._is_full else (219 / 255, 16 / 255)
        _fill(frame.planes[0], matte, scale, black, self._bits)
        for plane in list(frame.planes)[1:]:
            _fill(plane, np.full((plane.height, plane.width), 0.5, np.float32), 1.0, 0.0, self._bits)
        return self._labelled(frame)

    @property
    def _bits(self) -> int:
        return {"yuv420p": 8, "yuv444p10le": 10, "yuv444p16le": 16}[self._codec.opaque]

    def _labelled(self, frame: VideoFrame) -> VideoFrame:
        frame.colorspace, frame.color_range = self._tags.display.matrix, 1 + self._is_full
        frame.color_primaries, frame.color_trc = self._tags.display.primaries, self._tags.display.transfer
        return frame

    @contextmanager
    def _errors(self, size: tuple[int, int]) -> Iterator[None]:
        """Report a refusal of the encoder as one line; errors of the disk pass."""
        try:
            yield
        except self._av.error.FFmpegError as error:
            if isinstance(error, OSError):
                raise
            height, width = size
            raise VideoError(
                f"{self.path} cannot be encoded as {self._codec.encoder}, {width}x{height}: {error.strerror}; "
                "a folder of PNG, TIFF or EXR holds any size"
            ) from error


def _fill(plane: Any, values: np.ndarray, scale: float, black: float, bits: int) -> None:
    """Put values (H, W) of 0..1 into a plane of `bits` bits: black + scale * value, of 8-bit levels shifted up."""
    top = (1 << bits) - 1 if black == 0 and scale == 1 else 255 << (bits - 8)
    levels = np.rint((black + scale * values) * top).astype(np.uint8 if bits == 8 else "<u2")
    rows = np.zeros((plane.height, plane.line_size), np.uint8)
    rows[:, : levels.shape[1] * levels.itemsize] = levels.view(np.uint8).reshape(len(levels), -1)
    plane.update(rows)
