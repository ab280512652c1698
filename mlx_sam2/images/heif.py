"""HEIC and HEIF, the photos of phones: by pillow-heif if it is installed, else by macOS."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from .limits import ImageError, check_size

SIPS = "/usr/bin/sips"  # of every Mac
SECONDS = 120


def open_heif(file: BinaryIO, name: str) -> Image.Image:
    """Open a HEIC photo, turned as it is meant to be seen.

    Args:
        file: the file, open.
        name: its path.

    Raises:
        ImageError: it is damaged, or nothing here reads HEIC. The line says how to get there.
    """
    try:
        import pillow_heif
    except ImportError:
        if sys.platform == "darwin":
            return _by_macos(name)
        raise ImageError(
            f"{name} is a HEIC photo: pip install 'mlx-sam2[heif]' (pillow-heif) to read it, or export it as JPEG"
        ) from None
    file.seek(0)
    photo = pillow_heif.open_heif(file, convert_hdr_to_8bit=True)
    check_size(photo.size[1], photo.size[0], name)
    return photo.to_pillow()


def _by_macos(name: str) -> Image.Image:
    """Let ``sips`` convert the photo to TIFF, which keeps its size and its orientation tag."""
    try:
        with tempfile.TemporaryDirectory(prefix="mlx_sam2-") as folder:
            target = Path(folder, "photo.tiff")
            command = [SIPS, "-s", "format", "tiff", str(Path(name).absolute()), "--out", str(target)]
            done = subprocess.run(command, capture_output=True, timeout=SECONDS, check=False)
            if done.returncode or not target.is_file():
                raise ImageError(f"{name} is a HEIC photo that macOS cannot read: export it as JPEG")
            with Image.open(target) as image:
                check_size(image.height, image.width, name)
                image.load()
                return image.copy()
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = getattr(error, "strerror", None) or "it took too long"
        raise ImageError(f"{name} is a HEIC photo, and macOS could not convert it ({reason.lower()})") from None
