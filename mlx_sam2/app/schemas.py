"""Bodies, answers and errors of the app's API, checked by pydantic."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from ..text import one_line

MAX_POINTS = 100  # of one object on one frame
MAX_OBJECT = 1000  # numbers of objects go from 1 to this
MAX_LOCKS = 10_000  # frames of an object that are locked
MAX_COUNTS = 4 << 20  # characters of one encoded mask

FrameNumber = Annotated[int, Field(ge=0, le=10_000_000)]
Coordinate = Annotated[FiniteFloat, Field(ge=0, le=1e6)]
Point = tuple[Coordinate, Coordinate, Literal[0, 1]]
Box = tuple[Coordinate, Coordinate, Coordinate, Coordinate]
ObjectName = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]*$")]
Colour = Annotated[str, Field(pattern=r"^#[0-9a-f]{6}$")]


class ApiError(Exception):
    """An answer that is an error: a status, a code for programs and one line for people."""

    def __init__(self, status: int, code: str, message: str, session: SessionState | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = one_line(message)
        self.session = session  # as it is, where the client knew an older revision


class Wire(BaseModel):
    """A body or an answer. Unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")


class Problem(Wire):
    code: str
    message: str


class Rle(Wire):
    """A mask, COCO's compressed run-length encoding."""

    size: tuple[Annotated[int, Field(ge=1, le=65_535)], Annotated[int, Field(ge=1, le=65_535)]]
    counts: Annotated[str, Field(max_length=MAX_COUNTS, pattern=r"^[0-o]*$")]

    @property
    def rle(self) -> dict[str, Any]:
        """The encoding alone, as ``masks.rle`` takes it."""
        return {"size": list(self.size), "counts": self.counts}


class Mask(Rle):
    """A mask with its area, COCO's box, and its score: predicted IoU in images, presence logit in videos."""

    area: int
    bbox: tuple[int, int, int, int]
    score: FiniteFloat
    predicted_iou: FiniteFloat | None = None  # in videos, of tracked masks


class Prompt(Wire):
    """The prompt of one object on one frame."""

    points: Annotated[list[Point], Field(max_length=MAX_POINTS)] = []
    box: Box | None = None
    choice: Literal[0, 1, 2] | None = None
    refine: bool = True
    mask: Rle | None = None
    score: FiniteFloat | None = None  # of a mask that everything-mode has found

    @property
    def is_empty(self) -> bool:
        return not self.points and self.box is None and self.mask is None


class ObjectLook(Wire):
    """Name, colour and visibility of an object; a field that is left out stays as it is."""

    name: ObjectName | None = None
    color: Colour | None = None
    visible: bool | None = None


class Object(Wire):
    id: Annotated[int, Field(ge=1, le=MAX_OBJECT)]
    name: ObjectName
    color: Colour
    visible: bool = True
    frames: dict[Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,6})$")], Prompt] = {}
    locked: Annotated[list[FrameNumber], Field(max_length=MAX_LOCKS)] = []  # frames whose mask no tracking replaces


class Timeline(Wire):
    frames: int
    prompted: dict[str, list[int]]
    tracked: dict[str, list[tuple[int, int]]]
    empty: dict[str, list[tuple[int, int]]]


Status = Literal["encoding", "ready", "failed"]
Kind = Literal["image", "video"]
EditKind = Literal["object", "delete", "prompt", "lock", "restore", "propagate", "everything", "import"]
Saving = Literal["on", "failed", "off"]


class Document(Wire):
    """What is open, or was: a picture, or a video of so many frames."""

    id: str
    kind: Kind
    name: str
    width: int
    height: int
    frames: int


class Brief(Document):
    fps: float | None
    status: Status
    message: str


class JobState(Wire):
    id: str
    kind: Literal["propagate", "everything", "export"]
    status: Literal["queued", "running", "done", "cancelled", "failed"]
    message: str
    done: int
    total: int
    file: str | None
    revision: int | None  # of the edit that its masks belong to


class SessionState(Brief):
    """All of a session but its masks.

    `oldest`: the first revision that can be restored. `clients`: the number of each client's last edit.
    """

    objects: list[Object]
    timeline: Timeline
    jobs: list[JobState]
    revision: int
    oldest: int
    saving: Saving
    clients: dict[str, int]


class PlayState(Wire):
    """Frame i of the file is shown i / `fps` seconds after its first; null where a player could not tell the frames."""

    fps: float | None


class ErrorAnswer(Wire):
    error: Problem
    session: SessionState | None = None


class ModelState(Wire):
    name: str
    status: Literal["loading", "ready", "failed"]
    message: str
    image_size: int | None
    dtype: str | None
    done: int = 0  # bytes of a download under way
    total: int = 0
    refused: str = ""  # another model that could not be loaded, and why: `message`


class ModelChoice(Wire):
    """A model that can be chosen. `encode`: modelled time of encoding a picture, as a multiple of that of tiny."""

    name: str
    about: str
    parameters: int | None
    download_bytes: int
    encode: float | None


class ModelAsk(Wire):
    name: Annotated[str, Field(min_length=1, max_length=1000)]


class NameAsk(Wire):
    name: Annotated[str, Field(min_length=1, max_length=1000)]


