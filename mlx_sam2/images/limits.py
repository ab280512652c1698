"""What is no usable picture: the error, and the limits of size."""

from __future__ import annotations

MAX_PIXELS = 178_956_970  # Pillow's own limit against decompression bombs
MAX_SIDE = 65_535  # JPEG's; resizing needs memory in proportion to each side
MAX_JPEG_RATIO = 4096  # pixels a byte: a JPEG has a bit for each block of 64 at the least, of arithmetic coding less


class ImageError(ValueError):
    """An image cannot be read, used or written. One line."""


def check_size(height: int, width: int, name: str) -> None:
    if min(height, width) < 1:
        raise ImageError(f"{name} is empty: {width} x {height} pixels")
    if max(height, width) > MAX_SIDE or height * width > MAX_PIXELS:
        limits = f"at most {MAX_SIDE:,} a side and {MAX_PIXELS:,} in all; make it smaller"
        raise ImageError(f"{name} is too large: {width} x {height} pixels, {limits}")
