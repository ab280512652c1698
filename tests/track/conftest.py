"""What the tests of the track command share: a model, clips, and bad files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import synthetic
from track_command import (
    HEIGHT,
    PIXEL_ASPECT,
    WIDTH,
    frames_of_clip,
    write_frames,
)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    from mlx_sam2.checkpoint.loading import save

    folder = tmp_path_factory.mktemp("model") / "nano"
    save(synthetic.nano_model(), folder)
    return str(folder)


@pytest.fixture(scope="session")
def predictor(model: str) -> Any:
    from mlx_sam2.sam2_video_predictor import SAM2VideoPredictor

    return SAM2VideoPredictor.from_pretrained(model)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_frames(tmp_path / "clip")


@pytest.fixture(scope="session")
def mp4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import av

    path = tmp_path_factory.mktemp("mp4") / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "5"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.sample_aspect_ratio = PIXEL_ASPECT
        for frame in frames_of_clip():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="session")
def bad_files(tmp_path_factory: pytest.TempPathFactory, mp4: Path) -> Path:
    import wave

    folder = tmp_path_factory.mktemp("bad")
    write_frames(folder / "clip")
    write_frames(folder / "sizes")
    Image.new("RGB", (90, HEIGHT)).save(folder / "sizes/00001.jpg")
    (folder / "empty").mkdir()
    (folder / "full").mkdir()
    (folder / "full/x.txt").write_text("mine")
    (folder / "text.mp4").write_text("no video")
    (folder / "taken.mp4").write_text("mine")
    (folder / "cut.mp4").write_bytes(mp4.read_bytes()[:-400])
    with wave.open(str(folder / "sound.wav"), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(1600))
    Image.new("L", (WIDTH, HEIGHT)).save(folder / "black.png")
    Image.new("L", (10, 8), 255).save(folder / "small.png")
    return folder
