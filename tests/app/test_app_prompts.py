"""What the app answers is what the predictors give when they are called directly with the same clicks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the app's extra is not installed: pip install 'mlx-sam2[app]'")

from app_machine import HEIGHT, WIDTH, Machine, clip, form, frames_of_clip, photo, png, running
from mlx_sam2.masks import mask_to_rle, rle_to_mask
from mlx_sam2.sam2_image_predictor import SAM2ImagePredictor
from mlx_sam2.sam2_video_predictor import SAM2VideoPredictor

A, B, C = (30.0, 40.0, 1), (60.0, 20.0, 0), (35.0, 50.0, 1)
FRAMES = 5
BOX = (10.0, 8.0, 70.0, 60.0)


@pytest.fixture
def predictor(model: str) -> SAM2ImagePredictor:
    predictor = SAM2ImagePredictor.from_pretrained(model)
    predictor.set_image(photo())
    return predictor


def direct(predictor: SAM2ImagePredictor, points: list[Any], **more: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    coords, labels = [p[:2] for p in points] or None, [p[2] for p in points] or None
    return predictor.predict(point_coords=coords, point_labels=labels, **more)


def counts(mask: np.ndarray) -> str:
    return mask_to_rle(mask > 0)["counts"]


# ---- pictures


@pytest.fixture(scope="module")
def image(machine: Machine) -> str:
    return machine.open(png(photo()))


def test_one_click_gives_the_three_masks_of_predict(machine: Machine, image: str, predictor: Any) -> None:
    masks, scores, _ = direct(predictor, [A])
    answer = machine.prompt(image, 1, points=[A])
    assert [mask["counts"] for mask in answer["masks"]] == [counts(mask) for mask in masks]
    assert [mask["score"] for mask in answer["masks"]] == [float(score) for score in scores]
    assert answer["chosen"] == int(scores.argmax())
    assert [mask["area"] for mask in answer["masks"]] == [int((mask > 0).sum()) for mask in masks]
    kept = machine.masks(image)["1"]
    assert kept["counts"] == counts(masks[scores.argmax()]) and kept["size"] == [HEIGHT, WIDTH]


def test_the_choice_among_the_three_is_kept(machine: Machine, image: str, predictor: Any) -> None:
    masks, scores, _ = direct(predictor, [A])
    other = int(scores.argmin())
    assert machine.prompt(image, 2, points=[A], choice=other)["chosen"] == other
    assert machine.masks(image)["2"]["counts"] == counts(masks[other])


@pytest.mark.parametrize("choice", [None, 0, 1, 2])
def test_a_click_refines_the_chosen_mask(machine: Machine, image: str, predictor: Any, choice: int | None) -> None:
    _, scores, low_res = direct(predictor, [A])
    first = low_res[scores.argmax() if choice is None else choice]
    masks, _, low_res = direct(predictor, [A, B], mask_input=first[None], multimask_output=False)
    answer = machine.prompt(image, 3, points=[A, B], choice=choice)
    assert [mask["counts"] for mask in answer["masks"]] == [counts(masks[0])]
    masks, _, _ = direct(predictor, [A, B, C], mask_input=low_res, multimask_output=False)
    assert machine.prompt(image, 3, points=[A, B, C], choice=choice)["masks"][0]["counts"] == counts(masks[0])


def test_without_refine_all_clicks_are_taken_at_once(machine: Machine, image: str, predictor: Any) -> None:
    masks, _, _ = direct(predictor, [A, B, C], multimask_output=False)
    answer = machine.prompt(image, 4, points=[A, B, C], refine=False)
    assert answer["masks"][0]["counts"] == counts(masks[0])
    refined = machine.prompt(image, 4, points=[A, B, C])
    assert refined["masks"][0]["counts"] != counts(masks[0]), "this picture cannot tell the two apart"


def test_a_box_and_clicks_on_it(machine: Machine, image: str, predictor: Any) -> None:
    masks, _, low_res = direct(predictor, [], box=BOX, multimask_output=False)
    assert machine.prompt(image, 5, box=BOX)["masks"][0]["counts"] == counts(masks[0])
    masks, _, _ = direct(predictor, [B], box=BOX, mask_input=low_res, multimask_output=False)
    assert machine.prompt(image, 5, box=BOX, points=[B])["masks"][0]["counts"] == counts(masks[0])


def test_a_mask_is_its_own_answer_and_can_be_refined(machine: Machine, image: str, predictor: Any) -> None:
    from mlx_sam2.images.preprocess import mask_prompt

    drawn = np.zeros((HEIGHT, WIDTH), bool)
    drawn[20:50, 20:60] = True
    rle = mask_to_rle(drawn)
    answer = machine.prompt(image, 6, mask=rle)
    assert answer["masks"][0]["counts"] == rle["counts"] and answer["masks"][0]["bbox"] == [20, 20, 40, 30]
    given = mask_prompt(drawn, predictor.model.sam_prompt_encoder.mask_input_size)
    masks, _, _ = direct(predictor, [B], mask_input=given, multimask_output=False)
    assert machine.prompt(image, 6, mask=rle, points=[B])["masks"][0]["counts"] == counts(masks[0])


def test_a_state_gives_the_same_mask_whatever_the_way_there(machine: Machine, image: str) -> None:
    there = machine.prompt(image, 7, points=[A, B])["masks"]
    machine.prompt(image, 7, points=[A, B, C])
    machine.prompt(image, 7, points=[C], box=BOX)
    assert machine.prompt(image, 7, points=[A, B])["masks"] == there
    other = machine.open(png(photo()))
    assert machine.prompt(other, 1, points=[A, B])["masks"] == there


def test_a_click_decodes_once_and_undo_not_at_all(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    session = machine.open(png(photo(1)))
    decoded, encoded = [], []
    predict, encode = SAM2ImagePredictor.predict_low_res, SAM2ImagePredictor.set_image
    monkeypatch.setattr(SAM2ImagePredictor, "predict_low_res", lambda *a, **k: decoded.append(1) or predict(*a, **k))
    monkeypatch.setattr(SAM2ImagePredictor, "set_image", lambda *a, **k: encoded.append(1) or encode(*a, **k))
    for state, most in (([A], 1), ([A, B], 2), ([A, B, C], 3), ([A, B], 3), ([A], 3)):
        machine.prompt(session, 1, points=state)
        assert len(decoded) == most
    assert not encoded, "a click encoded the picture again"


def test_an_empty_prompt_takes_the_mask_away(machine: Machine, image: str) -> None:
    machine.prompt(image, 8, points=[A])
    answer = machine.prompt(image, 8)
    assert answer["masks"] == [] and answer["chosen"] is None and answer["object"]["frames"] == {}
    assert "8" not in machine.masks(image)


def test_a_preview_is_what_a_click_would_give_and_changes_nothing(machine: Machine, image: str, predictor: Any) -> None:
    before = machine.session(image)
    masks, scores, _ = direct(predictor, [C])
    ask = {"frame": 0, "x": C[0], "y": C[1], "serial": 9}
    answer = machine.client.post(f"/api/sessions/{image}/preview", json=ask).json()
    assert answer["mask"]["counts"] == counts(masks[scores.argmax()]) and answer["serial"] == 9
    assert machine.session(image) == before


def test_everything_finds_what_the_generator_finds(tmp_path: Path) -> None:
    from mlx_sam2 import SAM2AutomaticMaskGenerator

    options = {"points_per_side": 6, "pred_iou_thresh": 0.3, "stability_score_thresh": 0.3}
    generator = SAM2AutomaticMaskGenerator.from_pretrained("demo", output_mode="coco_rle", **options)
    records = sorted(generator.generate(photo()), key=lambda r: -r["predicted_iou"])
    assert len(records) > 1
    with running("demo", tmp_path) as machine:  # the nano model's masks are all of the whole picture
        session = machine.open(png(photo()))
        machine.run(session, "everything", **options)
        found, about = machine.masks(session), machine.session(session)
    assert [found[n]["counts"] for n in sorted(found, key=int)] == [r["segmentation"]["counts"] for r in records]
    assert [found[n]["score"] for n in sorted(found, key=int)] == [r["predicted_iou"] for r in records]
    assert len(about["objects"]) == len(records)


# ---- videos


def tracker(model: str) -> SAM2VideoPredictor:
    return SAM2VideoPredictor.from_pretrained(model, add_all_frames_to_correct_as_cond=True)


def click(predictor: SAM2VideoPredictor, state: Any, obj: int, frame: int, points: list[Any], **more: Any) -> str:
    """Clicks one after the other; the mask of the last one."""
    for n in range(1, len(points) + 1):
        coords, labels = [p[:2] for p in points[:n]], [p[2] for p in points[:n]]
        _, ids, logits = predictor.add_new_points_or_box(state, frame, obj, points=coords, labels=labels, **more)
    return counts(logits[ids.index(obj), 0])


def propagated(predictor: SAM2VideoPredictor, state: Any, *ways: tuple[int, bool]) -> dict[int, dict[str, str]]:
    found: dict[int, dict[str, str]] = {}
    for start, reverse in ways:
        for t, ids, logits in predictor.propagate_in_video(state, start, reverse=reverse):
            found[t] = {str(obj): counts(logits[i, 0]) for i, obj in enumerate(ids)}
    return found


def shown(machine: Machine, session: str, frames: range = range(FRAMES)) -> dict[int, dict[str, str]]:
    masks = {t: machine.masks(session, t) for t in frames}
    return {t: {n: mask["counts"] for n, mask in found.items()} for t, found in masks.items() if found}


def open_frames(machine: Machine) -> str:
    answer = machine.client.post("/api/sessions", params={"name": "walk"}, files=form(frames_of_clip(FRAMES)))
    assert answer.status_code == 201, answer.text
    assert (answer.json()["kind"], answer.json()["frames"]) == ("video", FRAMES)
    return answer.json()["id"]


def test_clicks_tracks_and_corrections_are_those_of_the_predictor(machine: Machine, model: str) -> None:
    session, predictor = open_frames(machine), tracker(model)
    with predictor.init_state(frames_of_clip(FRAMES)) as state:
        assert machine.prompt(session, 1, 2, points=[A])["masks"][0]["counts"] == click(predictor, state, 1, 2, [A])
        expected = click(predictor, state, 2, 2, [C, B])
        machine.prompt(session, 2, 2, points=[C])
        assert machine.prompt(session, 2, 2, points=[C, B])["masks"][0]["counts"] == expected
        machine.run(session, "propagate", frame=2, direction="both")
        assert shown(machine, session) == propagated(predictor, state, (2, False), (2, True))
        expected = click(predictor, state, 1, 4, [B])
        assert machine.prompt(session, 1, 4, points=[B])["masks"][0]["counts"] == expected
        machine.prompt(session, 3, 3, box=BOX)
        predictor.add_new_points_or_box(state, 3, 3, box=BOX)
        machine.run(session, "propagate", frame=3, direction="forward")
        direct = propagated(predictor, state, (3, False))
        assert {t: found for t, found in shown(machine, session).items() if t >= 3} == direct
    timeline = machine.session(session)["timeline"]
    assert timeline["prompted"] == {"1": [2, 4], "2": [2], "3": [3]}
    seen = {t for first, last in [*timeline["tracked"]["3"], *timeline["empty"]["3"]] for t in range(first, last + 1)}
    assert seen == {3, 4}


@pytest.mark.slow
def test_undo_of_clicks_that_were_not_tracked_yet(machine: Machine, model: str) -> None:
    session, predictor = open_frames(machine), tracker(model)
    machine.prompt(session, 1, 0, points=[A])
    machine.prompt(session, 1, 0, points=[A, B])
    machine.prompt(session, 1, 0, points=[A, B, C])
    answer = machine.prompt(session, 1, 0, points=[A, C])
    with predictor.init_state(frames_of_clip(FRAMES)) as state:
        assert answer["masks"][0]["counts"] == click(predictor, state, 1, 0, [A, C])
        machine.run(session, "propagate", frame=0)
        assert shown(machine, session) == propagated(predictor, state, (0, False))


@pytest.mark.slow
def test_undo_after_tracking_is_as_if_it_had_never_been(machine: Machine, model: str) -> None:
    session, predictor = open_frames(machine), tracker(model)
    machine.prompt(session, 1, 0, points=[A, B])
    machine.prompt(session, 2, 3, points=[C])
    machine.run(session, "propagate", frame=0)
    machine.prompt(session, 1, 0, points=[A])
    machine.prompt(session, 2, 3)
    machine.run(session, "propagate", frame=0)
    with predictor.init_state(frames_of_clip(FRAMES)) as state:
        click(predictor, state, 1, 0, [A])
        direct = propagated(predictor, state, (0, False))
    assert {t: found["1"] for t, found in shown(machine, session).items()} == {t: f["1"] for t, f in direct.items()}


@pytest.mark.slow
def test_a_removed_object_is_gone(machine: Machine, model: str) -> None:
    session, predictor = open_frames(machine), tracker(model)
    machine.prompt(session, 1, 0, points=[A])
    machine.prompt(session, 2, 0, points=[C])
    assert machine.client.delete(f"/api/sessions/{session}/objects/1").status_code == 200
    machine.run(session, "propagate", frame=0)
    with predictor.init_state(frames_of_clip(FRAMES)) as state:
        click(predictor, state, 2, 0, [C])
        assert shown(machine, session) == propagated(predictor, state, (0, False))
    assert [obj["id"] for obj in machine.session(session)["objects"]] == [2]


def test_a_mask_starts_an_object_of_a_video(machine: Machine, model: str) -> None:
    drawn = np.zeros((HEIGHT, WIDTH), bool)
    drawn[20:50, 20:60] = True
    session, predictor = open_frames(machine), tracker(model)
    machine.prompt(session, 1, 0, mask=mask_to_rle(drawn))
    machine.run(session, "propagate", frame=0)
    with predictor.init_state(frames_of_clip(FRAMES)) as state:
        predictor.add_new_mask(state, 0, 1, drawn)
        direct = propagated(predictor, state, (0, False))
    assert {t: found for t, found in shown(machine, session).items() if t} == {t: f for t, f in direct.items() if t}


def test_a_preview_of_a_video_is_what_a_click_would_give(machine: Machine) -> None:
    session = open_frames(machine)
    ask = {"frame": 3, "x": A[0], "y": A[1], "serial": 1}
    mask = machine.client.post(f"/api/sessions/{session}/preview", json=ask).json()["mask"]
    assert machine.session(session)["objects"] == []
    assert machine.prompt(session, 1, 3, points=[A])["masks"] == [mask]


@pytest.mark.slow
def test_a_session_that_had_to_cool_gives_the_same_masks(machine: Machine) -> None:
    session = open_frames(machine)
    machine.prompt(session, 1, 0, points=[A, B])
    for seed in range(4):
        machine.open(png(photo(seed)))
    assert machine.app.sessions.get(session).work is None, "it is still warm: the test shows nothing"
    machine.run(session, "propagate", frame=0)
    other = open_frames(machine)
    machine.prompt(other, 1, 0, points=[A, B])
    machine.run(other, "propagate", frame=0)
    assert shown(machine, session) == shown(machine, other)


def test_frames_of_a_video_file_are_shown_as_they_are(machine: Machine) -> None:
    from PIL import Image

    session = machine.open(clip(), "clip.mp4")
    about = machine.session(session)
    assert (about["kind"], about["frames"], about["fps"], about["width"]) == ("video", 8, 10.0, WIDTH)
    answer = machine.client.get(f"/api/sessions/{session}/frames/3")
    import io

    picture = np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGB")).astype(int)
    assert answer.headers["content-type"] == "image/jpeg" and answer.headers["cache-control"] == "no-store"
    assert np.abs(picture[HEIGHT // 2, 32] - (220, 40, 40)).max() < 40, "the disc of frame 3 is not there"
    small = Image.open(io.BytesIO(machine.client.get(f"/api/sessions/{session}/frames/3?side=48").content))
    assert small.size == (48, 36)


def test_masks_of_the_wire_can_be_decoded(machine: Machine, image: str) -> None:
    mask = machine.prompt(image, 9, points=[A])["masks"][0]
    assert rle_to_mask(mask).shape == (HEIGHT, WIDTH) and int(rle_to_mask(mask).sum()) == mask["area"]
