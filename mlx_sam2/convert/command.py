"""``python -m mlx_sam2.convert``: checkpoints to MLX, in half precision or quantised, and back; publish and verify."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import cli
from ..cli import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .conversion import Conversion
    from .verify import Verified

PROG = cli.program("convert")

DESCRIPTION = "Convert a SAM 2 checkpoint to a folder for MLX, or to the layouts of PyTorch; publish and verify it."
EPILOG = """\
examples:
  python -m mlx_sam2.convert --hf-path tiny                          ./sam2.1-hiera-tiny-fp16
  python -m mlx_sam2.convert --hf-path tiny -q                       ./sam2.1-hiera-tiny-8bit
  python -m mlx_sam2.convert --hf-path tiny -q --q-recipe mixed      ./sam2.1-hiera-tiny-mixed
  python -m mlx_sam2.convert --hf-path tuned.pt --config tiny --upload-repo me/tuned-fp16
  python -m mlx_sam2.convert --hf-path ./tuned --to official --mlx-path tuned.pt
  python -m mlx_sam2.convert --mlx-path ./tuned-fp16 --upload-repo me/tuned-fp16     (a folder that is there)
  python -m mlx_sam2.convert --all --upload-org me --dry-run         every published model, and their bytes
  python -m mlx_sam2.convert --verify ./sam2.1-hiera-tiny-8bit --hf-path tiny

