"""``python -m mlx_sam2.track`` with bad input: exit codes and one-line errors."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from mlx_sam2.track.command import main
from track_command import (
    NOT_LOADED,
    NUM_FRAMES,
    command,
    environment,
    failed,
    run,
    succeeded,
)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ("", "no video: give a video file, a folder of frames or camera:0"),
        ("absent.mp4 --point 1,2", "absent.mp4 does not exist"),
        ("empty --point 1,2", "empty holds no frames"),
        ("sizes --point 1,2", "00001.jpg is 90x72, but 00000.jpg is 96x72: all frames of a video need the same size"),
        ("text.mp4 --point 1,2", "text.mp4 cannot be opened as a video"),
        ("sound.wav --point 1,2", "sound.wav has no video stream"),
        ("cut.mp4 --point 1,2", "cut.mp4 cannot be opened as a video"),
        ("camera:77 --point 1,2", "camera 77 cannot be opened"),
        ("clip", "nothing to follow: give --point"),
        ("clip --point 1", "argument --point: '1' is not [object:]x,y[@frame] in pixels"),
        ("clip --point nan,2", "argument --point: 'nan,2' is not"),
        ("clip --box 1,2,inf,4", "argument --box: '1,2,inf,4' is not"),
        ("clip --point 0:1,2", "objects are numbered from 1 to 254"),
        ("clip --point 1,2@6", "--point 1,2@6: frame 6 does not exist; the video has frames 0 to 5"),
        ("clip --point 96,2", "--point 96,2 lies outside the frame (96 x 72 pixels)"),
        ("clip --box 2:-5,2,9,9", "--box 2:-5,2,9,9 reaches outside the frame"),
        ("clip --box 5,2,5,9", "--box 5,2,5,9 has no area"),
        ("clip --box 9,2,5,9", "corners reversed: give top left, then bottom right, 5,2,9,9"),
        ("clip --box 1,2,5,9 --box 1:1,2,6,9@0", "object 1 has another box on frame 0"),
        ("clip --point 1,2 --negative 1,2@3", "object 1 has only negative points on frame 3"),
        ("clip --mask text.mp4", "text.mp4 cannot be read as a mask"),
        ("clip --mask black.png", "--mask black.png is empty"),
        ("clip --mask small.png", "--mask small.png is 10x8, but the video is 96x72"),
        ("clip --prompts absent.json", "--prompts absent.json cannot be read: No such file"),
        ("clip --point 1,2 --start 6", "--start 6: frame 6 does not exist; the video has frames 0 to 5"),
        ("clip --point 1,2 --start -1", "argument --start: "),
        ("clip --point 1,2 --frames 0", "argument --frames: '0' is not a whole number from 1 up"),
        ("clip --point 1,2@0 --reverse", "--reverse from frame 0: there is no frame before it"),
        ("clip --point 1,2 --output taken.mp4", "taken.mp4 exists already"),
        ("clip --point 1,2 --output full", "full exists already"),
        ("clip --point 1,2 --output absent/x.mp4", "there is no folder"),
        ("clip --point 1,2 --output out.gif", "out.gif: outputs end in .mp4 or .mov"),
        ("clip --point 1,2 --overlay out", "--overlay out: the name of a video must end in .mp4 or .mov"),
        ("clip --point 1,2 --output a.mp4 --overlay ./a.mp4", "./a.mp4 is named twice"),
        ("clip --point 1,2 --output clip --overwrite", "clip is the video itself"),
        ("clip --point 1,2 --model ./absent", "no such file or folder: ./absent"),
        ("clip --point 1,2 --model huge", "no model is called 'huge'"),
        ("clip --point 1,2 --model ./clip --revision main", "./clip is a local path"),
        ("clip --point 1,2 --sequences bear", "--sequences belongs to --davis"),
        ("--davis clip", "clip is no DAVIS data set"),
        ("clip --davis .", "leave out VIDEO"),
        ("--davis . --point 1,2", "leave out --point"),
        ("--davis . --start 0", "leave out --start"),
    ],
)
def test_bad_input(
    bad_files: Path, args: str, says: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    before = sorted(bad_files.iterdir())
    words = args.split() if "--model" in args else [*args.split(), "--model", NOT_LOADED]
    monkeypatch.chdir(bad_files)
    try:
        code = main(words)
    except SystemExit as end:  # how argparse ends
        code = end.code
    assert says in failed(subprocess.CompletedProcess(words, code, *capfd.readouterr()))
    assert sorted(bad_files.iterdir()) == before


def test_bad_input_ends_the_process(bad_files: Path) -> None:
    assert "argument --point: 'nan,2' is not" in failed(run("clip", "--point", "nan,2", cwd=bad_files))
    assert "lies outside the frame" in failed(run("clip", "--point", "96,2", "--model", NOT_LOADED, cwd=bad_files))
    assert "cut.mp4 cannot be opened" in failed(run("cut.mp4", "--point", "1,2", "--model", NOT_LOADED, cwd=bad_files))


def test_unusable_models(clip: Path, model: str) -> None:
    """A damaged checkpoint is bad input, a Hub that cannot be reached a failure; nothing is written."""
    broken = clip.parent / "broken"
    broken.mkdir()
    (broken / "config.json").write_bytes((Path(model) / "config.json").read_bytes())
    (broken / "model.safetensors").write_bytes((Path(model) / "model.safetensors").read_bytes()[:5000])
    before = sorted(clip.parent.iterdir())
    assert "broken" in failed(run(clip, "--point", "1,2", "--model", broken, cwd=clip.parent))
    env = {**environment(), "HF_HUB_OFFLINE": "1", "HF_HOME": str(clip.parent / "hub")}
    args = command(clip, "--point", "1,2")
    done = subprocess.run(args, capture_output=True, text=True, check=False, cwd=clip.parent, env=env)
    assert "facebook/sam2.1-hiera-base-plus is not in the local cache" in failed(done, 1)
    assert sorted(path for path in clip.parent.iterdir() if path.name != "hub") == before


@pytest.mark.slow
def test_overwrite_and_a_frame_broken_in_the_middle(clip: Path, model: str) -> None:
    """What was found before the broken frame stays; an output is replaced only when that was asked for."""
    whole = (clip / "00003.jpg").read_bytes()
    (clip / "00003.jpg").write_bytes(whole[: len(whole) // 2])
    args = [clip, "--point", "40,30", "--output", "m", "--output", "out.jsonl", "--model", model]
    error = failed(run(*args, cwd=clip.parent))
    assert "00003.jpg is a broken image" in error
    assert error.endswith("(frames 0 to 2 written)")
    assert len((clip.parent / "out.jsonl").read_text().splitlines()) == 3
    assert len(list((clip.parent / "m").iterdir())) == 3
    (clip / "00003.jpg").write_bytes(whole)
    assert "m exists already" in failed(run(*args, cwd=clip.parent))
    succeeded(run(*args, "--overwrite", cwd=clip.parent))
    assert len((clip.parent / "out.jsonl").read_text().splitlines()) == NUM_FRAMES
    assert len(list((clip.parent / "m").iterdir())) == NUM_FRAMES


def test_a_read_only_output_is_refused_before_anything_is_loaded(
    clip: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).is_dir() and access(path, mode))  # root may all
    monkeypatch.chdir(clip.parent)
    for name in ("o.jsonl", "v.mp4"):
        Path(name).write_text("mine")
        assert main(["clip", "--point", "1,2", "--output", name, "--overwrite", "--model", NOT_LOADED]) == 2
        assert f"{name} cannot be written: it is read-only" in capfd.readouterr().err
        assert Path(name).read_text() == "mine"


@pytest.mark.parametrize("name", ["pipe.jsonl", "pipe.mp4"])
def test_pipes_are_neither_videos_nor_outputs(
    clip: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    os.mkfifo(clip.parent / name)
    monkeypatch.chdir(clip.parent)
    rest = ["--point", "1,2", "--model", NOT_LOADED]
    assert main(["clip", *rest, "--output", name, "--overwrite"]) == 2
    assert f"{name} is a pipe or a device: an output is a file or a folder" in capfd.readouterr().err
    assert main([name, *rest]) == 2
    assert f"{name} is a pipe or a device: give a video file" in capfd.readouterr().err
