"""The sound of a film, copied into another one without being encoded again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .pyav import import_av, open_container
from .source import VideoError

if TYPE_CHECKING:
    from av import Packet

WEBM = ("opus", "vorbis")


class AudioCopy:
    """Copies the audio streams of a film, packet by packet, as far as the pictures have come.

    Args:
        source: the film.
        start: when the first picture that is written is shown, in seconds after the film's first one.
        container: where the streams go; its header is not written yet.
        path: its name, for errors.

    Raises:
        VideoError: there is no sound, or it cannot be in such a file.
    """

    def __init__(self, source: Path, start: float, container: Any, path: Path) -> None:
        av = import_av()
        self._input = open_container(f"file:{source}", {"protocol_whitelist": "file"})
        streams = self._input.streams
        if not streams.audio:
            self.close()
            raise VideoError(f"{source} has no sound to copy: leave out --audio")
        for stream in streams.audio:
            name = stream.codec_context.name if stream.codec_context else "an unknown codec"
            if path.suffix.lower() == ".webm" and name not in WEBM:
                self.close()
                raise VideoError(f"{path} cannot hold the sound of {source} ({name}): name a .mov or .mkv")
        video = streams.video[0]
        first = video.start_time * video.time_base if video.start_time is not None and video.time_base else 0
        self._start = float(first) + start
        try:
            self._outputs = {s.index: container.add_stream_from_template(s) for s in streams.audio}
        except (ValueError, av.error.FFmpegError) as error:
            self.close()
            raise VideoError(f"{path} cannot hold the sound of {source}: name a .mkv ({error})") from error
        self._packets = self._shifted(self._input.demux(*streams.audio))
        self._container = container
        self._next = next(self._packets, None)

    def copy_until(self, seconds: float) -> None:
        """Copy what is heard up to a time, counted from the first picture."""
        while self._next is not None and self._next[0] < seconds:
            self._container.mux(self._next[1])
            self._next = next(self._packets, None)

    def close(self) -> None:
        self._input.close()

    def _shifted(self, packets: Iterator[Packet]) -> Iterator[tuple[float, Packet]]:
        for packet in packets:
            if not packet.size or packet.pts is None:
                continue
            shift = round(self._start / packet.time_base)
            seconds = float(packet.pts * packet.time_base) - self._start
            if seconds < 0:
                continue
            packet.pts -= shift
            packet.dts = packet.pts if packet.dts is None else packet.dts - shift
            packet.stream = self._outputs[packet.stream.index]
            yield seconds, packet
