"""Prompts of the track command: read from flags and JSON files, checked against the video, given to a predictor.

``options.py`` reads the flags; ``read_prompts_file`` documents the JSON form. All prompts for one object on one frame
become one ``ObjectPrompt``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..cli import UsageError, check_box, check_point
from ..datasets.pictures import read_indexed, split_objects
from ..text import brief
from .options import MAX_OBJECT, Item

MAX_BYTES = 64 << 20  # of a file of prompts
MAX_NUMBER = 1e9  # pixels; also keeps whole numbers out that no float holds


@dataclass
class ObjectPrompt:
    """All prompts for one object on one frame. A mask comes first, and points and box correct it."""

    object: int
    frame: int
    points: list[tuple[float, float]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    box: tuple[float, ...] | None = None
    mask: np.ndarray | None = None  # (H, W) bool
    mask_file: Path | None = None

    def give(self, add_mask: Callable[..., Any], add_points_or_box: Callable[..., Any]) -> Any:
        """Call ``add_new_mask(obj_id, ...)`` and ``add_new_points_or_box(obj_id, ...)``; returns the last answer."""
        answer = None
        if self.mask is not None:
            answer = add_mask(self.object, self.mask)
        if self.points or self.box is not None:
            points, labels = (self.points, self.labels) if self.points else (None, None)
            answer = add_points_or_box(self.object, points=points, labels=labels, box=self.box)
        return answer

    def as_flags(self) -> list[str]:
        """The flags that give this prompt again, without relying on defaults."""
        values = [("--mask", str(self.mask_file))] if self.mask_file else []
        values += [("--box", _join(self.box))] if self.box else []
        for point, label in zip(self.points, self.labels, strict=True):
            values.append(("--point" if label else "--negative", _join(point)))
        return [word for flag, value in values for word in (flag, f"{self.object}:{value}@{self.frame}")]


def _join(numbers: Iterable[float]) -> str:
    return ",".join(f"{number:.12g}" for number in numbers)


# ---- JSON


def read_prompts_file(path: Path) -> list[Item]:
    """Read a JSON file: a list of prompts, each for one object on one frame.

        [{"object": 1, "frame": 0, "points": [[210, 350], [250, 220]], "labels": [1, 0]},
         {"object": 2, "frame": 0, "box": [300, 0, 500, 400]},
         {"object": 3, "frame": 7, "mask": "third.png"}]

    ``object`` is 1 and ``frame`` the first tracked frame unless given; ``labels`` are 1 (on the object) unless given,
    0 is off it; ``mask`` is relative to the JSON file. Points, box and mask may be combined.

    Raises:
        UsageError: the file cannot be read or holds something else.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"--prompts {path} cannot be read: {error.strerror}") from None
    if len(data) > MAX_BYTES:
        raise UsageError(f"--prompts {path} is no list of prompts: it has more than {MAX_BYTES:,} bytes")
    try:
        entries = json.loads(data)  # of bytes it finds out whether they are UTF-8 or UTF-16, with a mark or without
    except RecursionError:
        raise UsageError(f"--prompts {path} is not JSON that can be read: its brackets are nested too deeply") from None
    except ValueError as error:
        raise UsageError(f"--prompts {path} is not JSON: {error}") from None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UsageError(f'--prompts {path}: a list of prompts is needed: [{{"object": 1, "points": [[x, y]]}}, ...]')
    return [item for i, entry in enumerate(entries) for item in _entry_items(entry, f"{path}, prompt {i + 1}", path)]


