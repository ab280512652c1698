"""Models that the page offers, and what each costs."""

from __future__ import annotations

from typing import NamedTuple

from ..config.published import DEMO, published
from .schemas import ModelChoice


class Cost(NamedTuple):
    parameters: int
    encode: float | None  # modelled time of encoding a picture over that of tiny
    about: str


# Times: docs/performance.md, "Image encode over its minimum" (python -m mlx_sam2.benchmark --modelled --size SIZE).
COSTS = {
    "tiny": Cost(38_962_754, 1.0, "The fastest of SAM 2.1"),
    "small": Cost(46_060_610, 1.2, "A little slower, a little better"),
    "base_plus": Cost(80_850_434, 2.2, "The usual choice"),
    "large": Cost(224_446_898, 6.3, "The best masks, and the slowest"),
}
BYTES = 4  # of a published weight


def choices(first: str) -> list[ModelChoice]:
    """The model that the app was started with, if it is none of the others; demo; the sizes of SAM 2.1."""
    model = published(first)
    known = {first, *(() if model is None else (model.short_name,))} & {DEMO, *COSTS}
    found = [] if known else [ModelChoice(name=first, about="Given at the start", **_unknown())]
    about = "Comes with the app, for trying out"
    found.append(ModelChoice(name=DEMO, about=about, **_unknown()))
    for name, cost in COSTS.items():
        size = BYTES * cost.parameters
        found.append(ModelChoice(name=name, download_bytes=size, **cost._asdict()))
    return found


def _unknown() -> dict[str, int | None]:
    return {"parameters": None, "download_bytes": 0, "encode": None}