A name that ends in a precision (-fp32, -fp16, -bf16, -8bit, -4bit) must tell the truth. An existing path is never
overwritten. Exit codes: 0 done, 2 bad input, 1 any other failure.
"""
DEFAULT_BITS, DEFAULT_GROUP_SIZE = 8, 64


def build_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(prog=PROG, description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument(
        "--hf-path",
        metavar="SOURCE",
        help="what to convert: a Hub id, a short name (tiny, sam2-large, demo, ...), a folder, a .pt or a .safetensors",
    )
    parser.add_argument("--revision", help="branch, tag or commit of the Hub repository")
    parser.add_argument(
        "--config",
        metavar="CONFIG",
        help="of a checkpoint that does not say what it is: a JSON or YAML file, or a published name",
    )
    cli.add_weights_key(parser)
    parser.add_argument(
        "--merge-adapter", metavar="PATH", help="fold what python -m mlx_sam2.finetune wrote into the weights"
    )
    parser.add_argument("--mlx-path", type=Path, metavar="PATH", help="what to write; default: ./MODEL-PRECISION")
    parser.add_argument(
        "--dtype",
        choices=cli.DTYPES,
        help="of the weights; default: float16, with --to that of the source",
    )
    parser.add_argument("-q", "--quantize", action="store_true", help="pack attention and MLP projections")
    parser.add_argument("--q-bits", type=int, choices=[4, 8], help=f"default: {DEFAULT_BITS}")
    parser.add_argument("--q-recipe", choices=["mixed"], help="8 bits where 4 would hurt, 4 bits in memory attention")
    parser.add_argument("--q-group-size", type=int, choices=[32, 64, 128], help=f"default: {DEFAULT_GROUP_SIZE}")
    parser.add_argument(
        "--to",
        choices=["transformers", "official"],
        help="write a folder for transformers, or a .pt for the official code, instead of one for MLX",
    )
    parser.add_argument("--upload-repo", metavar="OWNER/NAME", help="send the folder to the Hub when it is complete")
    parser.add_argument(
        "--all", action="store_true", help="make every published model in fp16, 8 bits and mixed; needs --upload-org"
    )
    parser.add_argument("--upload-org", metavar="OWNER", help="where --all sends them, with a collection of them")
    parser.add_argument("--private", action="store_true", help="make the repository private")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print what would be written and sent; the source is downloaded if need be",
    )
    parser.add_argument(
        "--verify",
        metavar="MODEL",
        help="check a converted folder or repository; compare it with its source (--hf-path, or the Hub's cache)",
    )
    return parser


# ---- what was asked for


def _check(args: argparse.Namespace) -> None:
    """Refuse what needs no checkpoint to be refused.

    Raises:
        UsageError: one line.
    """
    if args.all or args.upload_org:
        _check_all(args)
        return
    if args.verify is not None:
        extra = [
            o
            for o in ("mlx_path", "dtype", "config", "q_bits", "q_group_size", "q_recipe", "to", "upload_repo")
            if getattr(args, o)
        ]
        extra += [o for o in ("quantize", "private", "dry_run") if getattr(args, o)]
        if extra:
            raise UsageError(f"--{extra[0].replace('_', '-')} does not go with --verify, which writes nothing")
        return
    if args.hf_path is None and not (args.mlx_path and args.upload_repo):
        raise UsageError(
            "nothing to convert: give --hf-path (or --mlx-path FOLDER --upload-repo OWNER/NAME, or --verify)"
        )
    if not args.quantize and (args.q_bits or args.q_group_size or args.q_recipe):
        raise UsageError(f"--q-{'bits' if args.q_bits else 'recipe' if args.q_recipe else 'group-size'} needs -q")
    if args.q_bits and args.q_recipe:
        raise UsageError("--q-bits does not go with --q-recipe, which says the bits of every layer")
    if args.private and not args.upload_repo:
        raise UsageError("--private needs --upload-repo")
    if args.to and args.quantize:
        raise UsageError(f"-q does not go with --to {args.to}: only MLX knows its packing")
    if args.to and args.upload_repo:
        raise UsageError(f"--upload-repo sends folders for MLX; for --to {args.to} convert first, then: hf upload")
    if args.upload_repo is not None:
        from ..hub.publish import REPO_ID

        if not re.fullmatch(REPO_ID, args.upload_repo):
            raise UsageError(f"--upload-repo {args.upload_repo!r} is no name of a Hub repository: use owner/name")
    if args.hf_path is None:
        _check_upload_only(args)
    elif args.mlx_path is not None and os.path.lexists(args.mlx_path):
        raise UsageError(f"{args.mlx_path} exists already: name another one with --mlx-path, or remove it")
    if args.to == "official" and args.mlx_path is not None and args.mlx_path.suffix not in (".pt", ".pth"):
        raise UsageError(f"--mlx-path {args.mlx_path}: --to official writes a file, name it .pt")


def _check_all(args: argparse.Namespace) -> None:
    if not (args.all and args.upload_org):
        raise UsageError("--all and --upload-org OWNER go together")
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", args.upload_org):
        raise UsageError(f"--upload-org {args.upload_org!r} is no name of a user or organisation")
    alone = ("hf_path", "mlx_path", "revision", "config", "weights_key", "merge_adapter", "dtype", "quantize", "q_bits",
             "q_group_size", "q_recipe", "to", "upload_repo", "verify")  # fmt: skip
    if extra := [option for option in alone if getattr(args, option)]:
        raise UsageError(f"--{extra[0].replace('_', '-')} does not go with --all, which makes all of them")


def _check_upload_only(args: argparse.Namespace) -> None:
    for option in ("revision", "config", "weights_key", "merge_adapter", "dtype", "quantize", "to"):
        if getattr(args, option):
            raise UsageError(
                f"--{option.replace('_', '-')} needs --hf-path; without it --upload-repo sends {args.mlx_path} as it is"
            )
    if not args.mlx_path.is_dir():
        raise UsageError(f"{args.mlx_path} is no folder, so it cannot be sent; give --hf-path to convert into it")


def _prepare(args: argparse.Namespace) -> tuple[Conversion, Path]:
    """Read the source's headers and decide what to write, and where."""
    from ..checkpoint import loading
    from ..hub import download
    from ..model.quantization import Scheme
    from . import card, conversion

    scheme = None
    if args.quantize:
        scheme = Scheme(args.q_group_size or DEFAULT_GROUP_SIZE, args.q_bits or DEFAULT_BITS)
    if not args.to:  # before anything is downloaded
        _check_names(args, card.suffix_of(args.dtype or conversion.DEFAULT_DTYPE, scheme, args.q_recipe))
    download.check_model(args.hf_path, args.revision)
    config = None if args.config is None else loading.read_config(args.config)
    fetched = download.fetch(args.hf_path, args.revision)
    job = conversion.prepare(
        fetched,
        layout=args.to or "mlx",
        config=config,
        dtype=args.dtype,
        scheme=scheme,
        recipe=args.q_recipe,
        weights_key=args.weights_key,
        adapter=args.merge_adapter,
    )
    out = args.mlx_path or Path(job.default_path)
    _check_names(args, card.suffix_of(job.dtype, job.scheme, job.recipe))
    if os.path.lexists(out):
        raise UsageError(f"{out} exists already: name another one with --mlx-path, or remove it")
    return job, out


def _check_names(args: argparse.Namespace, truth: str) -> None:
    """Names that the user gave must not claim another precision than the true one."""
    from . import card

    if args.mlx_path is not None:
        card.check_name(args.mlx_path.stem if args.to == "official" else args.mlx_path.name, truth)
    if args.upload_repo is not None:
        card.check_name(args.upload_repo, truth)


# ---- doing it


