"""Pictures and clips for the tests of the page: drawn here, so that a fresh clone needs no files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw


def clip_frames(count: int = 24, width: int = 480, height: int = 270) -> list[np.ndarray]:
    """A ball that crosses a table behind a post, and a box that goes up and down: (height, width, 3), uint8."""
    rows = np.linspace(0, 1, height)[:, None, None]
    ground = (np.array([214, 222, 232]) * (1 - rows) + np.array([170, 178, 160]) * rows).repeat(width, 1)
    frames = []
    for i in range(count):
        picture = Image.fromarray(ground.astype(np.uint8))
        draw = ImageDraw.Draw(picture)
        draw.rectangle((0, 0.72 * height, width, height), fill=(128, 104, 84))
        x, y = width * (0.12 + 0.76 * i / max(count - 1, 1)), 0.62 * height
        ball = 0.1 * width / 1.6
        draw.ellipse((x - ball, y - ball, x + ball, y + ball), fill=(206, 84, 44))
        draw.ellipse((x - 0.5 * ball, y - 0.6 * ball, x - 0.1 * ball, y - 0.2 * ball), fill=(240, 180, 150))
        top = height * (0.2 + 0.12 * np.sin(i / 4))
        draw.rectangle((0.7 * width, top, 0.82 * width, top + 0.2 * height), fill=(58, 98, 160))
        frames.append(np.asarray(picture))
    return frames


def write_clip(path: Path, count: int = 24, fps: int = 12) -> Path:
    """The clip as an H.264 file."""
    import av

    frames = clip_frames(count)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"preset": "veryfast", "crf": "18"})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path
