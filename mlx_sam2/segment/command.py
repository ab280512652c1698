"""``python -m mlx_sam2.segment PHOTO --point x,y``: the mask of what you point at, in pictures or JSON."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from .. import cli
from ..datasets.options import add_format
from .options import PROG, add_options

if TYPE_CHECKING:
    from ..images.levels import Levels

DESCRIPTION = "Segment what a point, a box or a mask picks out in a photo, with SAM 2."
EPILOG = """\
Coordinates are pixels of the photo as it is shown (EXIF orientation applied); (0,0) is its top left corner.
One point alone asks the model for three masks and keeps the best, the one with the highest predicted IoU;
a box, a mask or several points ask for one.

Without --output, --overlay, --cutout and --json, PHOTO_mask.png and PHOTO_overlay.png are written beside the
photo; with any of them, only what they ask for. For several images they name folders.

--everything finds all masks, best first, of photos or of folders of them. --overlay is the photo with every mask in a
colour of its own (the default: PHOTO_overlay.png beside the photo), --output a folder for PHOTO/0000.png, 0001.png, ...
and --coco one file in COCO's form for all photos. A run over a folder can be stopped anywhere: what is done is kept in
OUTPUT.parts, beside the first of --coco, --output and --overlay, and the same command goes on. A photo that cannot be
read gets one line, and the others are done. Several processes share a folder with
    mlx.launch -n 2 -- python -m mlx_sam2.segment FOLDER --everything --coco out.json
and several machines with mlx.launch --hostfile, where all see the photos and out.json.parts; where each keeps its own,
bring the folders out.json.parts together and give the command with --merge.

Exit codes: 0 done, 2 bad input, 1 any other failure, 130 stopped by Ctrl-C, 143 by SIGTERM.
"""


def build_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(prog=PROG, description=DESCRIPTION, epilog=EPILOG)
    point = partial(cli.parse_numbers, count=2, form="x,y")
    box = partial(cli.parse_numbers, count=4, form="x0,y0,x1,y1")
    parser.add_argument(
        "images",
        metavar="IMAGE",
        nargs="+",
        type=Path,
        help="photos; all get the same prompts; folders with --everything",
    )
    parser.add_argument(
        "--levels",
        type=_levels,
        default="full",
        metavar="auto|full|LOW,HIGH",
        help="how grey pictures of 16 bits or floats become 8 bits: by their full range (0 to 65535, 0 to 1; the "
        "default), between their darkest and brightest value, or between two values",
    )
    prompts = parser.add_argument_group("prompts")
    prompts.add_argument(
        "--point",
        type=point,
        action="append",
        default=[],
        metavar="X,Y",
        help="a point on the object (repeatable)",
    )
    prompts.add_argument(
        "--negative",
        type=point,
        action="append",
        default=[],
        metavar="X,Y",
        help="a point that is not on the object (repeatable)",
    )
    prompts.add_argument("--box", type=box, metavar="X0,Y0,X1,Y1", help="a box around the object")
    prompts.add_argument(
        "--mask",
        type=Path,
        metavar="PNG",
        help="a rough mask, white on black or in its alpha channel, of the photo's size, or square",
    )
    prompts.add_argument(
        "--reference",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="what `track --save-reference` wrote: that object in each photo; IMAGE may be a folder (repeatable)",
    )
    prompts.add_argument("--multimask", action="store_true", help="write all three masks, best first, as NAME_1, ...")
    add_options(parser)
    cli.add_model_options(parser)
    cli.add_image_size(parser)
    cli.add_edges(parser, without=("min-area", "smooth"))
    output = parser.add_argument_group("output")
    output.add_argument(
        "--output",
        type=Path,
        metavar="PATH",
        help="the mask, 255 inside and 0 outside (PNG, TIFF); with --everything a folder of masks",
    )
    add_format(output, by_object=False)
    output.add_argument("--overlay", type=Path, metavar="PATH", help="the photo with its masks and prompts")
    output.add_argument("--cutout", type=Path, metavar="PATH", help="the object on transparency (PNG, TIFF)")
    for name, text in (("background", "behind"), ("foreground", "in place of")):
        output.add_argument(
            f"--{name}",
            metavar="COLOUR|IMAGE|blur|pixelate|grey|checker",
            help=f"what stands {text} the object in --cutout, which is opaque then",
        )
    output.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object a line and image: scores, boxes, areas, COCO RLE, of prompts also polygons",
    )
    output.add_argument("--overwrite", action="store_true", help="replace files that exist")
    return parser


def _levels(text: str) -> Levels:
    from ..images.levels import parse_levels

    try:
        return parse_levels(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _run(args: argparse.Namespace) -> int:
    if args.everything:
        from .everything import run_everything

        return run_everything(args)
    from .prompted import run_prompted

    return run_prompted(args)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    logging.getLogger("PIL").addHandler(logging.NullHandler())  # what is wrong with a photo takes one line, ours
    return cli.execute(build_parser(), argv, _run)
