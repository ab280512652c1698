"""Videos and folders of frames that tests write, and what PyAV reads of them."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

av = pytest.importorskip("av", reason="PyAV is not installed: pip install 'mlx-sam2[video]'")

SIZE = (96, 160)  # height, width
# A picture as x264 likes it: keyframes every 12 frames, B frames that others refer to.
X264 = "keyint=12:min-keyint=12:scenecut=0:bframes=3:b-adapt=0:b-pyramid=normal"
VP8 = {"deadline": "realtime", "cpu-used": "8"}


def pictures(n: int, size: tuple[int, int] = SIZE) -> list[np.ndarray]:
    """Frames that differ everywhere: a window that moves over a soft random texture."""
    h, w = size
    noise = np.random.default_rng(0).integers(0, 256, (h // 4, w, 3), dtype=np.uint8)
    texture = np.array(Image.fromarray(noise).resize((w * 4, h)))
    return [np.ascontiguousarray(texture[:, (7 * i) % (3 * w) :][:, :w]) for i in range(n)]


def write_video(
    path: Path,
    frames: list[np.ndarray],
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    pix_fmt: str = "yuv420p",
    times: list[int] | None = None,  # in 1/90000 s
    shift: float = 0.0,  # seconds added to all times after encoding
    matrix: list[int] | None = None,  # the display matrix
    movflags: str = "",
) -> Path:
    """Encode `frames`; x264 takes X264 unless told otherwise."""
    options = options or ({"x264-params": X264} if codec == "libx264" else {})
    with av.open(str(path), "w", options={"movflags": movflags} if movflags else {}) as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pix_fmt
        if matrix:
            stream.set_display_matrix(matrix)
        if times:
            stream.codec_context.time_base = Fraction(1, 90_000)
        for i, picture in enumerate([*frames, None]):
            frame = None if picture is None else av.VideoFrame.from_ndarray(picture, "rgb24")
            if frame is not None and times:
                frame.pts, frame.time_base = times[i], Fraction(1, 90_000)
            for packet in stream.encode(frame):
                packet.pts += round(shift / packet.time_base)
                packet.dts += round(shift / packet.time_base)
                container.mux(packet)
    return path


def decode_all(path: Path) -> list[np.ndarray]:
    """What PyAV gives from beginning to end: the reference for every order of reading."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def write_folder(folder: Path, names: list[str], size: tuple[int, int] = (6, 8)) -> Path:
    """Image `names[i]` is filled with the grey i."""
    folder.mkdir()
    for i, name in enumerate(names):
        Image.new("RGB", size[::-1], (i, i, i)).save(folder / name)
    return folder


def greys(source: Any) -> list[int]:
    return [round(float(frame.mean())) for frame in source]
