"""Reading what people have, the official preprocessing, and pictures written whole or not at all."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

import synthetic
from mlx_sam2 import images
from mlx_sam2.images.files import ImageError
from mlx_sam2.images.preprocess import mask_prompt, preprocess_photo

PHOTO = synthetic.picture(40, 30)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds one empty chunk of pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


# ---- reading


def test_rgb_is_read_exactly(tmp_path: Path) -> None:
    Image.fromarray(PHOTO).save(tmp_path / "a.png")
    np.testing.assert_array_equal(images.read(tmp_path / "a.png"), PHOTO)
    np.testing.assert_array_equal(images.read(str(tmp_path / "a.png")), PHOTO)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "LAB", "HSV"])
def test_modes_are_converted_as_pillow_does(tmp_path: Path, mode: str) -> None:
    if mode in ("LAB", "HSV"):
        image = Image.frombytes(mode, (30, 40), PHOTO.tobytes())
    else:
        image = Image.fromarray(PHOTO).convert(mode.replace("A", "")).convert(mode)
    path = tmp_path / ("a.png" if mode in ("1", "L", "LA", "P", "RGBA") else "a.tif")
    if mode in ("LA", "RGBA"):
        image.putalpha(Image.fromarray(PHOTO[..., 0]))  # dropped, not composited
    if mode in ("HSV", "YCbCr"):  # no file format has HSV; Pillow 12 cannot read its own YCbCr TIFF
        np.testing.assert_array_equal(images.to_array(image), np.asarray(image.convert("RGB")))
        return
    image.save(path)
    result = images.read(path)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("transparency", [3, bytes(range(256))])
def test_palette_with_transparency(tmp_path: Path, transparency: int | bytes) -> None:
    image = Image.fromarray(PHOTO).quantize(256)
    image.save(tmp_path / "a.png", transparency=transparency)
    np.testing.assert_array_equal(images.read(tmp_path / "a.png"), np.asarray(image.convert("RGB")))


def test_cmyk_jpeg(tmp_path: Path) -> None:
    flat = np.full((16, 16, 3), (200, 40, 90), np.uint8)
    Image.fromarray(flat).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    assert np.abs(images.read(tmp_path / "a.jpg").astype(int) - flat).max() <= 4  # JPEG's own loss: 2


@pytest.mark.parametrize(("mode", "suffix"), [("I;16", ".png"), ("I;16", ".tif"), ("I;16B", ".tif"), ("I", ".tif")])
def test_16_bits_are_scaled(tmp_path: Path, mode: str, suffix: str) -> None:
    values = np.array([[0, 257, 128 * 257, 65535], [128, 129, 12345, 40000]], np.int64)
    kind = {"I;16": "<u2", "I;16B": ">u2", "I": "<i4"}[mode]
    image = Image.frombytes(mode, (4, 2), values.astype(kind).tobytes())
    image.save(tmp_path / f"a{suffix}")
    result = images.read(tmp_path / f"a{suffix}")
    expected = [[0, 1, 128, 255], [0, 1, 48, 156]]
    for channel in range(3):
        np.testing.assert_array_equal(result[..., channel], expected)


def test_floats_and_large_integers_are_scaled(tmp_path: Path) -> None:
    cases = {
        "0..1": (np.array([[0, 0.5, 1, np.nan]], np.float32), [0, 128, 255, 0]),
        "any": (np.array([[-100, 0, 110, 300]], np.float32), [0, 64, 134, 255]),
        "flat": (np.array([[7, 7, 7, 7]], np.float32), [0, 0, 0, 0]),
        "int32": (np.array([[-70000, 0, 70000, 35000]], np.int32), [0, 128, 255, 191]),
    }
    for name, (values, expected) in cases.items():
        Image.fromarray(values).save(tmp_path / f"{name}.tif")
        assert images.read(tmp_path / f"{name}.tif")[0, :, 1].tolist() == expected, name


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, orientation: int) -> None:
    upright = PHOTO
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(images.read(tmp_path / "a.png"), upright)


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (1, 5000)])
def test_thin_images(tmp_path: Path, size: tuple[int, int]) -> None:
    array = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(array).save(tmp_path / "a.png")
    np.testing.assert_array_equal(images.read(tmp_path / "a.png"), array)
    assert np.isfinite(np.array(preprocess_photo(array, 64))).all()


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp", ".tif"])
def test_the_first_frame_is_taken(tmp_path: Path, suffix: str) -> None:
    first, second = (Image.new("RGB", (8, 6), colour) for colour in ("red", "blue"))
    options = {"lossless": True} if suffix == ".webp" else {}
    first.save(tmp_path / f"a{suffix}", save_all=True, append_images=[second], **options)
    np.testing.assert_array_equal(images.read(tmp_path / f"a{suffix}"), np.asarray(first))


def bad_files(folder: Path) -> dict[str, tuple[Path, str]]:
    """Name -> a file that is no good, and what the message must say."""
    Image.fromarray(synthetic.picture(300, 200)).save(folder / "good.jpg")
    Image.fromarray(synthetic.picture(300, 200)).save(folder / "good.png")
    Image.new("RGB", (4, 4)).save(folder / "drawing.eps")
    jpeg, png = (folder / "good.jpg").read_bytes(), (folder / "good.png").read_bytes()
    damaged = bytearray(png)
    damaged[len(png) // 2] ^= 0xFF
    contents = {
        "empty.png": (b"", "is empty, not an image"),
        "text.jpg": (b"I am not a photo\n" * 20, "not an image"),
        "cut.jpg": (jpeg[: len(jpeg) // 2], "damaged or cut short"),
        "cut.png": (png[: len(png) // 2], "damaged or cut short"),
        "header.png": (png[:40], "not an image"),
        "flipped.png": (bytes(damaged), "damaged or cut short"),
        "bomb.png": (png_header(60_000, 60_000), "too large"),
        "long.png": (png_header(1, 100_000), "too large"),
        "claims.png": (png_header(9_000, 9_000), "damaged or cut short"),
    }
    for name, (data, _) in contents.items():
        (folder / name).write_bytes(data)
    (folder / "folder.png").mkdir()
    found = {name: (folder / name, words) for name, (_, words) in contents.items()}
    found["absent"] = (folder / "absent.png", "no such image")
    found["folder"] = (folder / "folder.png", "a folder")
    found["program"] = (folder / "drawing.eps", "EPS images are not read")
    return found


def test_bad_files_give_one_line(tmp_path: Path) -> None:
    for name, (path, words) in bad_files(tmp_path).items():
        with pytest.raises(ImageError, match=words) as caught:
            images.read(path)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value), name


def test_a_damaged_avif(tmp_path: Path) -> None:
    path = tmp_path / "a.avif"
    if not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    Image.fromarray(PHOTO).save(path, format="AVIF")
    data = path.read_bytes()
    start = data.index(b"mdat") + 4
    path.write_bytes(data[:start] + bytes(len(data) - start))
    with pytest.raises(ImageError, match=r"a\.avif is damaged"):
        images.read(path)


def test_paths_that_cannot_be_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ImageError, match=r"aaa\.png cannot be read: file name too long"):
        images.read(tmp_path / f"{300 * 'a'}.png")
    with pytest.raises(ImageError, match="no such image"):
        images.read(tmp_path / "nul\0.png")
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="is not a file"):
        images.read(tmp_path / "pipe.png")

    def forbidden(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))  # root may look anywhere

    monkeypatch.setattr(os, "stat", forbidden)
    with pytest.raises(ImageError, match=r"a\.png cannot be read: permission denied"):
        images.read("closed/a.png")


def test_warnings_about_sizes_stay_quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # Pillow warns above it, refuses above twice that
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    assert images.read(tmp_path / "a.png").shape == (30, 40, 3)
    Image.new("RGB", (80, 30)).save(tmp_path / "b.png")
    with pytest.raises(ImageError, match="too large"):
        images.read(tmp_path / "b.png")


# ---- arrays of callers, and the model's input


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((4, 4), np.uint8), r"\(H, W, 3\), got \(4, 4\); repeat"),
        (np.zeros((4, 4, 4), np.uint8), "drop the alpha"),
        (np.zeros((3, 4, 4), np.uint8), r"got \(3, 4, 4\)"),
        (np.zeros((0, 4, 3), np.uint8), "empty"),
        (np.zeros((4, 4, 3), np.uint16), "got uint16"),
        (np.full((4, 4, 3), np.nan), "not finite"),
        (np.broadcast_to(np.uint8(0), (100_000, 1, 3)), "too large"),
        ([[0, 0, 0]], "got list"),
    ],
)
def test_arrays_that_are_no_images(image: object, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        images.to_array(image)


def test_arrays_and_pil_images_pass() -> None:
    assert images.to_array(PHOTO) is PHOTO
    floats = images.to_array(PHOTO / 255)
    assert floats.dtype == np.float32
    np.testing.assert_allclose(floats * 255, PHOTO, rtol=1e-6)
    np.testing.assert_array_equal(images.to_array(Image.fromarray(PHOTO)), PHOTO)
    grey = Image.fromarray(PHOTO[..., 0])
    np.testing.assert_array_equal(images.to_array(grey), np.repeat(PHOTO[..., :1], 3, 2))


def triangle(in_size: int, out_size: int) -> np.ndarray:
    """(out, in) weights of the antialiased bilinear filter, from its definition, in float64."""
    scale = in_size / out_size
    centre = (np.arange(out_size) + 0.5) * scale
    distance = np.abs(np.arange(in_size) + 0.5 - centre[:, None]) / max(scale, 1)
    weights = np.maximum(1 - distance, 0)
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize(("height", "width"), [(40, 30), (100, 70), (64, 64), (7, 200)])
def test_preprocess_is_the_official_one(height: int, width: int) -> None:
    photo = synthetic.picture(height, width) if min(height, width) > 20 else synthetic.picture(40, 200)[:height]
    resized = np.einsum("yh,hwc,xw->yxc", triangle(height, 64), photo / 255, triangle(width, 64), optimize=True)
    expected = (resized - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    result = np.array(preprocess_photo(photo, 64))
    assert result.shape == (1, 64, 64, 3)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result[0], expected, rtol=0, atol=5e-6)  # noise: 1.0e-6
    as_float = np.array(preprocess_photo((photo / 255).astype(np.float32), 64))
    np.testing.assert_allclose(as_float, result, rtol=0, atol=5e-6)


def test_preprocess_takes_views() -> None:
    """Such as the usual turn of OpenCV's BGR, whose stride is negative."""
    views = {
        "turned": lambda a: a[::-1, :, ::-1],
        "transposed": lambda a: a.transpose(1, 0, 2),
        "thinned": lambda a: a[::2],
    }
    for dtype in (np.uint8, np.float32):
        for name, view in views.items():
            seen = view(PHOTO.astype(dtype))
            expected = np.array(preprocess_photo(seen.copy(order="C"), 64))
            np.testing.assert_array_equal(np.array(preprocess_photo(images.to_array(seen), 64)), expected, name)


