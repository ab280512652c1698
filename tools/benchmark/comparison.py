"""What the two commands share: their options, the configuration that both sides get, one line for an error."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

from mlx_sam2 import cli
from mlx_sam2.benchmark import stages
from mlx_sam2.benchmark.command import heading, machine
from mlx_sam2.hub.client import HubError
from mlx_sam2.machine import CHIPS

Report = dict[str, Any]


def parser(script: str, description: str) -> argparse.ArgumentParser:
    made = cli.Parser(prog=f"python tools/benchmark/{script}", description=description)
    made.add_argument("--size", default="tiny", help="published size with random weights; default: %(default)s")
    made.add_argument("--model", help="the weights of this folder, file or Hub id instead")
    made.add_argument("--peer-python", metavar="PYTHON", help="interpreter that has the peer; default: this one")
    made.add_argument(
        "--repeat", type=cli.number(int, 1), default=5, help="rounds, after one to warm up; default: %(default)s"
    )
    made.add_argument("--json", action="store_true", help="print the line of JSON only")
    return made


def spec(args: argparse.Namespace, **more: Any) -> dict[str, Any]:
    """What both sides are started with."""
    config = stages.read_config(args.size, args.model).to_dict()
    return {"size": args.size, "model": args.model, "config": config, "compile": False, **more}


def run(prog: str, args: argparse.Namespace, compare: Callable[[], tuple[Report, str]]) -> int:
    """Compare and print, a table for people and one line of JSON; returns the exit code."""
    try:
        if args.chip is not None and args.chip not in CHIPS:
            raise ValueError(f"--chip {args.chip!r} is none of those known: {', '.join(CHIPS)}")
        found, text = compare()
    except (ValueError, HubError) as error:  # of the options, the checkpoint or its configuration
        cli.complain(prog, error)
        return cli.BAD_INPUT
    except (RuntimeError, OSError) as error:
        cli.complain(prog, error)
        return cli.FAILURE
    except KeyboardInterrupt:
        return 130
    report = {"machine": machine(), "model": args.model or args.size, **found}
    if not args.json:
        print(heading(report) + "\n" + text)
    print(json.dumps(report))
    return cli.FAILURE if any(bar["result"] == "fail" for bar in report.get("bars", ())) else 0
