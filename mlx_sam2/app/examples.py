"""A picture and a clip to try, drawn when they are asked for: nothing has to be downloaded or found first."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from ..frames.pyav import import_av
from .schemas import Example

WIDTH, HEIGHT = 640, 400
FRAMES, RATE = 36, 12
EXAMPLES = (
    Example(name="still", kind="image", title="Things on a table"),
    Example(name="moving", kind="video", title="A ball that rolls by"),
)


def write_example(name: str, folder: Path) -> Path:
    """Draw one of ``EXAMPLES`` into a folder; the path of its file. OSError where the disk is full."""
    path = folder / "media"
    if name == "still":
        Image.fromarray(scene(0.35)).save(path, format="PNG")
        return path
    av = import_av()
    with av.open(f"file:{path}", "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"crf": "18"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for i in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(scene(i / (FRAMES - 1)), format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def scene(at: float) -> np.ndarray:
    """(HEIGHT, WIDTH, 3) uint8: a table with a cup, a book, a leaf, and a ball on its way from left, 0, to right, 1."""
    large = Image.new("RGB", (2 * WIDTH, 2 * HEIGHT), (205, 214, 218))  # drawn twice as large, for smooth edges
    draw = ImageDraw.Draw(large)
    draw.rectangle((0, 440, 1280, 800), fill=(151, 112, 78))
    for y in range(470, 800, 55):
        draw.line((0, y, 1280, y + 8), fill=(138, 101, 69), width=5)
    draw.polygon([(760, 560), (1120, 520), (1200, 640), (830, 700)], fill=(40, 76, 130))  # the book
    draw.polygon([(830, 700), (1200, 640), (1200, 668), (832, 730)], fill=(236, 231, 214))
    draw.polygon([(905, 580), (1060, 562), (1080, 592), (924, 612)], fill=(226, 190, 84))
    draw.ellipse((150, 520, 470, 600), fill=(120, 88, 60))  # the cup and its shadow
    draw.arc((350, 300, 500, 470), -100, 100, fill=(226, 120, 92), width=34)
    draw.polygon([(170, 260), (420, 260), (390, 560), (200, 560)], fill=(226, 120, 92))
    draw.ellipse((196, 535, 394, 585), fill=(226, 120, 92))
    draw.ellipse((170, 225, 420, 295), fill=(244, 168, 142))
    draw.ellipse((195, 236, 395, 286), fill=(70, 42, 28))
    draw.polygon([(560, 150), (640, 90), (740, 110), (700, 190), (610, 220)], fill=(74, 140, 72))  # the leaf
    draw.line((560, 220, 740, 105), fill=(48, 100, 50), width=7)
    x = -20 + round(1300 * at)
    draw.ellipse((x - 62, 700, x + 78, 735), fill=(116, 84, 57))
    draw.ellipse((x - 65, 590, x + 65, 720), fill=(246, 196, 40))
    draw.pieslice((x - 65, 590, x + 65, 720), 900 * at, 900 * at + 60, fill=(214, 60, 50))
    draw.ellipse((x - 40, 602, x - 10, 632), fill=(255, 236, 170))
    return np.asarray(large.filter(ImageFilter.GaussianBlur(1)).resize((WIDTH, HEIGHT), Image.Resampling.BOX))
