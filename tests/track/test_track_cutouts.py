"""``track --cutout`` and ``--matte``: outputs hold the mattes of the model's logits; what does not go together."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alpha_films import decoded, plane
from mlx_sam2.datasets.pictures import read_indexed
from mlx_sam2.frames.opening import open_source
from mlx_sam2.images.matte import Edges, alpha, refined_mask
from mlx_sam2.masks import rle_to_mask
from mlx_sam2.track.command import build_parser, main
from mlx_sam2.track.resume import resume_arguments
from mlx_sam2.track.run import Progress, TrackedFrame
from mlx_sam2.track.video import make_plan
from track_command import HEIGHT, NOT_LOADED, NUM_FRAMES, POINT, WIDTH, command, environment, write_frames

PROMPT = ["--point", "40,30"]


def called(folder: Path, monkeypatch: pytest.MonkeyPatch, *words: Any) -> None:
    monkeypatch.chdir(folder)
    assert main([*map(str, words)]) == 0


def test_cutouts_and_mattes_hold_the_models_logits(
    clip: Path, model: str, predictor: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    edges = ["--edge", "soft", "--edge-width", "6", "--feather", "0.7", "--grow", "-1", "--fill-holes", "9"]
    outputs = ["--cutout", "c.mkv", "--cutout", "pictures", "--matte", "m"]
    called(clip.parent, monkeypatch, clip, *PROMPT, *edges, *outputs, "--model", model)
    assert capsys.readouterr().out.endswith("-> c.mkv, pictures, m\n")
    assert not clip.with_name("clip_masks").exists(), "only what was asked for"
    settings = Edges("soft", 6, feather=0.7, grow=-1, fill_holes=9)
    with predictor.init_state(clip) as state:
        predictor.add_new_points_or_box(state, 0, 1, points=[POINT], labels=[1])
        frames = predictor.propagate_in_video(state)
        mattes = [alpha(state.tracks[1].result(t).low_res_mask, state.frame(t), settings) for t, _, _ in frames]
    assert any(((matte > 0.2) & (matte < 0.8)).any() for matte in mattes)
    film = decoded(clip.parent / "c.mkv")
    assert len(film) == len(mattes) == NUM_FRAMES
    for i, (frame, matte) in enumerate(zip(film, mattes, strict=True)):
        assert np.abs(plane(frame, 3) - matte).max() < 1e-4
        for place in ("m", "pictures"):
            levels = np.asarray(Image.open(clip.parent / place / f"{i:05d}.png"))
            np.testing.assert_array_equal(levels if place == "m" else levels[..., 3], np.rint(255 * matte))


def test_masks_as_data_are_refined_too(clip: Path, model: str, predictor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--grow", "2", "--min-area", "12", "--output", "m", "--output", "m.jsonl"]
    called(clip.parent, monkeypatch, clip, *PROMPT, *words, "--model", model)
    lines = [json.loads(line) for line in (clip.parent / "m.jsonl").read_text().splitlines()]
    with predictor.init_state(clip) as state:
        predictor.add_new_points_or_box(state, 0, 1, points=[POINT], labels=[1])
        for t, _, logits in predictor.propagate_in_video(state):
            wanted = refined_mask(logits[0, 0] > 0, Edges(grow=2, min_area=12))
            np.testing.assert_array_equal(rle_to_mask(lines[t]["objects"][0]["rle"]), wanted)
            np.testing.assert_array_equal(read_indexed(clip.parent / "m" / f"{t:05d}.png") > 0, wanted)


def test_steps_of_the_source_are_handed_on(mp4: Path, model: str, tmp_path: Path, monkeypatch: Any) -> None:
    words = ["--start", "2", "--frames", "3", "--edge", "guided", "--smooth", "1", "--decontaminate"]
    called(
        tmp_path, monkeypatch, mp4, *PROMPT, *words, "--cutout", "c.mov", "--alpha", "premultiplied", "--model", model
    )
    with open_source(tmp_path / "c.mov") as film, open_source(mp4) as source:
        assert (film.num_frames, film.rate, film.display) == (3, source.rate, source.display)
        assert [film.time(i) for i in range(3)] == pytest.approx([0, 0.1, 0.2])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--edge", "soft"], "--edge belongs to --cutout and --matte: give one of them"),
        (["--smooth", "1", "--output", "m"], "--smooth belongs to --cutout and --matte"),
        (["--codec", "exr"], "--codec belongs to --cutout"),
        (["--background", "blur", "--matte", "m"], "--background stands behind a cut-out"),
        (["--background", "blur", "--alpha", "straight", "--cutout", "c.mp4"], "do not go together"),
        (["--foreground", "blur", "--matte", "m"], "--foreground stands in place of a cut-out"),
        (["--foreground", "blur", "--alpha", "straight", "--cutout", "c.mp4"], "do not go together"),
        (["--background", "no-such", "--cutout", "c.mp4"], "--background no-such is no colour and no file"),
        (["--audio", "--reverse", "--start", "3", "--cutout", "c.mov"], "--audio does not go with --reverse"),
        (["--audio", "--cutout", "c.mov"], "has no sound to copy"),
        (["--cutout", "c.mp4"], "H.264 holds no transparency"),
        (["--cutout", "c.mov", "--matte", "c.mov"], "c.mov is named twice"),
        (["--cutout", "c", "--output", "c"], "c is named twice"),
        (["--cutout", "taken.mov"], "taken.mov exists already"),
        (["--matte", "m.mov", "--alpha", "straight"], "--alpha belongs to --cutout"),
        (["--davis", ".", "--cutout", "c"], "--cutout does not go with --davis"),
        (["--davis", ".", "--grow", "1"], "--grow does not go with --davis"),
    ],
)
def test_bad_arguments(
    clip: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    monkeypatch.chdir(clip.parent)
    Path("taken.mov").write_text("mine")
    prompt = [] if "--davis" in words else [str(clip), *PROMPT]
    assert main([*prompt, *words, "--model", NOT_LOADED]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error
    assert sorted(path.name for path in clip.parent.iterdir()) == ["clip", "taken.mov"]


def test_a_stopped_run_goes_on_with_the_same_edges(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks that were grown are no prompts: the model's own are kept for the command that goes on."""
    monkeypatch.chdir(clip.parent)
    words = [str(clip), *PROMPT, "--grow", "-2", "--edge", "soft", "--feather", "1.5", "--decontaminate"]
    words += ["--output", "m", "--cutout", "c.mov", "--cutout", "cut", "--alpha", "premultiplied", "--per-object"]
    args = build_parser().parse_args([*words, "--codec", "tiff"])
    Path("m").mkdir()
    Path("cut").mkdir()
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[10:40, 10:40] = True
    with open_source(clip) as source:
        plan = make_plan(args, source)
        progress = Progress(count=3, last=TrackedFrame(2, source[2], {1: mask}, {}, None))
        given = resume_arguments(args, plan, source, ["m"], progress)
    again = build_parser().parse_args(given)
    same = ("grow", "edge", "feather", "decontaminate", "alpha", "per_object", "codec", "smooth")
    assert [getattr(again, name) for name in same] == [getattr(args, name) for name in same]
    assert (again.output, again.cutout, again.start, again.overwrite) == (["m"], ["c_from3.mov", "cut"], 3, True)
    (item,) = again.mask
    np.testing.assert_array_equal(read_indexed(item.value) > 0, mask)


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["png", "exr"])
def test_a_killed_run_leaves_whole_pictures_alone(
    tmp_path: Path, model: str, codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left is, byte for byte, what an undisturbed run writes."""
    write_frames(tmp_path / "long", 60)
    words = ["long", *PROMPT, "--edge", "soft", "--codec", codec, "--model", model]
    call = command(*words, "--cutout", "cut")
    process = subprocess.Popen(call, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment())
    deadline = time.monotonic() + 120
    while len(list((tmp_path / "cut").glob(f"[!.]*.{codec}"))) < 5 and process.poll() is None:
        assert time.monotonic() < deadline, "no frame was written"
        time.sleep(0.002)
    process.kill()
    assert process.communicate(timeout=60)[1] == "" and process.returncode == -signal.SIGKILL
    left = sorted(path.name for path in (tmp_path / "cut").iterdir() if not path.name.endswith(".part"))
    assert left == [f"{i:05d}.{codec}" for i in range(len(left))] and 5 <= len(left) < 60
    called(tmp_path, monkeypatch, *words, "--cutout", "whole", "--frames", len(left))
    for name in left:
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
