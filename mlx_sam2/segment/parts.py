"""Progress of a run over a folder: a result file per photo, so that it can stop and resume; then one COCO file.

The parts of ``out.json`` are in ``out.json.parts/``: ``settings.json``, and for each photo, named by a digest of its
name, a file of JSON lines: a header, then its masks. Every file appears complete or not at all. Several processes,
on several machines, may write there at once.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ..cli import UsageError
from ..files import beside, hexdigest_open, sha256, write_text

FORMAT = 1
CATEGORY = {"id": 1, "name": "object", "supercategory": "object"}  # of all masks: SAM 2 names nothing


@dataclass(frozen=True)
class Photo:
    """A photo of a run, and its name: inside its folder, or as it was given."""

    path: Path
    name: str


@dataclass(frozen=True)
class Part:
    """What was found in a photo; `masks` are COCO annotations without their ids."""

    name: str
    height: int
    width: int
    masks: list[dict[str, Any]]


def write_whole(path: Path, lines: Sequence[str] | Iterator[str]) -> None:
    """Write a text file that appears under its name only when it is complete."""
    try:
        write_text(path, lines)
    except OSError as error:
        raise OSError(error.errno, f"cannot be written: {error.strerror}", str(path)) from None


class Parts:
    """The folder of parts of a run with certain settings."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder = folder
        self.settings = {"format": FORMAT, **settings}
        self._key = hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:16]

    # ---- the folder

    def check(self, overwrite: bool) -> None:
        """Refuse a folder of something else, and, unless it may be replaced, one of other settings."""
        begun = read_settings(self.folder)
        if begun is None or begun == self.settings or overwrite:
            return
        names = sorted(name for name in {*begun, *self.settings} if begun.get(name) != self.settings.get(name))
        differ = ", ".join(f"{name} {_shown(begun.get(name))}, now {_shown(self.settings.get(name))}" for name in names)
        raise UsageError(
            f"{self.folder} was begun with other settings ({differ}): give the same ones, name another output, "
            "or --overwrite to begin again"
        )

    def clear(self) -> None:
        """Remove the parts, and what an interrupted run left behind."""
        for path in [*self.folder.glob("*.json*"), *self.folder.glob(".*.part")]:
            path.unlink(missing_ok=True)

    def begin(self, outputs: Sequence[Path]) -> None:
        """Make the folder; from now on what is in `outputs` for a photo that is done counts as written by this run."""
        self.folder.mkdir(exist_ok=True)
        if read_settings(self.folder) is None:
            write_whole(self.folder / "settings.json", [json.dumps(self.settings, indent=1)])
        ours = sorted({*self._outputs(), *map(self._place, outputs)})
        write_whole(self.folder / "outputs.json", [json.dumps(ours)])

    def wrote(self, output: Path | None) -> bool:
        """Whether this run, earlier, wrote into `output`."""
        return output is not None and self._place(output) in self._outputs()

    def _place(self, output: Path) -> str:
        return os.path.relpath(output, self.folder.parent)  # so that all may be moved together

    def _outputs(self) -> list[str]:
        return _list_in(self.folder / "outputs.json")

    # ---- one photo

    def path(self, photo: Photo) -> Path:
        return self.folder / f"{hashlib.sha256(os.fsencode(photo.name)).hexdigest()[:32]}.jsonl"

    def save(self, photo: Photo, part: Part, source: dict[str, Any]) -> None:
        """Write a photo's part; `source` is its ``fingerprint``."""
        header = {"name": part.name, "height": part.height, "width": part.width, "masks": len(part.masks)}
        lines = [{**header, "settings": self._key, "source": source}, *part.masks]
        write_whole(self.path(photo), (json.dumps(line) + "\n" for line in lines))

    def load(self, photo: Photo) -> Part | None:
        """A photo's part; None if there is none, it is damaged, or the photo has changed since.

        Raises:
            UsageError: it was made with other settings.
        """
        header, part = self._read(photo)
        return part if part and _unchanged(photo.path, header["source"]) else None

    def _read(self, photo: Photo) -> tuple[dict[str, Any], Part | None]:
        try:
            with open(self.path(photo), encoding="ascii") as file:
                header, *found = [json.loads(line) for line in file]
            part = Part(header["name"], header["height"], header["width"], found)
            complete = header["masks"] == len(found) and part.name == photo.name and {"source", "settings"} <= {*header}
        except (FileNotFoundError, ValueError, LookupError, TypeError, RecursionError):
            return {}, None
        if complete and header["settings"] != self._key:
            raise UsageError(
                f"{self.folder} holds parts of different settings, {photo.name} among them: bring together parts of "
                "one run only, or --overwrite to begin again"
            )
        return header, part if complete else None

    def masks(self, photo: Photo) -> list[dict[str, Any]]:
        """The masks of a photo that is done."""
        _, part = self._read(photo)
        if part is None:
            raise UsageError(f"{self.path(photo)}, the part of {photo.name}, was removed or damaged meanwhile")
        return part.masks


