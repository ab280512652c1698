"""Export files: masks and cut-outs as PNG, COCO JSON, the picture or video with its objects drawn in.

Each is written in steps, a frame at a time, under the name of its job in the session's folder.
"""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..frames.films import OverlaySink
from ..images.drawing import mask_picture, paint_object, without_cross
from ..images.matte import Edges
from .export_asks import ExportAsk
from .films import boxed, edges_of, film_writer, matte_of, write_composed
from .job import Job, Steps
from .projects import write_project
from .schemas import ApiError, Mask, Object
from .session import Session
from .session_store import Sessions
from .snapshot import Snapshot

HARD = "{} masks were drawn, imported or tracked in an earlier run: the model's logits are gone, their edges are hard."


def export_steps(sessions: Sessions, ask: ExportAsk, work_of: Callable[[Session], Any]) -> Any:
    """Steps that write the requested file. `work_of` is asked where edges are soft."""

    def steps(job: Job) -> Steps:
        session = job.session
        if session.source is None:
            raise ApiError(404, "not_found", "this session was closed")
        export = Snapshot(job, session.source, ask, sessions.limits)
        if not export.masks and ask.format != "project":
            is_hidden = session.masks and not session.masks.keys() & export.objects.keys()
            why = "hidden objects are not exported: show one" if is_hidden else "there is no mask to export"
            raise ApiError(409, "empty", why)
        if ask.edges.edge == "soft":
            export.work = work_of(session)
        moving = session.kind == "video" and ask.frame is None
        if moving and ask.format == "picture":
            raise ApiError(409, "bad_request", "a picture is of one frame: name it")
        alone = not moving and sum(bool(mask.area) for masks in export.masks.values() for mask in masks.values()) == 1
        write, suffix, media_type = _form(ask, moving, alone)
        done = session.folder / f"{job.id}{Path(suffix).suffix}"
        part = session.folder / f"{job.id}.part{Path(suffix).suffix}"
        yield from _counted(sessions, session, part, write(export, part))
        os.replace(part, done)
        if export.without_logits:
            job.enter("running", HARD.format(export.without_logits))
        job.file, job.path, job.media_type = f"{export.stem}{suffix}", done, media_type

    return steps


def _form(ask: ExportAsk, moving: bool, alone: bool) -> tuple[Callable[[Snapshot, Path], Steps], str, str]:
    """What writes the file, the end of its name, and its media type."""
    edges = edges_of(ask.edges)
    if ask.format in ("film", "matte"):
        writer, suffix, media_type = film_writer(ask, edges)
        return writer, f"_{'matte' if ask.format == 'matte' else 'cutout'}{suffix}", media_type
    if ask.format == "picture":
        return partial(write_composed, ask=ask, edges=edges), "_effect.png", "image/png"
    masks, cutouts = (partial(write, edges=edges) for write in (_write_masks, _write_cutouts))
    mask, only = (partial(write, edges=edges) for write in (_write_mask, _write_cutout))
    picture, archive = "image/png", "application/zip"
    return {
        "masks": (mask, "_mask.png", picture) if alone else (masks, "_masks.zip", archive),
        "cutouts": (only, "_cutout.png", picture) if alone else (cutouts, "_cutouts.zip", archive),
        "coco": (_write_coco, "_coco.json", "application/json"),
        "overlay": (_write_video, "_overlay.mp4", "video/mp4") if moving else (_write_picture, "_overlay.png", picture),
        "project": (write_project, ".sam2.zip", archive),
    }[ask.format]


def _counted(sessions: Sessions, session: Session, path: Path, steps: Steps) -> Steps:
    """The same steps; the bytes that they write, beside `path` too, are counted, and removed if they do not finish."""
    size, complete = 0, False

    def count() -> None:
        nonlocal size
        now = sum(file.stat().st_size for place in _made(path) for file in (place, *place.rglob("*")) if file.is_file())
        sessions.take_disk(now - size)
        session.disk += now - size
        size = now

    try:
        for _ in steps:
            count()
            yield
        count()
        complete = True
    finally:
        steps.close()
        if not complete:
            for place in _made(path):
                shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
            sessions.give_disk(session, size)


def _made(path: Path) -> list[Path]:
    """What an export has written beside its file, the file too."""
    return list(path.parent.glob(f"{path.stem}*"))


def _each(export: Snapshot, frames: list[int]) -> Generator[int, None, None]:
    for done, t in enumerate(frames):
        export.job.progress(done, len(frames))
        yield t
    export.job.progress(len(frames), len(frames))


# ---- pictures


def _write_png(archive: zipfile.ZipFile, name: str, picture: np.ndarray) -> None:
    with archive.open(zipfile.ZipInfo(name), "w") as file:
        Image.fromarray(picture).save(file, format="PNG", compress_level=3)


def _name(export: Snapshot, obj_id: int, t: int) -> str:
    return f"{export.label(obj_id)}.png" if export.session.kind == "image" else f"{export.label(obj_id)}/{t:05d}.png"


