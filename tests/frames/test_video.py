"""Frame sources: what comes out is what is in the file, in order and at random, or one clear line."""

from __future__ import annotations

import hashlib
import io
import random
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mlx_sam2.frames import camera
from mlx_sam2.frames import file as video_file
from mlx_sam2.frames import source as video
from mlx_sam2.frames.opening import open_source
from mlx_sam2.frames.source import FrameCache, VideoError
from mlx_sam2.images.preprocess import model_frame, preprocess_frame

av = pytest.importorskip("av", reason="PyAV is not installed: pip install 'mlx-sam2[video]'")

SIZE = (96, 160)  # height, width
# A picture as x264 likes it: keyframes every 12 frames, B frames that others refer to.
X264 = "keyint=12:min-keyint=12:scenecut=0:bframes=3:b-adapt=0:b-pyramid=normal"


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
        ("", "str is no source"),
        (b"", "bytes is no source"),
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


# Video files


def test_ffv1_gives_the_exact_pixels(tmp_path: Path) -> None:
    frames = pictures(5, (63, 101))  # odd
    source = open_source(write_video(tmp_path / "v.mkv", frames, "ffv1", pix_fmt="bgr0"))
    assert (source.height, source.width, source.fps) == (63, 101, 25.0)
    assert np.array_equal(np.stack(list(source)), np.stack(frames))
    assert not source[0].flags.writeable


VP8 = {"deadline": "realtime", "cpu-used": "8"}
VP9 = {"g": "12", "cpu-used": "8", "lag-in-frames": "9"}
HEVC = {"x265-params": "keyint=12:bframes=3:open-gop=1:log-level=0"}
VIDEOS: dict[str, tuple[str, dict[str, Any]]] = {
    "mp4": ("v.mp4", {}),
    "mov, every frame a keyframe": ("v.mov", {"codec": "mjpeg", "pix_fmt": "yuvj420p"}),
    "mkv": ("v.mkv", {}),
    "webm": ("v.webm", {"codec": "libvpx-vp9", "options": VP9}),
    "vp8": ("v.webm", {"codec": "libvpx", "options": VP8}),
    "open gop mp4": ("v.mp4", {"options": {"x264-params": X264 + ":open-gop=1"}}),
    "open gop mkv": ("v.mkv", {"options": {"x264-params": X264 + ":open-gop=1"}}),
    "hevc": ("v.mp4", {"codec": "libx265", "options": HEVC}),
    "intra refresh": ("v.mp4", {"options": {"x264-params": "intra-refresh=1:keyint=12:bframes=3"}}),
    "interlaced": ("v.mp4", {"options": {"x264-params": X264 + ":interlaced=1"}}),
    "fragmented": ("v.mp4", {"movflags": "frag_keyframe+empty_moov"}),
    "starts late": ("v.mp4", {"shift": 3.0}),
    "edit list within a group": ("v.mp4", {"shift": -0.28}),
    "edit list past a keyframe": ("v.mp4", {"shift": -0.6}),
    "avi": ("v.avi", {"codec": "mpeg4", "options": {"bf": "2"}}),
    "transport stream": ("v.ts", {}),
    "raw h264, without times": ("v.h264", {}),
}


@pytest.mark.parametrize(("name", "how"), VIDEOS.values(), ids=VIDEOS)
def test_any_order_gives_the_frames_of_reading_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, how: dict[str, Any]
) -> None:
    monkeypatch.setattr(video, "CACHE_BYTES", 0)  # two frames
    path = write_video(tmp_path / name, pictures(40), **how)
    expected = decode_all(path)
    assert len(expected) == 40 - 25 * max(0.0, -how.get("shift", 0.0))
    source: Any = open_source(path)
    # Files that tell their frames are not decoded to count them, and can be entered at their keyframes.
    assert bool(source._index.keys) == (path.suffix in (".mp4", ".mov", ".mkv") or "libvpx-vp9" in how.values())
    assert len(source) == len(expected)
    assert np.array_equal(np.stack(list(source)), np.stack(expected))
    order = list(range(len(expected)))
    random.Random(0).shuffle(order)
    order += list(reversed(range(len(expected))))
    source = open_source(path)
    wrong = [i for i in order if not np.array_equal(source[i], expected[i])]
    assert wrong == []