def read_settings(folder: Path) -> dict[str, Any] | None:
    """The settings that a folder of parts was begun with; None if there is no folder, or it is empty.

    Raises:
        UsageError: it is something else.
    """
    if not os.path.lexists(folder):
        return None
    try:
        settings = json.loads((folder / "settings.json").read_text())
        if isinstance(settings, dict) and "format" in settings:
            return settings
    except (FileNotFoundError, NotADirectoryError):
        if folder.is_dir() and not any(path.suffix != ".part" for path in folder.iterdir()):
            return None
    except (ValueError, RecursionError):  # RecursionError: brackets in brackets
        pass
    raise UsageError(f"{folder} is needed for the parts of this run, but it is something else: move it away")


def _shown(value: Any) -> str:
    return "-" if value is None else str(value)


def fingerprint(file: BinaryIO) -> dict[str, Any]:
    """The size, time and digest of an open photo, which tell later whether it is still the same."""
    return {**_size_and_time(os.fstat(file.fileno())), "sha256": hexdigest_open(file, hashlib.sha256())}


def is_still(file: BinaryIO, source: dict[str, Any]) -> bool:
    """Whether nobody has written into an open photo since its ``fingerprint``."""
    return _size_and_time(os.fstat(file.fileno())).items() <= source.items()


def _size_and_time(about: os.stat_result) -> dict[str, int]:
    return {"bytes": about.st_size, "mtime_ns": about.st_mtime_ns}


def _unchanged(path: Path, source: dict[str, Any]) -> bool:
    try:
        about = os.stat(path)
        same_size = about.st_size == source["bytes"]
        return same_size and (about.st_mtime_ns == source["mtime_ns"] or sha256(path) == source["sha256"])
    except OSError:  # it cannot be read: its turn will come, and its line
        return False


# ---- one file of all


def merge(parts: Parts, photos: Sequence[Photo], out: Path) -> tuple[int, int, list[Photo]]:
    """Write the COCO file of the photos that are done, in the order of `photos`.

    Returns:
        How many photos and masks it has, and the photos that are not done.
    """
    missing: list[Photo] = []
    totals = {"images": 0, "masks": 0}
    with beside(out, replace=True) as done:
        write_whole(done, _coco_lines(parts, photos, missing, totals))
        record = parts.folder / "merged.json"
        write_whole(record, [json.dumps(list(dict.fromkeys([sha256(done), *merged_before(parts)]))[:20])])
    return totals["images"], totals["masks"], missing


def merged_before(parts: Parts) -> list[str]:
    """Digests of the files that these parts were merged into: a file with one of them is ours to replace."""
    return _list_in(parts.folder / "merged.json")


def _list_in(path: Path) -> list[str]:
    try:
        return list(json.loads(path.read_text()))
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError, RecursionError):
        return []


def _coco_lines(parts: Parts, photos: Sequence[Photo], missing: list[Photo], totals: dict[str, int]) -> Iterator[str]:
    """The file, a line a photo and a mask. Numbers follow the order of the photos; nothing depends on when or where."""
    info = {"description": "Masks of everything, by mlx_sam2", "settings": parts.settings}
    yield f'{{"info": {json.dumps(info)},\n"licenses": [],\n"categories": {json.dumps([CATEGORY])},\n"images": ['
    done: list[Photo] = []
    for photo in photos:
        part = parts.load(photo)
        if part is None:
            missing.append(photo)
            continue
        done.append(photo)
        entry = {"id": len(done), "file_name": part.name, "width": part.width, "height": part.height}
        yield (",\n" if len(done) > 1 else "\n") + json.dumps(entry)
    yield '\n],\n"annotations": ['
    for image_id, photo in enumerate(done, start=1):
        for mask in parts.masks(photo):
            totals["masks"] += 1
            ids = {"id": totals["masks"], "image_id": image_id, "category_id": CATEGORY["id"], "iscrowd": 0}
            yield (",\n" if totals["masks"] > 1 else "\n") + json.dumps({**ids, **mask})
    yield "\n]}\n"
    totals["images"] = len(done)
