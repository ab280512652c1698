"""Odd files that people have: each stands for a kind (HEIC, raw photos, animations, stacks, deep greys, odd EXIF)."""

from __future__ import annotations

import io
import random
import shutil
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import synthetic
from mlx_sam2 import images
from mlx_sam2.images import containers, heif
from mlx_sam2.images.files import ImageError

REPORTS = Path(__file__).parents[1] / "data" / "reports"
PHOTO = synthetic.picture(40, 30)


def notes(path: Path, **options: object) -> tuple[str, ...]:
    with images.open_file(path) as file:
        return images.decode(file, str(path), **options).notes


# ---- which way is up


def exif_block(rng: random.Random, orientation: int) -> bytes:
    """An EXIF block with a good Orientation among random entries, in order of their tags; values may be anything."""
    order = rng.choice("<>")
    known = [0x010F, 0x0110, 0x011A, 0x0132, 0x8769, 0x8825, 0xA005]  # Make, ..., places of other directories
    tags = {rng.choice([rng.randrange(65536), *known]) for _ in range(6)}
    entries = []
    for tag in sorted({*tags, 0x0112}):
        kind, count = rng.randrange(14), rng.choice([0, 1, 1, 2, 3, 1000, 2**31])
        value = rng.choice([rng.randbytes(4), struct.pack(order + "I", rng.randrange(200)), bytes(4)])
        if tag == 0x0112:
            kind, count, value = 3, 1, struct.pack(order + "HH", orientation, 0)
        entries.append(struct.pack(order + "HHI", tag, kind, count) + value)
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "I", 8)
    return head + struct.pack(order + "H", len(entries)) + b"".join(entries) + bytes(4) + rng.randbytes(200)


def stored(upright: np.ndarray, orientation: int) -> np.ndarray:
    """How a camera stores what is seen as `upright`."""
    turned = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }
    return np.ascontiguousarray(turned[orientation])


@pytest.mark.slow
@pytest.mark.parametrize("orientation", range(1, 9))
def test_random_exif_blocks(tmp_path: Path, orientation: int) -> None:
    """600 blocks, in JPEG, PNG and WebP: all are read, and turned by the tag alone."""
    rng = random.Random(orientation)
    upright = np.ascontiguousarray(synthetic.picture(60, 60)[:12, :8])
    image = Image.fromarray(stored(upright, orientation))
    expected = {}
    for suffix, options in ((".jpg", {"quality": 90}), (".png", {}), (".webp", {"lossless": True})):
        image.save(plain := tmp_path / f"plain{suffix}", **options)
        expected[suffix] = np.asarray(Image.open(plain).convert("RGB"))
    for number in range(600):
        suffix, options = [(".jpg", {"quality": 90}), (".png", {}), (".webp", {"lossless": True})][number % 3]
        block = exif_block(rng, orientation)
        path = tmp_path / f"a{suffix}"
        image.save(path, exif=b"Exif\0\0" + block, **options)
        np.testing.assert_array_equal(stored(images.read(path), orientation), expected[suffix], str((number, block)))


