"""Bodies of exports: edges, films, pictures."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, FiniteFloat, model_validator

from .schemas import FrameNumber, Wire


class EdgesAsk(Wire):
    """Edges of an export, as ``images.matte.Edges``. "soft" takes the model's logits, as far as they are known."""

    edge: Literal["hard", "soft", "guided"] = "hard"
    width: Annotated[FiniteFloat, Field(ge=0.1, le=100)] = 8.0
    radius: Annotated[int, Field(ge=1, le=200)] | None = None
    feather: Annotated[FiniteFloat, Field(ge=0, le=200)] = 0.0
    grow: Annotated[int, Field(ge=-200, le=200)] = 0
    fill_holes: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    min_area: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    decontaminate: bool = False
    smooth: Annotated[int, Field(ge=0, le=8)] = 0  # of films


Codec = Literal["prores", "hevc", "vp9", "ffv1", "h264", "png", "tiff", "exr"]
Layer = Annotated[str, Field(pattern=r"^(blur|pixelate|grey|checker|#[0-9a-f]{6})$")]
WITH_EDGES = ("masks", "cutouts", "film", "matte", "picture")
MOVING = ("film", "matte", "overlay")  # formats that may be films


class ExportAsk(Wire):
    """`film` is of the objects with alpha, `matte` of their alpha as grey; `first` to `last` of a video.

    `picture`, and a film with `background` or `foreground`, are opaque: that stands behind the objects, or in their
    place.
    """

    format: Literal["masks", "cutouts", "coco", "overlay", "project", "film", "matte", "picture"]
    frame: Annotated[int, Field(ge=0)] | None = None
    first: FrameNumber = 0  # of films, mattes and overlays of videos
    last: FrameNumber | None = None  # None: the last one
    codec: Codec | None = None  # None: of a film prores, of a matte h264
    alpha: Literal["straight", "premultiplied"] | None = None  # None: what the codec is used with
    background: Layer | None = None
    foreground: Layer | None = None
    per_object: bool = False  # a film for each object, in a ZIP archive
    audio: bool = False
    edges: EdgesAsk = EdgesAsk()

    @property
    def has_layers(self) -> bool:
        return self.background is not None or self.foreground is not None

    @model_validator(mode="after")
    def _fits(self) -> ExportAsk:
        is_film = self.format in ("film", "matte")
        if not is_film and (self.codec or self.alpha or self.per_object or self.audio):
            raise ValueError("codec, alpha, per_object and audio belong to the formats film and matte")
        if self.has_layers and self.format not in ("film", "picture"):
            raise ValueError("background and foreground belong to the formats film and picture")
        if self.alpha and (self.has_layers or self.format == "matte"):
            raise ValueError("alpha is for films with transparency")
        if self.edges != EdgesAsk() and self.format not in WITH_EDGES:
            raise ValueError(f"edges belong to the formats {', '.join(WITH_EDGES)}")
        if self.frame is not None and self.format in ("film", "matte"):
            raise ValueError("a film is of all frames: leave out frame")
        if (self.first or self.last is not None) and (self.format not in MOVING or self.frame is not None):
            raise ValueError(f"first and last belong to {', '.join(MOVING)} of a video, without frame")
        if self.last is not None and self.last < self.first:
            raise ValueError(f"the last frame, {self.last}, lies before the first, {self.first}")
        return self


class CutoutAsk(EdgesAsk):
    """Edges of one cut-out; its longer side has at most `side` pixels."""

    side: Annotated[int, Field(ge=16, le=4096)] | None = None

    @property
    def edges(self) -> EdgesAsk:
        return EdgesAsk(**self.model_dump(exclude={"side"}))
