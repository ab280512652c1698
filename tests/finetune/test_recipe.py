"""Settings, prompts, clicks and augmentations."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from mlx_sam2.finetune import augment
from mlx_sam2.finetune.arguments import ArgumentError, Arguments
from mlx_sam2.finetune.centres import centre_click, deepest
from mlx_sam2.finetune.clicks import Draw, click_on_error
from mlx_sam2.finetune.prompts import draw_box, draw_plan

SIZE = 32


def disc(x: int, y: int, radius: int, size: int = SIZE) -> np.ndarray:
    rows, columns = np.mgrid[:size, :size]
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


# ---- settings


def test_settings_survive_yaml(tmp_path: Path) -> None:
    settings = Arguments(
        model='my "1": #x é', preset="lora", steps=7, rate=3e-5, augment=False, ema=0.99, iou_use_l1_loss=False
    )
    (tmp_path / "s.yaml").write_text(settings.to_yaml())
    assert Arguments.from_yaml(tmp_path / "s.yaml") == settings


def test_a_date_that_is_none_is_no_yaml(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("steps: 2020-13-45\n")
    with pytest.raises(ArgumentError, match=r"s\.yaml is not valid YAML"):
        Arguments.from_yaml(tmp_path / "s.yaml")


def test_a_whole_number_may_stand_for_a_fraction() -> None:
    assert Arguments.from_dict({"clip": 1}).clip == 1.0


@pytest.mark.parametrize(
    "values",
    [
        {"preset": "all"},
        {"steps": 0},
        {"steps": 2.5},
        {"steps": True},
        {"rate": "fast"},
        {"rate": float("nan")},
        {"rate": -1e-4},
        {"vision_rate": float("inf")},
        {"held_out": 1.5},
        {"dropout": 1.0},
        {"clip": float("nan")},
        {"compute": "float16"},
        {"corrected_frames": 1},
        {"no_such": 1},
        ["steps"],
    ],
    ids=str,
)
def test_settings_that_cannot_be_met(values: object) -> None:
    with pytest.raises(ArgumentError) as error:
        Arguments.from_dict(values)
    assert "\n" not in str(error.value)


# ---- prompts


def clip(frames: int = 6) -> np.ndarray:
    return np.array([[disc(8 + t, 10, 4), disc(20, 22, 5)] for t in range(frames)])


def test_plans_follow_the_recipe() -> None:
    random, settings = np.random.default_rng(0), Arguments()
    kinds: dict[str, int] = {"mask": 0, "box": 0, "click": 0}
    for _ in range(200):
        plan = draw_plan(clip(), settings, random)
        first = list(plan.first)
        assert first[0] == 0
        assert len(first) in (1, 2)
        if plan.first[0] is None:
            kinds["mask"] += 1
            assert not plan.corrections
            assert all(prompt is None for prompt in plan.first.values())
            continue
        for prompt in plan.first.values():
            assert prompt is not None
            kinds["box" if prompt.labels.shape[1] == 2 else "click"] += 1
        assert list(plan.corrections)[: len(first)] == first
        assert len(plan.corrections) <= 2
        assert all(len(clicks) == 7 for clicks in plan.corrections.values())
    assert 70 < kinds["mask"] < 130  # half of 200, four standard deviations
    assert kinds["box"] > 30
    assert kinds["click"] > 30


def test_a_photo_is_never_prompted_by_its_mask() -> None:
    random = np.random.default_rng(1)
    for _ in range(30):
        plan = draw_plan(clip(1), Arguments(), random)
        assert list(plan.first) == list(plan.corrections) == [0]
        assert plan.first[0] is not None


def test_a_short_clip_keeps_a_frame_to_track() -> None:
    random = np.random.default_rng(2)
    assert all(len(draw_plan(clip(2), Arguments(point_share=0.0), random).first) == 1 for _ in range(20))


def test_a_first_click_lies_in_the_target_and_a_negative_one_where_there_is_none() -> None:
    targets = clip(1)
    targets[0, 1] = False
    for seed in range(20):
        plan = draw_plan(targets, Arguments(box_share=0.0), np.random.default_rng(seed))
        points, labels = (np.array(part) for part in plan.first[0])
        assert labels.tolist() == [[1], [0]]
        x, y = points[0, 0].astype(int)
        assert targets[0, 0, y, x]


def test_boxes_are_tight_up_to_their_noise() -> None:
    mask = np.zeros((1, 100, 100), bool)
    mask[0, 20:61, 10:91] = True
    boxes = [np.array(draw_box(mask, np.random.default_rng(seed)).points)[0] for seed in range(50)]
    moved = np.abs(np.array(boxes) - np.array([[10, 20], [90, 60]]))
    assert moved[..., 0].max() <= 8  # a tenth of 80
    assert moved[..., 1].max() <= 4
    assert moved.max() > 6
    empty = draw_box(np.zeros((1, 100, 100), bool), np.random.default_rng(0))
    assert np.array(empty.points).min() >= 0
    assert np.array(empty.points).max() <= 99
    assert np.array(empty.labels).tolist() == [[2, 3]]


@pytest.mark.parametrize(("from_target", "answered"), [(False, True), (True, True), (False, False)])
def test_corrections_are_uniform_over_what_is_wrong(from_target: bool, answered: bool) -> None:
    target, answer = disc(10, 10, 5), disc(14, 10, 5) & answered
    wrong = target if from_target or not answered else target ^ answer
    count = 400
    draw = Draw(mx.array((np.arange(count, dtype=np.float32) + 0.5) / count), mx.array(from_target))
    stack = [np.broadcast_to(x, (count, SIZE, SIZE)) for x in (target, answer)]
    points, labels = (np.array(part) for part in click_on_error(*map(mx.array, stack), draw))
    places = points[:, 0].astype(int)
    assert wrong[places[:, 1], places[:, 0]].all()
    hit = {tuple(place) for place in places.tolist()}
    assert len(hit) == wrong.sum()  # 400 draws, evenly spaced, reach every one of some 80 pixels
    assert (labels[:, 0] == target[places[:, 1], places[:, 0]]).all()


def test_nothing_wrong_is_a_negative_click_in_the_background() -> None:
    target = disc(10, 10, 5)
    draw = Draw(mx.array([0.3]), mx.array(False))
    points, labels = (np.array(part) for part in click_on_error(mx.array(target[None]), mx.array(target[None]), draw))
    x, y = points[0, 0].astype(int)
    assert not target[y, x]
    assert labels.tolist() == [[0]]
    full = mx.ones((1, SIZE, SIZE), mx.bool_)  # no background either
    assert np.array(click_on_error(full, full, draw).labels).tolist() == [[0]]


# ---- the evaluation's clicks


@pytest.mark.parametrize("seed", range(4))
def test_the_deepest_pixel_is_that_of_the_exact_distance_transform(seed: int) -> None:
    region = np.random.default_rng(seed).random((40, 50)) > 0.02
    expected = ndimage.distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
    squared, (x, y) = deepest(region)
    assert squared == pytest.approx(expected.max() ** 2)
    assert expected[int(y), int(x)] == pytest.approx(expected.max())


def test_a_centre_click_goes_to_the_deeper_error() -> None:
    assert centre_click(disc(16, 16, 6), np.zeros((SIZE, SIZE), bool)) == ((16.0, 16.0), 1)
    assert centre_click(np.zeros((SIZE, SIZE), bool), disc(10, 20, 4)) == ((10.0, 20.0), 0)
    assert centre_click(disc(8, 8, 3), disc(20, 20, 6))[1] == 0


# ---- augmentations


def test_masks_turn_with_their_picture() -> None:
    mask = disc(40, 24, 8, 64)
    picture = Image.fromarray(np.repeat(mask[..., None] * np.uint8(255), 3, axis=2))
    for seed in range(6):
        frames, masks = augment.turn([picture], mask[None, None], np.random.default_rng(seed))
        shown = np.asarray(frames[0])
        assert shown[masks[0, 0]].mean() > 220  # the outline's pixels are blended
        outside = ndimage.binary_dilation(masks[0, 0], iterations=2)
        assert (shown[~outside] < 125).all()  # black, or the colour of the outside


def test_a_rotation_that_loses_an_object_is_dropped() -> None:
    mask = np.zeros((64, 64), bool)
    mask[0, 0] = True  # a corner leaves the picture
    picture = Image.new("RGB", (64, 64))
    for seed in range(5):
        _, masks = augment.turn([picture], mask[None, None], np.random.default_rng(seed))
        assert masks.sum() == 1


def test_colours_change_a_little_and_alike_for_a_seed() -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(60, 190, (16, 16, 3), dtype=np.uint8))
    once, again = (augment.recolour([picture], np.random.default_rng(3))[0] for _ in range(2))
    assert np.array_equal(np.asarray(once), np.asarray(again))
    difference = np.abs(np.asarray(once, int) - np.asarray(picture, int))
    assert 0 < difference.max() < 70