def test_mask_prompt() -> None:
    mask = np.zeros((64, 48), bool)
    mask[:32, :24] = True
    prompt = mask_prompt(mask, (16, 16))
    assert prompt.shape == (1, 16, 16)
    assert prompt.dtype == np.float32
    inside = np.einsum("yh,hw,xw->yx", triangle(64, 16), mask, triangle(48, 16))
    np.testing.assert_allclose(prompt[0], 20 * inside - 10, rtol=0, atol=5e-5)  # noise: 4e-6
    assert prompt[0, 0, 0] == 10
    assert prompt[0, -1, -1] == -10


# ---- writing


def test_lossless_suffixes_give_back_what_was_written(tmp_path: Path) -> None:
    mask = images.mask_picture(PHOTO[..., 0] > 100)
    for suffix in images.LOSSLESS:
        images.write(tmp_path / f"mask{suffix}", mask, suffixes=images.LOSSLESS)
        written = Image.open(tmp_path / f"mask{suffix}")
        assert written.mode == "L"
        np.testing.assert_array_equal(np.asarray(written), mask)
    for suffix in images.PICTURES:
        images.write(tmp_path / f"photo{suffix}", PHOTO)
        assert images.read(tmp_path / f"photo{suffix}").shape == PHOTO.shape


def test_write_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there.png").write_bytes(b"precious")
    (tmp_path / "folder.png").mkdir()
    for name, words in {
        "there.png": "exists",
        "folder.png": "is a folder",
        "no/such.png": "there is no folder",
        "a.jpg": "must end in .png",
        "a": "must end in .png",
        f"{252 * 'a'}.png": "file name too long",
        f"{300 * 'a'}.png": "file name too long",
    }.items():
        with pytest.raises(ImageError, match=words):
            images.write(tmp_path / name, PHOTO, suffixes=images.LOSSLESS)
    (tmp_path / "kept.png").write_bytes(b"precious")
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match=r"pipe\.png: it is not a file"):
        images.write(tmp_path / "pipe.png", PHOTO, overwrite=True)
    (tmp_path / "pipe.png").unlink()
    monkeypatch.setattr(os, "access", lambda path, _: Path(path) != tmp_path / "kept.png")  # root may write anywhere
    with pytest.raises(ImageError, match=r"kept\.png: it is write-protected"):
        images.write(tmp_path / "kept.png", PHOTO, overwrite=True)
    (tmp_path / "kept.png").unlink()
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ImageError, match="no permission"):
        images.write(tmp_path / "new.png", PHOTO)
    assert (tmp_path / "there.png").read_bytes() == b"precious"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder.png", "there.png"]


def test_a_link_that_leads_nowhere_is_kept(tmp_path: Path) -> None:
    (tmp_path / "link.png").symlink_to("nowhere.png")
    with pytest.raises(ImageError, match="exists"):
        images.write(tmp_path / "link.png", PHOTO)
    assert (tmp_path / "link.png").is_symlink()


def test_more_pixels_than_the_format_allows(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"cannot write .*a\.webp: .*16383"):
        images.write(tmp_path / "a.webp", np.zeros((1, 17000, 3), np.uint8))
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    images.write(path, PHOTO)
    before = path.read_bytes()

    def full(self: Image.Image, part: Path, **_: object) -> None:
        Path(part).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match=r"cannot be written: No space left.*a\.png"):
        images.write(path, PHOTO, overwrite=True)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
