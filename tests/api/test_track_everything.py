"""Everything in a video: which masks become objects and which numbers they get; the command, and going on."""

from __future__ import annotations

import inspect
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import synthetic
from mlx_sam2 import cli
from mlx_sam2.automatic_mask_generator import SAM2AutomaticMaskGenerator
from mlx_sam2.checkpoint.loading import save
from mlx_sam2.datasets.pictures import read_indexed
from mlx_sam2.frames.films import OverlaySink
from mlx_sam2.frames.opening import open_source
from mlx_sam2.frames.source import SequenceSource
from mlx_sam2.masks import mask_iou, mask_to_rle, rle_to_mask
from mlx_sam2.sam2_video_predictor import SAM2VideoPredictor
from mlx_sam2.track.command import build_parser, main
from mlx_sam2.track.options import FOLLOW
from mlx_sam2.track.resume import resume_arguments
from mlx_sam2.track.run import Progress, TrackedFrame
from mlx_sam2.track.video import make_plan
from mlx_sam2.track_everything import EverythingFrame, track_everything
from track_command import HEIGHT, WIDTH, failed, frames_of_clip, merged, run, succeeded, write_frames

OVERRIDES = {
    **synthetic.NANO_OVERRIDES,
    **{f"sam_mask_decoder.output_hypernetworks_mlps.{i}.layers.2.bias": {"mul": 1.0, "add": -1.0} for i in range(4)},
    "sam_mask_decoder.iou_prediction_head.layers.2.bias": {"mul": 1.0, "add": 1.0},
}
LOOK = [
    "--points-per-side",
    "4",
    "--pred-iou",
    "0.3",
    "--stability",
    "0.4",
    "--stability-offset",
    "0.3",
    "--nms",
    "0.9",
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model") / "nano"
    save(synthetic.nano_model(5, OVERRIDES), folder)
    return str(folder)


@pytest.fixture(scope="module")
def predictor(model: str) -> SAM2VideoPredictor:
    return SAM2VideoPredictor.from_pretrained(model)


def rectangle(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[y0:y1, x0:x1] = True
    return mask


A, B, C = rectangle(8, 8, 40, 40), rectangle(50, 20, 90, 60), rectangle(4, 50, 24, 68)


class Scripted:
    """In place of the generator: the masks of each look, best first."""

    def __init__(self, *looks: list[np.ndarray]):
        self.looks, self.frames = list(looks), []

    def generate(self, image: np.ndarray) -> list[dict[str, Any]]:
        self.frames.append(image)
        return [{"segmentation": mask_to_rle(mask, compressed=False)} for mask in self.looks.pop(0)]


def same(frames: list[EverythingFrame], expected: dict[int, tuple[list[int], np.ndarray]]) -> None:
    """Each frame has the objects and masks of {frame: (ids, logits)}."""
    assert [frame.index for frame in frames] == list(expected)
    for frame in frames:
        ids, logits = expected[frame.index]
        assert list(frame.masks) == ids
        np.testing.assert_array_equal(np.stack(list(frame.masks.values())), logits[:, 0] > 0)


# ---- which masks become objects


def test_one_look_is_a_session_with_its_masks(predictor: SAM2VideoPredictor) -> None:
    """The smaller one first, whatever the order of the masks; frames 1 to 5 of 6."""
    clip = frames_of_clip()
    with predictor.init_state(clip) as state:
        predictor.add_new_mask(state, 1, 1, A)
        predictor.add_new_mask(state, 1, 2, B)
        expected = {t: (list(ids), logits) for t, ids, logits in predictor.propagate_in_video(state, 1)}
        scores = {t: [state.tracks[obj].result(t).object_score for obj in (1, 2)] for t in expected}
    looks = Scripted([B, A])
    frames = list(track_everything(predictor, clip, looks, every=0, start=1))
    same(frames, expected)
    assert [frame.new for frame in frames] == [[1, 2], [], [], [], []]
    for frame in frames:
        assert list(frame.scores.values()) == pytest.approx(scores[frame.index], abs=1e-4)  # noise 0
        np.testing.assert_array_equal(frame.pixels, clip[frame.index])
    assert len(looks.frames) == 1


def test_a_new_object_comes_after_every_frames(predictor: SAM2VideoPredictor) -> None:
    """A is found again, as it has been tracked, and stays object 1; B is new on frame 3."""
    clip = frames_of_clip()
    with predictor.init_state(clip) as state:
        predictor.add_new_mask(state, 0, 1, A)
        before = {t: (list(ids), logits) for t, ids, logits in predictor.propagate_in_video(state, 0, 3)}
        tracked = before[3][1][0, 0] > 0
        predictor.add_new_mask(state, 3, 2, B)
        after = {t: (list(ids), logits) for t, ids, logits in predictor.propagate_in_video(state, 3)}
    looks = Scripted([A], [tracked, B])
    frames = list(track_everything(predictor, clip, looks, every=3))
    same(frames, {**before, **after})
    assert [(frame.index, frame.new) for frame in frames if frame.new] == [(0, [1]), (3, [2])]
    assert mask_iou([mask_to_rle(frames[3].masks[2])], [mask_to_rle(B)])[0, 0] > 0.9
    np.testing.assert_array_equal(looks.frames[1], clip[3])


def test_looks_are_at_multiples_and_at_the_first_frame(predictor: SAM2VideoPredictor) -> None:
    clip = frames_of_clip(8)
    looks = Scripted([], [], [A])
    frames = list(track_everything(predictor, clip, looks, every=3, start=2, count=5))
    assert [frame.index for frame in frames] == [2, 3, 4, 5, 6]
    for image, t in zip(looks.frames, (2, 3, 6), strict=True):
        np.testing.assert_array_equal(image, clip[t])
    assert [list(frame.masks) for frame in frames] == [[], [], [], [], [1]]


def test_masks_of_one_look_that_are_the_same(predictor: SAM2VideoPredictor) -> None:
    """The better one stays, which comes first."""
    larger = rectangle(8, 8, 40, 46)
    (frame,) = track_everything(predictor, frames_of_clip(1), Scripted([larger, A, B, A]), every=0)
    assert len(frame.masks) == 2
    assert frame.masks[1].sum() == pytest.approx(larger.sum(), rel=0.1)
    (frame,) = track_everything(predictor, frames_of_clip(1), Scripted([larger, A, B, A]), every=0, merge_iou=0.95)
    assert len(frame.masks) == 3


def test_objects_that_have_become_the_same_are_merged(predictor: SAM2VideoPredictor) -> None:
    """With nano's masks, which cover much, a little overlap is sure to come."""
    frames = list(track_everything(predictor, frames_of_clip(), Scripted([C, A, B], [], []), every=2, merge_iou=0.02))
    assert frames[0].new == [1, 2, 3]
    given_up = {}
    for before, frame in pairwise(frames):
        assert list(frame.masks) == [obj for obj in before.masks if obj not in frame.merged]
        assert not frame.merged or frame.index in (2, 4)
        given_up |= frame.merged
    assert given_up and all(kept < obj for obj, kept in given_up.items())
    last = [mask_to_rle(mask) for mask in frames[4].masks.values()]
    assert (np.triu(mask_iou(last, last), 1) <= 0.02).all()


def test_a_number_is_never_given_twice(predictor: SAM2VideoPredictor) -> None:
    """Object 2 is given up on frame 2; what is found then is object 3."""
    clip, options = frames_of_clip(3), {"every": 2, "merge_iou": 0.02}
    first = list(track_everything(predictor, clip, Scripted([A, B], []), **options))
    assert first[2].merged == {2: 1}
    frames = list(track_everything(predictor, clip, Scripted([A, B], [~first[2].masks[1]]), **options))
    assert (frames[2].merged, frames[2].new, list(frames[2].masks)) == ({2: 1}, [3], [1, 3])


def test_no_more_than_max_objects(predictor: SAM2VideoPredictor) -> None:
    """The best are taken, and numbered from small to large."""
    looks = Scripted([B, C, A], [A])
    frames = list(track_everything(predictor, frames_of_clip(4), looks, every=2, max_objects=2, merge_iou=1.0))
    assert frames[0].left_out == 1
    assert [list(frame.masks) for frame in frames] == [[1, 2]] * 4
    assert frames[0].masks[1].sum() < frames[0].masks[2].sum()
    assert mask_iou([mask_to_rle(frames[0].masks[2])], [mask_to_rle(B)])[0, 0] > 0.9


def test_what_the_tracker_cannot_see_is_no_object(predictor: SAM2VideoPredictor) -> None:
    frames = list(track_everything(predictor, frames_of_clip(2), Scripted([rectangle(5, 5, 6, 6)], []), every=1))
    assert [(list(frame.masks), frame.new, frame.left_out) for frame in frames] == [([], [], 0)] * 2


def test_objects_of_the_user_are_followed_and_kept(predictor: SAM2VideoPredictor) -> None:
    clip = frames_of_clip(4)
    with predictor.init_state(clip) as state:
        predictor.add_new_mask(state, 0, "mine", A)
        predictor.add_new_mask(state, 0, 4, rectangle(8, 8, 40, 38))  # nearly the same: the user's affair
        frames = list(track_everything(predictor, state, Scripted([A, B], []), every=2))
    assert list(frames[0].masks) == ["mine", 4, 5]
    assert all(not frame.merged.keys() & {"mine", 4} for frame in frames)
    assert frames[0].new == [5]
    with predictor.init_state(clip) as state:  # where objects are there the next look is at the next multiple
        predictor.add_new_mask(state, 0, 1, A)
        frames = list(track_everything(predictor, state, Scripted([B]), every=3, start=1))
    assert [(frame.index, frame.new) for frame in frames] == [(1, []), (2, []), (3, [2])]


def test_an_object_whose_prompts_were_cleared(predictor: SAM2VideoPredictor) -> None:
    clip = frames_of_clip(3)
    with predictor.init_state(clip) as state:
        predictor.add_new_mask(state, 0, 1, A)
        predictor.clear_all_prompts_in_frame(state, 0, 1)
        frames = list(track_everything(predictor, state, Scripted([B]), every=0))
    assert [(list(frame.masks), list(frame.scores)) for frame in frames] == [([1, 2], [2])] * 3
    assert not any(frame.masks[1].any() for frame in frames)


def test_a_stream_gives_what_a_session_gives(predictor: SAM2VideoPredictor) -> None:
    clip = frames_of_clip()
    expected = list(track_everything(predictor, clip, Scripted([A], [B]), every=3, count=5))
    with predictor.stream(clip) as stream:
        frames = list(track_everything(predictor, stream, Scripted([A], [B]), every=3, count=5))
        assert stream.frame_idx == 4
    for frame, other in zip(frames, expected, strict=True):
        assert (frame.index, list(frame.masks), frame.new) == (other.index, list(other.masks), other.new)
        for mask, wanted in zip(frame.masks.values(), other.masks.values(), strict=True):
            np.testing.assert_array_equal(mask, wanted)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": -1}, "every=-1: it must be a whole number from 0 up"),
        ({"max_objects": 0}, "max_objects=0: it must be a whole number from 1 up"),
        ({"merge_iou": 0}, "merge_iou=0: it must be above 0"),
        ({"start": 9}, "frame 9 does not exist"),
    ],
)
def test_arguments_that_cannot_be_used(predictor: SAM2VideoPredictor, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(track_everything(predictor, frames_of_clip(2), Scripted([A]), **options))


# ---- the command


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_frames(tmp_path / "clip", 8)


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_command_writes_what_the_library_gives(clip: Path, model: str, predictor: SAM2VideoPredictor) -> None:
    args = [clip, "--everything", "--every", "3", *LOOK, "--max-objects", "9", "--model", model]
    outputs = ["--output", "m", "--output", "o.jsonl", "--overlay", "v.mp4"]
    out = succeeded(run(*args, *outputs, cwd=clip.parent))
    generator = SAM2AutomaticMaskGenerator(predictor.model, 4, 64, 0.3, 0.4, 0.3, box_nms_thresh=0.9)
    expected = list(track_everything(predictor, clip, generator, every=3, max_objects=9))
    found = [obj for frame in expected for obj in frame.new]
    assert len(found) > 1 and expected[0].new and any(frame.new for frame in expected[1:])
    count = len(expected[-1].masks)
    assert out.startswith(f"{clip}: frames 0 to 7, {count} object{'s' * (count != 1)}, ")
    assert out.endswith(" frames/s -> m, o.jsonl, v.mp4\n")
    for line, frame in zip(lines_of(clip.parent / "o.jsonl"), expected, strict=True):
        assert [entry["id"] for entry in line["objects"]] == list(frame.masks)
        for entry in line["objects"]:
            np.testing.assert_array_equal(rle_to_mask(entry["rle"]), frame.masks[entry["id"]])
            assert entry["score"] == pytest.approx(frame.scores[entry["id"]], abs=1e-4)
        logits = np.stack(list(frame.masks.values()))[:, None] - 0.5
        indices = read_indexed(clip.parent / "m" / f"{frame.index:05d}.png")
        np.testing.assert_array_equal(indices, merged(list(frame.masks), logits))


@pytest.mark.slow
def test_going_on_after_a_stop(clip: Path, model: str) -> None:
    """Four frames, then the command that it would print: every object goes on under its number."""
    words = [str(clip), "--everything", "--every", "3", *LOOK, "--model", model, "--frames", "8"]
    assert main([*words[:-1], "4", "--output", str(clip.parent / "o.jsonl")]) == 0
    lines = lines_of(clip.parent / "o.jsonl")
    last = {entry["id"]: rle_to_mask(entry["rle"]) for entry in lines[-1]["objects"]}
    assert len(last) > 1
    args = build_parser().parse_args([*words, "--output", str(clip.parent / "o.jsonl")])
    with open_source(str(clip)) as source:
        progress = Progress(count=4, first=0, last=TrackedFrame(3, source[3], last, {}, None), highest=max(last) + 2)
        plan = make_plan(args, source)
        again = resume_arguments(args, plan, source, [str(clip.parent / "o.jsonl")], progress)
    assert again[:3] == [str(clip), "--everything", "--every"]
    assert again[again.index("--start") :][:4] == ["--start", "4", "--frames", "4"]
    succeeded(run(*again, cwd=clip.parent))
    rest = lines_of(clip.parent / "o_from4.jsonl")
    assert [line["frame"] for line in rest] == [4, 5, 6, 7]
    assert [entry["id"] for entry in rest[0]["objects"]] == list(last)
    new = {entry["id"] for line in rest for entry in line["objects"]} - last.keys()
    assert new and min(new) == max(last) + 3  # two more were given up before, their numbers too
    args.every = 0
    assert "--everything" not in resume_arguments(args, plan, SequenceSource(frames_of_clip(8)), again[-1:], progress)
    plan = make_plan(build_parser().parse_args(again), SequenceSource(frames_of_clip(8)))
    for prompt in plan.prompts:  # each in a file of its own: in one picture they would hide each other
        np.testing.assert_array_equal(prompt.mask, last[prompt.object])
    assert [prompt.frame for prompt in plan.prompts] == [3] * len(last)


@pytest.mark.slow
def test_live_stream(model: str, tmp_path: Path) -> None:
    with OverlaySink(tmp_path / "clip.mp4") as sink:
        for t, frame in enumerate(frames_of_clip(6)):
            sink.write(t, frame, {})
    args = ["--everything", "--every", "2", *LOOK, "--model", model, "--output", "o.jsonl"]
    assert "frames 0 to 5," in succeeded(run(f"file://{tmp_path}/clip.mp4", *args, cwd=tmp_path))
    lines = lines_of(tmp_path / "o.jsonl")
    assert [line["frame"] for line in lines] == list(range(6))
    assert lines[0]["objects"]


def test_it_says_what_it_leaves_out_and_what_it_does_not_find(
    clip: Path, model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(clip.parent)
    args = ["clip", "--everything", "--every", "3", *LOOK, "--model", model]
    assert main([*args, "--frames", "4", "--max-objects", "1", "--output", "a.jsonl"]) == 0
    assert capsys.readouterr().out.endswith("-> a.jsonl; more were found than --max-objects 1\n")
    nothing = [*args, "--pred-iou", "1", "--frames", "2"]
    assert main([*nothing, "--output", "b.jsonl"]) == 0
    out = capsys.readouterr().out
    assert ", 0 objects, " in out and out.endswith("; nothing was found: lower --pred-iou or --stability\n")
    assert main([*nothing, "--every", "0", "--output", "c.jsonl"]) == 2
    message = capsys.readouterr().err
    assert "error: nothing was found on frame 0: lower --pred-iou or --stability, or begin on another" in message
    assert not Path("c.jsonl").exists()


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ("clip --point 1,2 --every 3", "--every belongs to --everything"),
        ("clip --point 1,2 --pred-iou 0.5", "--pred-iou belongs to --everything"),
        ("clip --everything --reverse", "--everything looks for what comes next: --reverse does not go with it"),
        ("clip --everything --every -1", "argument --every: '-1' is not a whole number from 0 up"),
        ("clip --everything --max-objects 255", "argument --max-objects: '255' is not a whole number from 1 to 254"),
        ("clip --everything --merge-iou 0", "argument --merge-iou: '0' is not a number from 0.01 to 1"),
        ("clip --everything --pred-iou nan", "argument --pred-iou: 'nan' is not a number from 0 to 1"),
        (
            "clip --everything --point 41:1,2",
            "object 41 has a prompt, but objects are numbered up to 40: give --max-objects",
        ),
        ("clip --everything --start 8", "--start 8: frame 8 does not exist; the video has frames 0 to 7"),
        ("--davis . --everything", "leave out --everything"),
    ],
)
def test_bad_input(
    clip: Path, args: str, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(clip.parent)
    try:
        code = main([*args.split(), "--model", "no-such/model", "--output", "o.jsonl"])
    except SystemExit as end:
        code = end.code
    captured = capsys.readouterr()
    assert (code, captured.out) == (2, "")
    assert says in captured.err and captured.err.count("\n") == 1
    assert not (clip.parent / "o.jsonl").exists()


def test_defaults_in_the_help_are_the_librarys() -> None:
    for options, function in (
        (FOLLOW, track_everything),
        (cli.MASK_OPTIONS, SAM2AutomaticMaskGenerator),
    ):
        parameters = inspect.signature(function).parameters
        assert {name: default for _, name, _, default, _ in options} == {
            name: parameters[name].default for _, name, *_ in options
        }


def test_scores_that_are_no_numbers_end_in_one_line(clip: Path, tmp_path: Path) -> None:
    save(synthetic.nano_model(5, {**OVERRIDES, "no_mem_embed": {"mul": float("nan")}}), tmp_path / "broken")
    message = failed(run(clip, "--everything", "--model", tmp_path / "broken", cwd=tmp_path), code=1)
    assert message == "the model gave a score that is not a finite number; try dtype='float32'"
