"""``segment --everything``: all masks of photos, as pictures, folders of PNGs, JSON, or COCO's JSON of a folder.

A run over a folder keeps what is done in a folder of parts (``parts.py``), from which everything is written:
it can be stopped anywhere and repeated, and several processes can share it (``ranks.py``).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from .. import cli, images
from ..cli import UsageError
from ..config.published import published, shipped
from ..datasets.items import DatasetError
from ..files import sha256
from ..formats.names import FILE_SUFFIXES
from ..hub.client import HubError
from ..hub.download import check_model
from ..images.files import ImageError
from ..masks.rle import rle_to_bbox
from ..text import dtype_name
from .dataset import check_format, write_parts
from .options import PROG, generator_options, refuse_options
from .outputs import Outputs, find_photos
from .parts import FORMAT, Part, Parts, Photo, fingerprint, is_still, merge, read_settings
from .ranks import Ranks, RanksError

if TYPE_CHECKING:
    from ..automatic_mask_generator import SAM2AutomaticMaskGenerator


def run_settings(args: argparse.Namespace) -> dict[str, Any]:
    """What the results depend on: the model (a local one by its contents), the dtype, the thresholds.

    They are equal on every machine of a run. ``points_per_batch`` changes memory only.
    """
    from ..checkpoint.loading import parse_dtype

    path = Path(args.model).expanduser()
    if not path.exists():
        path = shipped(args.model) or path
    if path.exists():
        files = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.name.endswith(FILE_SUFFIXES))
        model = "sha256 " + " ".join(sha256(file)[:32] for file in files)
    else:
        known = published(args.model)
        model = known.address if known else args.model
    options = {**generator_options(args), **cli.weights_key(args), **cli.image_size(args)}
    del options["points_per_batch"]
    if args.levels != "full":
        options["levels"] = args.levels if isinstance(args.levels, str) else list(args.levels)
    return {"model": model, "revision": args.revision, "dtype": dtype_name(parse_dtype(args.dtype)), **options}


# ---- what is to be done


def make_plan(args: argparse.Namespace) -> tuple[list[Photo], Outputs]:
    """Check photos and outputs before anything is loaded.

    Raises:
        UsageError, ImageError: one line.
    """
    folders = [path for path in args.images if os.path.isdir(path)]
    asked = args.output or args.overlay or args.coco or args.json
    if folders and not asked:
        raise UsageError("where to? for a folder give --coco JSON, --overlay FOLDER, --output FOLDER or --json")
    if args.merge and not args.coco:
        raise UsageError("--merge needs --coco JSON, the file to write")
    if args.merge and (args.output or args.overlay or args.json or args.overwrite):
        raise UsageError("--merge writes --coco and nothing else: leave out other outputs and --overwrite")
    photos = find_photos(args.images)
    for path in args.images:
        if not os.path.lexists(path):
            raise ImageError(f"no such image: {path}")
    is_file = bool(args.overlay and args.overlay.suffix and not folders and len(photos) == 1)
    is_file = is_file and not os.path.isdir(args.overlay)
    masks = None if args.format else args.output
    outputs = Outputs(masks, args.overlay, is_file, beside=not asked, coco=args.coco, levels=args.levels)
    check_format(args)
    kept = args.coco or (args.format and args.output) or (folders and (args.output or args.overlay))
    if kept:
        if not kept.name:
            raise UsageError(f"{kept} is no name for an output: the parts of a run are kept beside it")
        folder = kept.with_name(f"{kept.name}.parts")
        begun = read_settings(folder) if args.merge else None
        if args.merge and (begun is None or begun["format"] != FORMAT):
            raise UsageError(f"--merge: there is no folder {folder} with parts of this version")
        outputs.parts = Parts(folder, begun or run_settings(args))
        outputs.parts.check(args.overwrite)
    outputs.check(photos, args.overwrite)
    if len(photos) == 1 and not outputs.parts:
        images.read(photos[0].path, args.levels)  # what is wrong with it is said before the model is fetched
    return photos, outputs


# ---- doing it


class Abort(Exception):
    """The run cannot go on. Carries the reason and the exit code."""

    def __init__(self, reason: BaseException, code: int) -> None:
        super().__init__(reason)
        self.reason, self.code = reason, code


@contextmanager
def _or_abort() -> Iterator[None]:
    """Turn the disk's errors into ``Abort``: no other photo would fare better."""
    try:
        yield
    except OSError as error:
        raise Abort(error, cli.FAILURE) from None


