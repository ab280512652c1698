"""Find the photos of ``segment --everything``, check where their results go, and write them."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from .. import images
from ..cli import UsageError
from ..files import sha256
from ..masks.records import to_label_image
from ..masks.rle import rle_to_mask
from .parts import Part, Parts, Photo, merged_before

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".avif", ".jp2", ".ppm")
SUFFIXES += (".heic", ".heif", ".hif")


def find_photos(paths: Sequence[Path]) -> list[Photo]:
    """The photos of files and folders, in the order of their names. A name is the one inside a single folder, or
    the path as it was given. Hidden files of a folder, and its folders, are left out.

    Raises:
        UsageError: there is none, or one is named twice.
    """
    photos = []
    for path in paths:
        if not os.path.isdir(path):
            photos.append(Photo(path, path.as_posix()))
            continue
        inside = [p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and p.name[0] != "." and not p.is_dir()]
        if not inside:
            raise UsageError(f"{path} holds no photos ({', '.join(SUFFIXES)}); folders in it are not searched")
        photos += [Photo(p, p.name if len(paths) == 1 else p.as_posix()) for p in inside]
    photos.sort(key=lambda photo: photo.name)
    for one, other in pairwise(photos):
        if one.name == other.name:
            raise UsageError(f"{one.path} is named twice")
    return photos


@dataclass
class Outputs:
    """Where the results of photos go. `parts` keeps what is done, for a run that can go on."""

    masks: Path | None = None  # a folder: one for each photo in it
    overlay: Path | None = None  # a folder, or a file
    overlay_is_file: bool = False
    beside: bool = False  # the overlay is written beside its photo
    coco: Path | None = None
    parts: Parts | None = None
    levels: images.Levels = "full"  # how deep photos are shown

    def masks_of(self, photo: Photo) -> Path | None:
        return self.masks and self.masks / photo.path.stem

    def overlay_of(self, photo: Photo) -> Path | None:
        if self.overlay_is_file:
            return self.overlay
        folder = photo.path.parent if self.beside else self.overlay
        return folder and folder / f"{photo.path.stem}_overlay.png"

    # ---- before

    def check(self, photos: Sequence[Photo], overwrite: bool) -> None:
        """Refuse now what writing would refuse later, and what would be lost.

        Raises:
            UsageError, ImageError: one line.
        """
        self._check_folders()
        if self.coco:
            is_ours = os.path.isfile(self.coco) and sha256(self.coco) in merged_before(self.parts)
            images.check_output(self.coco, overwrite or is_ours, (".json",))
        self._check_names(photos)
        known = [place for place in (self.overlay, self.masks) if self.parts and self.parts.wrote(place)]
        for photo in photos:
            is_done = bool(known) and self.parts.path(photo).exists()  # what there is was written by this run
            overlay, masks = self.overlay_of(photo), self.masks_of(photo)
            if overlay and overlay.parent.is_dir() and not (is_done and self.overlay in known):
                images.check_output(overlay, overwrite)
            if masks and os.path.lexists(masks) and not masks.is_dir():
                raise UsageError(f"{masks} is a file: the masks of {photo.path} need a folder of that name")
            if masks and not overwrite and _numbered(masks) and not (is_done and self.masks in known):
                raise UsageError(f"{masks} holds masks already: name another folder, or --overwrite to replace them")

    def _check_folders(self) -> None:
        for option, folder in (("--output", self.masks), ("--overlay", self.overlay)):
            if folder is None or (option == "--overlay" and self.overlay_is_file):
                continue
            if folder.suffix.lower() in images.PICTURES and not os.path.isdir(folder):
                raise UsageError(f"{option} {folder} must name a folder: there are many pictures to write")
            if os.path.lexists(folder) and not os.path.isdir(folder):
                raise UsageError(f"{option} {folder} is a file, a folder is needed")
            if self.parts is not None and folder.absolute() == self.parts.folder.absolute():
                raise UsageError(f"{option} {folder} is where the parts of this run are kept: name another folder")
            place = folder if os.path.isdir(folder) else folder.absolute().parent
            if not place.is_dir():
                raise UsageError(f"cannot make {option} {folder}: there is no folder {folder.parent}")
            if not os.access(place, os.W_OK | os.X_OK):
                raise UsageError(f"{option} {folder}: no permission to write in {place}")

    def _check_names(self, photos: Sequence[Photo]) -> None:
        """No two results of one name, and none that replaces a photo or is taken for one next time."""
        sources = {os.path.realpath(photo.path): photo for photo in photos}
        taken: dict[str, Photo] = {}
        for photo in photos:
            for path in filter(None, (self.overlay_of(photo), self.masks_of(photo))):
                name = unicodedata.normalize("NFC", str(path)).casefold()  # one file for a Mac's disk
                if name in taken:
                    raise UsageError(f"{path} would be of both {taken[name].path} and {photo.path}: rename one of them")
                taken[name] = photo
                if os.path.realpath(path) in sources:
                    raise UsageError(f"{path} would be both a photo and a result")
        folders = {os.path.realpath(photo.path.parent) for photo in photos}
        if self.parts is not None and self.overlay and os.path.realpath(self.overlay) in folders:
            raise UsageError(
                f"--overlay {self.overlay} is the folder of the photos: next time they would be photos too"
            )

    # ---- writing

    def remove(self, photo: Photo) -> None:
        """Remove the results of an earlier run."""
        overlay, masks = self.overlay_of(photo), self.masks_of(photo)
        if overlay:
            overlay.unlink(missing_ok=True)
        for path in _numbered(masks) if masks else ():
            path.unlink()

    def write(self, photo: Photo, part: Part, pixels: np.ndarray | None) -> dict[str, Any]:
        """Write what is not there yet; returns the files, {"masks": [...], "overlay": ...}.

        `pixels` is the photo, if it has been read.
        """
        files: dict[str, Any] = {}
        if masks := self.masks_of(photo):
            masks.parent.mkdir(exist_ok=True)
            masks.mkdir(exist_ok=True)
            files["masks"] = [masks / f"{i:04d}.png" for i in range(len(part.masks))]
            for path, mask in zip(files["masks"], part.masks, strict=True):
                if not path.exists():
                    images.write(path, images.mask_picture(rle_to_mask(mask["segmentation"])))
        if overlay := self.overlay_of(photo):
            if not overlay.parent.is_dir():
                overlay.parent.mkdir(exist_ok=True)
            files["overlay"] = overlay
            if not overlay.exists():
                pixels = images.read(photo.path, self.levels) if pixels is None else pixels
                if pixels.shape[:2] != (part.height, part.width):
                    raise images.ImageError(f"{photo.path} was changed meanwhile")
                labels = to_label_image(part.masks, (part.height, part.width))
                images.write(overlay, images.overlay_labels(pixels, labels))
        return files


def _numbered(folder: Path) -> list[Path]:
    """The masks in a photo's folder."""
    return [path for path in folder.glob("*.png") if path.stem.isdecimal()]
