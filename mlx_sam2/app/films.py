"""Exports with alpha: the matte of an object on a frame, and films of the objects without what is behind them."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from ..frames.cutouts import CutoutOptions, CutoutSink
from ..frames.source import VideoError
from ..images.drawing import cutout
from ..images.matte import Edges, alpha, decontaminated, refined_mask
from .job import Steps
from .schemas import EdgesAsk
from .snapshot import Snapshot

FILMS = {  # by codec: what writes it, the end of its name, its media type
    "prores": (".mov", "video/quicktime"),
    "vp9": (".webm", "video/webm"),
    "png": (".zip", "application/zip"),
    "h264": (".mp4", "video/mp4"),
}


def edges_of(ask: EdgesAsk) -> Edges:
    return Edges(**ask.model_dump())


def matte_of(mask: np.ndarray, frame: np.ndarray, edges: Edges) -> np.ndarray:
    """The mask (H, W) bool under the settings, or where they are soft its matte, float32 in 0..1."""
    return alpha(mask, frame, edges) if edges.is_soft else refined_mask(mask, edges)


def cut_out(frame: np.ndarray, matte: np.ndarray, edges: Edges) -> np.ndarray:
    """(H, W, 4) uint8, straight: the object on a transparent ground."""
    own = decontaminated(frame, matte.astype(np.float32)) if edges.decontaminate else frame
    return cutout(own, matte)


def film_writer(codec: str, kind: str, edges: Edges) -> Callable[[Snapshot, Path], Steps]:
    """What writes the frames of a film: `kind` is "cutout" (straight alpha) or "matte" (alpha as grey)."""

    def write(export: Snapshot, path: Path) -> Steps:
        """A film; frames without a mask are empty."""
        options = CutoutOptions(kind, edges=edges, alpha="straight" if kind == "cutout" else None)
        try:
            with CutoutSink(path, source=export.source, options=options, first=export.range.start) as sink:
                for t in _all_frames(export):
                    sink.write(t, export.source[t], export.seen(t), time=export.source.time(t))
                    yield
        except VideoError as error:
            raise VideoError(str(error).replace(str(path), f"the {path.suffix} film")) from None

    def write_pictures(export: Snapshot, path: Path) -> Steps:
        """A PNG for each frame, of the size of the video."""
        with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
            for t in _all_frames(export):
                frame = export.source[t]
                whole = np.zeros(frame.shape[:2], np.float32)
                for mask in export.seen(t).values():
                    whole += matte_of(mask, frame, edges)
                picture = cut_out(frame, np.minimum(whole, 1), edges)
                with archive.open(zipfile.ZipInfo(f"{export.stem}/{t:05d}.png"), "w") as file:
                    Image.fromarray(picture).save(file, format="PNG", compress_level=3)
                yield

    return write_pictures if codec == "png" else write


def _all_frames(export: Snapshot) -> Iterator[int]:
    count = len(export.range)
    for done, t in enumerate(export.range):
        export.job.progress(done, count)
        yield t
    export.job.progress(count, count)
