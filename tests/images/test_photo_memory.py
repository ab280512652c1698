"""What reading a photo may take: a few bytes a pixel, and nothing for a size that is a lie."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import synthetic

MEASURE = """
import resource, sys
from mlx_sam2 import images
images.read(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    images.read(sys.argv[2])
except images.ImageError as error:
    print(error, file=sys.stderr)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * (1024 if sys.platform == "linux" else 1))
"""


def growth(small: Path, large: Path) -> tuple[int, str]:
    """Bytes that a process needs to read the second file, and what it says."""
    done = subprocess.run([sys.executable, "-c", MEASURE, small, large], capture_output=True, text=True, check=True)
    return int(done.stdout), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "most"), [("I;16", 9), ("RGB", 7), ("L", 5)])
def test_reading_takes_a_few_bytes_a_pixel(tmp_path: Path, mode: str, most: int) -> None:
    """A picture as Pillow holds it (4 bytes a pixel at most), the result (3), and strips."""
    for name, side in (("small", 64), ("large", 5000)):
        Image.new(mode, (side, side), 7).save(tmp_path / f"{name}.png", compress_level=1)
    needed, said = growth(tmp_path / "small.png", tmp_path / "large.png")
    assert said == ""
    assert needed < most * 5000**2  # measured: 5.5, 3.0 and 0.0 beyond what a small one took; once 25, 13 and 7


def test_a_small_file_that_claims_a_large_photo(tmp_path: Path) -> None:
    image = Image.fromarray(synthetic.picture(40, 30))
    image.save(tmp_path / "small.jpg")
    image.save(tmp_path / "large.jpg", progressive=True)
    data = bytearray((tmp_path / "large.jpg").read_bytes())
    frame = data.index(b"\xff\xc2")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 13000, 13000)
    (tmp_path / "large.jpg").write_bytes(data)
    needed, said = growth(tmp_path / "small.jpg", tmp_path / "large.jpg")
    assert "damaged or cut short" in said
    assert needed < 20 << 20  # measured: 0; once 2.8 GB
