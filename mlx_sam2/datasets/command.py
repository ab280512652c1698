"""``python -m mlx_sam2.datasets IN``: what is in a data set of masks, and what is odd; ``OUT --to`` converts it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .. import cli
from .names import READ, WRITTEN

PROG = cli.program("datasets")
DESCRIPTION = "Check a data set of masks, or convert it to another format."
EPILOG = """\
IN is a folder or a file of annotations: COCO (polygons or run lengths), LVIS, COCO video (YouTube-VIS), YOLO outlines,
PASCAL VOC, DAVIS, YouTube-VOS, MOSE, LVOS, SA-V, Label Studio JSON, CVAT XML, or a folder images/ beside masks/.
Its layout is recognised; --from names it where it could be several.

OUT is a folder. Of coco, coco-video, lvis and label-studio it may be a .json file, of cvat an .xml file: then
annotations alone are written, without photos. OUT appears when it is complete. What the format cannot hold is reported,
a line each.

Exit codes: 0 done, 2 bad input, 1 any other failure, 130 stopped by Ctrl-C, 143 by SIGTERM.
"""


def build_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(prog=PROG, description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("data", metavar="IN", type=Path, help="a folder, or a file of annotations")
    parser.add_argument("out", metavar="OUT", nargs="?", type=Path, help="what to write; without it IN is checked")
    parser.add_argument("--to", choices=WRITTEN, metavar="FORMAT", help=f"the format of OUT: {', '.join(WRITTEN)}")
    parser.add_argument(
        "--from", dest="source", choices=READ, metavar="FORMAT", help=f"of IN: also {', '.join(READ[-4:])}"
    )
    parser.add_argument("--split", metavar="NAME", help="a part that IN lists, such as train; default: all of it")
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="where the photos are, if not beside IN")
    parser.add_argument("--polygons", action="store_true", help="outlines instead of masks, where OUT takes both")
    parser.add_argument("--tolerance", type=_tolerance, default=0.0, metavar="PIXELS",
                        help="how far outlines may be smoothed: 0 (exact, the default), or 0.5 and more")  # fmt: skip
    parser.add_argument("--predictions", action="store_true", help="Label Studio: as predictions, to be looked at")
    parser.add_argument("--no-photos", action="store_true", help="copy no photos and frames")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT")
    return parser


def _tolerance(text: str) -> float:
    value = cli.number(float, 0)(text)
    if 0 < value < 0.5:
        raise argparse.ArgumentTypeError(f"{text!r} is not 0, nor 0.5 or more")
    return value


def _run(args: argparse.Namespace) -> int:
    from .items import DatasetError

    try:
        if (args.out is None) != (args.to is None):
            raise DatasetError("to convert, give both OUT and --to FORMAT; to check, neither")
        return _check(args) if args.out is None else _convert(args)
    except DatasetError as error:
        return cli.fail(PROG, error)


def _check(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from .checking import check
    from .opening import open_dataset

    dataset = open_dataset(args.data, args.source, split=args.split, images=args.images)
    with tqdm(total=len(dataset), unit="item", leave=False, disable=None) as bar:
        report = check(dataset, lambda item: bar.update())
    for line in report.lines():
        cli.say(line)
    return 0


def _convert(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from .formats import check_output, write_dataset
    from .items import DatasetError
    from .opening import open_dataset
    from .writing import WriteOptions

    check_output(args.out, args.to, args.overwrite)
    for place in (args.data, args.images):
        if place is not None and args.out.resolve() in (place.resolve(), *place.resolve().parents):
            raise DatasetError(f"{args.out} holds {place}, which is read, and would be replaced: give another OUT")
    options = WriteOptions(args.polygons, args.tolerance, args.predictions, not args.no_photos)
    dataset = open_dataset(args.data, args.source, split=args.split, images=args.images)
    for note in dataset.notes:
        cli.note(PROG, note)
    with tqdm(total=len(dataset), unit="item", leave=False, disable=None if sys.stderr else True) as bar:
        lost = write_dataset(dataset, args.out, args.to, options=options, overwrite=args.overwrite, progress=bar.update)
    count = len(dataset)
    cli.say(f"{args.data} ({dataset.format}): {count} item{'s' * (count != 1)} -> {args.out} ({args.to})")
    for what, number in lost.items():
        cli.say(f"not held by {args.to}: {what} ({number:,})")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return cli.execute(build_parser(), argv, _run)
