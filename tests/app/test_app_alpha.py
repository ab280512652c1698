"""Edges and films with alpha that leave the app, read back with PIL and PyAV."""

from __future__ import annotations

import io
from collections.abc import Iterator
from threading import Event
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="the app's extra is not installed: pip install 'mlx-sam2[app]'")

from app_machine import HEIGHT, WIDTH, Machine, form, frames_of_clip, photo, png, running
from app_projects import unzip
from mlx_sam2.frames.cutouts import CutoutSink
from mlx_sam2.images.backgrounds import desaturated
from mlx_sam2.images.drawing import mask_picture
from mlx_sam2.images.matte import Edges, alpha
from mlx_sam2.masks import mask_to_rle

FRAMES = 4


@pytest.fixture(scope="module")
def machine(model: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with running(model, tmp_path_factory.mktemp("alpha")) as machine:
        yield machine


@pytest.fixture(scope="module")
def drawn() -> np.ndarray:
    """A box with a hole of 4 pixels, and a speck of 4 pixels."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[10:30, 50:90] = True
    mask[20:22, 60:62] = False
    mask[40:42, 10:12] = True
    return mask


@pytest.fixture(scope="module")
def image(machine: Machine, drawn: np.ndarray) -> str:
    session = machine.open(png(photo()), "some picture.png")
    machine.prompt(session, 1, mask=mask_to_rle(drawn))
    return session


@pytest.fixture(scope="module")
def video(machine: Machine, drawn: np.ndarray) -> str:
    """A clip whose frames 1 and 2 have a mask."""
    answer = machine.client.post("/api/sessions", params={"name": "walk"}, files=form(frames_of_clip(FRAMES)))
    session = answer.json()["id"]
    for frame in (1, 2):
        machine.prompt(session, 1, frame, mask=mask_to_rle(drawn))
    return session


def exported(machine: Machine, session: str, **ask: Any) -> Any:
    job = machine.run(session, "export", **ask)
    return machine.client.get(f"/api/sessions/{session}/exports/{job['id']}")


def decoded(data: bytes) -> list[np.ndarray]:
    import av

    with av.open(io.BytesIO(data)) as container:
        return [frame.to_ndarray(format="rgba") for frame in container.decode(video=0)]


def picture(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def test_masks_have_the_edges_that_were_asked_for(machine: Machine, image: str, drawn: np.ndarray) -> None:
    asked = {"fill_holes": 4, "min_area": 4, "grow": 2}
    found = picture(exported(machine, image, format="masks", edges=asked).content)
    wanted = np.zeros_like(drawn)
    wanted[10:30, 50:90] = True
    assert set(np.unique(found)) == {0, 255} and (found > 0)[wanted].all() and not found[40:42, 10:12].any()
    assert found[19, 48] and not found[19, 47]
    for asked in ({"feather": 2.5}, {"edge": "guided", "radius": 4}):
        found = picture(exported(machine, image, format="masks", edges=asked).content)
        np.testing.assert_array_equal(found, mask_picture(alpha(drawn, photo(), Edges(**asked))))
        assert len(np.unique(found)) > 3


def test_cutouts_have_soft_alpha_and_their_own_colours(machine: Machine, image: str) -> None:
    hard = picture(exported(machine, image, format="cutouts").content)
    soft = picture(exported(machine, image, format="cutouts", edges={"feather": 2}).content)
    clean = picture(exported(machine, image, format="cutouts", edges={"feather": 2, "decontaminate": True}).content)
    assert set(np.unique(hard[..., 3])) == {0, 255} and soft.shape[0] > hard.shape[0]
    np.testing.assert_array_equal(clean[..., 3], soft[..., 3])
    assert (clean[..., :3] != soft[..., :3]).any()
    state = machine.finish(image, machine.start(image, "export", format="cutouts", edges={"grow": -100}))
    assert state["status"] == "failed" and "leave nothing" in state["message"]


@pytest.mark.parametrize(
    "ask",
    [
        {"format": "masks", "edges": {"edge": "fuzzy"}},
        {"format": "masks", "audio": True},
        {"format": "film", "background": "/etc/passwd"},
        {"format": "film", "background": "blur", "alpha": "straight"},
        {"format": "coco", "foreground": "blur"},
        {"format": "masks", "edges": {"feather": 201}},
        {"format": "masks", "edges": {"grow": -201}},
        {"format": "masks", "edges": {"radius": 0}},
        {"format": "masks", "edges": {"min_area": -1}},
        {"format": "masks", "edges": {"halo": 1}},
        {"format": "coco", "edges": {"grow": 1}},
        {"format": "masks", "codec": "vp9"},
        {"format": "film", "codec": "gif"},
        {"format": "film", "frame": 1},
    ],
)
def test_bad_settings_are_refused(machine: Machine, video: str, ask: dict[str, Any]) -> None:
    answer = machine.client.post(f"/api/sessions/{video}/export", json=ask)
    assert answer.status_code == 422 and answer.json()["error"]["code"] == "bad_request"


def test_a_picture_is_no_film(machine: Machine, image: str) -> None:
    assert machine.client.post(f"/api/sessions/{image}/export", json={"format": "film"}).status_code == 409


@pytest.mark.parametrize(("codec", "suffix", "most"), [("prores", "mov", 0), ("vp9", "webm", 20)])  # VP9: 6 measured
def test_a_film_with_alpha(machine: Machine, video: str, drawn: np.ndarray, codec: str, suffix: str, most: int) -> None:
    import av

    answer = exported(machine, video, format="film", codec=codec)
    assert f"walk_cutout.{suffix}" in answer.headers["content-disposition"]
    with av.open(io.BytesIO(answer.content)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == codec
        if codec == "vp9":  # FFmpeg's own decoder leaves alpha out
            decoder = av.CodecContext.create("libvpx-vp9", "r")
            decoded = [frame for packet in container.demux(stream) if packet.size for frame in decoder.decode(packet)]
        else:
            decoded = list(container.decode(stream))
    assert len(decoded) == FRAMES
    for t, frame in enumerate(decoded):
        found = frame.to_ndarray(format="rgba")[..., 3]
        wanted = mask_picture(drawn) if t in (1, 2) else np.zeros((HEIGHT, WIDTH), np.uint8)
        assert found.shape == wanted.shape
        assert np.abs(found.astype(int) - wanted).max() <= most
    kept = machine.app.sessions.get(video)
    assert not [path for path in kept.folder.iterdir() if ".part" in path.name]


def test_a_film_that_is_cancelled_leaves_nothing(machine: Machine, video: str, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, cancelled, write = Event(), Event(), CutoutSink.write

    def waiting(*args: Any, **given: Any) -> None:
        write(*args, **given)
        begun.set()
        assert cancelled.wait(60)

    monkeypatch.setattr(CutoutSink, "write", waiting)
    kept = machine.app.sessions.get(video)
    before = (sorted(kept.folder.iterdir()), kept.disk, machine.app.sessions._disk)
    job = machine.start(video, "export", format="film")
    assert begun.wait(60)
    machine.client.delete(f"/api/sessions/{video}/jobs/{job}")
    cancelled.set()
    assert machine.finish(video, job)["status"] == "cancelled"
    assert (sorted(kept.folder.iterdir()), kept.disk, machine.app.sessions._disk) == before


def test_a_film_as_pictures_and_as_a_grey_matte(machine: Machine, video: str, drawn: np.ndarray) -> None:
    import av

    files = unzip(exported(machine, video, format="film", codec="png").content)
    assert sorted(files) == [f"walk/{t:05d}.png" for t in range(FRAMES)]
    np.testing.assert_array_equal(picture(files["walk/00001.png"])[..., 3], mask_picture(drawn))
    np.testing.assert_array_equal(picture(files["walk/00001.png"])[drawn][:, :3], frames_of_clip(FRAMES)[1][drawn])
    assert not picture(files["walk/00003.png"]).any()
    answer = exported(machine, video, format="matte", edges={"feather": 1})
    assert "walk_matte.mp4" in answer.headers["content-disposition"]
    with av.open(io.BytesIO(answer.content)) as container:
        grey = [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]
    assert len(grey) == FRAMES and grey[1][15, 80] > 200 and grey[1][0, 0] < 40 and grey[3].max() < 40


def test_films_are_of_the_frames_between_first_and_last(machine: Machine, video: str) -> None:
    names = unzip(exported(machine, video, format="film", codec="png", first=1, last=2).content)
    assert sorted(name[-9:] for name in names) == ["00001.png", "00002.png"]
    for asked in ({"first": 0, "last": 1}, {"first": 2, "last": 100}, {"first": 1}):
        frames = decoded(exported(machine, video, format="overlay", **asked).content)
        assert len(frames) == min(asked.get("last", 100), FRAMES - 1) - asked["first"] + 1
    assert len(decoded(exported(machine, video, format="film", first=1, last=1).content)) == 1
    for status, asked in (
        (404, {"first": FRAMES}),
        (422, {"first": 2, "last": 1}),
        (422, {"format": "coco", "last": 1}),
    ):
        answer = machine.client.post(f"/api/sessions/{video}/export", json={"format": "matte", **asked})
        assert answer.status_code == status, answer.text
    state = machine.finish(video, machine.start(video, "export", format="matte", first=3))
    assert state["status"] == "failed" and "no mask" in state["message"]


# ---- soft edges


@pytest.fixture(scope="module")
def clicked(machine: Machine) -> str:
    """A picture with a click and a drawn mask."""
    session = machine.open(png(photo()), "clicked.png")
    machine.prompt(session, 1, points=[(40, 30, 1), (60, 40, 1)])
    return session


def test_soft_edges_are_of_the_models_logits(machine: Machine, clicked: str) -> None:
    work = machine.app.sessions.get(clicked).work
    (step,) = [found for key, found in work._steps.items() if len(key[3]) == 2]
    settings = {"edge": "soft", "width": 3.0}
    wanted = mask_picture(alpha(step.low_res[0], photo(), Edges(**settings)))
    assert len(np.unique(wanted)) > 10
    found = picture(exported(machine, clicked, format="masks", edges=settings).content)
    np.testing.assert_array_equal(found, wanted)
    work._steps.clear()  # what is not remembered is decoded again
    found = picture(exported(machine, clicked, format="masks", edges=settings).content)
    np.testing.assert_array_equal(found, wanted)
    place = f"/api/sessions/{clicked}/objects/1/frames/0/cutout"
    soft = picture(machine.client.get(place, params=settings).content)
    assert len(np.unique(soft[..., 3])) > 10 and soft[..., 3].max() == wanted.max()
    small = picture(machine.client.get(place, params={**settings, "side": 16}).content)
    assert max(small.shape[:2]) == 16
    assert set(np.unique(picture(machine.client.get(place).content)[..., 3])) <= {0, 255}
    assert machine.client.get(place, params={"feather": 900}).status_code == 422


def test_drawn_masks_have_no_logits_and_the_job_says_so(machine: Machine, image: str, drawn: np.ndarray) -> None:
    job = machine.finish(image, machine.start(image, "export", format="masks", edges={"edge": "soft"}))
    assert job["status"] == "done"
    found = picture(machine.client.get(f"/api/sessions/{image}/exports/{job['id']}").content)
    np.testing.assert_array_equal(found, mask_picture(drawn))


def test_tracked_frames_have_soft_edges_too(machine: Machine) -> None:
    answer = machine.client.post("/api/sessions", params={"name": "soft"}, files=form(frames_of_clip(FRAMES)))
    session = answer.json()["id"]
    machine.prompt(session, 1, 0, points=[(40, 30, 1)])
    machine.run(session, "propagate", frame=0, direction="forward")
    work = machine.app.sessions.get(session).work
    settings = {"edge": "soft", "width": 3.0}
    files = unzip(exported(machine, session, format="film", codec="png", edges=settings).content)
    low_res = work.state.tracks[1].latest(2).low_res_mask
    wanted = mask_picture(alpha(low_res, frames_of_clip(FRAMES)[2], Edges(**settings)))
    np.testing.assert_array_equal(picture(files["soft/00002.png"])[..., 3], wanted)


# ---- what films and pictures can be


def test_what_stands_behind_and_in_place(machine: Machine, image: str, drawn: np.ndarray) -> None:
    asked = {"format": "picture", "background": "grey", "foreground": "#ff0000"}
    found = picture(exported(machine, image, **asked).content)
    wanted = np.where(drawn[..., None], np.uint8([255, 0, 0]), desaturated(photo()))
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    ("ask", "suffix", "names"),
    [
        ({"codec": "ffv1", "alpha": "premultiplied"}, ".mkv", None),
        ({"codec": "h264", "background": "blur"}, ".mp4", None),
        ({"codec": "prores", "foreground": "pixelate"}, ".mov", None),
        ({"codec": "tiff"}, ".zip", [f"walk/{t:05d}.tif" for t in range(FRAMES)]),
        ({"codec": "exr"}, ".zip", [f"walk/{t:05d}.exr" for t in range(FRAMES)]),
        ({"codec": "prores", "per_object": True}, ".zip", ["walk_001.mov"]),
        ({"codec": "png", "per_object": True}, ".zip", [f"walk/001/{t:05d}.png" for t in range(FRAMES)]),
    ],
)
def test_films_of_every_kind(machine: Machine, video: str, ask: Any, suffix: str, names: Any) -> None:
    import av

    kept = machine.app.sessions.get(video)
    answer = exported(machine, video, format="film", **ask)
    assert f'walk_cutout{suffix}"' in answer.headers["content-disposition"]
    assert not [path for path in kept.folder.iterdir() if ".part" in path.name]
    if names is not None:
        assert sorted(unzip(answer.content)) == names
        return
    with av.open(io.BytesIO(answer.content)) as container:
        assert len(list(container.decode(video=0))) == FRAMES


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        ({"codec": "hevc"}, "HEVC with alpha needs a Mac"),
        ({"codec": "h264"}, "H.264 holds no transparency"),
        ({"codec": "prores", "audio": True}, "walk has no sound to copy"),
    ],
)
def test_films_that_cannot_be_are_refused_in_one_line(
    machine: Machine, video: str, ask: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import av

    monkeypatch.setattr(av, "codecs_available", av.codecs_available - {"hevc_videotoolbox"})
    kept = machine.app.sessions.get(video)
    before = set(kept.folder.iterdir())
    job = machine.finish(video, machine.start(video, "export", format="film", **ask))
    assert job["status"] == "failed" and message in job["message"]
    assert "--" not in job["message"] and str(kept.folder) not in job["message"]
    assert set(kept.folder.iterdir()) <= before, "older exports go, and nothing is left of this one"
