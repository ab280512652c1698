"""Frames of folders, sequences and streams: in order and at random, or one clear line."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mlx_sam2.frames import source as video
from mlx_sam2.frames.opening import open_source
from mlx_sam2.frames.source import FrameCache, VideoError
from mlx_sam2.images.preprocess import model_frame, preprocess_frame
from videos import SIZE, greys, pictures, write_folder

av = pytest.importorskip("av", reason="PyAV is not installed: pip install 'mlx-sam2[video]'")

REPORTS = Path(__file__).parents[1] / "data" / "reports"

# Preprocessing


@pytest.mark.parametrize(
    ("frame", "image_size", "digest"),
    [
        # Every byte value, not resized; and a resize down and up at once. The digests are those of the
        # official load_video_frames (sam2 1.1.0) on a folder with this image, transposed to (S, S, 3).
        (
            np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2),
            16,
            "8c626e48a7ca8a3a4c1fef347a331e88748ff9dbc57d734b54bd4613205621dc",
        ),
        (
            np.fromfunction(
                lambda y, x, c: np.choose(c, [x * y % 256, (3 * x + 5 * y) % 256, (x * x + y) % 256]),
                (45, 80, 3),
                dtype=int,
            ).astype(np.uint8),
            32,
            "82dfb4a7267ace03f31d0858d028e0ad655b3a5c0d22770c21902b45f77b7cbd",
        ),
    ],
    ids=["every byte", "resized"],
)
def test_preprocessing_is_the_official_one_bit_for_bit(frame: np.ndarray, image_size: int, digest: str) -> None:
    ours = preprocess_frame(frame, image_size)
    assert ours.shape == (1, image_size, image_size, 3)
    assert ours.dtype == np.float32
    assert hashlib.sha256(ours.tobytes()).hexdigest() == digest


def test_model_frame_rounds_to_uint8() -> None:
    step = np.zeros((4, 4, 3), np.uint8)
    step[:, 2:] = 255
    small = model_frame(step, 3)
    assert small.dtype == np.uint8
    assert small[0, :, 0].tolist() == [0, 128, 255]  # bicubic, clipped at both ends


# Folders


def test_folder_sorts_by_number(tmp_path: Path) -> None:
    source = open_source(write_folder(tmp_path / "v", ["10.png", "9.png", "00002.png"]))
    assert greys(source) == [2, 1, 0]
    assert [source.frame_name(i) for i in range(3)] == ["00002", "9", "10"]
    assert (source.num_frames, len(source), source.height, source.width) == (3, 3, 6, 8)
    assert source.fps is None
    assert source.time(1) is None
    assert greys([source[-1]]) == [0]
    assert not source[0].flags.writeable


def test_folder_sorts_by_the_numbers_in_a_pattern(tmp_path: Path) -> None:
    source = open_source(str(write_folder(tmp_path / "v", ["shot2_10.png", "shot2_9.png", "shot1_11.png"])))
    assert greys(source) == [2, 1, 0]


def test_folder_prefers_jpeg_and_passes_over_other_files(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "v", ["1.JPG", "0.jpeg", "0.png", "2.png", ".3.jpg"])
    (folder / "notes.txt").write_text("x")
    (folder / "4.jpg").mkdir()
    assert greys(open_source(folder)) == [1, 0]


def test_folder_gives_pil_pixels_without_exif_rotation(tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    path = tmp_path / "v" / "0.jpg"
    Image.fromarray(pictures(1)[0]).save(path, exif=exif)
    assert np.array_equal(open_source(tmp_path / "v")[0], np.array(Image.open(path).convert("RGB")))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "holds no frames"),
        (["a.jpg", "b.jpg"], "a.jpg and b.jpg are not of one numbered sequence"),
        (["0.jpg", "1.jpg", "cover.jpg"], "cover.jpg are not of one numbered sequence"),
        (["only.jpg"], "only.jpg are not of one numbered sequence"),
    ],
)
def test_folder_without_a_sequence(tmp_path: Path, names: list[str], message: str) -> None:
    with pytest.raises(VideoError, match=message):
        open_source(write_folder(tmp_path / "v", names))


@pytest.mark.parametrize("make", [lambda path: path.symlink_to(path.parent / "gone.png"), os.mkfifo])
def test_a_frame_that_is_no_file_is_not_left_out(tmp_path: Path, make: Any) -> None:
    folder = write_folder(tmp_path / "v", ["0.png", "2.png"])
    (folder / "notes.png").mkdir()
    assert len(open_source(folder)) == 2
    make(folder / "1.png")
    with pytest.raises(VideoError, match=r"1\.png is no file: it is a link that leads nowhere, or a pipe"):
        open_source(folder)


def test_folder_with_a_frame_of_another_size(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "v", ["0.png", "1.png", "2.png"])
    Image.new("RGB", (5, 6)).save(folder / "1.png")
    with pytest.raises(VideoError, match=r"1\.png is 5x6, but 0\.png is 8x6"):
        open_source(folder)


def test_folder_with_broken_images(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "v", ["0.jpg"], SIZE)
    Image.fromarray(pictures(1)[0]).save(folder / "1.jpg")
    data = (folder / "1.jpg").read_bytes()
    (folder / "1.jpg").write_bytes(data[: len(data) // 2])  # its header is whole
    source = open_source(folder)
    assert greys([source[0]]) == [0]
    with pytest.raises(VideoError, match=r"1\.jpg is a broken image"):
        source[1]
    (folder / "1.jpg").write_bytes(b"no image")
    with pytest.raises(VideoError, match=r"1\.jpg cannot be read as an image"):
        open_source(folder)


def test_folder_frames_are_pictures_whatever_their_names(tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    Image.new("RGB", (8, 6)).save(tmp_path / "v" / "0.jpg", format="EPS")  # a program: not to be run
    with pytest.raises(VideoError, match=r"0\.jpg cannot be read as an image"):
        open_source(tmp_path / "v")


def test_folder_of_16_bit_images(tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(tmp_path / "v" / "0.png")
    with pytest.raises(VideoError, match="not 8-bit"):
        open_source(tmp_path / "v")


def test_cache_keeps_the_latest_within_its_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "CACHE_BYTES", 3 * 6 * 8 * 3)
    cache = FrameCache(6, 8)
    for i in range(3):
        cache.put(i, np.full((6, 8, 3), i, np.uint8))
    assert cache.get(0) is not None  # used again: 1 is now the oldest
    cache.put(3, np.zeros((6, 8, 3), np.uint8))
    assert [i for i in range(4) if cache.get(i) is not None] == [0, 2, 3]


# Frames in memory and streams


def test_sequences() -> None:
    stack = np.stack(pictures(3))
    for frames in (stack, list(stack), tuple(Image.fromarray(frame) for frame in stack)):
        source = open_source(frames)
        assert len(source) == 3
        assert source.random_access
        assert np.array_equal(np.stack(list(source)), stack)
        assert np.array_equal(source[-2], stack[1])
    with pytest.raises(IndexError, match="no frame 3: its frames are 0 to 2"):
        source[3]
    assert open_source(source) is source


def test_generator_is_read_frame_by_frame() -> None:
    read = []

    def frames() -> Iterator[np.ndarray]:
        for i, picture in enumerate(pictures(4)):
            read.append(i)
            yield picture

    source = open_source(frames())
    assert (source.num_frames, source.random_access) == (None, False)
    assert (source.height, source.width) == SIZE
    assert read == [0]
    seen = [next(iter(source))]
    assert read == [0]  # the frame that told the size was kept, not lost
    seen += list(source)  # goes on where it stopped
    assert np.array_equal(np.stack(seen), np.stack(pictures(4)))
    with pytest.raises(VideoError, match="only be read in order"):
        source[0]
    with pytest.raises(TypeError, match="no known length"):
        len(source)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([], "sequence of frames is empty"),
        (iter([]), "ended before its first frame"),
        (["a.jpg"], "frame 0 is str"),
        ([np.zeros((4, 4, 3))], r"frame 0 is an array of float64 with shape \(4, 4, 3\)"),
        ([np.zeros((4, 4), np.uint8)], r"with shape \(4, 4\)"),
        ([np.zeros((0, 4, 3), np.uint8)], r"with shape \(0, 4, 3\)"),
        ({"frames": 1}, "dict is no source of frames"),
        (None, "NoneType is no source"),
        ("", "an empty str is no source"),
        (b"", "an empty bytes is no source"),
        (io.BytesIO(b"x"), "BytesIO is no source of frames: give a folder of frames, a video file, its bytes"),
        (True, "bool is no source"),
        ("nowhere.mp4", "nowhere.mp4 does not exist"),
    ],
)
def test_what_is_no_source(source: Any, message: str) -> None:
    with pytest.raises(VideoError, match=message):
        open_source(source)


def test_a_frame_of_another_size_is_named() -> None:
    frames = [*pictures(2), pictures(1, (96, 96))[0]]
    for source in (open_source(frames), open_source(iter(frames))):
        with pytest.raises(VideoError, match=r"frame 2.* is 96x96, but the video is 160x96"):
            list(source)


# Photos in place of videos


def test_a_heic_photo_is_a_video_of_one_frame_or_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyAV takes one tile of it for the whole. Its name may say anything."""
    path = tmp_path / "clip.mov"
    path.write_bytes((REPORTS / "iphone.heic").read_bytes())
    for source, name in ((path, str(path)), (path.read_bytes(), "the file in memory")):
        try:
            import pillow_heif  # noqa: F401
        except ImportError:
            monkeypatch.setattr("sys.platform", "linux")
            with pytest.raises(VideoError, match=r"is a HEIC photo: pip install 'mlx-sam2\[heif\]'") as caught:
                open_source(source)
            assert str(caught.value).startswith(name)
        else:
            with open_source(source) as frames:
                assert (len(frames), frames.height, frames.width, frames.name) == (1, 768, 1024, name)


@pytest.mark.parametrize("head", [b"FUJIFILMCCD-RAW 0201", b"II*\0\x10\0\0\0CR\x02\0", b"DNG"])
def test_raw_photos_are_refused(tmp_path: Path, head: bytes) -> None:
    """PyAV and Pillow find the thumbnail of one."""
    if head == b"DNG":
        Image.new("RGB", (8, 6)).save(tmp_path / "a.dng", "TIFF", tiffinfo={254: 1, 50706: b"\1\4\0\0"})
    else:
        (tmp_path / "a.dng").write_bytes(head + bytes(4096))
    with pytest.raises(VideoError, match=r"a\.dng is a raw photo, of which only the thumbnail"):
        open_source(tmp_path / "a.dng")


def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    """Opening it would wait for its other end."""
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(VideoError, match=r"pipe\.mp4 is a pipe or a device"):
        open_source(tmp_path / "pipe.mp4")
    with pytest.raises(VideoError, match="/dev/null is a pipe or a device"):
        open_source("/dev/null")
