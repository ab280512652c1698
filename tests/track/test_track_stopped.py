"""``python -m mlx_sam2.track`` stopped half-way: what is left, and how to continue."""

from __future__ import annotations

import itertools
import json
import shlex
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_sam2.datasets.pictures import read_indexed
from mlx_sam2.frames.films import OverlaySink
from mlx_sam2.masks import rle_to_mask
from mlx_sam2.track import video as track_video
from mlx_sam2.track.command import main
from track_command import (
    HEIGHT,
    NUM_FRAMES,
    WIDTH,
    command,
    environment,
    num_decodable,
    run,
    succeeded,
    two_objects,
    write_frames,
    write_indexed,
)


def start_and_stop(number: int, folder: Path, *args: Any, after: int = 3) -> tuple[int, str, str]:
    """Run on a clip of 60 frames and send a signal when the masks of some have been written: code, stdout, stderr."""
    write_frames(folder / "long", 60)
    process = subprocess.Popen(
        command("long", *args), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder, env=environment()
    )
    deadline = time.monotonic() + 60
    while len(list((folder / "m").glob("*.png"))) < after and process.poll() is None:
        assert time.monotonic() < deadline, "no frame was written"
        time.sleep(0.005)
    process.send_signal(number)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


STOPPED = ["--mask", "two.png", "--output", "m", "--output", "o.jsonl", "--overlay", "v.mp4"]


@pytest.mark.slow
def test_ctrl_c_finishes_the_files_and_says_how_to_go_on(tmp_path: Path, model: str, predictor: Any) -> None:
    write_indexed(tmp_path / "two.png", two_objects())
    code, out, err = start_and_stop(signal.SIGINT, tmp_path, *STOPPED, "--model", model)
    assert code == 130
    assert err.count("\n") == 1
    masks = sorted((tmp_path / "m").iterdir())
    last = len(masks) - 1
    assert out.startswith(f"long: frames 0 to {last}, 2 objects, ")
    assert err.startswith(f"stopped after frame {last}; go on with: python -m mlx_sam2.track long ")
    assert num_decodable(tmp_path / "v.mp4") == last + 1
    assert [json.loads(line)["frame"] for line in (tmp_path / "o.jsonl").read_text().splitlines()] == [*range(last + 1)]
    words = shlex.split(err.partition("go on with: ")[2])[3:]
    done = run(*words, "--frames", "2", cwd=tmp_path)
    assert f"frames {last + 1} to {last + 2}, 2 objects" in succeeded(done)
    assert len(list((tmp_path / "m").iterdir())) == last + 3
    rest = [json.loads(line) for line in (tmp_path / f"o_from{last + 1}.jsonl").read_text().splitlines()]
    assert [line["frame"] for line in rest] == [last + 1, last + 2]
    assert num_decodable(tmp_path / f"v_from{last + 1}.mp4") == 2
    with predictor.init_state(tmp_path / "long") as state:  # the masks there were, and the last ones
        for t, path in ((0, tmp_path / "two.png"), (last, masks[-1])):
            for obj in np.unique(read_indexed(path))[1:].tolist():
                predictor.add_new_mask(state, t, obj, read_indexed(path) == obj)
        for line, (_, _, logits) in zip(rest, predictor.propagate_in_video(state, last + 1, 1), strict=True):
            for entry, logit in zip(line["objects"], logits, strict=True):
                np.testing.assert_array_equal(rle_to_mask(entry["rle"]), logit[0] > 0)


def test_sigterm_without_png_saves_the_last_masks(tmp_path: Path, model: str) -> None:
    write_indexed(tmp_path / "two.png", two_objects())
    write_frames(tmp_path / "long", 60)
    args = ["long", "--mask", "two.png@50", "--reverse", "--frames", "30", "--output", "o.jsonl", "--model", model]
    process = subprocess.Popen(
        command(*args), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment()
    )
    while not (tmp_path / "o.jsonl").exists() and process.poll() is None:
        time.sleep(0.005)
    process.terminate()
    _, err = process.communicate(timeout=300)
    assert process.returncode == 143
    done = len((tmp_path / "o.jsonl").read_text().splitlines())
    last = 51 - done
    words = shlex.split(err.partition("go on with: ")[2])[3:]
    kept = ["--mask", "1:two.png@50", "--mask", "2:two.png@50"] if done > 1 else []
    stopped = ["--mask", f"o_stopped/{last:05d}.png@{last}"]
    rest = ["--start", str(last - 1), "--frames", str(30 - done), "--reverse", "--model", model]
    assert words == ["long", *kept, *stopped, *rest, "--output", f"o_from{last - 1}.jsonl"]
    shown = json.loads((tmp_path / "o.jsonl").read_text().splitlines()[-1])["objects"]
    indices = read_indexed(tmp_path / stopped[1].partition("@")[0])
    np.testing.assert_array_equal(indices > 0, np.any([rle_to_mask(entry["rle"]) for entry in shown], axis=0))


