"""``python -m mlx_sam2``, installed as ``mlx-sam2``: lists the commands, and runs one."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from . import __version__, cli

COMMANDS = {
    "segment": "masks of objects in photos: a click, a box, or everything",
    "track": "masks of objects through a video",
    "datasets": "COCO, YOLO, VOC, DAVIS, Label Studio, CVAT: check and convert data sets of masks",
    "app": "both in the browser, on this machine (pip install 'mlx-sam2[app]')",
    "finetune": "train a model on masks of your own",
    "convert": "checkpoints to a folder for MLX, and back; publish and verify them",
    "doctor": "check this machine, and choose the faster kernels",
    "benchmark": "time the stages of a model",
    "export": "the model as .mlxfn files, for apps in Swift and C++",
}


def build_parser() -> cli.Parser:
    prog = cli.program()
    commands = "".join(f"  {name:<11}{line}\n" for name, line in COMMANDS.items())
    parser = cli.Parser(
        prog=prog,
        usage=f"{prog} COMMAND ...",
        description="SAM 2 for Apple silicon, on MLX.",
        epilog=f"commands:\n{commands}\n{prog} COMMAND --help says more.",
    )
    parser.add_argument("--version", action="version", version=f"mlx-sam2 {__version__}")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names and return its exit code; without one, list the commands."""
    words = sys.argv[1:] if argv is None else list(argv)
    if words and words[0] in COMMANDS:
        return importlib.import_module(f".{words[0]}.command", __package__).main(words[1:])
    parser = build_parser()
    if words and not words[0].startswith("-"):
        parser.error(f"there is no command {words[0]!r}: use {', '.join(COMMANDS)}")
    return cli.execute(parser, words, lambda args: cli.say(parser.format_help().rstrip()) or 0)


if __name__ == "__main__":
    sys.exit(main())
