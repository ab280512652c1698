"""Masks of other tools taken into a session: COCO, YouTube-VIS and mask pictures, and files that lie."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="the app's extra is not installed: pip install 'mlx-sam2[app]'")

from app_machine import HEIGHT, WIDTH, Machine, code, form, frames_of_clip, photo, png, restore, running
from mlx_sam2.masks.rle import mask_to_rle, rle_to_mask


@pytest.fixture(scope="module")
def machine(model: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with running(model, tmp_path_factory.mktemp("imports")) as machine:
        yield machine


def square(at: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[at : at + 10, at : at + 12] = True
    return mask


def sent(machine: Machine, session: str, data: Any, **query: Any) -> httpx.Response:
    body = data if isinstance(data, bytes) else json.dumps(data).encode()
    return machine.client.post(f"/api/sessions/{session}/import", content=body, params=query)


def coco(names: list[str], masks: list[list[np.ndarray]]) -> dict[str, Any]:
    images = [{"id": i, "file_name": name, "height": HEIGHT, "width": WIDTH} for i, name in enumerate(names)]
    entries = [
        {"id": 10 * i + n, "image_id": i, "category_id": n % 2, "segmentation": mask_to_rle(mask), "iscrowd": 0}
        for i, found in enumerate(masks)
        for n, mask in enumerate(found)
    ]
    return {"images": images, "annotations": entries, "categories": [{"id": 0, "name": "cup"}, {"id": 1, "name": "ö"}]}


def grey(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values).save(file, format="PNG")
    return file.getvalue()


def test_coco_becomes_objects_of_the_picture_of_its_name_and_is_undone(machine: Machine) -> None:
    session = machine.open(png(photo()), "two.png")
    data = coco(["a/one.jpg", "a/two.jpg"], [[square(1)], [square(3), square(20)]])
    before = machine.session(session)["revision"]
    answer = sent(machine, session, data, revision=before)
    assert answer.status_code == 200 and answer.json() == {"revision": before + 1}
    objects = machine.session(session)["objects"]
    assert [obj["name"] for obj in objects] == ["cup", "ö"]
    for obj, at in zip(objects, (3, 20), strict=True):
        np.testing.assert_array_equal(rle_to_mask(machine.masks(session)[str(obj["id"])]), square(at))
    assert code_of(sent(machine, session, data, revision=before)) == (409, "stale")
    assert restore(machine, session, before).status_code == 200
    assert machine.session(session)["objects"] == [] and machine.masks(session) == {}


def code_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def test_mask_pictures(machine: Machine) -> None:
    session = machine.open(png(photo()), "masked.png")
    assert sent(machine, session, grey(mask_picture(square(5)))).status_code == 200
    numbers = np.uint8(3 * square(5) + 7 * square(30))
    assert sent(machine, session, grey(numbers)).status_code == 200
    found = [rle_to_mask(mask) for mask in machine.masks(session).values()]
    for mask, wanted in zip(found, (square(5), square(5), square(30)), strict=True):
        np.testing.assert_array_equal(mask, wanted)


def mask_picture(mask: np.ndarray) -> np.ndarray:
    return mask * np.uint8(255)


@pytest.fixture(scope="module")
def video(machine: Machine) -> str:
    return machine.client.post("/api/sessions", params={"name": "walk"}, files=form(frames_of_clip(4))).json()["id"]


def test_annotations_of_a_video_stand_on_their_frames_and_are_tracked_on(machine: Machine, video: str) -> None:
    masks = [None, mask_to_rle(square(4)), mask_to_rle(square(6)), None]
    data = {
        "videos": [{"id": 1, "height": HEIGHT, "width": WIDTH, "file_names": [f"x/{t:05d}.jpg" for t in range(4)]}],
        "annotations": [{"id": 1, "video_id": 1, "category_id": 1, "segmentations": masks}],
        "categories": [{"id": 1, "name": "dog"}],
    }
    assert sent(machine, video, data).status_code == 200
    (obj,) = machine.session(video)["objects"]
    assert obj["name"] == "dog" and list(obj["frames"]) == ["1"]
    for t, at in ((1, 4), (2, 6)):
        np.testing.assert_array_equal(rle_to_mask(machine.masks(video, t)["1"]), square(at))
    machine.run(video, "propagate", frame=2, direction="forward")
    assert "1" in machine.masks(video, 3)
    assert sent(machine, video, grey(mask_picture(square(8))), frame=3).status_code == 200
    np.testing.assert_array_equal(rle_to_mask(machine.masks(video, 3)["2"]), square(8))
    assert code(sent(machine, video, coco(["walk.jpg"], [[square(1)]]))) == (409, "empty")


LIES = {
    "nothing known": (b"\x00\x01\x02", 415),
    "no JSON": (b"{", 415),
    "another kind of JSON": (b'{"a": 1}', 415),
    "deep": (b"[" * 100_000, 415),
    "many": (b"[" * 300_000, 413),
    "a broken picture": (grey(np.zeros((HEIGHT, WIDTH), np.uint8))[:60], 415),
    "another size": (grey(np.full((4, 4), 255, np.uint8)), 409),
    "no object": (grey(np.zeros((HEIGHT, WIDTH), np.uint8)), 409),
    "other pictures": (json.dumps(coco(["a.jpg", "b.jpg"], [[square(1)], []])).encode(), 409),
    "another picture's size": (
        json.dumps(coco(["a.jpg"], [[square(1)]])).replace(f'"height": {HEIGHT}', '"height": 7').encode(), 409,
    ),
    "a lying mask": (
        json.dumps({**coco(["liar.jpg"], [[square(1)]]), "annotations": [
            {"id": 1, "image_id": 0, "category_id": 0, "segmentation": {"size": [HEIGHT, WIDTH], "counts": "oooo"}}
        ]}).encode(), 415,
    ),
    "many objects": (json.dumps(coco(["liar.jpg"], [[square(1)] * 1001])).encode(), 409),
}  # fmt: skip


@pytest.mark.parametrize("name", LIES)
def test_files_that_lie_are_refused_in_one_line(machine: Machine, name: str) -> None:
    session = machine.open(png(photo()), "liar.png")
    disk = machine.app.sessions._disk
    data, status = LIES[name]
    answer = sent(machine, session, data)
    assert code(answer)[0] == status, answer.text
    assert str(machine.app.sessions.folder) not in answer.text
    assert machine.session(session)["objects"] == [] and machine.session(session)["revision"] == 0
    assert machine.app.sessions._disk == disk
    machine.client.delete(f"/api/sessions/{session}")


def test_annotations_may_have_more_bytes_than_other_requests(machine: Machine, video: str) -> None:
    answer = sent(machine, video, b"{" + b" " * (9 << 20) + b"}")
    assert code_of(answer) == (415, "unsupported"), "refused for its size"
