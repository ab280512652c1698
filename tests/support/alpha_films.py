"""Films with alpha for tests: a moving ball, written; and read back, by PyAV and by ffprobe."""

from __future__ import annotations

import json
import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from mlx_sam2.frames.cutouts import CutoutOptions, CutoutSink
from mlx_sam2.frames.source import Display, SequenceSource
from mlx_sam2.images.matte import Edges, alpha

H, W = 47, 63  # odd
SOFT = Edges("soft", width=6)
NTSC = Fraction(24000, 1001)
HLG = Display(Fraction(16, 11), 9, 18, 9, True)

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


def pictures(count: int, h: int = H, w: int = W) -> list[np.ndarray]:
    y, x = np.mgrid[:h, :w]
    return [np.stack([2 * x + 40, 3 * y + 20, 100 + x + y + i], axis=2).astype(np.uint8) for i in range(count)]


def ball(i: int, h: int = H, w: int = W) -> np.ndarray:
    """Logits of a disc that moves right."""
    y, x = np.mgrid[:h, :w]
    return (12 - np.hypot(y - 22, x - 20 - 2 * i)).astype(np.float32)


def source_of(frames: list[np.ndarray], **facts: Any) -> SequenceSource:
    source = SequenceSource(frames)
    source.rate, source.fps = NTSC, float(NTSC)
    for name, value in facts.items():
        setattr(source, name, value)
    return source


def write(
    path: Path, options: CutoutOptions, count: int = 4, late: int | None = None, **facts: Any
) -> list[np.ndarray]:
    """A film of a ball as object 1 and, from frame `late` on, its mirror image as object 2; the mattes of object 1."""
    frames = pictures(count)
    source = source_of(frames, **facts)
    with CutoutSink(path, source=source, options=options, objects=[1]) as sink:
        for i, frame in enumerate(frames):
            fields = {1: ball(i), **({2: ball(i)[::-1, ::-1]} if late is not None and i >= late else {})}
            masks = {obj: field > 0 for obj, field in fields.items()}
            sink.write(i, frame, masks, time=i / source.fps, logits=fields)
    return [alpha(ball(i), frames[i], options.edges) for i in range(count)]
