"""Several pictures as one data set: what comes out is what was clicked, in every format."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="the app's extra is not installed: pip install 'mlx-sam2[app]'")

from app_machine import Machine, code, form, frames_of_clip, photo, png, running, wait_for
from mlx_sam2.datasets import open_dataset
from mlx_sam2.masks.rle import mask_to_rle, rle_to_mask


def jpeg(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="JPEG")
    return file.getvalue()


@pytest.fixture
def pictures(machine: Machine) -> list[str]:
    """Two pictures of one name: a cup and a spoon on one, a thing without a name and a hidden one on the other."""
    first = machine.open(png(photo(0)), "one.png")
    second = machine.open(jpeg(photo(1)), "one.jpg")
    for session, obj, channel, name in (
        (first, 1, 0, "cup"),
        (first, 2, 1, "spoon"),
        (second, 1, 2, ""),
        (second, 2, 0, "x"),
    ):
        mask = np.zeros(photo().shape[:2], bool)
        mask[10 * channel : 40, 10 + 10 * channel : 50 + 10 * channel] = True
        machine.prompt(session, obj, mask=mask_to_rle(mask))
        look = {"name": name} if name else {"color": "#123456"}
        machine.client.put(f"/api/sessions/{session}/objects/{obj}", json={**look, "visible": name != "x"})
    return [first, second]


def ask(machine: Machine, sessions: list[str], form: str, **more: object) -> httpx.Response:
    return machine.client.post("/api/collection", json={"sessions": sessions, "format": form, **more})


@pytest.mark.parametrize("kind", ["coco", "yolo", "voc"])
def test_a_data_set_reads_back(machine: Machine, pictures: list[str], tmp_path: Path, kind: str) -> None:
    before = machine.app.sessions._disk
    answer = ask(machine, pictures, kind, classes=["spoon", "cup"])
    assert answer.status_code == 200 and f'filename="{kind}.zip"' in answer.headers["content-disposition"]
    wait_for(lambda: machine.app.sessions._disk == before)
    wait_for(lambda: not list(machine.app.sessions.folder.glob("collection-*")))  # its folder goes with the answer
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        archive.extractall(tmp_path / "out")
    data = open_dataset(tmp_path / "out")
    assert data.classes[:2] == ("spoon", "cup") or kind == "voc"
    items = sorted(data, key=lambda item: item.name)
    assert [[found.class_name for found in item.objects] for item in items] == [
        ["cup", "spoon"],
        ["object"],
    ] or kind == "yolo"
    assert sorted(found.class_name for found in items[0].objects) == ["cup", "spoon"]
    names = {"cup": 1, "spoon": 2}
    for found in items[0].objects:
        expected = rle_to_mask(machine.masks(pictures[0])[str(names[found.class_name])])
        mask = found.masks[0].decode()
        if kind == "voc" and found.class_name == "spoon":
            expected = expected & ~rle_to_mask(machine.masks(pictures[0])["1"])  # one object a pixel
        assert (mask != expected).mean() < 0.03, "polygons of YOLO lie on whole pixels"
    assert items[0].frame(0).shape == photo().shape
    np.testing.assert_array_equal(items[0].frame(0), photo(0))


def test_masks_are_pictures_in_folders(machine: Machine, pictures: list[str]) -> None:
    with zipfile.ZipFile(io.BytesIO(ask(machine, pictures, "masks").content)) as archive:
        assert sorted(archive.namelist()) == ["one-1/001_object.png", "one/001_cup.png", "one/002_spoon.png"]
        with archive.open("one/001_cup.png") as file:
            mask = np.asarray(Image.open(file)) > 0
    np.testing.assert_array_equal(mask, rle_to_mask(machine.masks(pictures[0])["1"]))


def test_what_is_no_picture_or_is_not_there_is_refused(machine: Machine, pictures: list[str]) -> None:
    video = machine.client.post("/api/sessions", files=form(frames_of_clip(2))).json()["id"]
    assert code(ask(machine, [*pictures, video], "masks")) == (409, "bad_request")
    assert code(ask(machine, [video], "davis")) == (409, "empty")
    assert code(ask(machine, pictures, "davis")) == (409, "bad_request")
    assert code(ask(machine, [*pictures, "gone"], "coco")) == (404, "not_found")
    assert code(ask(machine, [], "coco")) == (422, "bad_request")
    assert not list(machine.app.sessions.folder.glob("collection-*"))


def test_a_picture_that_was_put_away_is_opened_for_it(model: str, tmp_path: Path) -> None:
    with running(model, tmp_path / "files", data=tmp_path / "data") as machine:
        session = machine.open(png(photo()))
        machine.prompt(session, 1, points=[(30, 40, 1)])
        machine.client.delete(f"/api/sessions/{session}")
        with zipfile.ZipFile(io.BytesIO(ask(machine, [session], "masks").content)) as archive:
            assert archive.namelist() == ["photo/001_object.png"]
        wait_for(lambda: machine.session(session)["status"] == "ready")


@pytest.mark.parametrize("kind", ["coco-video", "davis", "sav", "coco", "lvis", "label-studio", "cvat", "yolo", "voc"])
def test_a_video_as_a_data_set_reads_back(machine: Machine, tmp_path: Path, kind: str) -> None:
    """Objects 1 and 3 on frames 1 and 2; a hidden one is left out."""
    body = {"params": {"name": "a walk.mp4"}, "files": form(frames_of_clip(3))}
    video = machine.client.post("/api/sessions", **body).json()["id"]
    drawn = {}
    for obj, frame, at in ((1, 1, 4), (3, 1, 30), (1, 2, 8), (2, 2, 1)):
        mask = np.zeros(photo().shape[:2], bool)
        mask[at : at + 9, at : at + 9] = True
        machine.prompt(video, obj, frame, mask=mask_to_rle(mask))
        drawn[obj, frame] = mask
    for obj, look in ((1, {"name": "dog"}), (2, {"visible": False})):
        machine.client.put(f"/api/sessions/{video}/objects/{obj}", json=look)
    answer = ask(machine, [video], kind)
    assert answer.status_code == 200, answer.text
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        archive.extractall(tmp_path / "out")
    items = list(open_dataset(tmp_path / "out"))
    found = [mask.decode() for item in items for obj in item.objects for _, mask in sorted(obj.masks.items())]
    found = [mask for mask in found if mask.any()]  # SA-V has a picture where an object is absent, too
    wanted = [drawn[1, 1], drawn[1, 2], drawn[3, 1]]
    assert len(found) == len(wanted)
    for mask in wanted:
        assert min((mask != other).mean() for other in found) < (0.005 if kind in ("yolo", "cvat") else 1e-9)
    if kind in ("coco-video", "davis", "sav"):
        assert len(items) == 1 and items[0].is_video
    if kind not in ("davis", "sav", "voc"):
        assert {obj.class_name for item in items for obj in item.objects} == {"dog", "object"}
    machine.client.delete(f"/api/sessions/{video}")
