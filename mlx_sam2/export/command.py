"""``python -m mlx_sam2.export``: image encoder and mask decoder as .mlxfn files, for Swift and C++ apps."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import cli, files
from ..cli import UsageError

if TYPE_CHECKING:
    from ..model.sam2 import SAM2

PROG = cli.program("export")

DESCRIPTION = "Write the image encoder and the mask decoder of a model as .mlxfn files, for apps in Swift and C++."
EPILOG = """\
FOLDER gets image_encoder.mlxfn, mask_decoder.mlxfn and manifest.json, which says what goes in and comes out, and how
a photo is prepared. Each file holds its weights, once. MLX imports them with importFunction(from:) in Swift,
import_function(path) in C++, mx.import_function(path) in Python.

On a Mac the Metal kernels of this package are in the files where they are the faster way there. Without Metal they
are recorded unchecked, and MLX records all other operations for the CPU, also for the Mac that loads the file: export
on a Mac for speed, or pass --no-kernels for a file that runs wherever MLX does.
Exit codes: 0 done, 2 bad input, 1 any other failure.
"""
MAX_POINTS = 8
FILES = {"image_encoder.mlxfn", "mask_decoder.mlxfn", "manifest.json"}
IGNORED = ".DS_Store"  # the Finder puts it into folders


def build_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(prog=PROG, description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("--output", type=Path, metavar="FOLDER", required=True, help="the folder to write")
    parser.add_argument("--no-kernels", action="store_true", help="MLX's own operations only")
    parser.add_argument(
        "--max-points",
        type=cli.number(int, 1, 64),
        default=MAX_POINTS,
        metavar="N",
        help="the decoder takes 1 to N points; a box counts as two; default: %(default)s",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a folder that an earlier export wrote")
    cli.add_model_options(parser)
    return parser


def _check_output(folder: Path, overwrite: bool) -> None:
    """Refuse a folder that cannot be made, or that exists, unless ``overwrite`` and an export wrote it."""
    if not os.path.lexists(folder):
        above = next(p for p in folder.parents if os.path.lexists(p))
        if not os.path.isdir(above):
            raise UsageError(f"{above} is not a folder: --output names a folder to make inside one")
        if not os.access(above, os.W_OK | os.X_OK):
            raise UsageError(f"{above} cannot be written to: give --output another place")
        return
    real = os.path.isdir(folder) and not os.path.islink(folder)
    ours = real and {p.name for p in folder.iterdir()} <= FILES | {IGNORED}
    if not overwrite:
        raise UsageError(f"{folder} exists: give another name, or --overwrite to replace it")
    if not ours:
        raise UsageError(f"{folder} is not what an export wrote: --overwrite does not replace it; give another name")


def _export_to(folder: Path, model: SAM2, args: argparse.Namespace) -> dict[str, Any]:
    """Write beside the folder; it takes its name when it is complete. Raises as ``files.beside``."""
    from .functions import export

    files.make_folder(folder.parent)
    with files.beside(folder, replace=args.overwrite) as part:
        part.mkdir()
        manifest = export(model, part, with_kernels=not args.no_kernels, max_points=args.max_points)
        _check_output(folder, args.overwrite)  # again: it may have appeared meanwhile
    return manifest


def _run(args: argparse.Namespace) -> int:
    from ..hub.download import check_model

    folder = Path(os.path.abspath(os.path.expanduser(args.output)))
    try:
        files.sweep(folder.parent)  # a folder that was being replaced gets its name back
        _check_output(folder, args.overwrite)
        check_model(args.model, args.revision)
    except (UsageError, OSError) as error:
        cli.complain(PROG, error)
        return cli.BAD_INPUT
    from ..checkpoint import loading
    from ..kernels import rules

    try:
        model = loading.load(args.model, dtype=args.dtype, revision=args.revision, **cli.weights_key(args))
        manifest = _export_to(folder, model, args)
    except (ValueError, RuntimeError, OSError) as error:  # HubError is a RuntimeError
        return cli.fail(PROG, error)
    if manifest["kernels"] and not rules.metal_allowed():
        cli.note(
            PROG,
            "no Metal here: the kernels are in the files unchecked, so these load on a Mac only, and all else is "
            "recorded for the CPU, where it will run there, too. Export on a Mac for speed, or with --no-kernels for "
            "any machine",
        )
    sizes = {name: (folder / name).stat().st_size / 1e6 for name in sorted(FILES - {"manifest.json"})}
    shown = ", ".join(f"{name} ({size:.1f} MB)" for name, size in sizes.items())
    count = sum(manifest["kernels"].values())
    cli.say(f"{args.output}: {shown}, manifest.json; {manifest['dtype']}, {count or 'no'} calls of Metal kernels")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return cli.execute(build_parser(), argv, _run)