def load_generator(args: argparse.Namespace) -> SAM2AutomaticMaskGenerator:
    from ..automatic_mask_generator import SAM2AutomaticMaskGenerator

    options = {"dtype": args.dtype, "revision": args.revision, "output_mode": "coco_rle", **generator_options(args)}
    options |= cli.weights_key(args) | cli.image_size(args)
    try:
        return SAM2AutomaticMaskGenerator.from_pretrained(args.model, **options)
    except (ValueError, HubError, OSError) as error:  # ValueError: CheckpointError, ConfigError, an option
        raise Abort(error, cli.BAD_INPUT if isinstance(error, ValueError) else cli.FAILURE) from None


class Finder:
    """Finds the masks of one photo after another. It loads the model for the first that is not done."""

    def __init__(self, args: argparse.Namespace, outputs: Outputs) -> None:
        self.args, self.outputs = args, outputs
        self.generator: SAM2AutomaticMaskGenerator | None = None

    def do(self, photo: Photo) -> tuple[Part, dict[str, Any], bool]:
        """Masks and files of a photo, and whether it was done already.

        Raises:
            ImageError, ArithmeticError, MemoryError, RuntimeError: this photo cannot be done.
            Abort, UsageError, OSError: none can.
        """
        parts, pixels = self.outputs.parts, None
        part = parts.load(photo) if parts else None
        was_done = part is not None
        if part is None:
            with images.open_file(photo.path) as file:
                source = fingerprint(file) if parts else {}
                pixels, notes = images.decode(file, str(photo.path), self.args.levels)
                if parts and not is_still(file, source):
                    raise ImageError(f"{photo.path} was changed while it was read")
            for text in notes:
                with tqdm.external_write_mode():
                    cli.note(PROG, text)
            self.generator = self.generator or load_generator(self.args)
            records = self.generator.generate(pixels)
            part = Part(photo.name, *pixels.shape[:2], [_annotation(record) for record in records])
            self.outputs.remove(photo)
            if parts:
                parts.save(photo, part, source)
        return part, self.outputs.write(photo, part, pixels), was_done


def _annotation(record: dict[str, Any]) -> dict[str, Any]:
    """Put a record in COCO's terms: the box counts both end pixels, and scores that are no number are null."""
    segmentation = record["segmentation"]
    scores = {name: record[name] for name in ("predicted_iou", "stability_score")}
    return {
        "segmentation": segmentation,
        "area": record["area"],
        "bbox": rle_to_bbox(segmentation),
        **{name: score if math.isfinite(score) else None for name, score in scores.items()},
        "point_coords": record["point_coords"],
        "crop_box": record["crop_box"],
    }


def _json_line(photo: Photo, part: Part, files: dict[str, Any]) -> str:
    masks = []
    for i, mask in enumerate(part.masks):
        entry = {"score": mask["predicted_iou"], **mask, "rle": mask["segmentation"]}
        entry["files"] = {"mask": str(files["masks"][i])} if "masks" in files else {}
        masks.append({name: value for name, value in entry.items() if name not in ("predicted_iou", "segmentation")})
    overlay = {"overlay": str(files["overlay"])} if "overlay" in files else {}
    head = {"image": str(photo.path), "width": part.width, "height": part.height}
    return json.dumps({**head, "masks": masks, "files": overlay})


def _text_line(photo: Photo, part: Part, outputs: Outputs) -> str:
    written = [str(path) for path in (outputs.masks_of(photo), outputs.overlay_of(photo), outputs.coco) if path]
    return f"{photo.path}: {_count(len(part.masks), 'mask')}{' -> ' if written else ''}{', '.join(written)}"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _find_all(args: argparse.Namespace, photos: list[Photo], outputs: Outputs, quiet: bool) -> int:
    """Do the photos of this process; returns how many failed."""
    finder, failed, before = Finder(args, outputs), 0, 0
    hidden = True if quiet or not sys.stderr else None  # None: where stderr is no terminal
    for photo in tqdm(photos, unit="photo", leave=False, disable=hidden):
        try:
            with _or_abort():
                part, files, was_done = finder.do(photo)
        except (ImageError, ArithmeticError, MemoryError, RuntimeError) as error:
            if cli.lacks_temporary_folder(error):
                raise Abort(error, cli.FAILURE) from None
            cli.complain(PROG, str(error) if photo.path.name in str(error) else f"{photo.path}: {error}")
            failed += 1  # the other photos are still done
            continue
        before += was_done
        if args.json or not was_done:
            with tqdm.external_write_mode():
                cli.say(_json_line(photo, part, files) if args.json else _text_line(photo, part, outputs))
    if before and not args.json:
        cli.say(f"{before} of {len(photos)} were done before")
    return failed


