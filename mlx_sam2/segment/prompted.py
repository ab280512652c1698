"""``segment`` with prompts: what is to be done, checked before anything is loaded; then doing it, photo by photo."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from .. import cli, images
from ..cli import UsageError
from ..datasets.items import DatasetError
from ..hub.client import HubError
from ..hub.download import check_model
from ..images.backgrounds import Backdrop, Layers, parse_background
from ..images.files import ImageError
from ..masks.boxes import mask_to_bbox
from ..masks.polygons import mask_to_polygons
from ..masks.rle import mask_to_rle
from .dataset import check_format, write_results
from .options import PROG, refuse_options
from .outputs import find_photos

if TYPE_CHECKING:
    from ..sam2_image_predictor import SAM2ImagePredictor
    from .references import ReferencePredictor


# ---- what is to be done


@dataclass
class Job:
    """One photo, its size, and the files to write: {"mask", "overlay" or "cutout": one path a mask}."""

    path: Path
    height: int
    width: int
    outputs: dict[str, list[Path]] = field(default_factory=dict)
    pixels: np.ndarray | None = None  # kept from the check when there is one photo only
    mask: np.ndarray | None = None  # (H, W) bool, the --mask, read before any output could replace it


def _plan(args: argparse.Namespace) -> list[Job]:
    """Check prompts, photos and outputs.

    Raises:
        UsageError, ImageError: one line.
    """
    if not (args.point or args.negative or args.box or args.mask or args.reference):
        forms = "--point X,Y or --box X0,Y0,X1,Y1 (or --negative, --mask, --reference)"
        raise UsageError(f"nothing to look for: give {forms}")
    if args.reference:
        _take_folders(args)
    jobs = []
    for path in args.images:
        with images.open_file(path) as file:
            pixels, notes = images.decode(file, str(path), args.levels)
        for text in notes:
            cli.note(PROG, text)
        job = Job(path, *pixels.shape[:2], pixels=pixels if len(args.images) == 1 else None)
        _check_prompts(args, job)
        job.outputs = _outputs(args, job)
        jobs.append(job)
    _check_outputs(jobs, args)
    if args.mask:
        mask = images.read_mask(args.mask)
        for job in jobs:
            _check_mask(args.mask, mask, job)
            job.mask = mask
    return jobs


def _take_folders(args: argparse.Namespace) -> None:
    """With --reference: let photos stand for the folders that hold them, and check the references' files."""
    for path in args.reference:
        if not path.is_file():
            raise UsageError(f"--reference {path}: there is no such file")
    if any(map(os.path.isdir, args.images)) and not (args.output or args.overlay or args.cutout or args.json):
        raise UsageError("where to? for a folder give --output FOLDER, --overlay FOLDER, --cutout FOLDER or --json")
    args.images = [photo.path for photo in find_photos(args.images)]


def _check_prompts(args: argparse.Namespace, job: Job) -> None:
    size, where = (job.height, job.width), str(job.path)
    for option, points in (("--point", args.point), ("--negative", args.negative)):
        for x, y in points:
            cli.check_point(f"{option} {x:g},{y:g}", (x, y), size, where)
    if args.box:
        cli.check_box(f"--box {','.join(f'{c:g}' for c in args.box)}", args.box, size, where)


def _check_mask(path: Path, mask: np.ndarray, job: Job) -> None:
    height, width = mask.shape
    if (height, width) != (job.height, job.width) and height != width:
        raise UsageError(
            f"--mask {path} has {width} x {height} pixels: it must have those of {job.path}, "
            f"{job.width} x {job.height}, or be square, as the model sees the photo"
        )
    if not mask.any():
        raise UsageError(f"--mask {path} is empty: it must be white (128 or more of 255) on the object")
    if mask.all():
        raise UsageError(f"--mask {path} is white everywhere: it must be white on the object, and black around it")


def _outputs(args: argparse.Namespace, job: Job) -> dict[str, list[Path]]:
    """The files to write for one photo."""
    chosen = {"mask": None if args.format else args.output, "overlay": args.overlay, "cutout": args.cutout}
    if not (any(chosen.values()) or args.json or args.format):
        chosen = {"mask": job.path.parent, "overlay": job.path.parent, "cutout": None}
    outputs = {}
    for kind, place in chosen.items():
        if place is None:
            continue
        if os.path.isdir(place):
            path = place / f"{job.path.stem}_{kind}.png"
        elif len(args.images) > 1:
            option = "output" if kind == "mask" else kind
            raise UsageError(f"--{option} {place} is not a folder: for several images it must be one that exists")
        else:
            path = place
        numbers = ["_1", "_2", "_3"] if args.multimask else [""]
        outputs[kind] = [path.with_name(f"{path.stem}{number}{path.suffix}") for number in numbers]
    return outputs


def _backdrop(args: argparse.Namespace, name: str) -> Backdrop | None:
    """What was asked for as --background or --foreground.

    Raises:
        UsageError, ImageError: one line.
    """
    given = getattr(args, name)
    if given is None:
        return None
    if args.cutout is None:
        place = "behind" if name == "background" else "in place of"
        raise UsageError(f"--{name} stands {place} a cut-out: give --cutout PATH, too")
    background = parse_background(given, f"--{name}")
    if background.kind == "video":
        raise UsageError(f"--{name} {given} is no picture: films stand behind films (mlx_sam2.track)")
    return Backdrop(background)


