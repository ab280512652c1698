"""Objects cut out of a film: mattes with soft edges, steady over time, written as films or pictures with alpha.

Each frame goes through the same steps: mattes from the model's logits (``images.matte``), averages over time
(``smoothing``), the object's own colours, and what stands behind them; then ``AlphaFilm`` or ``PictureSequence``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ..images.backgrounds import Backdrop, Background, composed, covering
from ..images.matte import Edges, alpha, decontaminated
from .alpha_films import FILM_SUFFIXES, AlphaFilm, codec_for
from .cut import Cut, FilmTags, blank
from .file import VideoFileSource
from .sequences import SEQUENCES, PictureSequence
from .sinks import FrameSink, Masks, Scores, is_filled
from .smoothing import MatteFrame, Patch, Smoother, patch_of
from .source import FrameSource, VideoError
from .timecode import later

Layer = Callable[[MatteFrame], np.ndarray]  # (H, W, 3) uint8


@dataclass(frozen=True)
class CutoutOptions:
    """What a cut-out is to be."""

    kind: str = "cutout"  # colours with alpha; "matte": alpha as grey; "composite": opaque, with a background
    edges: Edges = field(default_factory=Edges)
    codec: str | None = None  # a name of CODECS or SEQUENCES; None: by the suffix, PNG for a folder
    alpha: str | None = None  # "straight" or "premultiplied"; None: straight, of OpenEXR and HEVC premultiplied
    per_object: bool = False  # an output for each object, with its number in the name
    background: Background | None = None  # of a composite
    foreground: Background | None = None  # of a composite: what stands in place of the objects
    audio: bool = False  # copy the sound of the source

    def premultiplied(self, form: str) -> bool:
        return self.alpha == "premultiplied" or (self.alpha is None and form in ("exr", "hevc"))


class CutoutSink(FrameSink):
    """Writes the objects of a film without what is behind them, or what is asked for instead.

    A name with a suffix is a film (.mov ProRes 4444, or HEVC; .webm VP9; .mkv FFV1; of opaque pictures .mp4 H.264),
    one without is a folder of PNG, TIFF or OpenEXR. With `per_object` ``cut.mov`` becomes ``cut_001.mov``, ... and a
    folder holds folders ``001``, ...: an object that comes late is absent from the frames before.

    Args:
        path: the output's place; its folder must exist.
        source: the film the frames are of: its rate, timecode, colours and sound are handed on.
        options: what to write.
        first: the index of the first frame that will be written; the timecode begins there. None: it has none.
        objects: numbers of objects that are known beforehand: OpenEXR has their layers on every frame.

    Raises:
        VideoError: the output exists, cannot be there, or cannot hold what is asked for. One line.
    """

    refines = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        overwrite: bool = False,
        *,
        source: FrameSource,
        options: CutoutOptions | None = None,
        first: int | None = 0,
        objects: Iterable[Any] = (),
    ) -> None:
        self._options = options = options or CutoutOptions()
        self._suffix = Path(path).suffix.lower()
        super().__init__(path, overwrite)
        self._source = source
        self._smoother = Smoother(options.edges.smooth)
        self._frames: list[tuple[int, float | None]] = []  # for objects that come late
        self._size = (source.height, source.width)
        self._known: dict[Any, None] = dict.fromkeys(objects)
        self._films: list[VideoFileSource] = []
        rate = source.rate or Fraction(source.fps or 30).limit_denominator(1001)
        timecode = later(source.timecode, first, rate) if source.timecode and first is not None else None
        self._tags = FilmTags(rate, source.display, timecode, Path(source.name) if options.audio else None)
        self._check_options()
        self._writers: dict[Any, AlphaFilm | PictureSequence] = {}
        if not options.per_object:
            self._writers[None] = self._writer(self.path)
        else:
            self._writer(self.path)  # what cannot be is said now
        self._behind, self._instead = self._layer(options.background), self._layer(options.foreground)

    @property
    def _is_folder(self) -> bool:
        return self._suffix == "" or self._suffix not in FILM_SUFFIXES

    def _taken(self) -> bool:
        if self._suffix in FILM_SUFFIXES:
            name = f"{self.path.stem}_*{self.path.suffix}"
            taken = self.path.parent.glob(name) if self._options.per_object and self.path.parent.is_dir() else ()
            return os.path.lexists(self.path) or any(p.stem.rpartition("_")[2].isdecimal() for p in taken)
        return is_filled(self.path)

    # ---- before

    def _check_options(self) -> None:
        options, path = self._options, self.path
        if self._suffix and self._suffix not in FILM_SUFFIXES and not path.is_dir():
            forms = ", ".join(FILM_SUFFIXES)
            raise VideoError(f"{path}: films end in {forms}; a folder of pictures has no suffix")
        if self._is_folder and (options.codec or "png") not in SEQUENCES:
            raise VideoError(f"{path} is a folder of pictures: --codec {', '.join(SEQUENCES)}; films end in a suffix")
        if self._is_folder and path.exists() and not path.is_dir():
            raise VideoError(f"{path} is a file: pictures need a folder")
        if options.audio and self._is_folder:
            raise VideoError(f"{path} is a folder of pictures, which hold no sound: leave out --audio")
        if options.audio and not isinstance(self._source, VideoFileSource):
            raise VideoError(f"{self._source.name} has no sound to copy: leave out --audio")
        if options.per_object and options.kind == "composite":
            option = "--background" if options.background else "--foreground"
            raise VideoError(f"{path}: one film for each object shows nothing else: leave out {option}")
        if options.alpha and options.kind != "cutout":
            raise VideoError(f"--alpha {options.alpha} is for cut-outs, and {path} has no transparency")

    def _writer(self, path: Path) -> AlphaFilm | PictureSequence:
        options, tags = self._options, self._tags
        if self._is_folder:
            form = options.codec or "png"
            multiplied = options.premultiplied(form)
            name = self._source.frame_name
            return PictureSequence(path, form, options.kind, tags, premultiply=multiplied, frame_name=name)
        codec = codec_for(path, options.codec, options.kind)
        multiplied = options.premultiplied(options.codec or "film")
        if options.codec == "hevc" and not multiplied:
            raise VideoError(f"{path}: HEVC holds premultiplied alpha alone: leave out --alpha, or use ProRes")
        return AlphaFilm(path, codec, options.kind, tags, premultiply=multiplied, overwrite=self._overwrite)

    def _layer(self, asked: Background | None) -> Layer:
        """What gives the pixels of a background, or of what stands in place of the objects, for each frame."""
        if asked is None:
            return lambda frame: frame.pixels
        if asked.kind != "video":
            backdrop = Backdrop(asked)
            return lambda frame: backdrop.behind(frame.pixels)
        film = VideoFileSource(asked.path)
        self._films.append(film)
        return lambda frame: self._film_at(film, frame)

    # ---- frames

    def write(
        self,
        frame_idx: int,
        frame: np.ndarray,
        masks: Masks,
        *,
        scores: Scores | None = None,
        time: float | None = None,
        filled: bool = False,
        logits: Masks | None = None,
    ) -> None:
        self._check(frame_idx, frame, masks)
        edges, logits = self._options.edges, logits or {}
        soft = {obj: logits[obj] if edges.is_soft and obj in logits else mask for obj, mask in masks.items()}
        mattes = {obj: patch_of(alpha(field, frame, edges)) for obj, field in soft.items()}
        for ready in self._smoother.push(MatteFrame(frame_idx, time, frame, mattes)):
            self._put(ready)

    def close(self) -> None:
        """Write the frames that wait, and finish the outputs. If one fails, the others are finished all the same."""
        errors: list[Exception] = []

        def attempt(step: Callable[[], None]) -> None:
            try:
                step()
            except (VideoError, OSError) as error:
                errors.append(error)

        attempt(self._flush)
        while self._writers:
            attempt(self._writers.popitem()[1].close)
        for film in self._films:
            film.close()
        if errors:
            raise errors[0]

    def _flush(self) -> None:
        for ready in self._smoother.flush():
            self._put(ready)

    def _put(self, frame: MatteFrame) -> None:
        self._known |= dict.fromkeys(frame.mattes)
        if not self._options.per_object:
            writer = self._writers[None]
            writer.write(self._cut(frame, frame.mattes, getattr(writer, "wants_layers", False)))
        else:
            for obj in frame.mattes:
                if obj not in self._writers:
                    self._begin(obj)
            for obj, writer in self._writers.items():
                mattes = {obj: frame.mattes[obj]} if obj in frame.mattes else {}
                writer.write(self._cut(frame, mattes, False))
        self._frames.append((frame.index, frame.time))

    def _begin(self, obj: Any) -> None:
        """Open the output of an object, and write the frames before it came."""
        number = f"{obj:03d}" if isinstance(obj, (int, np.integer)) else str(obj)
        if self._is_folder:
            self.path.mkdir(exist_ok=True)
            writer = self._writer(self.path / number)
        else:
            writer = self._writer(self.path.with_name(f"{self.path.stem}_{number}{self.path.suffix}"))
        for index, time in self._frames:
            writer.write(blank(index, time, self._size))
        self._writers[obj] = writer

    def _cut(self, frame: MatteFrame, mattes: Mapping[Any, Patch], layered: bool) -> Cut:
        size = frame.pixels.shape[:2]
        full = {obj: matte.full(size) for obj, matte in mattes.items()} if layered else {}
        whole = np.zeros(size, np.float32)
        for matte in mattes.values():
            whole[matte.part] += matte.cut(matte.part)
        np.minimum(whole, 1, out=whole)
        own = frame.pixels
        if self._options.kind != "matte" and self._options.edges.decontaminate:
            own = decontaminated(own, whole)
        if self._options.kind == "composite":
            own = own if self._options.foreground is None else self._instead(frame)
            own = composed(own, whole, self._behind(frame))
        if layered:
            absent = np.zeros(size, np.float32)
            full = {obj: full.get(obj, absent) for obj in self._known}
        return Cut(frame.index, frame.time, own, whole, full)

    def _film_at(self, film: VideoFileSource, frame: MatteFrame) -> np.ndarray:
        """The frame of another film that is shown at the time of this one; it begins again at its end."""
        seconds = frame.time if frame.time is not None else len(self._frames) / float(self._tags.rate)
        seconds -= (self._frames[0][1] or 0.0) if self._frames else (frame.time or 0.0)
        i = round(abs(seconds) * (film.fps or 30)) % len(film)
        return covering(film[i], *frame.pixels.shape[:2])