def _merge(args: argparse.Namespace, photos: list[Photo], outputs: Outputs, failed: int) -> int:
    """Write the COCO file, unless photos are missing that did not fail: other machines have their parts."""
    absent = sum(not outputs.parts.path(photo).exists() for photo in photos)
    if absent > failed and not args.merge:
        where = f"{absent} of {len(photos)} photos have no part in {outputs.parts.folder}"
        remedy = "where other machines keep theirs, bring them together there and give the same command with --merge"
        cli.complain(PROG, f"{where}: {remedy}")
        return cli.FAILURE
    with _or_abort():
        done, masks, missing = merge(outputs.parts, photos, outputs.coco)
    if not args.json:
        share = f"{done} of {len(photos)} photos" if missing else _count(done, "photo")
        cli.say(f"{outputs.coco}: {share}, {_count(masks, 'mask')}")
    if missing and args.merge:
        names = ", ".join(photo.name for photo in missing[:3]) + (", ..." if len(missing) > 3 else "")
        cli.complain(PROG, f"{len(missing)} of {len(photos)} photos are not done: {names}")
    return cli.FAILURE if missing else 0


def _write_dataset(args: argparse.Namespace, photos: list[Photo], outputs: Outputs) -> int:
    with _or_abort():
        try:
            write_parts(args, photos, outputs.parts)
        except DatasetError as error:
            return cli.fail(PROG, error)
    return 0


def _run(args: argparse.Namespace, ranks: Ranks, photos: list[Photo], outputs: Outputs) -> int:
    if args.merge:
        return _merge(args, photos, outputs, 0) if ranks.rank == 0 else 0
    if outputs.parts:
        with _or_abort():
            if args.overwrite:
                outputs.parts.clear()
            ranks.total(0)  # none begins before all have checked and cleared
            outputs.parts.begin([path for path in (outputs.masks, outputs.overlay) if path])
    try:
        failed = _find_all(args, ranks.share(photos), outputs, quiet=len(photos) == 1 or ranks.size > 1)
    except KeyboardInterrupt:
        if outputs.parts:
            done = sum(outputs.parts.path(photo).exists() for photo in photos)
            again = f"the same command{' without --overwrite' if args.overwrite else ''} goes on"
            print(f"stopped: {done} of {len(photos)} photos are done; {again}", file=sys.stderr)
        raise
    (failed,) = ranks.total(failed)
    code = cli.FAILURE if failed else 0
    if outputs.coco and ranks.rank == 0:
        code = max(code, _merge(args, photos, outputs, failed))
    if args.format and ranks.rank == 0:
        code = max(code, _write_dataset(args, photos, outputs))
    (code,) = ranks.total(code)  # none ends before the file is written: mlx.launch would end the others
    return cli.FAILURE if code else 0


def run_everything(args: argparse.Namespace) -> int:
    """Run ``segment --everything`` and return its exit code."""
    try:
        refuse_options(args)
        if not args.merge:
            check_model(args.model, args.revision)
    except UsageError as error:
        return cli.fail(PROG, error)
    try:
        ranks = Ranks.join()
        code, photos, outputs = 0, [], None
        try:
            with _or_abort():
                photos, outputs = make_plan(args)
        except (UsageError, ImageError) as error:
            code = cli.fail(PROG, error)
        (others,) = ranks.total(code)
        if others:
            return cli.BAD_INPUT  # another process has said why
        return _run(args, ranks, photos, outputs)
    except Abort as abort:
        cli.complain(PROG, abort.reason)
        return abort.code
    except (UsageError, RanksError) as error:
        return cli.fail(PROG, error)