def _check_outputs(jobs: list[Job], args: argparse.Namespace) -> None:
    taken = {os.path.realpath(job.path): f"the photo {job.path}" for job in jobs}
    for job in jobs:
        for kind, paths in job.outputs.items():
            for path in paths:
                user = f"the {kind} of {job.path}"
                real = os.path.realpath(path)
                if real in taken:
                    raise UsageError(f"{path} would be both {taken[real]} and {user}")
                taken[real] = user
                images.check_output(path, args.overwrite, _formats(kind, args))


def _formats(kind: str, args: argparse.Namespace) -> tuple[str, ...]:
    is_opaque = kind == "overlay" or (kind == "cutout" and (args.background or args.foreground))
    return images.PICTURES if is_opaque else images.LOSSLESS


# ---- doing it


def _segment(
    args: argparse.Namespace, predictor: SAM2ImagePredictor | ReferencePredictor, job: Job, layers: Layers
) -> dict[str, Any]:
    """Predict, write the files, and return what --json prints."""
    from ..images.preprocess import mask_prompt  # MLX, which the checks do without
    from .edges import cutout, edges_of, mask_and_matte

    pixels = images.read(job.path, args.levels) if job.pixels is None else job.pixels
    if pixels.shape[:2] != (job.height, job.width):
        raise UsageError(f"{job.path} has changed while it was waiting")
    predictor.set_image(pixels)
    size = predictor.model.sam_prompt_encoder.mask_input_size
    points = args.point + args.negative
    labels = [1] * len(args.point) + [0] * len(args.negative)
    is_click = len(points) == 1 and args.box is None and args.mask is None
    edges = edges_of(args)
    masks, scores, _ = predictor.predict(
        point_coords=points or None,
        point_labels=labels or None,
        box=args.box,
        mask_input=None if job.mask is None else mask_prompt(job.mask, size),
        multimask_output=args.multimask or is_click,
        return_logits=True,
    )
    if not np.isfinite(scores).all():
        raise ArithmeticError(f"{job.path}: the model gave no finite score; try --dtype float32")
    best_first = np.argsort(-scores, kind="stable")[: len(masks) if args.multimask else 1]
    entries = []
    for rank, i in enumerate(best_first):
        mask, matte = mask_and_matte(masks[i], pixels, edges, max(size))
        files = {kind: paths[rank] for kind, paths in job.outputs.items()}
        for kind, path in files.items():
            if kind == "overlay":
                picture = images.overlay(pixels, mask, points, labels, args.box)
            else:
                picture = images.mask_picture(matte) if kind == "mask" else cutout(pixels, matte, edges, layers)
            images.write(path, picture, overwrite=args.overwrite, suffixes=_formats(kind, args))
        entries.append(_entry(mask, float(scores[i]), files, args))
    return {"image": str(job.path), "width": job.width, "height": job.height, "masks": entries}


def _entry(mask: np.ndarray, score: float, files: dict[str, Path], args: argparse.Namespace) -> dict[str, Any]:
    entry = {"score": score, "area": int(np.count_nonzero(mask)), "bbox": mask_to_bbox(mask)}
    entry |= {"rle": mask_to_rle(mask)} if args.json or args.format else {}
    entry |= {"polygons": mask_to_polygons(mask)} if args.json else {}
    return entry | {"files": {kind: str(path) for kind, path in files.items()}}


def _line(result: dict[str, Any]) -> str:
    best = result["masks"][0]
    share = best["area"] / (result["width"] * result["height"])
    files = [file for entry in result["masks"] for file in entry["files"].values()]
    box = ",".join(map(str, best["bbox"]))
    return (
        f"{result['image']}: score {best['score']:.3f}, {best['area']} pixels ({share:.1%}), "
        f"x,y,width,height {box}{' -> ' if files else ''}{', '.join(files)}"
    )


def load_predictor(args: argparse.Namespace) -> SAM2ImagePredictor | ReferencePredictor:
    if args.reference:
        from .references import ReferencePredictor

        return ReferencePredictor.load(args)
    from ..sam2_image_predictor import SAM2ImagePredictor

    options = {"dtype": args.dtype, "revision": args.revision, **cli.weights_key(args), **cli.image_size(args)}
    return SAM2ImagePredictor.from_pretrained(args.model, **options)


def run_prompted(args: argparse.Namespace) -> int:
    """Run ``segment`` with prompts and return its exit code."""
    try:
        refuse_options(args)
        check_model(args.model, args.revision)
        check_format(args)
        layers = Layers(_backdrop(args, "background"), _backdrop(args, "foreground"))
        jobs = _plan(args)
    except (UsageError, ImageError) as error:
        return cli.fail(PROG, error)
    try:
        predictor = load_predictor(args)
    except (ValueError, HubError, OSError) as error:  # ValueError: CheckpointError and ConfigError
        return cli.fail(PROG, error)
    code, results = 0, []
    quiet = None if len(jobs) > 1 and sys.stderr else True  # None: where stderr is no terminal
    for job in tqdm(jobs, unit="image", leave=False, disable=quiet):
        try:
            result = _segment(args, predictor, job, layers)
        except (UsageError, ImageError, ArithmeticError, MemoryError, OSError) as error:
            code = max(code, cli.fail(PROG, error))  # the other photos are still done
            continue
        results += [result] if args.format else []
        text = json.dumps(result) if args.json else _line(result)
        with tqdm.external_write_mode():
            cli.say(text)
    if results:
        try:
            write_results(args, results)
        except (DatasetError, OSError) as error:
            return cli.fail(PROG, error)
    return code
