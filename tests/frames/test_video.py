"""Video files: what comes out is what is in the file, in order and at random."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_sam2.frames import source as video
from mlx_sam2.frames.opening import open_source
from videos import SIZE, VP8, X264, decode_all, pictures, write_video

av = pytest.importorskip("av", reason="PyAV is not installed: pip install 'mlx-sam2[video]'")


def test_ffv1_gives_the_exact_pixels(tmp_path: Path) -> None:
    frames = pictures(5, (63, 101))  # odd
    source = open_source(write_video(tmp_path / "v.mkv", frames, "ffv1", pix_fmt="bgr0"))
    assert (source.height, source.width, source.fps) == (63, 101, 25.0)
    assert np.array_equal(np.stack(list(source)), np.stack(frames))
    assert not source[0].flags.writeable


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


@pytest.mark.slow
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
