"""The tables "Where it goes" of docs/segment.md and docs/video.md: every command does what its row says."""

from __future__ import annotations

import functools
import importlib
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import doc_pages
from doc_pages import ROOT, Command

av = pytest.importorskip("av", reason="PyAV is not installed: pip install -e '.[video]'")


def rows(page: str) -> list[Command]:
    """Commands of the table under the heading."""
    text = (ROOT / "docs" / page).read_text()
    table = re.search(r"### Where it goes\n\n((?:\|.*\n)+)", text)[1]
    return [command for command in doc_pages.commands(ROOT / "docs" / page) if f"`{command.line}`" in table]


@functools.cache
def demo(kind: str) -> Any:
    """One model for all rows."""
    from mlx_sam2 import SAM2ImagePredictor, SAM2VideoPredictor

    return (SAM2ImagePredictor if kind == "segment" else SAM2VideoPredictor).from_pretrained("demo")


def called(command: Command, folder: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> int:
    kind = command.program.removeprefix("mlx_sam2.")
    place = {"segment": "mlx_sam2.segment.prompted", "track": "mlx_sam2.track.video"}[kind]
    monkeypatch.setattr(importlib.import_module(place), "load_predictor", lambda _: demo(kind))
    monkeypatch.chdir(folder)
    return importlib.import_module(f"mlx_sam2.{kind}.command").main([*command.args, *more, "--model", "demo"])


@pytest.mark.parametrize("command", rows("segment.md"), ids=lambda command: command.args[-1])
def test_photos(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(ROOT / "examples/coffee.jpg", tmp_path / "photo.jpg")
    assert called(command, tmp_path, monkeypatch) == 0
    assert len(list(tmp_path.iterdir())) == 2


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first frames of the example, with a sound."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    with av.open(str(ROOT / "examples/clip.mp4")) as source, av.open(str(path), "w") as made:
        video = made.add_stream_from_template(source.streams.video[0])
        sound = made.add_stream("aac", rate=48000, layout="mono")
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = video
                made.mux(packet)
        for i in range(40):
            piece = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            piece.sample_rate, piece.pts = 48000, 1024 * i
            made.mux(sound.encode(piece))
        made.mux(sound.encode(None))
    return path


@pytest.mark.parametrize("command", rows("video.md"), ids=lambda command: command.line.split("clip.mp4")[1][-24:])
def test_films(
    command: Command, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(clip, tmp_path / "clip.mp4")
    code = called(command, tmp_path, monkeypatch, "--frames", "2")
    if "hevc" in command.args and sys.platform != "darwin":
        assert code == 2 and "HEVC with alpha needs a Mac" in capsys.readouterr().err
        return
    assert code == 0
    (made,) = (path for path in tmp_path.iterdir() if path.name != "clip.mp4")
    if made.is_dir():
        assert len(list(made.iterdir())) == 2
        return
    with av.open(str(made)) as film:
        assert len(film.streams.audio) == ("--audio" in command.args)
        assert len([packet for packet in film.demux(video=0) if packet.size]) == 2


def test_tables_have_their_rows() -> None:
    assert len(rows("segment.md")) == 6
    assert len(rows("video.md")) == 11