@pytest.mark.parametrize("open_gop", [0, 1])
def test_a_step_back_decodes_from_the_last_keyframe_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_gop: int
) -> None:
    options = {"x264-params": f"{X264}:open-gop={open_gop}"}
    path = write_video(tmp_path / "v.mp4", pictures(40), options=options)
    source: Any = open_source(path)
    decoded: list[int] = []
    numbered = source._numbered
    monkeypatch.setattr(
        source, "_numbered", lambda frames: ((decoded.append(n), (n, f))[1] for n, f in numbered(frames))
    )
    source[30], source[17]
    assert decoded == [*range(24, 31), *range(12, 18)]
    source[16], source[13]  # kept on the way to 17
    assert len(decoded) == 13
    source[20]
    assert decoded[13:] == [18, 19, 20]


class Overshooting:
    """A container that seeks 15 frames too far, as some do in files with a poor index."""

    def __init__(self, container: Any) -> None:
        self._container = container
        self.demux, self.close = container.demux, container.close

    def seek(self, offset: int, *, stream: Any) -> None:
        self._container.seek(offset + round(0.6 / stream.time_base), stream=stream)


def test_seeking_too_far_is_noticed(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", pictures(60))
    expected = decode_all(path)
    source: Any = open_source(path)
    for i in (30, 13, 59, 36):
        source._container = Overshooting(source._container)
        assert np.array_equal(source[i], expected[i])


def test_what_is_wrongly_marked_as_a_keyframe_is_not_started_from(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", pictures(40), "mpeg4", {"g": "100", "sc_threshold": "1000000000"})
    expected = decode_all(path)
    with av.open(str(path)) as container, av.open(str(tmp_path / "w.mp4"), "w") as marked:
        stream = marked.add_stream_from_template(container.streams.video[0])
        for i, packet in enumerate(container.demux(video=0)):
            if packet.size:
                packet.is_keyframe = i % 10 == 0
                packet.stream = stream
                marked.mux(packet)
    source: Any = open_source(tmp_path / "w.mp4")
    assert len(source._index.keys) == 4
    assert [i for i in (35, 25, 15, 5) if not np.array_equal(source[i], expected[i])] == []


def test_bytes_and_names_with_a_colon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "http:b.mp4", pictures(3))
    expected = np.stack(decode_all(path))
    monkeypatch.chdir(tmp_path)
    for given in (path, "http:b.mp4", path.read_bytes()):
        with open_source(given) as source:
            assert np.array_equal(np.stack(list(source)), expected)


@pytest.mark.parametrize("name", ["v.mp4", "v.mkv", "v.avi"])
def test_a_title_that_is_not_utf_8(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "Caf_QQ"
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width = SIZE
        for picture in [*pictures(3), None]:
            frame = None if picture is None else av.VideoFrame.from_ndarray(picture, "rgb24")
            container.mux(stream.encode(frame))
    data = path.read_bytes()
    assert b"Caf_QQ" in data
    path.write_bytes(data.replace(b"Caf_QQ", b"Caf\xe9\xff\xfe"))
    assert len(list(open_source(path))) == 3


def test_videos_open_with_pyav_19_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its ``av.open`` has no ``metadata_errors``."""
    path, real_open = write_video(tmp_path / "v.mp4", pictures(3)), av.open
    monkeypatch.setattr(av, "__version__", "19.0.2")
    monkeypatch.setattr(av, "open", lambda file, mode=None, *, options=None: real_open(file, mode, options=options))
    assert len(list(open_source(path))) == 3


def test_variable_frame_rate_is_kept(tmp_path: Path) -> None:
    times = [0, 900, 45_000, 45_900, 180_000]
    source = open_source(write_video(tmp_path / "v.mp4", pictures(5), times=times))
    assert [source.time(i) for i in range(5)] == [0.0, 0.01, 0.5, 0.51, 2.0]
    assert len(list(source)) == 5


# (x', y') = (a x + c y, b x + d y), y downwards (ISO 14496-12): what each matrix makes of a picture.
MATRICES = {
    "none": ((1, 0, 0, 1), lambda f: f),
    "phone held upright": ((0, 1, -1, 0), lambda f: np.rot90(f, -1)),
    "phone upside down": ((0, -1, 1, 0), lambda f: np.rot90(f)),
    "half a turn": ((-1, 0, 0, -1), lambda f: f[::-1, ::-1]),
    "mirror": ((-1, 0, 0, 1), lambda f: f[:, ::-1]),
    "upside down": ((1, 0, 0, -1), lambda f: f[::-1]),
    "transpose": ((0, 1, 1, 0), lambda f: f.transpose(1, 0, 2)),
    "other diagonal": ((0, -1, -1, 0), lambda f: f[::-1, ::-1].transpose(1, 0, 2)),
    "of no use": ((0, 0, 0, 0), lambda f: f),
}


@pytest.mark.parametrize(("abcd", "seen"), MATRICES.values(), ids=MATRICES)
def test_rotation_and_mirroring_are_applied(tmp_path: Path, abcd: tuple[int, ...], seen: Any) -> None:
    frames = pictures(2)
    a, b, c, d = (65536 * n for n in abcd)
    matrix = [a, b, 0, c, d, 0, 0, 0, 1 << 30]
    path = write_video(tmp_path / "v.mp4", frames, "libx264rgb", {"qp": "0"}, "rgb24", matrix=matrix)
    source = open_source(path)
    expected = [seen(frame) for frame in frames]
    assert (source.height, source.width) == expected[0].shape[:2]
    assert np.array_equal(np.stack(list(source)), np.stack(expected))


def test_broken_files(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "v.mp4", pictures(40), movflags="faststart").read_bytes()
    path = tmp_path / "bad.mp4"
    for data, message in (
        (b"", "bad.mp4 cannot be opened as a video"),
        (b"this is not a video" * 100, "bad.mp4 cannot be opened as a video"),
        (whole[: len(whole) // 2], r"bad.mp4 is cut off: \d+ of the 40 frames"),
    ):
        path.write_bytes(data)
        with pytest.raises(VideoError, match=message) as caught:
            open_source(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(VideoError, match="the video in memory cannot be opened"):
        open_source(b"nothing")


def test_a_codec_that_nobody_knows(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.avi", pictures(3), "mjpeg", pix_fmt="yuvj420p")
    path.write_bytes(path.read_bytes().replace(b"MJPG", b"ZZZ9"))
    with pytest.raises(VideoError, match=r"v\.avi is packed in a way that PyAV does not know: convert it to H\.264"):
        open_source(path)


@pytest.mark.parametrize("container", ["matroska", "webm"])
def test_a_matroska_file_that_is_cut_off_says_so(container: str, tmp_path: Path) -> None:
    codec = {"matroska": "libx264", "webm": "libvpx-vp9"}[container]
    path = write_video(tmp_path / f"v.{'mkv' if container == 'matroska' else container}", pictures(20), codec)
    whole = path.read_bytes()
    assert len(open_source(whole)) == len(open_source(whole + b"more")) == 20
    for size in (len(whole) - 1, len(whole) // 2):
        path.write_bytes(whole[:size])
        for source in (path, whole[:size]):
            with pytest.raises(VideoError, match=f"is cut off: {size} of its {len(whole)} bytes are there"):
                open_source(source)


@pytest.mark.parametrize(
    ("head", "end"),
    [
        ("1a45dfa3 82 0000 18538067 84 00000000", 16),
        ("1a45dfa3 4002 0000 18538067 0100000000000004", 24),
        ("1a45dfa3 82 0000 18538067 01ffffffffffffff", None),  # a recording that was never finished
        ("1a45dfa3 82 0000 18538067 ff", None),
        ("1a45dfa3 82 0000 1f43b675 84", None),
        ("1a45dfa3 82 0000 18538067 00", None),
        ("1a45dfa3", None),
        ("", None),
    ],
)
def test_where_a_matroska_segment_ends(head: str, end: int | None) -> None:
    assert video_file.segment_end(bytes.fromhex(head)) == end


def damage(path: Path, i: int) -> None:
    """Overwrite the beginning of packet `i`."""
    with av.open(str(path)) as container:
        hit = [packet for packet in container.demux(video=0) if packet.size][i]
        packet = bytes(hit)
    data = path.read_bytes()
    assert data.count(packet) == 1
    path.write_bytes(data.replace(packet, bytes(64) + packet[64:]))


@pytest.mark.parametrize("hit", [0, 6, 19])
def test_damage_costs_only_the_frame_it_hits(tmp_path: Path, hit: int) -> None:
    path = write_video(tmp_path / "v.mov", pictures(20), "prores_ks", pix_fmt="yuv422p10le")
    expected = decode_all(path)
    damage(path, hit)
    source = open_source(path)
    assert len(source) == 20
    for i in range(20):
        if i == hit:
            with pytest.raises(VideoError, match=f"frame {hit} cannot be decoded"):
                source[i]
        else:
            assert np.array_equal(source[i], expected[i])


def test_damage_in_a_file_that_is_counted_by_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken frame is missing, and no other."""
    monkeypatch.setattr(video_file, "_PACKETS_ARE_FRAMES", ())
    path = write_video(tmp_path / "v.mov", pictures(20), "prores_ks", pix_fmt="yuv422p10le")
    expected = decode_all(path)
    damage(path, 17)
    frames = list(open_source(path))
    assert np.array_equal(np.stack(frames), np.stack([*expected[:17], *expected[18:]]))


@pytest.mark.parametrize(("at", "known"), [(12, ("vp8",)), (3, ())], ids=["known codec", "found out"])
def test_packets_that_show_nothing_are_no_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, known: tuple[str, ...]
) -> None:
    """VP8 has frames that only others see; here one that was shown is made one (bit 4, RFC 6386, 9.1)."""
    monkeypatch.setattr(video_file, "_HIDES_FRAMES", known)
    path = write_video(tmp_path / "v.webm", pictures(20), "libvpx", VP8)
    expected = decode_all(path)
    with av.open(str(path)) as source, av.open(str(tmp_path / "w.webm"), "w") as hidden:
        stream = hidden.add_stream_from_template(source.streams.video[0])
        for i, packet in enumerate(source.demux(video=0)):
            data = bytearray(packet)
            if i == at:
                data[0] &= ~0x10
            if data:
                copy = av.Packet(bytes(data))
                copy.pts, copy.dts, copy.time_base = packet.pts, packet.dts, packet.time_base
                copy.is_keyframe, copy.stream = packet.is_keyframe, stream
                hidden.mux(copy)
    frames = list(open_source(tmp_path / "w.webm"))
    assert np.array_equal(np.stack(frames), np.stack([*expected[:at], *expected[at + 1 :]]))


def test_a_file_cut_out_of_an_open_gop_starts_at_its_keyframe(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "v.mkv", pictures(40), options={"x264-params": X264 + ":open-gop=1"})
    with av.open(str(whole)) as source, av.open(str(tmp_path / "cut.mkv"), "w") as cut:
        stream = cut.add_stream_from_template(source.streams.video[0])
        keys = 0
        for packet in source.demux(video=0):
            keys += packet.is_keyframe
            if keys >= 2 and packet.size:
                packet.stream = stream
                cut.mux(packet)
    part: Any = open_source(tmp_path / "cut.mkv")
    assert np.array_equal(np.stack(list(part)), np.stack(decode_all(whole)[12:]))
    assert len(part._index.keys) == 3  # it was not necessary to decode it for that


def test_no_video_stream(tmp_path: Path) -> None:
    path = tmp_path / "sound"
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=44_100)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 44_100
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    with pytest.raises(VideoError, match="sound has no video stream"):
        open_source(path)


