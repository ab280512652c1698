"""Video files that are damaged, cut off or odd: the frames that are there, or one clear line."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mlx_sam2.frames import file as video_file
from mlx_sam2.frames import source as video
from mlx_sam2.frames.opening import open_sink, open_source
from mlx_sam2.frames.source import VideoError
from videos import SIZE, VP8, X264, decode_all, pictures, write_video

av = pytest.importorskip("av", reason="PyAV is not installed: pip install 'mlx-sam2[video]'")


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


# How each EXIF orientation shows a stored picture (EXIF 2.32, tag 0x0112).
ORIENTATIONS = {
    1: lambda f: f,
    2: lambda f: f[:, ::-1],
    3: lambda f: f[::-1, ::-1],
    4: lambda f: f[::-1],
    5: lambda f: f.transpose(1, 0, 2),
    6: lambda f: np.rot90(f, -1),
    7: lambda f: f[::-1, ::-1].transpose(1, 0, 2),
    8: lambda f: np.rot90(f),
}


@pytest.mark.parametrize(
    ("name", "codec", "kind"),
    [
        ("v.avi", "mjpeg", "JPEG"), ("v.mov", "mjpeg", "JPEG"), ("v.mkv", "mjpeg", "JPEG"), ("v.mov", "png", "PNG"),
        ("v.mov", "tiff", "TIFF"),
    ],
)  # fmt: skip
def test_frames_that_carry_exif_as_cameras_write_them(tmp_path: Path, name: str, codec: str, kind: str) -> None:
    """PyAV 17.1 and 18 have no name for this side data, and raise when any other is asked for."""
    for orientation, seen in ORIENTATIONS.items():
        expected = []
        with av.open(str(tmp_path / name), "w") as container:
            stream = container.add_stream(codec, rate=10)
            stream.height, stream.width = SIZE
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "rgb24"
            for i, picture in enumerate(pictures(3)):
                file, exif = io.BytesIO(), Image.Exif()
                exif[0x0112], exif[0x010F] = orientation, "Maker"
                Image.fromarray(picture).save(file, kind, exif=exif, quality=95, subsampling=0)
                stored = np.array(Image.open(file).convert("RGB")) if kind == "JPEG" else picture
                expected.append(seen(stored))
                packet = av.Packet(file.getvalue())
                packet.pts = packet.dts = i
                packet.time_base, packet.stream, packet.is_keyframe = Fraction(1, 10), stream, True
                container.mux(packet)
        frames = list(open_source(tmp_path / name))
        assert [frame.shape for frame in frames] == [frame.shape for frame in expected]
        # two decoders of JPEG round colours differently: 0.05 on average; another orientation differs by 45 and more
        assert np.abs(np.stack(frames).astype(int) - np.stack(expected)).mean() < (0.5 if kind == "JPEG" else 0.01)


def test_motion_jpeg_of_a_camera() -> None:
    """tests/data/reports/exif.avi: 320 x 240, Orientation 6."""
    frames = list(open_source(Path(__file__).parents[1] / "data" / "reports" / "exif.avi"))
    assert [frame.shape for frame in frames] == [(320, 240, 3)] * 4


def test_frames_larger_than_the_largest_photo_are_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video, "MAX_PIXELS", SIZE[0] * SIZE[1] - 1)
    monkeypatch.setattr(video_file.VideoFileSource, "_decode", None)
    with pytest.raises(VideoError, match=r"v\.mp4 is too large: 160 x 96 pixels; frames may have 15,359"):
        open_source(write_video(tmp_path / "v.mp4", pictures(2)))
    Image.new("RGB", (SIZE[1], SIZE[0])).save(tmp_path / "a.webp")
    with pytest.raises(VideoError, match=r"a\.webp is too large"):
        open_source(tmp_path / "a.webp")


def test_a_million_frames_a_second(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=1_000_000)
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuvj420p"
        for i, picture in enumerate([*pictures(1000), None]):
            frame = None if picture is None else av.VideoFrame.from_ndarray(picture, "rgb24")
            if frame is not None:
                frame.pts, frame.time_base = i, Fraction(1, 1_000_000)
            container.mux(stream.encode(frame))
    source = open_source(path)
    assert (len(source), source.fps) == (1000, 1e6)
    with open_sink(tmp_path / "o.mp4", fps=source.fps) as sink:
        for i in range(5):
            sink.write(i, source[i], {}, time=source.time(i))
    assert len(open_source(tmp_path / "o.mp4")) == 5
