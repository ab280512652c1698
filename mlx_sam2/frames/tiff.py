"""TIFF pictures of 16 bits a channel. By hand: Pillow writes no colours of 16 bits."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np

STRIP_BYTES = 1 << 20
DEFLATE, HORIZONTAL = 8, 2  # Adobe's compression; rows hold differences to the pixel before
SHORT, LONG = 3, 4


def write_tiff(path: Path, picture: np.ndarray, premultiplied: bool = False) -> None:
    """Write a picture (H, W) grey or (H, W, 4) RGBA, uint16 (TIFF 6.0, Deflate as in Adobe's Technical Note 3).

    Args:
        premultiplied: whether colours are multiplied by alpha; the file says so.
    """
    height, width = picture.shape[:2]
    channels = 1 if picture.ndim == 2 else picture.shape[2]
    samples = picture.reshape(height, width, channels)
    differences = np.diff(samples, axis=1, prepend=np.zeros((height, 1, channels), np.uint16)).astype("<u2")
    rows = max(1, STRIP_BYTES // (width * channels * 2))
    strips = [zlib.compress(differences[y : y + rows].tobytes(), 6) for y in range(0, height, rows)]
    sizes = [len(strip) for strip in strips]
    offsets = [8 + sum(sizes[:i]) for i in range(len(sizes))]
    tags: list[tuple[int, int, list[int]]] = [
        (256, LONG, [width]),
        (257, LONG, [height]),
        (258, SHORT, [16] * channels),
        (259, SHORT, [DEFLATE]),
        (262, SHORT, [2 if channels > 1 else 1]),  # RGB, or 0 is black
        (273, LONG, offsets),
        (277, SHORT, [channels]),
        (278, LONG, [rows]),
        (279, LONG, sizes),
        (284, SHORT, [1]),  # channels side by side
        (317, SHORT, [HORIZONTAL]),
    ]
    if channels == 4:
        tags.append((338, SHORT, [1 if premultiplied else 2]))  # what the fourth channel is
    body = b"".join(strips)
    body += b"\0" * (len(body) % 2)
    directory = 8 + len(body)
    extra = directory + 2 + 12 * len(tags) + 4
    entries, more = b"", b""
    for tag, kind, values in tags:
        data = struct.pack(f"<{len(values)}{'H' if kind == SHORT else 'I'}", *values)
        if len(data) > 4:
            place = struct.pack("<I", extra + len(more))
            more += data + b"\0" * (len(data) % 2)
        else:
            place = data.ljust(4, b"\0")
        entries += struct.pack("<HHI", tag, kind, len(values)) + place
    with open(path, "wb") as file:
        file.write(struct.pack("<2sHI", b"II", 42, directory))
        file.write(body)
        file.write(struct.pack("<H", len(tags)) + entries + b"\0" * 4 + more)
