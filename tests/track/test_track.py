"""``python -m mlx_sam2.track`` as a user runs it: exit codes, one-line errors, files; results equal the API's."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import synthetic
from mlx_sam2.cli import UsageError
from mlx_sam2.frames.opening import open_source
from mlx_sam2.frames.sinks import davis_palette
from mlx_sam2.frames.source import SequenceSource, StreamSource
from mlx_sam2.masks import rle_to_mask
from mlx_sam2.track import prompts as track_prompts
from mlx_sam2.track.command import build_parser, main, make_plan
from mlx_sam2.track.davis import read_indexed
from mlx_sam2.track.resume import resume_arguments
from mlx_sam2.track.run import Progress, TrackedFrame
from track_command import (
    HEIGHT,
    NUM_FRAMES,
    WIDTH,
    command,
    environment,
    failed,
    frames_of_clip,
    merged,
    run,
    succeeded,
    write_frames,
)

PIXEL_ASPECT = Fraction(16, 11)
POINT, BOX = (40, 30), (50, 20, 90, 60)


def write_indexed(path: Path, indices: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(indices.astype(np.uint8))
    image.putpalette(davis_palette())
    image.save(path)
    return path


def two_objects() -> np.ndarray:
    indices = np.zeros((HEIGHT, WIDTH), np.uint8)
    indices[10:40, 10:40] = 1
    indices[30:60, 50:90] = 2
    return indices


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


def num_decodable(path: Path) -> int:
    import av

    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


# ---- what it writes


def test_default_outputs_hold_what_the_api_gives(clip: Path, model: str, predictor: Any) -> None:
    out = succeeded(run(clip, "--point", "40,30", "--model", model, cwd=clip.parent))
    assert out.startswith(f"{clip}: frames 0 to 5, 1 object, ")
    assert out.endswith(f" frames/s -> {clip}_masks/, {clip}_overlay.mp4\n")
    with predictor.init_state(clip) as state:
        predictor.add_new_points_or_box(state, 0, 1, points=[POINT], labels=[1])
        expected = {t: merged(ids, logits) for t, ids, logits in predictor.propagate_in_video(state)}
    assert any(mask.any() for mask in expected.values())
    assert sorted(path.name for path in clip.with_name("clip_masks").iterdir()) == [f"{t:05d}.png" for t in expected]
    for t, indices in expected.items():
        np.testing.assert_array_equal(read_indexed(clip.with_name("clip_masks") / f"{t:05d}.png"), indices)
    assert num_decodable(clip.with_name("clip_overlay.mp4")) == NUM_FRAMES


def test_prompts_are_merged_and_outputs_are_equal(mp4: Path, model: str, predictor: Any, tmp_path: Path) -> None:
    """Box, points and a mask, two objects, two frames, from a video file to all kinds of output."""
    mask = write_indexed(tmp_path / "mask.png", two_objects())
    prompts = ["--box", "2:50,20,90,60@2", "--point", "2:70,40@2", "--negative", "2:55,55@2", "--mask", "1:mask.png"]
    frames = ["--start", "1", "--frames", "4", "--memory", "ram", "--dtype", "float32"]
    outputs = ["--output", "m", "--output", "masks.jsonl", "--overlay", "seen.mov"]
    out = succeeded(run(mp4, *prompts, *frames, *outputs, "--model", model, cwd=tmp_path))
    assert "frames 1 to 4, 2 objects" in out
    with predictor.init_state(mp4) as state:
        predictor.add_new_mask(state, 1, 1, read_indexed(mask) == 1)
        predictor.add_new_points_or_box(state, 2, 2, points=[(70, 40), (55, 55)], labels=[1, 0], box=BOX)
        lines = [json.loads(line) for line in (tmp_path / "masks.jsonl").read_text().splitlines()]
        expected = list(predictor.propagate_in_video(state, 1, 3))
        scores = {t: [state.tracks[obj].result(t).object_score for obj in ids] for t, ids, _ in expected}
    assert [line["frame"] for line in lines] == [t for t, _, _ in expected] == [1, 2, 3, 4]
    for line, (t, ids, logits) in zip(lines, expected, strict=True):
        assert [entry["id"] for entry in line["objects"]] == ids
        assert [entry["score"] for entry in line["objects"]] == pytest.approx(scores[t], abs=1e-4)  # noise 0
        assert line["time"] == pytest.approx(t / 10)
        for entry, logit in zip(line["objects"], logits, strict=True):
            np.testing.assert_array_equal(rle_to_mask(entry["rle"]), logit[0] > 0)
        np.testing.assert_array_equal(read_indexed(tmp_path / "m" / f"{t:05d}.png"), merged(ids, logits))
    assert num_decodable(tmp_path / "seen.mov") == 4
    assert open_source(tmp_path / "seen.mov").display.pixel_aspect == PIXEL_ASPECT


def test_reverse_begins_at_the_last_prompt(clip: Path, model: str, predictor: Any) -> None:
    (clip.parent / "p.json").write_text('[{"points": [[40, 30]], "frame": 2}, {"box": [50, 20, 90, 60], "frame": 4}]')
    args = ["--prompts", "p.json", "--reverse", "--output", "out.jsonl", "--model", model]
    assert "frames 4 to 0, 1 object," in succeeded(run(clip, *args, cwd=clip.parent))
    with predictor.init_state(clip) as state:
        predictor.add_new_points_or_box(state, 2, 1, points=[POINT], labels=[1])
        predictor.add_new_points_or_box(state, 4, 1, box=BOX)
        expected = list(predictor.propagate_in_video(state, 4, reverse=True))
    lines = [json.loads(line) for line in (clip.parent / "out.jsonl").read_text().splitlines()]
    assert [line["frame"] for line in lines] == [4, 3, 2, 1, 0]
    for line, (_, _, logits) in zip(lines, expected, strict=True):
        np.testing.assert_array_equal(rle_to_mask(line["objects"][0]["rle"]), logits[0, 0] > 0)


def test_live_stream(mp4: Path, model: str, predictor: Any, tmp_path: Path) -> None:
    """Frames that only come once, here through an address; a second object joins on frame 3."""
    args = ["--point", "40,30@1", "--box", "2:50,20,90,60@3", "--output", "out.jsonl", "--model", model]
    assert "frames 1 to 5, 2 objects" in succeeded(run(f"file://{mp4}", *args, cwd=tmp_path))
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    expected = []
    with open_source(mp4) as frames, predictor.stream(StreamSource(iter(frames))) as stream:
        for t, ids, logits in stream:
            if t == 1:
                _, ids, logits = stream.add_new_points_or_box(1, points=[POINT], labels=[1])
            if t == 3:
                _, ids, logits = stream.add_new_points_or_box(2, box=BOX)
            expected.append((t, list(ids), logits))
    assert [(line["frame"], [e["id"] for e in line["objects"]]) for line in lines] == [
        (t, ids) for t, ids, _ in expected[1:]
    ]
    for line, (_, _, logits) in zip(lines, expected[1:], strict=True):
        for entry, logit in zip(line["objects"], logits, strict=True):
            np.testing.assert_array_equal(rle_to_mask(entry["rle"]), logit[0] > 0)


# ---- which frames


@pytest.mark.parametrize(
    ("flags", "start", "count", "prompted"),
    [
        ("--point 1,2", 0, 6, [0]),
        ("--point 1,2@2 --point 2:1,2@4", 2, 4, [2, 4]),
        ("--point 1,2 --start 3", 3, 3, [3]),
        ("--point 1,2@1 --start 3 --frames 2", 3, 2, [1]),
        ("--point 1,2 --frames 9", 0, 6, [0]),
        ("--point 1,2 --reverse", 5, 6, [5]),
        ("--point 1,2@2 --point 2:1,2@4 --reverse --frames 3", 4, 3, [2, 4]),
        ("--point 1,2 --start 3 --reverse", 3, 4, [3]),
    ],
)
def test_which_frames_are_tracked(flags: str, start: int, count: int, prompted: list[int]) -> None:
    plan = make_plan(build_parser().parse_args(["clip", *flags.split()]), SequenceSource(frames_of_clip()))
    assert (plan.start, plan.count, [prompt.frame for prompt in plan.prompts]) == (start, count, prompted)


def test_going_on_from_where_prompts_are(tmp_path: Path) -> None:
    """Stopped on frame 3, where objects 1 and 2 have prompts, and the PNG shows only object 1."""
    words = ["clip", "--point", "1,2@1", "--point", "1:3,4@3", "--box", "2:5,6,7,8@3", "--frames", "5"]
    outputs = [str(tmp_path / "m"), str(tmp_path / "a_from1.mp4")]
    (tmp_path / "m").mkdir()
    args, source = build_parser().parse_args(words), SequenceSource(frames_of_clip())
    masks = {1: two_objects() == 1, 2: (two_objects() == 1) & (np.arange(WIDTH) > 20)}  # 2 is hidden behind 1
    progress = Progress(count=3, first=1, last=TrackedFrame(3, source[3], masks, {}, None))
    rest = ["--frames", "2", "--model", "base_plus", "--output", outputs[0]]
    rest += ["--output", str(tmp_path / "a_from4.mp4"), "--overwrite"]
    seen = ["--mask", f"{tmp_path}/m/00003.png@3", "--start", "4"]
    expected = ["clip", "--point", "1:1,2@1", "--box", "2:5,6,7,8@3", *seen, *rest]
    assert resume_arguments(args, make_plan(args, source), source, outputs, progress) == expected
    masks.clear()  # nothing seen: the prompts alone
    expected = ["clip", "--point", "1:1,2@1", "--box", "2:5,6,7,8@3", "--point", "1:3,4@3", "--start", "4", *rest]
    actual = resume_arguments(args, make_plan(args, source), source, outputs, progress)
    assert sorted(actual) == sorted(expected)


def test_going_on_in_reverse_reaches_frame_0() -> None:
    """Nothing can be propagated in reverse from frame 0, so frame 1 is done again."""
    args = build_parser().parse_args(["clip", "--point", "1,2@4", "--reverse", "--frames", "5", "--output", "o.jsonl"])
    source = SequenceSource(frames_of_clip())
    progress = Progress(count=4, first=4, last=TrackedFrame(1, source[1], {1: two_objects() == 9}, {}, None))
    words = resume_arguments(args, make_plan(args, source), source, ["o.jsonl"], progress)
    again = build_parser().parse_args(words)
    plan = make_plan(again, source)
    assert (plan.start, plan.count, plan.reverse, again.output) == (1, 2, True, ["o_from1.jsonl"])


# ---- prompts


def gather(*items: track_prompts.Item, default: int = 0) -> list[track_prompts.ObjectPrompt]:
    return track_prompts.gather(items, default, NUM_FRAMES, (HEIGHT, WIDTH))


def test_flags_and_json_say_the_same(tmp_path: Path) -> None:
    mask = write_indexed(tmp_path / "a:1@b.png", two_objects())
    flags = [
        track_prompts.point_flag("1.5,2e1"),
        track_prompts.point_flag("3:7,8@4"),
        track_prompts.negative_flag("3:9,10@4"),
        track_prompts.box_flag("3:0,0,96,72@4"),
        track_prompts.mask_flag(f"2:{mask}@5"),
    ]
    entries = [
        {"points": [[1.5, 20]]},
        {"object": 3, "frame": 4, "points": [[7, 8], [9, 10]], "labels": [1, 0], "box": [0, 0, 96, 72]},
        {"object": 2, "frame": 5, "mask": mask.name},
    ]
    (tmp_path / "p.json").write_text(json.dumps(entries))
    first, second, third = gather(*flags, default=1)
    assert (first.object, first.frame, first.points, first.labels) == (1, 1, [(1.5, 20)], [1])
    assert (second.object, second.frame, second.points, second.labels) == (3, 4, [(7, 8), (9, 10)], [1, 0])
    assert second.box == (0, 0, 96, 72)
    assert (third.object, third.frame, third.mask_file) == (2, 5, mask)
    np.testing.assert_array_equal(third.mask, two_objects() == 2)
    from_json = gather(*track_prompts.read_prompts_file(tmp_path / "p.json"), default=1)
    assert [p.as_flags() for p in from_json] == [p.as_flags() for p in (first, second, third)]
    assert second.as_flags() == shlex.split("--box 3:0,0,96,72@4 --point 3:7,8@4 --negative 3:9,10@4")
    assert third.as_flags() == ["--mask", f"2:{mask}@5"]


def test_masks_are_objects_by_their_values(tmp_path: Path) -> None:
    indexed = str(write_indexed(tmp_path / "two.png", two_objects()))
    white = tmp_path / "white.png"
    Image.fromarray((two_objects() == 2).astype(np.uint8) * 255).save(white)
    one, two = gather(track_prompts.mask_flag(indexed))
    assert (one.object, two.object) == (1, 2)
    np.testing.assert_array_equal(one.mask, two_objects() == 1)
    np.testing.assert_array_equal(two.mask, two_objects() == 2)
    (two,) = gather(track_prompts.mask_flag(f"2:{indexed}"))
    np.testing.assert_array_equal(two.mask, two_objects() == 2)
    for flag, obj in ((f"{white}", 1), (f"9:{white}", 9)):
        (only,) = gather(track_prompts.mask_flag(flag))
        assert only.object == obj
        np.testing.assert_array_equal(only.mask, two_objects() == 2)
    with pytest.raises(UsageError, match=r"there is no object 7 in it, only 1, 2"):
        gather(track_prompts.mask_flag(f"7:{indexed}"))
    with pytest.raises(UsageError, match="object 2 has another mask on frame 0"):
        gather(track_prompts.mask_flag(indexed), track_prompts.mask_flag(f"2:{white}"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{}", "a list of prompts is needed"),
        ("[1]", "a list of prompts is needed"),
        ("[", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[{}]", "prompt 1 prompts nothing"),
        ('[{"points": [[1, 2]]}, {"point": [1, 2]}]', "prompt 2: 'point' is not known"),
        ('[{"object": 0, "points": [[1, 2]]}]', "objects are numbered from 1 to 254"),
        ('[{"object": true, "points": [[1, 2]]}]', "objects are numbered from 1 to 254"),
        ('[{"frame": -1, "points": [[1, 2]]}]', "frames are numbered from 0"),
        ('[{"points": [1, 2]}]', "points must be"),
        ('[{"points": [[1, NaN]]}]', "points must be"),
        ('[{"points": [[1, 2]], "labels": [2]}]', "labels must be"),
        ('[{"points": [[1, 2]], "labels": []}]', "labels must be"),
        ('[{"box": [1, 2, 3]}]', "box must be"),
        ('[{"mask": 3}]', "mask must be"),
    ],
)
def test_prompts_file_with_mistakes(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(UsageError, match=says):
        track_prompts.read_prompts_file(tmp_path / "p.json")


# ---- bad input

NOT_LOADED = "no-such/model"  # a Hub id: whatever is refused with it is refused before the model is looked for


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


# ---- stopped half-way


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


# ---- DAVIS


def write_davis(root: Path) -> None:
    """Two sequences, with annotations of the first frames only: "a" has two objects, "b" one."""
    for name, seed, indices in (("a", 5, two_objects()), ("b", 6, (two_objects() == 2) * 1)):
        write_frames(root / "JPEGImages/480p" / name, 4, seed)
        write_indexed(root / "Annotations/480p" / name / "00000.png", indices)
    (root / "ImageSets/2017").mkdir(parents=True)
    (root / "ImageSets/2017/val.txt").write_text("a\nb\n")


@pytest.mark.slow
def test_davis(tmp_path: Path, model: str) -> None:
    from mlx_sam2.sam2_video_predictor import SAM2VideoPredictor

    root, out = tmp_path / "DAVIS", tmp_path / "out"
    write_davis(root)
    args = ["--davis", root, "--output", out, "--model", model]
    assert succeeded(run(*args, cwd=tmp_path)).splitlines() == [
        "a: no annotations to compare with",
        "b: no annotations to compare with",
        f"2 of 2 sequences tracked -> {out}",
    ]
    official = SAM2VideoPredictor.from_pretrained(model, apply_postprocessing=False, non_overlap_masks=True)
    for name, ids in (("a", [1, 2]), ("b", [1])):
        with official.init_state(root / "JPEGImages/480p" / name) as state:
            for obj in ids:
                first = read_indexed(root / "Annotations/480p" / name / "00000.png")
                official.add_new_mask(state, 0, obj, first == obj)
            for t, ids_out, logits in official.propagate_in_video(state):
                np.testing.assert_array_equal(read_indexed(out / name / f"{t:05d}.png"), merged(ids_out, logits))

    # Everything right in "a"; of "b", whose object was found on frames 1 and 2, nothing.
    for t in (1, 2, 3):
        found = read_indexed(out / "a" / f"{t:05d}.png")
        write_indexed(root / "Annotations/480p/a" / f"{t:05d}.png", found)
        assert (read_indexed(out / "b" / f"{t:05d}.png") == 1).any()
        write_indexed(root / "Annotations/480p/b" / f"{t:05d}.png", np.zeros_like(found))
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    assert succeeded(run(*args, cwd=tmp_path)).splitlines() == [
        "a: J&F 1.000, J 1.000, F 1.000 (2 objects)",
        "b: J&F 0.000, J 0.000, F 0.000 (1 object)",
        f"J&F 0.667, J 0.667, F 0.667 (3 objects); 0 of 2 sequences tracked -> {out}",
    ]
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.png")} == stamps
    record = json.loads((out / "results.json").read_text())
    assert record["sequences"]["a"] == {"1": {"J": 1.0, "F": 1.0}, "2": {"J": 1.0, "F": 1.0}}

    # A sequence that lacks a frame is tracked again, to the same masks; one that was not chosen is not.
    (out / "a/00002.png").unlink()
    (out / "b/00002.png").unlink()
    lines = succeeded(run(*args, "--sequences", "a", cwd=tmp_path)).splitlines()
    assert lines == [
        "a: J&F 1.000, J 1.000, F 1.000 (2 objects)",
        f"J&F 1.000, J 1.000, F 1.000 (2 objects); 1 of 1 sequences tracked -> {out}",
    ]
    assert not (out / "b/00002.png").exists()
    assert "b" in json.loads((out / "results.json").read_text())["sequences"]
    assert "holds results of --model" in failed(run("--davis", root, "--output", out, cwd=tmp_path))
    other = ["--davis", root, "--output", root, "--model", model]
    assert "holds something else than results of --davis" in failed(run(*other, cwd=tmp_path))


def test_davis_annotations_without_an_object(tmp_path: Path) -> None:
    write_davis(tmp_path)
    write_indexed(tmp_path / "Annotations/480p/b/00000.png", np.zeros((HEIGHT, WIDTH)))
    done = run("--davis", tmp_path, "--output", tmp_path / "out", "--model", NOT_LOADED, cwd=tmp_path)
    assert "Annotations/480p/b/00000.png is empty" in failed(done)
    assert not (tmp_path / "out").exists()


# ---- the example


def test_example_track_clip(mp4: Path, model: str, tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "examples/track_clip.py"
    words = [sys.executable, script, mp4, "40,30", tmp_path / "out.mp4", model]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment())
    assert succeeded(done).endswith(f"{NUM_FRAMES} frames -> {tmp_path / 'out.mp4'}\n")
    assert num_decodable(tmp_path / "out.mp4") == NUM_FRAMES
