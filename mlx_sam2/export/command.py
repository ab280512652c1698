"""``python -m mlx_sam2.export``: image encoder and mask decoder as .mlxfn files, for Swift and C++ apps."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__, cli
from ..cli import UsageError
from ..files import beside, make_folder, sweep
from ..text import dtype_name

if TYPE_CHECKING:
    import mlx.core as mx

    from ..model.sam2 import SAM2

PROG = "python -m mlx_sam2.export"

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
LABELS = {"1": "on the object", "0": "off the object", "2": "top left of a box", "3": "bottom right of a box"}


def build_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(prog=PROG, description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("--output", type=Path, metavar="FOLDER", required=True, help="the folder to write")
    parser.add_argument("--no-kernels", action="store_true", help="MLX's own operations only")
    parser.add_argument(
        "--max-points",
        type=_positive,
        default=MAX_POINTS,
        metavar="N",
        help="the decoder takes 1 to N points; a box counts as two; default: %(default)s",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a folder that an earlier export wrote")
    cli.add_model_options(parser)
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 64:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to 64")
    return int(text)


# ---- what is exported


def encoder_function(model: SAM2) -> Callable[..., list[mx.array]]:
    """pixels (1, S, S, 3) -> the arrays of ``ImageFeatures``."""

    def image_encoder(pixels: mx.array) -> list[mx.array]:
        return model.encode_image(pixels).arrays()

    return image_encoder


def decoder_function(model: SAM2) -> Callable[..., list[mx.array]]:
    """Features, points (1, N, 2), labels (1, N) and perhaps a mask (1, 4h, 4w, 1) -> masks and scores.

    The three masks of ``multimask_output=True`` with their IoUs, the single one of False with its IoU, and whether
    there is an object; what is not asked for is not computed, for MLX is lazy.
    """
    num_features = 3 if model.config.use_high_res_features_in_sam else 1

    def mask_decoder(*inputs: mx.array) -> list[mx.array]:
        embedding, *high_res = inputs[:num_features]
        points, labels, *mask = inputs[num_features:]
        high = tuple(high_res) if high_res else None
        output = model.decode(model.add_no_memory(embedding), high, points, labels, mask[0] if mask else None)
        several, one = (model.sam_mask_decoder.select(output, multimask) for multimask in (True, False))
        return [*several, *one, output.object_score]

    return mask_decoder


FEATURES = ("embedding", "high_res_4", "high_res_8")
PREDICTIONS = ("masks", "ious", "single_mask", "single_iou", "object_score")


def export(model: SAM2, folder: Path, *, with_kernels: bool, max_points: int = MAX_POINTS) -> dict[str, Any]:
    """Write the two functions and the manifest into an existing folder; returns the manifest.

    Raises:
        OSError: a file cannot be written.
    """
    import mlx.core as mx

    from ..kernels import dispatch

    size, mask_size = model.config.image_size, model.sam_prompt_encoder.mask_input_size
    mx.eval(model.parameters())  # or the files would hold how the weights are read
    pixels = mx.zeros((1, size, size, 3))
    encode, decode = encoder_function(model), decoder_function(model)
    mask = mx.zeros((1, *mask_size, 1))
    prompts = [[mx.zeros((1, n, 2)), mx.zeros((1, n), mx.int32)] for n in range(1, max_points + 1)]
    with dispatch.references_only():  # for the shapes; without Metal a kernel can be called while tracing only
        features = encode(pixels)
        predictions = decode(*features, *prompts[0])
    with _ways(with_kernels):
        kernels = _write(folder / "image_encoder.mlxfn", encode, [[pixels]])
        traces = [[*features, *prompt, *given] for prompt in prompts for given in ([], [mask])]
        kernels += _write(folder / "mask_decoder.mlxfn", decode, traces)
    inputs = [*zip(FEATURES, features, strict=False), ("points", prompts[0][0]), ("labels", prompts[0][1])]
    manifest = _manifest(model, kernels)
    manifest["functions"] = {
        "image_encoder": {
            "file": "image_encoder.mlxfn",
            "inputs": [_tensor("pixels", pixels)],
            "outputs": [_tensor(*pair) for pair in zip(FEATURES, features, strict=False)],
        },
        "mask_decoder": {
            "file": "mask_decoder.mlxfn",
            "inputs": [*(_tensor(*pair) for pair in inputs), {**_tensor("mask", mask), "optional": True}],
            "outputs": [_tensor(*pair) for pair in zip(PREDICTIONS, predictions, strict=True)],
            "max_points": max_points,
        },
    }
    for entry in manifest["functions"]["mask_decoder"]["inputs"]:
        if entry["name"] in ("points", "labels"):
            entry["shape"][1] = "N"
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    return manifest


def _ways(with_kernels: bool) -> contextlib.AbstractContextManager[None]:
    """How the ops go while they are traced."""
    from ..kernels import dispatch, rules

    if not with_kernels or rules.setting() == "0":
        return dispatch.references_only()
    return contextlib.nullcontext() if rules.metal_allowed() else dispatch.tracing_for_metal()


def _write(path: Path, function: Callable[..., list[mx.array]], traces: list[list[mx.array]]) -> Counter[str]:
    """Write one function with a trace for each list of inputs; returns how often the first calls which kernel."""
    import mlx.core as mx

    found: Counter[str] = Counter()

    def see(record: dict[str, Any]) -> None:
        if record.get("name") == "CustomKernel":
            name = record["arguments"][0].removeprefix("custom_kernel_mlx_sam2_")
            found[name.partition("__")[0]] += 1  # what follows are its template arguments

    mx.export_function(see, function, *traces[0])
    try:
        with mx.exporter(str(path), function) as exporter:
            for trace in traces:
                exporter(*trace)
    except RuntimeError as error:
        if "nable to write" not in str(error):
            raise
        raise OSError(f"{path.name} cannot be written ({error}): is the disk full?") from None
    return found


def _tensor(name: str, array: mx.array) -> dict[str, Any]:
    return {"name": name, "shape": list(array.shape), "dtype": dtype_name(array.dtype)}


def _manifest(model: SAM2, kernels: Counter[str]) -> dict[str, Any]:
    import mlx.core as mx

    from ..images import preprocess

    return {
        "format": 1,
        "mlx_sam2": __version__,
        "mlx": mx.__version__,
        "dtype": dtype_name(model.dtype),
        "kernels": dict(kernels),
        "device": "gpu" if mx.default_device() == mx.gpu else "cpu",  # of all operations but the kernels
        "image_size": model.config.image_size,
        "preprocessing": {
            "pixels": "RGB in 0..1, resized to image_size x image_size (bilinear, antialiased, aspect ratio not kept), "
            "then (value - mean) / std; channels last",
            "mean": list(preprocess.MEAN),
            "std": list(preprocess.STD),
        },
        "prompts": {
            "points": "x, y in pixels of the resized photo: x / width * image_size, y / height * image_size",
            "labels": LABELS,
            "box": "its two corners as points with labels 2 and 3, before other points",
            "mask": "logits of an earlier prediction, one of `masks`, clipped to -32..32, with a last axis of 1",
        },
        "results": {
            "masks": "logits: resize to the photo (bilinear, half-pixel centres), above 0 is the object",
            "ious": "of each mask; take the mask with the highest for a single click, `single_mask` otherwise",
        },
    }


# ---- the command


FILES = {"image_encoder.mlxfn", "mask_decoder.mlxfn", "manifest.json"}


def _check_output(folder: Path, overwrite: bool) -> None:
    """Refuse a folder that exists, unless it may be replaced and is an export."""
    if not os.path.lexists(folder):
        return
    ours = os.path.isdir(folder) and not os.path.islink(folder) and {p.name for p in folder.iterdir()} <= FILES
    if not overwrite:
        raise UsageError(f"{folder} exists: give another name, or --overwrite to replace it")
    if not ours:
        raise UsageError(f"{folder} is not what an export wrote: --overwrite does not replace it; give another name")


def _export_to(folder: Path, model: SAM2, args: argparse.Namespace) -> dict[str, Any]:
    make_folder(folder.parent)
    with beside(folder, replace=args.overwrite) as part:
        part.mkdir()
        manifest = export(model, part, with_kernels=not args.no_kernels, max_points=args.max_points)
        _check_output(folder, args.overwrite)  # again: it may have appeared meanwhile
    return manifest


def _run(args: argparse.Namespace) -> int:
    folder = Path(os.path.abspath(os.path.expanduser(args.output)))
    try:
        sweep(folder.parent)  # a folder that was being replaced gets its name back
        _check_output(folder, args.overwrite)
        cli.check_model(args.model, args.revision)
    except (UsageError, OSError) as error:
        cli.complain(PROG, error)
        return cli.BAD_INPUT
    from ..checkpoint import loading
    from ..hub.client import HubError
    from ..kernels import rules

    try:
        model = loading.load(args.model, dtype=args.dtype, revision=args.revision)
        manifest = _export_to(folder, model, args)
    except (ValueError, HubError, OSError) as error:  # ValueError: UsageError, CheckpointError and ConfigError
        cli.complain(PROG, error)
        return cli.BAD_INPUT if isinstance(error, ValueError) else cli.FAILURE
    if manifest["kernels"] and not rules.metal_allowed():
        print(
            f"{cli.command_name(PROG)}: note: no Metal here: the kernels are in the files unchecked, so these load on "
            "a Mac only, and all else is recorded for the CPU, where it will run there, too. Export on a Mac for "
            "speed, or with --no-kernels for any machine",
            file=sys.stderr,
        )
    sizes = {name: (folder / name).stat().st_size / 1e6 for name in sorted(FILES - {"manifest.json"})}
    shown = ", ".join(f"{name} ({size:.1f} MB)" for name, size in sizes.items())
    count = sum(manifest["kernels"].values())
    print(
        f"{args.output}: {shown}, manifest.json; {manifest['dtype']}, {count or 'no'} calls of Metal kernels",
        flush=True,
    )
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    args = build_parser().parse_args(argv)
    cli.escape_output()
    return cli.guard_output(PROG, lambda: _run(args))