def _entry_items(entry: dict[str, Any], where: str, path: Path) -> list[Item]:
    unknown = sorted(entry.keys() - {"object", "frame", "points", "labels", "box", "mask"})
    if unknown:
        raise UsageError(f"{where}: {brief(unknown[0])} is not known; use object, frame, points, labels, box, mask")
    obj, frame = entry.get("object"), entry.get("frame")
    if obj is not None and (type(obj) is not int or not 1 <= obj <= MAX_OBJECT):
        raise UsageError(f"{where}: object {brief(obj)}: objects are numbered from 1 to {MAX_OBJECT}")
    if frame is not None and (type(frame) is not int or frame < 0):
        raise UsageError(f"{where}: frame {brief(frame)}: frames are numbered from 0")
    points, labels = entry.get("points", []), entry.get("labels")
    if not isinstance(points, list) or not all(_is_numbers(point, 2) for point in points):
        raise UsageError(f"{where}: points must be [[x, y], ...], with numbers in pixels")
    labels = [1] * len(points) if labels is None else labels
    if not isinstance(labels, list) or len(labels) != len(points) or any(label not in (0, 1) for label in labels):
        raise UsageError(f"{where}: labels must be one 1 (on the object) or 0 (off it) for each point")
    items = [
        Item("point" if label else "negative", tuple(point), obj, frame, f"{where}, point {_join(point)}")
        for point, label in zip(points, labels, strict=True)
    ]
    if "box" in entry:
        if not _is_numbers(entry["box"], 4):
            raise UsageError(f"{where}: box must be [x0, y0, x1, y1], with numbers in pixels")
        items.append(Item("box", tuple(entry["box"]), obj, frame, f"{where}, box {_join(entry['box'])}"))
    if "mask" in entry:
        if not isinstance(entry["mask"], str) or not entry["mask"]:
            raise UsageError(f"{where}: mask must be the name of a file")
        items.append(Item("mask", path.parent / entry["mask"], obj, frame, f"{where}, mask {entry['mask']}"))
    if not items:
        raise UsageError(f"{where} prompts nothing: give points, box or mask")
    return items


def _is_numbers(value: Any, count: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) == count
        and all(type(number) in (int, float) and abs(number) < MAX_NUMBER for number in value)
    )


# ---- against the video


def gather(
    items: Iterable[Item], default_frame: int, num_frames: int | None, size: tuple[int, int]
) -> list[ObjectPrompt]:
    """Merge prompts by object and frame, in the order of frames and then objects.

    Args:
        default_frame: of prompts that name none.
        num_frames: None where it is not known.
        size: height and width of the frames.

    Raises:
        UsageError: a prompt does not fit the video, or contradicts another one.
    """
    prompts: dict[tuple[int, int], ObjectPrompt] = {}
    for item in items:
        frame = default_frame if item.frame is None else item.frame
        if num_frames is not None and frame >= num_frames:
            raise UsageError(f"{item.text}: frame {frame} does not exist; the video has frames 0 to {num_frames - 1}")
        if item.kind == "mask":
            for obj, mask in _read_masks(item, size).items():
                prompt = prompts.setdefault((frame, obj), ObjectPrompt(obj, frame))
                if prompt.mask is not None:
                    raise UsageError(
                        f"{item.text}: object {obj} has another mask on frame {frame}; give one of the two"
                    )
                prompt.mask, prompt.mask_file = mask, item.value
            continue
        check = check_box if item.kind == "box" else check_point
        check(item.text, item.value, size, "the frame")
        obj = item.object or 1
        prompt = prompts.setdefault((frame, obj), ObjectPrompt(obj, frame))
        if item.kind != "box":
            prompt.points.append(item.value)
            prompt.labels.append(int(item.kind == "point"))
        elif prompt.box is not None:
            raise UsageError(f"{item.text}: object {obj} has another box on frame {frame}; give one of the two")
        else:
            prompt.box = item.value
    for prompt in prompts.values():
        if prompt.mask is None and prompt.box is None and 1 not in prompt.labels:
            raise UsageError(
                f"object {prompt.object} has only negative points on frame {prompt.frame}: "
                "say where it is, with a point, a box or a mask on that frame"
            )
    return [prompts[key] for key in sorted(prompts)]


def _read_masks(item: Item, size: tuple[int, int]) -> dict[int, np.ndarray]:
    """Object -> (H, W) bool. Without an object in the prompt an indexed picture gives all of its objects."""
    indices = read_indexed(item.value)
    if indices.shape != size:
        raise UsageError(
            f"{item.text} is {indices.shape[1]}x{indices.shape[0]}, but the video is {size[1]}x{size[0]}: "
            "a mask needs the size of the frames"
        )
    found = split_objects(indices)
    if not found:
        raise UsageError(f"{item.text} is empty: it marks no object")
    if item.object is None:
        return found
    if len(found) == 1:
        return {item.object: next(iter(found.values()))}
    if item.object not in found:
        raise UsageError(f"{item.text}: there is no object {item.object} in it, only {', '.join(map(str, found))}")
    return {item.object: found[item.object]}
