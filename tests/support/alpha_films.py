"""Reading films with alpha back, by PyAV and by ffprobe."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

BITS = {"yuva420p": 8, "yuv420p": 8, "yuva444p10le": 10, "yuva444p12le": 12, "yuv444p12le": 12, "yuv444p10le": 10}
BITS |= {"yuva444p16le": 16, "yuv444p16le": 16}


def decoded(path: Path) -> list[Any]:
    """The frames of a film; VP9's alpha is decoded, too, which takes libvpx."""
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        decoder = av.CodecContext.create("libvpx-vp9", "r") if stream.codec_context.name == "vp9" else stream
        return [frame for packet in container.demux(stream) for frame in decoder.decode(packet)]


def plane(frame: Any, number: int) -> np.ndarray:
    """A plane of a frame, (H, W) in 0..1 of its whole range."""
    bits, found = BITS[frame.format.name], frame.planes[number]
    rows = np.frombuffer(found, np.uint8).reshape(found.height, found.line_size)
    values = rows if bits == 8 else rows.view("<u2")
    return values[:, : found.width] / ((1 << bits) - 1)


def probed(path: Path, entries: str) -> dict[str, Any]:
    """What ffprobe says of the first stream of moving pictures, decoding every frame."""
    command = ["ffprobe", "-v", "error", "-count_frames", "-select_streams", "v:0", "-of", "json"]
    done = subprocess.run([*command, "-show_entries", f"stream={entries}:stream_tags", str(path)], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)["streams"][0]