def _convert(args: argparse.Namespace) -> int:
    from . import conversion

    job, out = _prepare(args)
    for note in job.notes:
        cli.say(f"note: {note}")
    if args.dry_run:
        _print_dry_run(args, job, out)
        return 0
    with _progress(job.nbytes) as progress:
        conversion.write(job, out, address=args.upload_repo, progress=progress)
    cli.say(f"{out}: {len(job.tensors)} tensors, {job.nbytes / 1e6:.1f} MB. {job.precision}")
    if args.upload_repo:
        return _upload(args, out)
    return 0


def _print_dry_run(args: argparse.Namespace, job: Conversion, out: Path) -> None:
    from . import conversion

    sizes = conversion.listing(job, args.upload_repo or out.name)
    cli.say(f"would write {out}: {len(job.tensors)} tensors. {job.precision}")
    for name, size in sizes.items():
        cli.say(f"  {size:>13,} bytes  {out / name}")
    if args.upload_repo:
        kind = "the private repository" if args.private else "the repository"
        total = sum(sizes.values())
        cli.say(
            f"would send {len(sizes)} files, {total:,} bytes, to {kind} {args.upload_repo} (made if it is not there)"
        )
    cli.say("nothing was written")


def _upload(args: argparse.Namespace, folder: Path) -> int:
    """Send a folder that passes --verify."""
    from ..hub import publish
    from ..hub.client import HubError
    from . import card, verify

    found = verify.check_complete(folder)
    card.check_name(args.upload_repo, found.precision)
    if args.dry_run:
        files = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
        cli.say(f"would send {len(files)} files to {args.upload_repo}: {', '.join(p.name for p in files)}")
        cli.say("nothing was sent")
        return 0
    card.readdress_file(folder / card.CARD, args.upload_repo)
    try:
        address = publish.upload(folder, args.upload_repo, private=args.private)
    except HubError as error:
        word = shlex.quote(f"./{folder}" if str(folder).startswith("-") else str(folder))
        again = f"{PROG} --mlx-path {word} --upload-repo {args.upload_repo}{' --private' if args.private else ''}"
        cli.complain(PROG, error, f"; {folder} is complete, send it again with: {again}")
        return cli.FAILURE
    cli.say(f"sent to {address}; load it with mlx_sam2.load({args.upload_repo!r})")
    return 0


def _verify(args: argparse.Namespace) -> int:
    from ..hub import download
    from . import verify

    revision = args.revision if args.hf_path is None else None
    download.check_model(args.verify, revision)
    fetched = download.fetch(args.verify, revision)
    found = verify.verify(fetched.path)
    size = f"{found.tensors} tensors, {found.nbytes / 1e6:.1f} MB, {_packing(found)}"
    cli.say(f"{args.verify}: {size}: hashes, names, shapes and precision are as config.json says")
    if args.hf_path is not None:
        download.check_model(args.hf_path, args.revision)
        source = download.fetch(args.hf_path, args.revision).path
    else:
        source = verify.source_at_hand(found.source) if found.source else None
    if source is None:
        name = found.source.name if found.source else "unknown"
        cli.say(f"its source, {name}, is not at hand: give --hf-path to compare with it")
        return 0
    agreement = verify.compare(found, source, args.weights_key)
    cli.say(
        f"every tensor is what converting {source} gives; masks of a click, in float32: smallest IoU "
        f"{agreement.mask_iou:.4f}, largest difference of logits {agreement.largest_difference:.3g}"
    )
    return 0


def _packing(found: Verified) -> str:
    return f"{found.dtype}, {len(found.schemes)} layers in {found.precision}" if found.schemes else found.dtype


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], Any]]:
    """A bar of bytes on stderr, where it is a terminal."""
    from tqdm import tqdm

    quiet = None if sys.stderr else True
    with tqdm(total=total, unit="B", unit_scale=True, leave=False, disable=quiet) as bar:
        yield bar.update


def _run(args: argparse.Namespace) -> int:
    if args.mlx_path is not None:
        args.mlx_path = Path(os.path.expanduser(args.mlx_path))
    try:
        _check(args)
    except UsageError as error:
        return cli.fail(PROG, error)
    try:
        if args.all:
            from . import shelf

            return shelf.run(args)
        if args.verify is not None:
            return _verify(args)
        return _convert(args) if args.hf_path is not None else _upload(args, args.mlx_path)
    # RuntimeError: HubError, VerificationError, and what MLX raises for a file that cannot be read any more
    except (ValueError, RuntimeError, OSError, MemoryError) as error:
        return cli.fail(PROG, error)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return cli.execute(build_parser(), argv, _run)
