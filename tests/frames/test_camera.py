"""Cameras and live streams, with a stand-in for the device."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_sam2.frames import camera
from mlx_sam2.frames.opening import open_source
from mlx_sam2.frames.source import VideoError
from videos import decode_all, pictures, write_video

av = pytest.importorskip("av", reason="PyAV is not installed: pip install 'mlx-sam2[video]'")


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
