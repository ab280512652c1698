"""Shared by all commands: parsers, one-line errors, exit codes, checks of coordinates, common options."""

from __future__ import annotations

import argparse
import io
import math
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from .text import one_line

DTYPES = ("float32", "float16", "bfloat16")  # of weights
BAD_INPUT, FAILURE, INTERRUPTED, TERMINATED = 2, 1, 130, 143  # exit codes
_OURS = "mlx_sam2: "  # how our warnings begin


class UsageError(ValueError):
    """The user gave something that cannot be used. One line."""


_NEGATIVE_NUMBERS = re.compile(r"-[\d.][\d.eE+-]*(,[\d.eE+-]+)+(@\d+)?")  # such as -5,3


class Parser(argparse.ArgumentParser):
    """An argument parser that reports an error in one line, without the usage, and accepts ``--point -5,3``.

    It prints its texts as they are, and accepts no abbreviated options.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> tuple[Any, list[str]]:
        joined: list[str] = []
        for arg in sys.argv[1:] if args is None else args:
            if joined and joined[-1].startswith("--") and _NEGATIVE_NUMBERS.fullmatch(arg):
                joined[-1] += f"={arg}"  # alone, it would be taken for an option
            else:
                joined.append(arg)
        return super().parse_known_args(joined, namespace)

    def format_help(self) -> str:
        """Return the help; commands in it are written as the user calls them."""
        return re.sub(r"python -m mlx_sam2\.(\w+)", lambda command: program(command[1]), super().format_help())

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{command_name(self.prog)}: error: {message}\n")


def program(command: str = "") -> str:
    """Say how the user calls a command, judging by the program that runs; without a name, the list of commands."""
    name = os.path.basename(sys.argv[0])
    if name == "mlx-sam2":
        return f"mlx-sam2 {command}".rstrip()
    if re.fullmatch(r"mlx_sam2\.(?!py$)\w+", name) and command:  # a console script, one of several
        return f"mlx_sam2.{command}"
    if os.path.dirname(sys.argv[0]) == os.path.dirname(__file__) and name == "__main__.py":
        return f"python -m mlx_sam2 {command}".rstrip()
    return f"python -m mlx_sam2.{command}" if command else "python -m mlx_sam2"


def command_name(prog: str) -> str:
    return prog.removeprefix("python -m ")


def complain(prog: str, error: BaseException | str, more: str = "") -> None:
    """Print an error, and more about it, as one line on stderr."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:  # without the number
        name = str(error.filename or "").removeprefix("file:")  # as PyAV has it
        text = f"{name}: {error.strerror}" if name else error.strerror
    if lacks_temporary_folder(error):
        text += " (MLX builds code in the temporary folder: set TMPDIR to one that can be written to)"
    print(f"{command_name(prog)}: error: {one_line(text)}{more}", file=sys.stderr)


def note(prog: str, text: str) -> None:
    """Print what a user should know, as one line on stderr."""
    print(f"{command_name(prog)}: note: {one_line(text)}", file=sys.stderr)


def lacks_temporary_folder(error: BaseException) -> bool:
    """Whether MLX could not write the code that it compiles on a CPU."""
    return isinstance(error, RuntimeError) and str(error).startswith("filesystem error")


def fail(prog: str, error: BaseException, more: str = "") -> int:
    """Print an error as ``complain`` does. Returns its exit code: 2 for a ValueError (bad input), else 1."""
    complain(prog, error, more)
    return BAD_INPUT if isinstance(error, ValueError) else FAILURE


