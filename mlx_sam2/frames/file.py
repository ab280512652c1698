"""Video files as frame sources: PyAV underneath, any frame exactly, in the order in which they are shown."""

from __future__ import annotations

import io
import os
import threading
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import numpy as np

from .pyav import display_matrix, display_of, import_av, open_container, timecode_of, to_rgb, video_stream
from .source import FrameCache, FrameSource, VideoError, require_size

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

# Containers whose packets are one frame each and carry the time at which it is shown. VP8 is the exception:
# it has packets that show nothing.
_PACKETS_ARE_FRAMES = ("mp4", "matroska")
_HIDES_FRAMES = ("vp8",)
_PROBED_FRAMES = 8
PICTURE_I = 1  # av.video.frame.PictureType.I


@dataclass(frozen=True)
class FrameIndex:
    """The frames of a file by their times, in units of the stream's time base.

    `pts` holds the presentation time of every frame, in order; each is None if the file has no such times.
    `keys` are the times at which decoding can start, ascending; without any, frames can only be counted from
    the beginning.
    """

    pts: list[int | None]
    keys: list[int]


class VideoFileSource(FrameSource):
    """The frames of a video file in the order in which they are shown.

    A variable frame rate is neither filled up nor thinned out; `time(i)` tells when each frame is shown. Frames
    are turned by quarter turns and mirrored as the file says.

    Opening reads the packets of an MP4, MOV, MKV or WebM file without decoding them; random access goes to
    the keyframe before and decodes from there, to the same pixels as reading in order. Files of other kinds
    (AVI, MPEG-TS, raw H.264), whose packets do not tell the frames and their times reliably, are decoded once
    when they are opened, and from the start again for every step back beyond the cache.

    Args:
        file: the path of a file, or its content as bytes.

    Raises:
        VideoError: PyAV is missing; the file cannot be opened, is cut off, or has no video stream. When a
            frame is read: it cannot be decoded.
    """

    reads_ahead = True

    def __init__(self, file: bytes | str | os.PathLike[str]) -> None:
        self._av = import_av()
        self._lock = threading.RLock()
        self._data = file if isinstance(file, bytes) else None
        self.name = "the video in memory" if isinstance(file, bytes) else os.fspath(file)
        self._container: InputContainer | None = None
        self._frames: Iterator[tuple[int, VideoFrame]] | None = None
        self._broken = 0  # packets and frames that were skipped
        self._threaded = False  # whether several frames are decoded at a time; never while the index is made
        self._next = 0  # the frame that self._frames gives next
        self._stream = self._open()
        try:
            require_size(self._stream.codec_context.height, self._stream.codec_context.width, self.name)
            self._index = self._build_index()
            self._open_first_frame()
        except BaseException:
            self.close()
            raise

    def time(self, i: int) -> float | None:
        first, pts = self._index.pts[0], self._index.pts[i]
        if first is None or pts is None:
            return super().time(i)
        return float((pts - first) * self._time_base)

    def plays_by_rate(self) -> bool:
        """Whether a player that knows only `fps` tells the frames by their times, and shows them as they are here.

        True for frames of eight bits that begin with a keyframe, are not turned, and come within a quarter of a
        frame of their number times the rate.
        """
        pts, keys = self._index.pts, self._index.keys
        if not keys or keys[0] != pts[0] or not self.fps or self._rotation is not None or self._deep:
            return False
        times = np.array(pts, np.float64) - pts[0]
        return bool((np.abs(times * float(self._time_base) * self.fps - np.arange(len(pts))) < 0.25).all())

    def close(self) -> None:
        with self._lock:
            self._frames = None
            if self._container is not None:
                self._container.close()
                self._container = None

    # Opening

    def _open(self) -> VideoStream:
        """(Re)open the file at its beginning."""
        self.close()
        # "file:" keeps a colon in a name from naming a protocol; the whitelist keeps a play list offline.
        file = io.BytesIO(self._data) if self._data is not None else f"file:{self.name}"
        options = {} if self._data is not None else {"protocol_whitelist": "file"}
        try:
            self._container = open_container(file, options)
        except (self._av.error.FFmpegError, OSError) as error:
            raise VideoError(f"{self.name} cannot be opened as a video: {error.strerror}") from error
        return video_stream(self._container, self.name, self._threaded)

    def _open_first_frame(self) -> None:
        """Take size, rotation and colours from the first frame, and the rate from the stream."""
        _, frame = next(self._start(0), (0, None))
        if frame is None:
            raise VideoError(f"{self.name}: none of its frames can be decoded")
        self._rotation = display_matrix(frame)
        self._deep = any(part.bits > 8 for part in frame.format.components)
        self.height, self.width = to_rgb(frame, self._rotation).shape[:2]
        self.num_frames = len(self._index.pts)
        self._time_base = self._stream.time_base
        rate = self._stream.average_rate or self._stream.guessed_rate
        self.fps = float(rate) if rate else None
        self.rate = Fraction(rate) if rate else None
        self.timecode = timecode_of(self._container, self._stream)
        self.display = display_of(self._stream, frame, self._rotation)
        self._cache = FrameCache(self.height, self.width)

    def _build_index(self) -> FrameIndex:
        """List all frames: from the packets where one packet is one frame, else by decoding the file once."""
        if "matroska" in self._container.format.name:
            self._require_whole_segment()
        trusted = any(name in self._container.format.name for name in _PACKETS_ARE_FRAMES)
        if trusted and self._stream.codec_context.name not in _HIDES_FRAMES:
            index = self._index_packets()
            if index is not None and self._agrees(index):
                self._threaded = True  # any frame that gets lost will be missed
                return index
        self._stream = self._open()
        pts = [frame.pts for frame in self._decode(self._packets(flush=True))]
        if not pts:
            raise VideoError(f"{self.name} has a video stream, but no frame of it can be decoded")
        return FrameIndex(pts, keys=[])

    def _require_whole_segment(self) -> None:
        """Refuse a Matroska or WebM file that is shorter than it says. Unfinished recordings do not say."""
        if self._data is not None:
            head, size = self._data[:64], len(self._data)
        else:
            with open(self.name, "rb") as file:
                head, size = file.read(64), os.fstat(file.fileno()).st_size
        end = segment_end(head)
        if end is not None and size < end:
            raise VideoError(
                f"{self.name} is cut off: {size} of its {end} bytes are there; "
                "copy it again, or save what is left with: ffmpeg -i IN -c copy OUT.mkv"
            )

    def _index_packets(self) -> FrameIndex | None:
        """Index a file in which every packet is a frame; None if the packets' times cannot be used."""
        shown, keys, first = [], [], None
        count = 0
        for packet in self._packets():
            count += 1
            if packet.pts is None:
                return None
            if packet.is_keyframe:
                keys.append(packet.pts)
                first = packet.pts if first is None else first
            if not packet.is_discard:
                shown.append(packet.pts)
        announced = len(self._stream.index_entries)  # edit lists applied; for Matroska only its keyframes
        if count < announced:
            raise VideoError(
                f"{self.name} is cut off: {count} of the {announced} frames that it announces are there; "
                "copy it again, or save what is left with: ffmpeg -i IN -c copy OUT.mkv"
            )
        if first is None:
            return None
        # Frames before the first keyframe (of a file cut out of a longer one) cannot be decoded.
        shown = sorted(pts for pts in shown if pts >= first)
        if not shown or len(set(shown)) < len(shown):
            return None
        return FrameIndex(shown, sorted(keys))

    def _agrees(self, index: FrameIndex) -> bool:
        """Whether the decoder gives the first frames as the index lists them, broken ones apart."""
        self._stream = self._open()
        expected = index.pts[:_PROBED_FRAMES]
        decoded = (frame.pts for frame in self._decode(self._packets(flush=True)))
        decoded = [pts for pts in islice(decoded, len(expected)) if pts is not None and pts >= expected[0]]
        return decoded == expected[: len(decoded)] or self._broken > 0

    # Reading

    def _read(self, i: int) -> np.ndarray:
        with self._lock:
            return self._read_alone(i)

    def _read_alone(self, i: int) -> np.ndarray:
        cached = self._cache.get(i)
        if cached is not None:
            return cached
        if self._frames is None or not self._key_before(i) <= self._next <= i:
            self._frames = self._start(i)
        # Keep the frames just before i too: reading backwards asks for them next.
        keep_from = i - self._cache.capacity // 2
        for position, frame in self._frames:
            self._next = position + 1
            if position > i:
                break
            if position >= keep_from:
                rgb = self._checked(to_rgb(frame, self._rotation), f"frame {position} of {self.name}")
                self._cache.put(position, rgb)
            if position == i:
                return rgb
        self._frames = None
        if self._threaded:  # an error in one frame may have swallowed good ones around it
            self._threaded = False
            self._stream = self._open()
            return self._read_alone(i)
        raise VideoError(
            f"{self.name}: frame {i} cannot be decoded, the file is damaged there; "
            "copy it again, or stop before that frame"
        )

    def _key_before(self, i: int) -> int:
        """The number of the last frame at or before `i` at which decoding can start."""
        if not self._index.keys:
            return 0
        k = bisect_right(self._index.keys, self._index.pts[i])
        return bisect_right(self._index.pts, self._index.keys[k - 1] - 1) if k else 0

    def _start(self, i: int) -> Iterator[tuple[int, VideoFrame]]:
        """(number, frame) pairs that begin at or before frame `i`, as late as seeking allows."""
        keys = self._index.keys
        k = bisect_right(keys, self._index.pts[i]) - 1 if keys else 0
        step = 1
        while k > 0 and self._container is not None:
            self._container.seek(keys[k], stream=self._stream)
            frames = self._numbered(self._decode_from_key(keys[k]))
            first = next(frames, None)
            if first is not None:
                return chain([first], frames)
            k, step = k - step, 2 * step
        self._stream = self._open()
        return self._numbered(self._decode(self._packets(flush=True)))

    def _numbered(self, frames: Iterator[VideoFrame]) -> Iterator[tuple[int, VideoFrame]]:
        """Number frames by their time, or by counting where there are no usable times."""
        if not self._index.keys:
            yield from enumerate(frames)
            return
        pts = self._index.pts
        for frame in frames:
            position = bisect_right(pts, frame.pts) - 1
            if position >= 0 and pts[position] == frame.pts:
                yield position, frame

    def _decode_from_key(self, latest: int) -> Iterator[VideoFrame]:
        """Decode from the next keyframe on; nothing if it is after `latest` or not enough to start from."""
        packets = self._packets(flush=True)
        key = next((packet for packet in packets if packet.is_keyframe), None)
        if key is None or key.pts is None or key.pts > latest:
            return
        # Frames shown before the keyframe may need others that were not decoded (open GOP). And where a
        # picture is refreshed bit by bit, what is marked as a keyframe is not one: it is no intra picture.
        start = key.pts
        frames = (f for f in self._decode(chain([key], packets)) if f.pts is not None and f.pts >= start)
        first = next(frames, None)
        if first is not None and first.pts == start and first.pict_type == PICTURE_I:
            yield first
            yield from frames

    def _decode(self, packets: Iterable[Any]) -> Iterator[VideoFrame]:
        """All frames of `packets` in the order in which they are shown, without broken ones."""
        for packet in packets:
            try:
                frames = packet.decode()
            except self._av.error.FFmpegError:
                self._broken += 1
                continue
            for frame in frames:
                if frame.is_corrupt:
                    self._broken += 1
                else:
                    yield frame

    def _packets(self, flush: bool = False) -> Iterator[Any]:
        """The packets of the video stream from here on; `flush` adds the last one, which empties the decoder."""
        try:
            for packet in self._container.demux(self._stream):
                if packet.is_corrupt:  # cut off in its middle: the file ends here
                    continue
                if packet.size or flush:
                    yield packet
        except self._av.error.FFmpegError as error:
            raise VideoError(f"{self.name} cannot be read to its end: {error.strerror}; copy it again") from error


def segment_end(head: bytes) -> int | None:
    """Where the segment of a Matroska file ends, in bytes (RFC 8794 and 9559); None if the file leaves it open."""
    end = 0
    for tag in (b"\x1aE\xdf\xa3", b"\x18S\x80g"):  # the EBML header, then the segment
        at = end
        if head[at : at + 4] != tag or not head[at + 4 : at + 5].strip(b"\0"):
            return None
        length = 9 - head[at + 4].bit_length()  # of the size: as many leading zero bits, and one more
        unknown = (1 << 7 * length) - 1
        value = int.from_bytes(head[at + 4 : at + 4 + length], "big") & unknown
        if value == unknown:
            return None
        end = at + 4 + length + value
    return end