@pytest.mark.parametrize("name", ["exif_float_make.jpg", "exif_neg_rational.jpg"])
def test_one_odd_value_beside_the_orientation(name: str) -> None:
    assert images.read(REPORTS / name).shape == (320, 240, 3)  # stored as 240 x 320


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_tiff_is_turned_once(tmp_path: Path, orientation: int, compression: str) -> None:
    """Some releases of Pillow turn TIFF by themselves."""
    for array in (PHOTO, PHOTO[..., :1].astype(np.uint16) * 257):
        image = Image.fromarray(stored(array, orientation).squeeze())
        image.save(tmp_path / "a.tif", tiffinfo={0x0112: orientation, 0x010F: "ACME"}, compression=compression)
        result = images.read(tmp_path / "a.tif")
        np.testing.assert_array_equal(result, np.broadcast_to(array // (1 if array is PHOTO else 257), PHOTO.shape))


def test_orientation_from_xmp_and_imagemagick(tmp_path: Path) -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="6"/></x:xmpmeta>'
    Image.fromarray(stored(PHOTO, 6)).save(tmp_path / "a.webp", lossless=True, xmp=xmp)
    np.testing.assert_array_equal(images.read(tmp_path / "a.webp"), PHOTO)
    digits = exif_block(random.Random(1), 6).hex()
    info = {"Raw profile type exif": f"\nexif\n{len(digits) // 2:8}\n{digits}\n"}
    assert containers.orientation(io.BytesIO(), info, "PNG") == 6
    assert containers.orientation(io.BytesIO(), {"exif": b"Exif\0\0II*\0\xff\xff\xff\xff"}, "JPEG") == 1
    assert containers.orientation(io.BytesIO(), {"Raw profile type exif": "\nexif\n 4\nxyz\n"}, "PNG") == 1


# ---- formats


@pytest.mark.parametrize("kind", ["BMP", "DDS", "DIB", "JPEG2000", "PCX", "PNG", "PPM", "SGI", "TGA", "TIFF", "QOI"])
def test_formats_of_pillow(tmp_path: Path, kind: str) -> None:
    """Some of its readers go on from where they stopped in the file."""
    Image.init()
    if kind not in Image.SAVE:
        pytest.skip(f"this Pillow writes no {kind}")
    path = tmp_path / "photo.jpg"  # whatever the name says
    Image.fromarray(PHOTO).save(path, format=kind)
    np.testing.assert_array_equal(images.read(path), PHOTO)


# ---- HEIC


def test_heic_is_read_or_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also under the name of a JPEG: the contents say what it is."""
    path = tmp_path / "photo.jpg"
    shutil.copy(REPORTS / "iphone.heic", path)
    try:
        import pillow_heif  # noqa: F401
    except ImportError:
        monkeypatch.setattr(sys, "platform", "linux")
        with pytest.raises(ImageError, match=r"photo\.jpg is a HEIC photo: pip install 'mlx-sam2\[heif\]'"):
            images.read(path)
    else:
        pixels = images.read(path)
        assert pixels.shape == (768, 1024, 3)
        assert pixels.std() > 10  # all four tiles


@pytest.mark.parametrize("length", [300, 9000, 16488])
def test_a_heic_that_is_cut_short(tmp_path: Path, length: int) -> None:
    """libheif would fill the missing tiles with grey."""
    path = tmp_path / "photo.heic"
    path.write_bytes((REPORTS / "iphone.heic").read_bytes()[:length])
    with pytest.raises(ImageError, match=r"photo\.heic is damaged or cut short"):
        images.read(path)


def stand_in(folder: Path, script: str) -> str:
    """An executable in place of macOS's sips: IMAGE and TARGET are its arguments."""
    path = folder / "sips"
    path.write_text(f"#!{sys.executable}\nimport sys\nsource, target = sys.argv[4], sys.argv[6]\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_heic_by_macos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # not installed
    monkeypatch.setattr(sys, "platform", "darwin")
    Image.fromarray(stored(PHOTO, 6)).save(tmp_path / "made.tiff", tiffinfo={0x0112: 6})
    script = f"open(target, 'wb').write(open({str(tmp_path / 'made.tiff')!r}, 'rb').read())"
    monkeypatch.setattr(heif, "SIPS", stand_in(tmp_path, script))
    np.testing.assert_array_equal(images.read(REPORTS / "iphone.heic"), PHOTO)
    monkeypatch.setattr(heif, "SIPS", stand_in(tmp_path, "sys.exit(13)"))
    with pytest.raises(ImageError, match="macOS cannot read: export it as JPEG"):
        images.read(REPORTS / "iphone.heic")
    monkeypatch.setattr(heif, "SIPS", str(tmp_path / "absent"))
    with pytest.raises(ImageError, match=r"could not convert it \(no such file"):
        images.read(REPORTS / "iphone.heic")
    monkeypatch.setattr(heif.tempfile, "mkdtemp", lambda *_, **__: refuse_folder())
    with pytest.raises(ImageError, match=r"could not convert it \(no usable temporary"):
        images.read(REPORTS / "iphone.heic")


def refuse_folder() -> str:
    raise FileNotFoundError(2, "No usable temporary directory found")


# ---- raw photos, films


def tiff(order: str, chains: list[list[tuple[int, int, int]]], big: bool = False) -> bytes:
    """Directories one after another, of (tag, type, value); the value of SubIFDs is the number of a directory."""
    size, head = (20, 16) if big else (12, 8)
    lengths = [(8 if big else 2) + size * len(entries) + (8 if big else 4) for entries in chains]
    places = [head + sum(lengths[:i]) for i in range(len(chains) + 1)]
    whole, count, code = ("Q", "Q", 43) if big else ("I", "H", 42)
    data = {"<": b"II", ">": b"MM"}[order] + struct.pack(order + "H", code)
    data += struct.pack(order + "HHQ", 8, 0, head) if big else struct.pack(order + "I", head)
    for entries in chains:
        data += struct.pack(order + count, len(entries))
        for tag, kind, value in entries:
            value = places[value] if tag == 330 else value
            packed = struct.pack(order + {3: "H", 4: "I", 1: "B"}[kind], value)
            data += struct.pack(order + "HH" + whole, tag, kind, 1) + packed.ljust(8 if big else 4, b"\0")
        data += struct.pack(order + whole, 0)
    return data


RAWS = {
    "dng": [[(254, 4, 1), (256, 3, 80), (330, 4, 1), (50706, 1, 1)], [(254, 4, 0), (256, 3, 640)]],
    "nef": [[(254, 4, 1), (256, 3, 160), (330, 4, 1)], [(254, 4, 0), (256, 3, 6000), (262, 3, 32803)]],
    "linear": [[(256, 3, 6000), (262, 3, 34892)]],
    "thumbnail first": [[(254, 4, 1), (256, 3, 160), (330, 4, 1)], [(254, 4, 0), (256, 4, 6000), (262, 3, 2)]],
}


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", list(RAWS))
def test_raw_photos_are_refused_by_their_structure(tmp_path: Path, kind: str, order: str, big: bool) -> None:
    (tmp_path / "a.tif").write_bytes(tiff(order, RAWS[kind], big))
    with pytest.raises(ImageError, match=r"a\.tif is a raw photo.*export it as JPEG or TIFF"):
        images.read(tmp_path / "a.tif")


@pytest.mark.parametrize(
    "head",
    [b"FUJIFILMCCD-RAW 0201", b"II*\0\x10\0\0\0CR\x02\0", b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", b"IIU\0\x18\0\0\0"],
)
def test_raw_photos_of_other_forms(tmp_path: Path, head: bytes) -> None:
    (tmp_path / "a.raw").write_bytes(head + bytes(200))
    with pytest.raises(ImageError, match="is a raw photo"):
        images.read(tmp_path / "a.raw")


@pytest.mark.parametrize(
    "head", [b"\0\0\0\x18ftypisom\0\0\2\0isommp42", b"RIFF\0\0\1\0AVI LIST", b"\x1aE\xdf\xa3\x9fB\x86\x81\1"]
)
def test_a_film_is_no_photo(tmp_path: Path, head: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(head + bytes(100))
    with pytest.raises(ImageError, match=r"is a film, not a photo: python -m mlx_sam2\.track"):
        images.read(tmp_path / "a.jpg")


def test_circles_of_directories_end(tmp_path: Path) -> None:
    data = bytearray(tiff("<", [[(256, 3, 5), (330, 4, 0)]]))
    data[-4:] = struct.pack("<I", 8)  # the next directory is this one
    assert len(list(containers.directories(io.BytesIO(bytes(data))))) == 1
    rng = random.Random(0)
    for _ in range(2000):  # nothing raises, whatever the bytes
        noise = bytearray(tiff(rng.choice("<>"), RAWS["dng"], rng.random() < 0.5))
        for _ in range(6):
            noise[rng.randrange(4, len(noise))] = rng.randrange(256)
        containers.refusal(io.BytesIO(bytes(noise)))
        containers.is_stack(io.BytesIO(bytes(noise)))


# ---- more than one picture


def test_animations_are_noted(tmp_path: Path) -> None:
    first, second = (Image.new("RGB", (8, 6), colour) for colour in ("red", "blue"))
    for suffix in (".gif", ".webp", ".png"):
        path = tmp_path / f"a{suffix}"
        first.save(path)
        assert notes(path) == ()
        first.save(path, save_all=True, append_images=[second])
        (note,) = notes(path)
        assert "its first frame is taken; python -m mlx_sam2.track" in note
    (note,) = notes(REPORTS / "anim.webp")
    assert note.startswith(f"{REPORTS / 'anim.webp'}: it is animated")


def test_stacks_are_noted(tmp_path: Path) -> None:
    path, image = tmp_path / "a.tif", Image.fromarray(PHOTO)
    image.save(path, save_all=True, append_images=[image, image])
    assert ["several pictures" in note for note in notes(path)] == [True]
    image.save(path)
    assert notes(path) == ()


def test_smaller_copies_and_masks_make_no_stack() -> None:
    whole, copy, mask = [(256, 3, 64)], [(254, 4, 1), (256, 3, 16)], [(254, 4, 4), (256, 3, 64)]
    for others, expected in (([copy, copy], False), ([mask], False), ([whole, copy], True)):
        first = [(254, 4, 0), *whole, (330, 4, 1)]  # the next is found as its SubIFD, the others in a chain from there
        chain = [first, *([(330, 4, i + 2), *other] for i, other in enumerate(others))]
        chain[-1] = chain[-1][1:]
        assert containers.is_stack(io.BytesIO(tiff("<", chain))) == expected


def test_the_picture_and_not_its_gain_map(tmp_path: Path) -> None:
    """HDR photos of phones are JPEG with a second, smaller picture behind the first (MPO)."""
    path = tmp_path / "hdr.jpg"
    Image.fromarray(PHOTO).save(path, format="MPO", save_all=True, append_images=[Image.new("L", (15, 20), 200)])
    with Image.open(path) as image:
        assert image.format == "MPO"
        expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(images.read(path), expected)
    assert notes(path) == ()


# ---- deep pictures


def test_levels(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(np.array([[96, 4095, 2048, 1000]], np.uint16)).save(path)
    assert images.read(path)[0, :, 0].tolist() == [0, 16, 8, 4]
    assert images.read(path, "auto")[0, :, 0].tolist() == [0, 255, 124, 58]
    assert images.read(path, (0, 4095))[0, :, 0].tolist() == [6, 255, 128, 62]
    assert images.read(path, (1000, 2000))[0, :, 0].tolist() == [0, 255, 255, 0]
    (note,) = notes(path)
    assert "its brightest value is 4,095 of 65,535, so it is dark: --levels auto stretches it" in note
    assert notes(path, levels="auto") == ()
    Image.fromarray(np.array([[0, 9000]], np.uint16)).save(path)
    assert notes(path) == ()
    Image.fromarray(np.zeros((2, 2), np.uint16)).save(path)
    assert images.read(path, "auto").max() == 0
    Image.fromarray(PHOTO).save(path)
    np.testing.assert_array_equal(images.read(path, "auto"), PHOTO)


@pytest.mark.parametrize("text", ["", "12", "5,1", "1,1", "a,b", "0,inf", "nan,1", "1,2,3", "AUTO"])
def test_levels_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="is neither auto nor full nor LOW,HIGH"):
        images.parse_levels(text)
    assert images.parse_levels("-5,2.5") == (-5, 2.5)


def test_dark_deep_colours_are_noted(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    def png(high: int) -> bytes:
        rows = b"".join(b"\0" + struct.pack(">12H", *range(high - 12, high)) for _ in range(4))
        header = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
        return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")

    for high, expected in ((4096, 1), (65535, 0)):
        (tmp_path / "a.png").write_bytes(png(high))
        assert len(notes(tmp_path / "a.png")) == expected


# ---- masks drawn as pictures


def test_the_alpha_channel_is_the_mask(tmp_path: Path) -> None:
    expected = np.zeros((20, 30), bool)
    expected[5:12, 8:20] = True
    alpha = Image.fromarray(np.where(expected, 255, 0).astype(np.uint8))
    for name, mode in (("a.png", "RGBA"), ("b.png", "LA"), ("c.webp", "RGBA"), ("d.tif", "RGBA")):
        image = Image.new(mode, (30, 20), "white")
        image.putalpha(alpha)
        image.save(tmp_path / name, **({"lossless": True} if name == "c.webp" else {}))
        np.testing.assert_array_equal(images.read_mask(tmp_path / name), expected, name)
    palette = Image.fromarray(expected.astype(np.uint8), "P")
    palette.putpalette([255, 255, 255] * 2)
    palette.save(tmp_path / "p.png", transparency=0)
    np.testing.assert_array_equal(images.read_mask(tmp_path / "p.png"), expected)
    image = alpha.convert("RGB")
    image.putalpha(255)  # opaque everywhere: the colours say it
    image.save(tmp_path / "o.png")
    np.testing.assert_array_equal(images.read_mask(tmp_path / "o.png"), expected)
    image.convert("L").save(tmp_path / "turned.tif", tiffinfo={0x0112: 6})
    assert images.read_mask(tmp_path / "turned.tif").shape == (30, 20)
    assert 0.05 < images.read_mask(REPORTS / "maskalpha.png").mean() < 0.15