def escape_output() -> None:
    """Let standard output escape what its encoding lacks, as stderr does; file names may hold anything."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def execute(parser: Parser, argv: Sequence[str] | None, run: Callable[[argparse.Namespace], int]) -> int:
    """Parse the arguments and run the command under ``guard_output``. Returns the exit code."""
    args = parser.parse_args(argv)
    escape_output()
    return guard_output(parser.prog, lambda: run(args))


def guard_output(prog: str, run: Callable[[], int]) -> int:
    """Run a command. Returns its exit code: 130 after Ctrl-C, 143 after SIGTERM, 1 if standard output fails.

    ``run`` prints its results with ``say``, and handles its other errors itself.
    """
    try:
        with sigterm_interrupts(), notes(prog):
            return run()
    except KeyboardInterrupt as stop:
        return TERMINATED if isinstance(stop, Terminated) else INTERRUPTED
    except OutputError as error:
        return _output_failed(prog, error.__cause__)
    except OSError as error:
        return fail(prog, error)
    except RuntimeError as error:
        if not lacks_temporary_folder(error):
            raise
        return fail(prog, error)


@contextmanager
def notes(prog: str) -> Iterator[None]:
    """Print our own warnings within the block as notes, one line each."""

    def show(message: Warning | str, *where: Any) -> None:
        text = one_line(message)
        if text.startswith(_OURS):
            note(prog, text.removeprefix(_OURS))
        else:
            plain(message, *where)

    with warnings.catch_warnings():
        plain, warnings.showwarning = warnings.showwarning, show
        yield


class Terminated(KeyboardInterrupt):
    """SIGTERM, raised as Ctrl-C is, so that half-written files are removed on the way out."""


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Let SIGTERM raise ``Terminated`` within the block. Only the main thread can; on others nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> NoReturn:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


class OutputError(Exception):
    """Standard output cannot be written to; the cause is an OSError."""


def say(text: str) -> None:
    """Print a line of results.

    Raises:
        OutputError: standard output cannot be written to.
    """
    try:
        print(text, flush=True)
    except OSError as error:
        raise OutputError from error


def _output_failed(prog: str, error: BaseException | None) -> int:
    """Report that standard output cannot be written to. Returns the exit code."""
    if not isinstance(error, BrokenPipeError):  # a broken pipe: whoever read it has gone
        complain(prog, f"cannot write to standard output: {getattr(error, 'strerror', error)}")
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter's last flush goes nowhere
    return FAILURE


def parse_numbers(text: str, count: int, form: str) -> tuple[float, ...]:
    """Parse `count` finite numbers separated by commas. The error names `form`, such as "x,y"."""
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != count or not all(map(math.isfinite, values)):
        raise argparse.ArgumentTypeError(f"{text!r} is not {form} in pixels")
    return values


def number(kind: type[int] | type[float], least: float, most: float = math.inf) -> Callable[[str], float]:
    """Return a parser of one number from `least` to `most`, for ``add_argument(type=...)``; int takes whole numbers."""

    def parse(text: str) -> float:
        try:
            value = kind(text) if kind is float or (text.isascii() and text.removeprefix("-").isdecimal()) else math.nan
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and least <= value <= most):
            span = f"from {least:g} up" if most == math.inf else f"from {least:g} to {most:g}"
            raise argparse.ArgumentTypeError(f"{text!r} is not a {'whole ' if kind is int else ''}number {span}")
        return value

    return parse


def check_point(name: str, point: tuple[float, ...], size: tuple[int, int], where: str) -> None:
    """Refuse a point outside a picture of `size` (height, width). The error names `name` and `where`."""
    (x, y), (height, width) = point, size
    if not (0 <= x < width and 0 <= y < height):
        raise UsageError(f"{name} lies outside {where} ({width} x {height} pixels)")


def check_box(name: str, box: tuple[float, ...], size: tuple[int, int], where: str) -> None:
    """Refuse a box x0,y0,x1,y1 whose corners are swapped, that has no area, or that reaches outside the picture."""
    (x0, y0, x1, y1), (height, width) = box, size
    if x1 < x0 or y1 < y0:
        x0, y0, x1, y1 = min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)
        raise UsageError(
            f"{name} has its corners reversed: give top left, then bottom right, {x0:g},{y0:g},{x1:g},{y1:g}"
        )
    if x0 == x1 or y0 == y1:
        raise UsageError(f"{name} has no area")
    if min(x0, y0) < 0 or x1 > width or y1 > height:
        raise UsageError(f"{name} reaches outside {where} ({width} x {height} pixels)")


MEMORY_POLICIES = ("official", "samurai", "dam4sam")  # of video.policies, which would bring mlx in


def add_model_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        default="base_plus",
        help="tiny, small, base_plus, large (SAM 2.1), sam2-tiny, ... (SAM 2.0), edgetam (the fastest), medsam2 (for "
        "medical images), demo (small, comes with the package, for trying out), a Hub id, a folder or a file; "
        "default: %(default)s",
    )
    group.add_argument("--revision", help="branch, tag or commit of the Hub repository")
    group.add_argument(
        "--dtype",
        choices=DTYPES,
        help="default: float16 on an Apple GPU, float32 elsewhere",
    )
    add_weights_key(group)
    group.add_argument(
        "--adapter", metavar="PATH", help="what python -m mlx_sam2.finetune wrote: put on the model's weights"
    )


def add_weights_key(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--weights-key",
        metavar="KEY",
        help="which copy of the weights, where a file holds several: such as ema; default: the trained ones",
    )


def weights_key(args: argparse.Namespace) -> dict[str, str]:
    """Return the options of ``mlx_sam2.load`` that were given: which weights, and an adapter."""
    given = {"weights_key": args.weights_key, "adapter": getattr(args, "adapter", None)}
    return {name: value for name, value in given.items() if value is not None}


def add_image_size(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("approximation (faster, with other results; docs/performance.md has its cost)")
    group.add_argument("--image-size", type=number(int, 32), metavar="N", help=IMAGE_SIZE)


def image_size(args: argparse.Namespace) -> dict[str, int]:
    """Return the option for the model, if it was given."""
    return {} if args.image_size is None else {"image_size": args.image_size}


IMAGE_SIZE = "side of the model's input, a multiple of 32, such as 512; default: that of the model, 1024 as published"
Options = list[tuple[str, str, Any, Any, str]]  # flag, argument, type, default there, help
MASK_OPTIONS: Options = [  # of SAM2AutomaticMaskGenerator, for pictures and for frames
    ("points-per-side", "points_per_side", number(int, 1, 1024), 32, "points along each side of the picture"),
    ("points-per-batch", "points_per_batch", number(int, 1), 64, "points decoded at once: memory grows with it"),
    ("pred-iou", "pred_iou_thresh", number(float, 0, 1), 0.8, "keep masks whose predicted IoU is above this"),
    (
        "stability",
        "stability_score_thresh",
        number(float, 0, 1),
        0.95,
        "keep masks whose stability score is at least this",
    ),
    ("stability-offset", "stability_score_offset", number(float, 0), 1.0, "of the score's two thresholds"),
    ("nms", "box_nms_thresh", number(float, 0, 1), 0.7, "of masks whose boxes have an IoU above this keep one"),
]


# ---- edges of mattes, the settings of ``images.matte.Edges``

EDGES: list[tuple[str, str, Any, str, str]] = [  # flag, setting, type, metavar, help
    ("edge-width", "width", number(float, 0.1, 100), "X", "logits from outside to inside, of soft edges; default: 8"),
    ("edge-radius", "radius", number(int, 1, 200), "N", "how far --edge guided looks, in pixels; default: two logits"),
    ("feather", "feather", number(float, 0, 200), "X", "blur the edge, a standard deviation in pixels"),
    ("grow", "grow", number(int, -200, 200), "N", "grow by N pixels; a negative number shrinks"),
    ("fill-holes", "fill_holes", number(int, 0), "N", "fill holes of N pixels at most"),
    ("min-area", "min_area", number(int, 0), "N", "remove specks of N pixels at most"),
    ("smooth", "smooth", number(int, 0, 8), "N", "average N frames before and after, where the picture is the same"),
]


def add_edges(parser: argparse.ArgumentParser, *, without: Sequence[str] = ()) -> None:
    """Add the options of edges, without some."""
    group = parser.add_argument_group("edges")
    group.add_argument(
        "--edge",
        choices=["hard", "soft", "guided"],
        help="hard: the mask (default); soft: a ramp over the model's logits; guided: it follows the photo's edges",
    )
    for flag, _, kind, metavar, text in EDGES:
        if flag not in without:
            group.add_argument(f"--{flag}", type=kind, metavar=metavar, help=text)
    group.add_argument(
        "--decontaminate", action="store_true", help="cut-outs: take the background's colour out of the edge"
    )


def edge_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of ``Edges`` that were given."""
    given = {name: getattr(args, flag.replace("-", "_"), None) for flag, name, *_ in EDGES}
    given = {**given, "edge": args.edge, "decontaminate": args.decontaminate or None}
    return {name: value for name, value in given.items() if value is not None}


def edge_words(args: argparse.Namespace) -> list[str]:
    """The options of edges that were given, as words of a command."""
    settings = edge_settings(args)
    words = [f"--edge={settings['edge']}"] if "edge" in settings else []
    words += [f"--{flag}={settings[name]:g}" for flag, name, *_ in EDGES if name in settings]
    return [*words, "--decontaminate"] if args.decontaminate else words