class LimitsState(Wire):
    upload_bytes: int
    pixels: int
    sessions: int
    idle_seconds: float
    frames: int
    objects: int
    points: int


class Example(Wire):
    """A picture or a video to try."""

    name: str
    kind: Kind
    title: str


class Recent(Document):
    """A saved session. `used`: when it was last, in seconds since 1970."""

    objects: int
    used: float
    bytes: int
    open: bool


class AppState(Wire):
    version: str
    model: ModelState
    sessions: list[Brief]
    recent: list[Recent]
    open: str | None
    examples: list[Example]
    limits: LimitsState


class Answer(Wire):
    """Masks of a prompt, the number of the chosen one; object and revision as they are now; how long it took."""

    masks: list[Mask]
    chosen: int | None
    object: Object | None
    revision: int
    seconds: float


class ObjectAnswer(Wire):
    object: Object
    revision: int


class LockAsk(Wire):
    """Whether tracking keeps the masks of a frame; `objects`: whose, None for all that have one there."""

    locked: bool = True
    objects: Annotated[list[Annotated[int, Field(ge=1, le=MAX_OBJECT)]], Field(max_length=MAX_OBJECT)] | None = None


class LockAnswer(Wire):
    objects: list[Object]  # that have changed
    revision: int


class ObjectScores(Wire):
    """Of every frame with a mask, in order: presence logit, and predicted IoU where tracking gave one."""

    frames: list[int]
    score: list[float]
    predicted_iou: list[float | None]


class Scores(Wire):
    objects: dict[str, ObjectScores]


class Revision(Wire):
    revision: Annotated[int, Field(ge=0, le=2**53)]


class PreviewAsk(Wire):
    frame: Annotated[int, Field(ge=0)] = 0
    x: Coordinate
    y: Coordinate
    serial: Annotated[int, Field(ge=0, le=2**53)] = 0
    side: Annotated[int, Field(ge=16, le=4096)] | None = None  # the mask of a picture is made no larger


class PreviewAnswer(Wire):
    """Its mask has the picture's size, or one that `side` allows."""

    mask: Mask
    serial: int


class EverythingAsk(Wire):
    frame: Annotated[int, Field(ge=0)] = 0
    points_per_side: Annotated[int, Field(ge=1, le=64)] = 32
    pred_iou_thresh: Annotated[FiniteFloat, Field(ge=0, le=1)] = 0.8
    stability_score_thresh: Annotated[FiniteFloat, Field(ge=0, le=1)] = 0.95
    min_mask_region_area: Annotated[int, Field(ge=0, le=10_000)] = 0
    as_objects: bool = True


Direction = Literal["forward", "backward", "both"]


MemoryPolicy = Literal["official", "samurai", "dam4sam"]


class PropagateAsk(Wire):
    """`first` and `last`: frames that tracking does not leave. `objects`: whom to follow, None for all.

    `memory_policy`: None for the one that the session has had, or the app was started with.
    """

    frame: FrameNumber
    direction: Direction = "forward"
    first: FrameNumber = 0
    last: FrameNumber | None = None
    objects: (
        Annotated[list[Annotated[int, Field(ge=1, le=MAX_OBJECT)]], Field(min_length=1, max_length=MAX_OBJECT)] | None
    ) = None
    memory_policy: MemoryPolicy | None = None

    @model_validator(mode="after")
    def _fits(self) -> PropagateAsk:
        if not self.first <= self.frame <= (self.frame if self.last is None else self.last):
            raise ValueError(f"tracking begins on frame {self.frame}, outside of first and last")
        return self


SavedId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,40}$")]


DatasetFormat = Literal["coco", "coco-video", "lvis", "yolo", "voc", "davis", "sav", "label-studio", "cvat", "masks"]


class CollectionAsk(Wire):
    """Pictures and videos for one data set; `classes` have the first numbers, in their order."""

    sessions: Annotated[list[SavedId], Field(min_length=1, max_length=60)]
    format: DatasetFormat
    classes: Annotated[list[ObjectName], Field(max_length=100)] = []


class LiveAsk(Wire):
    """A click on a frame of a camera; without `x` and `y` there is none. `label`: 1 include, 0 exclude."""

    x: Coordinate | None = None
    y: Coordinate | None = None
    label: Annotated[int, Field(ge=0, le=1)] = 1
    object: Annotated[int, Field(ge=1, le=MAX_OBJECT)] = 1

    def click(self, width: int, height: int) -> Point | None:
        """The click, inside a frame of a size; None where there is none."""
        if self.x is None and self.y is None:
            return None
        if self.x is None or self.y is None or self.x > width or self.y > height:
            raise ApiError(422, "bad_request", f"a click needs x and y inside {width} x {height} pixels")
        return self.x, self.y, 1 if self.label else 0


class LiveState(Wire):
    id: str


class LiveFrame(Wire):
    """The number of a frame, its masks by object, and how many frames are kept."""

    frame: int
    recorded: int
    masks: dict[str, Mask]


class Login(Wire):
    token: Annotated[str, Field(max_length=200)]


class Masks(Wire):
    masks: dict[str, Mask]