def _matte(export: Snapshot, t: int, field: np.ndarray, edges: Edges) -> np.ndarray:
    return field if edges.is_default else matte_of(field, export.source[t], edges)


def _write_masks(export: Snapshot, path: Path, edges: Edges) -> Steps:
    """A PNG for each object, and in videos each frame: 255 inside, 0 outside, between them where edges are soft."""
    size = (export.session.height, export.session.width)
    with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
        for t in _each(export, export.frames):
            seen = export.fields(t)
            for obj_id in sorted(export.masks[t]):
                mask = _matte(export, t, seen[obj_id], edges) if obj_id in seen else np.zeros(size, bool)
                _write_png(archive, _name(export, obj_id, t), mask_picture(mask))
            yield


def _write_cutouts(export: Snapshot, path: Path, edges: Edges) -> Steps:
    """A PNG for each object, cut to its box, on a transparent ground."""
    with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
        for t in _each(export, export.frames):
            frame = export.source[t]
            for obj_id, mask in export.fields(t).items():
                picture = boxed(frame, mask, edges)
                if picture is not None:
                    _write_png(archive, _name(export, obj_id, t), picture)
            yield


def _write_mask(export: Snapshot, path: Path, edges: Edges) -> Steps:
    """The mask of the only object, without an archive."""
    [t] = export.frames
    [mask] = export.fields(t).values()
    Image.fromarray(mask_picture(_matte(export, t, mask, edges))).save(path, format="PNG", compress_level=3)
    yield


def _write_cutout(export: Snapshot, path: Path, edges: Edges) -> Steps:
    """The only object, without an archive."""
    [t] = export.frames
    [mask] = export.fields(t).values()
    picture = boxed(export.source[t], mask, edges)
    if picture is None:
        raise ApiError(409, "empty", "these edges leave nothing of the object: shrink it less, or keep smaller parts")
    Image.fromarray(picture).save(path, format="PNG", compress_level=3)
    yield


def drawn(frame: np.ndarray, masks: dict[int, np.ndarray], objects: dict[int, Object]) -> np.ndarray:
    """(H, W, 3) uint8: the frame with the objects tinted and outlined in their own colours."""
    picture = frame.copy()
    for obj_id, mask in masks.items():
        colour = np.array([int(objects[obj_id].color[i : i + 2], 16) for i in (1, 3, 5)], np.float32)
        paint_object(picture, mask, colour, 0.45, without_cross, np.floor)
    return picture


def _write_picture(export: Snapshot, path: Path) -> Steps:
    """One frame with its objects."""
    t = export.frames[0]
    Image.fromarray(drawn(export.source[t], export.seen(t), export.objects)).save(path, format="PNG", compress_level=3)
    yield


def _write_video(export: Snapshot, path: Path) -> Steps:
    """All frames with their objects, H.264."""
    with OverlaySink(path, fps=export.session.fps, display=export.source.display) as sink:
        for t in _each(export, list(export.range)):
            picture = drawn(export.source[t], export.seen(t), export.objects)
            sink.write(t, picture, {}, time=export.source.time(t))
            yield


# ---- COCO


def _write_coco(export: Snapshot, path: Path) -> Steps:
    """Images, annotations with run-length encodings, and a category for each name among the objects."""
    session = export.session
    names = sorted({obj.name for obj in export.objects.values()})
    numbers = {name: n for n, name in enumerate(names, start=1)}
    categories = [{"id": n, "name": name, "supercategory": "object"} for name, n in numbers.items()]
    images, annotations = [], []
    with open(path, "w", encoding="ascii") as file:
        file.write(f'{{"info": {json.dumps({"description": "made with mlx_sam2"})},\n"licenses": [],\n')
        file.write(f'"categories": {json.dumps(categories)},\n"annotations": [')
        for t in _each(export, export.frames):
            name = session.name if session.kind == "image" else f"{export.stem}/{t:05d}"
            size = {"width": session.width, "height": session.height}
            images.append({"id": len(images) + 1, "file_name": name, **size, "frame": t})
            for obj_id, mask in sorted(export.masks[t].items()):
                if mask.area:
                    entry = _annotation(len(annotations) + 1, len(images), obj_id, mask)
                    entry["category_id"] = numbers[export.objects[obj_id].name]
                    file.write((",\n" if annotations else "\n") + json.dumps(entry))
                    annotations.append(entry["id"])
            yield
        file.write(f'\n],\n"images": {json.dumps(images)}}}\n')


def _annotation(number: int, image: int, obj_id: int, mask: Mask) -> dict[str, Any]:
    iou = {} if mask.predicted_iou is None else {"predicted_iou": mask.predicted_iou}
    return {
        "id": number,
        "image_id": image,
        "track_id": obj_id,
        "iscrowd": 0,
        "segmentation": mask.rle,
        "area": mask.area,
        "bbox": list(mask.bbox),
        "score": mask.score,
        **iou,
    }