def test_without_pyav_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "v.mp4").write_bytes(b"x")
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(VideoError, match=r"pip install 'mlx-sam2\[video\]'"):
        open_source(tmp_path / "v.mp4")


# Cameras and live streams


@pytest.mark.parametrize(
    ("platform", "source", "options", "opened"),
    [
        ("darwin", 0, None, ("0:none", "avfoundation", {"framerate": "30"})),
        ("darwin", "camera:Face", {"framerate": "15"}, ("Face:none", "avfoundation", {"framerate": "15"})),
        ("linux", "camera", None, ("/dev/video0", "v4l2", {})),
        ("linux", 2, {"video_size": "640x480"}, ("/dev/video2", "v4l2", {"video_size": "640x480"})),
        ("linux", "camera:/dev/front", None, ("/dev/front", "v4l2", {})),
    ],
)  # fmt: skip
def test_camera_asks_the_driver_of_the_platform(
    monkeypatch: pytest.MonkeyPatch, platform: str, source: Any, options: Any, opened: tuple[Any, ...]
) -> None:
    asked: list[Any] = []

    def fake_open(file: str, *, format: str, options: dict[str, str], timeout: float) -> Any:  # noqa: A002
        asked.append((file, format, options))
        raise av.error.OSError(5, "Input/output error")

    monkeypatch.setattr(camera.sys, "platform", platform)
    monkeypatch.setattr(av, "open", fake_open)
    with pytest.raises(VideoError, match=r"camera .* cannot be opened \(Input/output error\): is it connected"):
        open_source(source, camera_options=options)
    assert asked == [opened]


