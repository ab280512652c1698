"""Files that leave the app, and project files that come back, from friends and from strangers."""

from __future__ import annotations

import io
import json
import struct
import time
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="the app's extra is not installed: pip install 'mlx-sam2[app]'")


from app_machine import HEIGHT, WIDTH, Machine, clip, code, form, frames_of_clip, photo, png, running
from app_projects import edited, rebuilt, reopened, unzip
from mlx_sam2.frames.films import OverlaySink
from mlx_sam2.masks import mask_to_rle, rle_to_mask

A, B = (30.0, 40.0, 1), (60.0, 20.0, 0)


@pytest.fixture(scope="module")
def machine(model: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with running(model, tmp_path_factory.mktemp("files"), upload_bytes=4 << 20, frames=50) as machine:
        yield machine


@pytest.fixture(scope="module")
def image(machine: Machine) -> str:
    """A picture with three objects: one clicked, one drawn, one empty and hidden."""
    session = machine.open(png(photo()), "some picture.png")
    drawn = np.zeros((HEIGHT, WIDTH), bool)
    drawn[10:30, 50:90] = True
    machine.prompt(session, 1, points=[A, B])
    machine.prompt(session, 2, mask=mask_to_rle(drawn))
    machine.prompt(session, 3, mask=mask_to_rle(np.zeros((HEIGHT, WIDTH), bool)))
    for obj, look in ((1, {"name": "cup"}), (2, {"name": "cup", "color": "#00ff00"}), (3, {"name": "gone"})):
        assert machine.client.put(f"/api/sessions/{session}/objects/{obj}", json=look).status_code == 200
    return session


@pytest.fixture(scope="module")
def video(machine: Machine) -> str:
    answer = machine.client.post("/api/sessions", params={"name": "walk"}, files=form(frames_of_clip(4)))
    session = answer.json()["id"]
    machine.prompt(session, 1, 1, points=[A])
    machine.run(session, "propagate", frame=1)
    return session


def picture(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


# ---- exports


def test_masks_of_a_picture(machine: Machine, image: str) -> None:
    answer = machine.export(image, "masks")
    assert answer.headers["content-disposition"] == 'attachment; filename="some picture_masks.zip"' or (
        "some%20picture_masks.zip" in answer.headers["content-disposition"]
    )
    files, kept = unzip(answer.content), machine.masks(image)
    assert sorted(files) == ["001_cup.png", "002_cup.png", "003_gone.png"]
    for name, data in files.items():
        np.testing.assert_array_equal(picture(data), 255 * rle_to_mask(kept[str(int(name[:3]))]).astype(np.uint8))


def test_cutouts_of_a_picture(machine: Machine, image: str) -> None:
    files = unzip(machine.export(image, "cutouts").content)
    assert sorted(files) == ["001_cup.png", "002_cup.png"]  # nothing can be cut out of nothing
    cut = picture(files["002_cup.png"])
    np.testing.assert_array_equal(cut[..., :3], photo()[10:30, 50:90])
    assert (cut[..., 3] == 255).all()


def test_coco_is_what_pycocotools_reads(machine: Machine, image: str, video: str) -> None:
    mask_tools = pytest.importorskip("pycocotools.mask")
    found = json.loads(machine.export(image, "coco").content)
    assert found["images"] == [{"id": 1, "file_name": "some picture.png", "width": WIDTH, "height": HEIGHT, "frame": 0}]
    names = {entry["id"]: entry["name"] for entry in found["categories"]}
    assert [names[entry["category_id"]] for entry in found["annotations"]] == ["cup", "cup"]
    for entry in found["annotations"]:
        decoded = mask_tools.decode(entry["segmentation"])
        np.testing.assert_array_equal(decoded > 0, rle_to_mask(machine.masks(image)[str(entry["track_id"])]))
        assert decoded.sum() == entry["area"]
    of_video = json.loads(machine.export(video, "coco").content)
    assert [entry["frame"] for entry in of_video["images"]] == [1, 2, 3]


def test_the_overlay_has_the_colours_of_the_objects(machine: Machine, image: str) -> None:
    drawn = picture(machine.export(image, "overlay").content)
    mask = rle_to_mask(machine.masks(image)["2"]) & ~rle_to_mask(machine.masks(image)["1"])
    np.testing.assert_array_equal(drawn[10, 60], (0, 255, 0))  # the outline
    y, x = 20, 85
    assert mask[y, x]
    expected = (0.55 * photo()[y, x] + 0.45 * np.array([0, 255, 0])).astype(np.uint8)
    np.testing.assert_array_equal(drawn[y, x], expected)
    seen = rle_to_mask(machine.masks(image)["1"]) | rle_to_mask(machine.masks(image)["2"])
    np.testing.assert_array_equal(drawn[~seen], photo()[~seen])
    machine.client.put(f"/api/sessions/{image}/objects/2", json={"visible": False})
    hidden = picture(machine.export(image, "overlay").content)
    np.testing.assert_array_equal(hidden[mask], photo()[mask])
    machine.client.put(f"/api/sessions/{image}/objects/2", json={"visible": True})


def test_hidden_objects_are_in_no_export_but_the_project(machine: Machine) -> None:
    session = machine.open(png(photo()))
    for obj in (1, 2):
        machine.prompt(session, obj, mask=mask_to_rle(photo()[..., obj] > 127))
    machine.client.put(f"/api/sessions/{session}/objects/1", json={"visible": False})
    mask = picture(machine.export(session, "masks").content)  # one object: no archive
    np.testing.assert_array_equal(mask, 255 * (photo()[..., 2] > 127))
    cut = picture(machine.export(session, "cutouts").content)
    x, y, w, h = machine.masks(session)["2"]["bbox"]
    np.testing.assert_array_equal(cut[..., 3], mask[y : y + h, x : x + w])
    place = f"/api/sessions/{session}/objects/2/frames/0/cutout"
    np.testing.assert_array_equal(picture(machine.client.get(place).content), cut)
    coco = json.loads(machine.export(session, "coco").content)
    assert [entry["track_id"] for entry in coco["annotations"]] == [2] and len(coco["categories"]) == 1
    again = machine.session(reopened(machine, machine.export(session, "project").content))
    assert [(obj["id"], obj["visible"]) for obj in again["objects"]] == [(1, False), (2, True)]
    machine.client.put(f"/api/sessions/{session}/objects/2", json={"visible": False})
    for kind in ("masks", "cutouts", "coco", "overlay"):
        state = machine.finish(session, machine.start(session, "export", format=kind))
        assert state["status"] == "failed" and "hidden" in state["message"]


def test_the_score_of_a_region_that_is_kept_goes_into_coco(machine: Machine) -> None:
    session = machine.open(png(photo()))
    machine.prompt(session, 1, mask=mask_to_rle(photo()[..., 0] > 127), score=0.875)
    machine.prompt(session, 2, mask=mask_to_rle(photo()[..., 1] > 127))  # drawn: it has none
    coco = json.loads(machine.export(session, "coco").content)
    assert [entry["score"] for entry in coco["annotations"]] == [0.875, 1.0]
    again = reopened(machine, machine.export(session, "project").content)
    assert machine.masks(again) == machine.masks(session)


def test_files_of_a_video(machine: Machine, video: str) -> None:
    import av

    files = unzip(machine.export(video, "masks").content)
    assert sorted(files) == [f"001_Object_1/{t:05d}.png" for t in (1, 2, 3)]
    assert machine.export(video, "masks", frame=2).content == files["001_Object_1/00002.png"]
    missing = [f"objects/{obj}/frames/{t}/cutout" for obj, t in ((1, 0), (9, 1), (1, 99))]
    assert {machine.client.get(f"/api/sessions/{video}/{place}").status_code for place in missing} == {404}
    answer = machine.export(video, "overlay")
    assert answer.headers["content-type"] == "video/mp4"
    with av.open(io.BytesIO(answer.content)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 4
    assert machine.export(video, "overlay", frame=2).headers["content-type"] == "image/png"


def test_only_the_last_files_are_kept(machine: Machine) -> None:
    session = machine.open(png(photo()))
    machine.prompt(session, 1, points=[A])
    kept = machine.app.sessions.get(session)
    before = machine.app.sessions._disk
    jobs = [machine.run(session, "export", format="coco")["id"] for _ in range(8)]
    assert len([path for path in kept.folder.iterdir() if path.suffix == ".json"]) <= 5
    assert machine.client.get(f"/api/sessions/{session}/exports/{jobs[-1]}").status_code == 200
    size = sum(path.stat().st_size for path in kept.folder.iterdir())
    assert size == kept.disk and machine.app.sessions._disk - before == kept.disk - len(png(photo()))


def test_an_export_that_is_cancelled_leaves_nothing(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    write = OverlaySink.write
    monkeypatch.setattr(OverlaySink, "write", lambda *args, **given: (time.sleep(0.05), write(*args, **given)))
    answer = machine.client.post("/api/sessions", files=form([*frames_of_clip(4)] * 12))
    session = answer.json()["id"]
    machine.prompt(session, 1, 0, points=[A])
    kept = machine.app.sessions.get(session)
    before = (kept.disk, machine.app.sessions._disk)
    job = machine.start(session, "export", format="overlay")
    machine.client.delete(f"/api/sessions/{session}/jobs/{job}")
    assert machine.finish(session, job)["status"] == "cancelled"
    assert [path.name for path in kept.folder.iterdir()] == ["frames"]
    assert (kept.disk, machine.app.sessions._disk) == before
    assert code(machine.client.get(f"/api/sessions/{session}/exports/{job}")) == (404, "not_found")


# ---- projects


@pytest.mark.parametrize("kind", ["image", "video"])
def test_a_project_brings_everything_back(machine: Machine, image: str, video: str, kind: str) -> None:
    session = image if kind == "image" else video
    before = machine.session(session)
    again = reopened(machine, machine.export(session, "project").content)
    after = machine.session(again)
    same = ("kind", "name", "width", "height", "frames", "objects", "timeline")
    assert {key: after[key] for key in same} == {key: before[key] for key in same}
    for t in range(before["frames"]):
        assert machine.masks(again, t) == machine.masks(session, t)
        frame, other = (machine.client.get(f"/api/sessions/{s}/frames/{t}").content for s in (session, again))
        assert frame == other
    if kind == "image":
        refined = machine.prompt(again, 1, points=[A, B, A])["masks"]
        assert refined == machine.prompt(session, 1, points=[A, B, A])["masks"]
        machine.prompt(session, 1, points=[A, B])
    else:
        machine.run(again, "propagate", frame=1)
        assert machine.masks(again, 3) == machine.masks(session, 3)
    kept = machine.app.sessions.get(again)
    assert kept.disk >= sum(path.stat().st_size for path in kept.folder.rglob("*") if path.is_file())


def test_a_project_of_a_video_file(machine: Machine) -> None:
    session = machine.open(clip(3), "clip.mp4")
    again = reopened(machine, machine.export(session, "project").content)
    assert machine.session(again)["fps"] == 10.0 and machine.session(again)["frames"] == 3


def line(files: dict[str, bytes], **changes: Any) -> None:
    first = json.loads(files["masks.jsonl"].splitlines()[0])
    files["masks.jsonl"] = (json.dumps({**first, **changes}) + "\n").encode()


BAD: dict[str, tuple[Callable[[dict[str, bytes]], Any], int]] = {
    "no media": (lambda f: f.pop("media"), 415),
    "no json": (lambda f: f.pop("project.json"), 415),
    "a path": (lambda f: f.update({"../../evil": b"x"}), 415),
    "an absolute path": (lambda f: f.update({"/etc/evil": b"x"}), 415),
    "another file": (lambda f: f.update({"frames/00000.svg": b"x"}), 415),
    "media twice": (lambda f: f.update({"frames/00000.png": f["media"]}), 415),
    "no project": (lambda f: f.update({"project.json": b"[]"}), 415),
    "deep json": (lambda f: f.update({"project.json": b"[" * 100_000}), 415),
    "no json at all": (lambda f: f.update({"project.json": b"\xff\xfe{"}), 415),
    "a bomb": (lambda f: f.update({"masks.jsonl": bytes(40 << 20)}), 413),
    "media that is text": (lambda f: f.update({"media": b"#EXTM3U\nfile:///etc/passwd"}), 415),
    "media of another size": (lambda f: f.update({"media": png(photo()[:50])}), 415),
    "another format": (edited(lambda p: p.update(format=2)), 415),
    "a field too many": (edited(lambda p: p.update(extra=1)), 415),
    "a name too long": (edited(lambda p: p.update(name="x" * 300)), 415),
    "a colour that is none": (edited(lambda p: p["objects"][0].update(color="red;}")), 415),
    "an object twice": (edited(lambda p: p["objects"].append(p["objects"][0])), 415),
    "an object of no number": (edited(lambda p: p["objects"][0].update(id=0)), 415),
    "a frame that is not": (edited(lambda p: p["objects"][0].update(frames={"7": {}})), 404),
    "a point outside": (edited(lambda p: p["objects"][0]["frames"]["0"].update(points=[[900, 1, 1]])), 422),
    "not a number": (edited(lambda p: p["objects"][0]["frames"]["0"].update(points=[[float("nan"), 1, 1]])), 415),
    "a mask of another size": (lambda f: line(f, size=[9, 9]), 422),
    "a mask that lies": (lambda f: line(f, counts="0oooo"), 422),
    "a mask of nobody": (lambda f: line(f, object=9), 404),
    "a mask of no frame": (lambda f: line(f, frame=9), 404),
    "a line that is none": (lambda f: f.update({"masks.jsonl": b"{}\n"}), 415),
}


@pytest.mark.parametrize("what", BAD)
def test_a_project_of_a_stranger_is_refused(machine: Machine, image: str, what: str) -> None:
    change, status = BAD[what]
    data = rebuilt(machine.export(image, "project").content, change)
    sessions, disk = len(machine.app.sessions), machine.app.sessions._disk
    folders = len(list(machine.app.sessions.folder.iterdir()))
    answer = machine.client.post("/api/projects", content=data)
    assert code(answer)[0] == status, answer.text
    assert str(machine.app.sessions.folder) not in answer.text
    assert (len(machine.app.sessions), machine.app.sessions._disk) == (sessions, disk)
    assert len(list(machine.app.sessions.folder.iterdir())) == folders


def lying_end(count: int, length: int) -> bytes:
    """An archive whose end says that it lists many files."""
    return b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, count, count, length, 0, 0)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK",
        b"not a zip at all" * 100,
        bytes(1000) + lying_end(65_000, 3_000_000),
        bytes(1000) + lying_end(10, 1 << 30),
        bytes(1000) + b"PK\x06\x07" + bytes(16) + lying_end(0xFFFF, 0xFFFFFFFF),
        bytes(100) + lying_end(3, 90),
    ],
)
def test_what_is_no_archive_is_refused(machine: Machine, data: bytes) -> None:
    assert code(machine.client.post("/api/projects", content=data))[0] in (413, 415)


def test_a_long_list_of_files_is_not_even_read(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlx_sam2.app import projects

    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for i in range(60):  # 53 may be: frames, project.json, masks.jsonl
            archive.writestr(f"frames/{i:05d}.jpg", b"")
    read = []
    monkeypatch.setattr(projects.zipfile, "ZipFile", lambda *a: read.append(a))
    assert code(machine.client.post("/api/projects", content=file.getvalue())) == (413, "too_large")
    assert not read, "zipfile has read the list of files"


@pytest.mark.parametrize("pack", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_only_plain_packing_is_unpacked(machine: Machine, image: str, pack: int) -> None:
    data = rebuilt(machine.export(image, "project").content, lambda f: None, pack)
    assert code(machine.client.post("/api/projects", content=data)) == (415, "unsupported")


@pytest.mark.slow
def test_damage_anywhere_in_a_project_is_one_line(machine: Machine, image: str) -> None:
    data = machine.export(image, "project").content
    draw = np.random.default_rng(3)
    for _ in range(40):
        damaged = bytearray(data)
        for place in draw.integers(0, len(data), 3):
            damaged[place] = draw.integers(0, 256)
        answer = machine.client.post("/api/projects", content=bytes(damaged))
        if answer.status_code == 201:  # a byte that did not matter
            machine.client.delete(f"/api/sessions/{answer.json()['id']}")
        else:
            assert code(answer)[0] in (404, 413, 415, 422), answer.text
