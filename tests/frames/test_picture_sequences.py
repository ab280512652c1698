"""Cut-outs as folders of pictures: PNG, TIFF of 16 bits, OpenEXR, read by the libraries of their own worlds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alpha_films import HLG, NTSC, SOFT, H, W, ball, pictures, write
from mlx_sam2.frames.cutouts import CutoutOptions
from mlx_sam2.frames.exr import linear
from mlx_sam2.images.matte import alpha


def test_png(tmp_path: Path) -> None:
    mattes = write(tmp_path / "c", CutoutOptions(edges=SOFT))
    write(tmp_path / "m", CutoutOptions("matte", SOFT))
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == [f"{i:05d}.png" for i in range(4)]
    for i, (matte, photo) in enumerate(zip(mattes, pictures(4), strict=True)):
        rgba = np.asarray(Image.open(tmp_path / "c" / f"{i:05d}.png"))
        levels = np.rint(255 * matte)
        assert np.array_equal(rgba[..., 3], levels)
        assert np.array_equal(rgba[..., :3], np.where(matte[..., None] > 0, photo, 0))
        assert np.array_equal(np.asarray(Image.open(tmp_path / "m" / f"{i:05d}.png")), levels)


@pytest.mark.parametrize("kind", ["straight", "premultiplied"])
def test_tiff_of_16_bits(tmp_path: Path, kind: str) -> None:
    tifffile = pytest.importorskip("tifffile", reason="tifffile is not installed: pip install scikit-image")
    mattes = write(tmp_path / "c", CutoutOptions(edges=SOFT, codec="tiff", alpha=kind))
    write(tmp_path / "m", CutoutOptions("matte", SOFT, codec="tiff"))
    for i, (matte, photo) in enumerate(zip(mattes, pictures(4), strict=True)):
        with tifffile.TiffFile(tmp_path / "c" / f"{i:05d}.tif") as file:
            rgba, page = file.asarray(), file.pages[0]
            assert [int(kind) for kind in page.extrasamples] == [2 if kind == "straight" else 1]
        deep = np.rint(65535 * matte)
        assert np.abs(rgba[..., 3] - deep).max() <= 1  # kept as 16 bits
        colours = np.where(matte[..., None] > 0, photo * 257.0, 0)
        wanted = colours if kind == "straight" else colours * matte[..., None]
        assert np.abs(rgba[..., :3] - wanted).max() <= 1.6
        assert np.abs(tifffile.imread(tmp_path / "m" / f"{i:05d}.tif") - deep).max() <= 1


def test_openexr(tmp_path: Path) -> None:
    exr = pytest.importorskip("OpenEXR", reason="OpenEXR is not installed: pip install OpenEXR")
    options = CutoutOptions(edges=SOFT, codec="exr")
    mattes = write(tmp_path / "c", options, late=2, display=HLG, timecode="10:00:00:22")
    for i, photo in enumerate(pictures(4)):
        with exr.File(str(tmp_path / "c" / f"{i:05d}.exr"), separate_channels=True) as file:
            header = dict(file.header())
            channels = {name: channel.pixels.copy() for name, channel in file.channels().items()}
        names = {"R", "G", "B", "A", "object001.A"} | ({"object002.A"} if i >= 2 else set())
        assert set(channels) == names
        second = alpha(ball(i)[::-1, ::-1], photo, SOFT) if i >= 2 else np.zeros((H, W))
        whole = np.minimum(mattes[i] + second, 1)
        half = 5e-4  # of values up to 1
        assert channels["A"].dtype == np.float16
        assert np.abs(channels["A"] - whole).max() < half
        assert np.abs(channels["object001.A"] - mattes[i]).max() < half
        assert np.abs(channels["G"] - linear(18)[photo[..., 1]] * whole).max() < half
        assert header["framesPerSecond"] == NTSC
        assert header["pixelAspectRatio"] == pytest.approx(16 / 11)
        assert header["chromaticities"][0] == pytest.approx(0.708)
        numbers = ["10, 0, 0, 22", "10, 0, 0, 23", "10, 0, 1, 0", "10, 0, 1, 1"]
        assert str(header["timeCode"]).startswith(f"({numbers[i]}, ")


@pytest.mark.parametrize("transfer", [1, 4, 8, 13, 16, 18])
def test_light_of_every_transfer(transfer: int) -> None:
    light = linear(transfer)
    assert light[0] == pytest.approx(0, abs=1e-6) and (np.diff(light) > 0).all()
    assert light[255] == pytest.approx(100 if transfer == 16 else 1, rel=1e-3)
