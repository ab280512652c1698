"""Exports with alpha: the matte of an object on a frame, and films of the objects without what is behind them."""

from __future__ import annotations

import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from ..frames.cutouts import CutoutOptions, CutoutSink
from ..frames.sequences import SEQUENCES
from ..frames.source import VideoError
from ..images.backgrounds import Backdrop, Layers, parse_background
from ..images.drawing import cutout, mask_picture
from ..images.matte import Edges, alpha, decontaminated, refined_mask
from ..masks.boxes import mask_to_bbox
from .export_asks import EdgesAsk, ExportAsk
from .job import Steps
from .snapshot import Snapshot

_WITHOUT_FLAGS = re.compile(r"--(?=[a-z])")  # in messages of the commands
ARCHIVE = (".zip", "application/zip")
FILMS = {  # by codec: the end of its name, its media type
    "prores": (".mov", "video/quicktime"),
    "hevc": (".mov", "video/quicktime"),
    "vp9": (".webm", "video/webm"),
    "ffv1": (".mkv", "video/x-matroska"),
    "h264": (".mp4", "video/mp4"),
}


def edges_of(ask: EdgesAsk) -> Edges:
    return Edges(**ask.model_dump())


def matte_of(field: np.ndarray, frame: np.ndarray, edges: Edges) -> np.ndarray:
    """A mask (H, W) bool under the settings, or where they are soft its matte, float32 in 0..1; of logits, too."""
    return alpha(field, frame, edges) if edges.is_soft else refined_mask(field, edges)


def cut_out(frame: np.ndarray, matte: np.ndarray, edges: Edges) -> np.ndarray:
    """(H, W, 4) uint8, straight: the object on a transparent ground."""
    own = decontaminated(frame, matte.astype(np.float32)) if edges.decontaminate else frame
    return cutout(own, matte)


def boxed(frame: np.ndarray, mask: np.ndarray, edges: Edges) -> np.ndarray | None:
    """The object cut to its box, (h, w, 4); None if the settings leave nothing of it."""
    matte = matte_of(mask, frame, edges)
    x, y, w, h = mask_to_bbox(mask_picture(matte) > 0)
    part = np.s_[y : y + h, x : x + w]
    return cut_out(frame, matte, edges)[part] if w and h else None


def film_writer(ask: ExportAsk, edges: Edges) -> tuple[Callable[[Snapshot, Path], Steps], str, str]:
    """What writes the frames of a film, the end of its name, and its media type."""
    codec = ask.codec or ("h264" if ask.format == "matte" else "prores")
    layers = {name: parse_background(value) for name in ("background", "foreground") if (value := getattr(ask, name))}
    kind = "matte" if ask.format == "matte" else "composite" if layers else "cutout"
    if codec == "png" and kind == "cutout" and not (ask.per_object or edges.smooth):
        return partial(_write_pngs, edges=edges), *ARCHIVE
    is_default = codec in ("prores", "vp9", "ffv1", "h264")  # of its suffix
    shared = {"edges": edges, "codec": None if is_default else codec, "alpha": ask.alpha, **layers}
    options = CutoutOptions(kind, per_object=ask.per_object, audio=ask.audio, **shared)
    if codec in FILMS and not ask.per_object:
        return partial(_write_film, options=options), *FILMS[codec]
    name = "" if codec in SEQUENCES else FILMS[codec][0]
    return partial(_write_many, options=options, suffix=name), *ARCHIVE


def _write_film(export: Snapshot, path: Path, options: CutoutOptions) -> Steps:
    """A film, or a folder of them; frames without a mask are empty."""
    source = export.source.opened
    known = {"source": source, "first": export.range.start, "objects": sorted(export.objects)}
    try:
        with CutoutSink(path, options=options, **known) as sink:
            for t in _all_frames(export):
                time, fields = export.source.time(t), export.fields(t)
                sink.write(t, export.source[t], export.seen(t), time=time, logits=fields)
                yield
    except VideoError as error:
        text = str(error).replace(str(path), f"the {path.suffix or 'pictures'} film").replace(source.name, export.stem)
        raise VideoError(_WITHOUT_FLAGS.sub("", text)) from None


def _write_many(export: Snapshot, path: Path, options: CutoutOptions, suffix: str) -> Steps:
    """Several files in an archive: they are written beside it first."""
    folder = path.with_name(f"{path.stem}-parts")
    folder.mkdir()
    yield from _write_film(export, folder / f"{export.stem}{suffix}", options)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(folder))
                file.unlink()
                yield
    shutil.rmtree(folder)


def write_composed(export: Snapshot, path: Path, ask: ExportAsk, edges: Edges) -> Steps:
    """One frame, opaque: with what stands behind the objects, or in their place."""
    [t] = export.frames
    frame = export.source[t]
    whole = np.zeros(frame.shape[:2], np.float32)
    for field in export.fields(t).values():
        whole += matte_of(field, frame, edges)
    np.minimum(whole, 1, out=whole)
    own = decontaminated(frame, whole) if edges.decontaminate else frame
    behind, instead = (Backdrop(parse_background(name)) if name else None for name in (ask.background, ask.foreground))
    picture = Layers(behind, instead).composed(frame, own, whole)
    Image.fromarray(picture).save(path, format="PNG", compress_level=3)
    yield


def _write_pngs(export: Snapshot, path: Path, edges: Edges) -> Steps:
    """A PNG for each frame, of the size of the video."""
    with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
        for t in _all_frames(export):
            frame = export.source[t]
            whole = np.zeros(frame.shape[:2], np.float32)
            for mask in export.fields(t).values():
                whole += matte_of(mask, frame, edges)
            picture = cut_out(frame, np.minimum(whole, 1), edges)
            with archive.open(zipfile.ZipInfo(f"{export.stem}/{t:05d}.png"), "w") as file:
                Image.fromarray(picture).save(file, format="PNG", compress_level=3)
            yield


def _all_frames(export: Snapshot) -> Iterator[int]:
    count = len(export.range)
    for done, t in enumerate(export.range):
        export.job.progress(done, count)
        yield t
    export.job.progress(count, count)