def test_kill_leaves_every_finished_frame_readable(tmp_path: Path, model: str) -> None:
    write_indexed(tmp_path / "two.png", two_objects())
    code, out, _ = start_and_stop(signal.SIGKILL, tmp_path, *STOPPED, "--model", model)
    assert (code, out) == (-signal.SIGKILL, "")
    masks = sorted((tmp_path / "m").glob("[!.]*"))
    assert len(masks) >= 3
    for path in masks:
        assert read_indexed(path).shape == (HEIGHT, WIDTH)
    lines = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert len(masks) - 1 <= len(lines) <= len(masks)  # outputs are written one after the other
    assert num_decodable(tmp_path / "v.mp4") >= len(masks) - 2


# Signals at chosen moments: `main` runs in this process, and what is patched raises the signal.


def main_in(folder: Path, monkeypatch: pytest.MonkeyPatch, *words: Any) -> int:
    monkeypatch.chdir(folder)
    return main([*map(str, words)])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_the_model_loads_ends_at_once(
    clip: Path, model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int, code: int
) -> None:
    monkeypatch.setattr(track_video, "load_predictor", lambda args: signal.raise_signal(number))
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    assert main_in(clip.parent, monkeypatch, "clip", "--point", "40,30", "--model", model) == code
    assert capsys.readouterr() == ("", "")
    assert list(clip.parent.iterdir()) == [clip]
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_outputs_are_finished_waits(
    clip: Path, model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    close = OverlaySink.close
    monkeypatch.setattr(OverlaySink, "close", lambda sink: (signal.raise_signal(number), close(sink)))
    words = ["--point", "40,30", "--output", "v.mp4", "--output", "o.jsonl", "--model", model]
    assert main_in(clip.parent, monkeypatch, "clip", *words) == 0
    assert num_decodable(clip.parent / "v.mp4") == NUM_FRAMES
    out, err = capsys.readouterr()
    assert (out.startswith("clip: frames 0 to 5"), err) == (True, "")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_second_signal_ends_at_once(
    clip: Path, model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int, code: int
) -> None:
    """The frames that were written can be read; there is no advice any more."""

    def stopping(frames: Any, count: int) -> Any:
        yield from itertools.islice(frames, 2)
        signal.raise_signal(number)
        signal.raise_signal(number)
        raise AssertionError("goes on")

    monkeypatch.setattr(track_video, "islice", stopping)
    words = ["--point", "40,30", "--output", "o.jsonl", "--model", model]
    assert main_in(clip.parent, monkeypatch, "clip", *words) == code
    assert "go on with" not in capsys.readouterr().err
    for line in (clip.parent / "o.jsonl").read_text().splitlines():
        json.loads(line)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_resumed_run_can_be_stopped_and_resumed_again(
    clip: Path, model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    """Stopped after every frame, it comes to the end; one output for each run, one folder for all."""

    def stopping(frames: Any, count: int) -> Any:
        for frame in itertools.islice(frames, count):
            signal.raise_signal(number)
            yield frame

    monkeypatch.setattr(track_video, "islice", stopping)
    write_indexed(clip.parent / "two.png", two_objects())
    words = ["clip", "--mask", "two.png", "--output", "m", "--output", "o.jsonl", "--model", model]
    for t in range(NUM_FRAMES):
        code = main_in(clip.parent, monkeypatch, *words)
        _, err = capsys.readouterr()
        assert len(list((clip.parent / "m").iterdir())) == t + 1
        if t == NUM_FRAMES - 1:
            break
        assert (code, err.startswith(f"stopped after frame {t}; go on with: ")) == (128 + number, True)
        words = shlex.split(err.partition("go on with: ")[2])
        words = words[words.index("clip") :]
    assert (code, err) == (0, "")