def test_camera_options_need_a_camera() -> None:
    with pytest.raises(VideoError, match="camera_options are for cameras"):
        open_source([], camera_options={"framerate": "30"})


def test_camera_frames_and_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """FFmpeg's test picture stands in for a camera."""
    real_open, testsrc = av.open, "testsrc=size=64x48:rate=10:duration=1"
    monkeypatch.setattr(av, "open", lambda file, **_: real_open(testsrc, format="lavfi"))
    source = open_source(0)
    assert (source.num_frames, source.height, source.width, source.fps) == (None, 48, 64, 10.0)
    times = []
    for i, _ in enumerate(source):
        times.append(source.time(i))
        assert source.time(i + 1) is None
    assert times == pytest.approx([i / 10 for i in range(10)])
    source.close()
    assert list(source) == []


class Hesitant:
    """A container that has no frame yet every other time it is asked, as AVFoundation's."""

    def __init__(self, container: Any, frames: int) -> None:
        self._container, self._left, self._ready = container, frames, False
        self.streams = container.streams

    def demux(self, stream: Any) -> Iterator[Any]:
        for packet in self._container.demux(stream):
            self._ready = not self._ready
            if not self._ready or self._left == 0:
                raise av.error.BlockingIOError(35, "Resource temporarily unavailable")
            self._left -= 1
            yield packet

    def close(self) -> None:
        self._container.close()


def test_camera_waits_for_its_frames_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    real_open = av.open
    testsrc = "testsrc=size=64x48:rate=10:duration=10"
    monkeypatch.setattr(av, "open", lambda file, **_: Hesitant(real_open(testsrc, format="lavfi"), frames=3))
    monkeypatch.setattr(camera, "PATIENCE", 0.05)
    source = open_source(0)
    frames = iter(source)
    assert [next(frames).shape for _ in range(3)] == [(48, 64, 3)] * 3
    with pytest.raises(VideoError, match="camera 0 has sent no frame for"):
        next(frames)


def test_url_is_read_as_it_comes(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", pictures(3))
    with open_source(f"file://{path}") as source:
        assert source.num_frames is None
        assert np.array_equal(np.stack(list(source)), np.stack(decode_all(path)))
    with pytest.raises(VideoError, match=r"cannot be opened .*: is the address right"):
        open_source("file:///nowhere/at/all.mp4")
