"""Time the stages of a model on this machine: ``python -m mlx_sam2.benchmark``.

Prints a table, then one line of JSON. Speed does not depend on the weights: without ``--model`` they are random.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..cli import DTYPES, Parser, UsageError, execute, fail, number, program, say
from ..machine import CHIPS, backend, chip, system
from ..text import dtype_name

if TYPE_CHECKING:
    from ..model.sam2 import SAM2
    from .roofline import Cost
    from .roofline_steps import Step
    from .stages import Stage

PROG = program("benchmark")
DEFAULT_CHIP = "M2 Max"
SHOWN_SHARE = 0.005  # of a stage; operations that cost less are left out of the table
GROUPS = ("load", "image", "everything", "video", "start-up")
MIN_SECONDS = 1.0  # of all runs of a fast stage together


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog=PROG,
        description="Time the stages of a model on this machine. Prints a table, and one line of JSON at the end.",
    )
    parser.add_argument(
        "--size",
        default="tiny",
        help="published size with random weights: tiny, small, base_plus, large, sam2-tiny, ...; default: %(default)s",
    )
    parser.add_argument("--model", help="measure with the weights of this folder, file or Hub id instead")
    parser.add_argument("--dtype", choices=DTYPES, help="default: that of `segment`")
    parser.add_argument(
        "--stages",
        nargs="+",
        choices=GROUPS,
        default=list(GROUPS),
        help="which stages to run; default: all",
    )
    parser.add_argument(
        "--repeat", type=number(int, 1), default=5, help="runs at least, after one to warm up; default: 5"
    )
    parser.add_argument(
        "--chip",
        help="add the modelled time of the stages on this chip ('M2 Max', ...): bytes and operations of the graph "
        "that MLX would run there",
    )
    parser.add_argument(
        "--modelled", action="store_true", help=f"run nothing: modelled times alone; default chip: {DEFAULT_CHIP}"
    )
    parser.add_argument("--json", action="store_true", help="print the line of JSON only")
    return parser


# ---- measuring


def measure(stage: Stage, repeat: int) -> dict[str, Any]:
    """Median and range in milliseconds, and peak memory of MLX in MB, after one run to warm up."""
    import mlx.core as mx

    gc.collect()
    if stage.outside:
        runs = [stage.run() for _ in range(repeat + 1)][1:]
        return _measured([r["seconds"] for r in runs], **_memory_of_load(runs[0]))
    stage.run()
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    seconds: list[float] = []
    while len(seconds) < repeat or (sum(seconds) < MIN_SECONDS and len(seconds) < 100):
        start = time.perf_counter()
        stage.run()
        seconds.append(time.perf_counter() - start)
    return _measured(seconds, peak_mb=mx.get_peak_memory() / 1e6, base_mb=before / 1e6)


def _measured(seconds: list[float], **more: float) -> dict[str, Any]:
    milliseconds = [1e3 * s for s in seconds]
    return {
        "median_ms": round(statistics.median(milliseconds), 3),
        "min_ms": round(min(milliseconds), 3),
        "max_ms": round(max(milliseconds), 3),
        "runs": len(seconds),
        **{name: round(value, 1) for name, value in more.items()},
    }


def _memory_of_load(run: dict[str, float]) -> dict[str, float]:
    return {"peak_mb": run["after_mb"], "base_mb": run["before_mb"]} if "after_mb" in run else {}


def machine() -> dict[str, str]:
    """The machine and versions that the numbers belong to."""
    import mlx.core as mx

    return {
        "device": chip(),
        "backend": backend().lower(),
        "system": system(),
        "python": platform.python_version(),
        "mlx": mx.__version__,
        "mlx_sam2": __version__,
    }


def modelled(stage: Stage, chip: str) -> dict[str, Any]:
    """Cost of a stage on a named chip, from its graph; empty for a stage without a graph."""
    from . import roofline

    if stage.graph is None:
        return {}
    function, examples = stage.graph
    steps = roofline.trace(function, *examples, chip=CHIPS[chip])
    found = {f"modelled_{name}": round(value, 3) for name, value in _total(steps, chip)._asdict().items()}
    found["modelled_live_mb"] = round(roofline.live_bytes(steps) / 1e6, 3)
    parts = roofline.by_operation(steps, CHIPS[chip])
    return {**found, "modelled_operations": {name: part._asdict() for name, part in parts.items()}}


def _total(steps: list[Step], chip: str) -> Cost:
    from . import roofline

    return roofline.cost(steps, CHIPS[chip])


def _run_modelled(args: argparse.Namespace) -> int:
    """``--modelled``: traces graphs, runs nothing."""
    from . import stages

    dtype, chip = args.dtype or "float16", args.chip or DEFAULT_CHIP
    graphs = stages.modelled_graphs(stages.build_model(args.size, args.model, dtype))
    report: dict[str, Any] = {"machine": machine(), "model": args.model or args.size, "dtype": dtype, "chip": chip}
    results = {name: modelled(stages.Stage(name, int, graph=graph()), chip) for name, graph in graphs.items()}
    if not args.json:
        say("\n".join([heading(report), *_modelled_tables(results, chip)]) + "\n")
    say(json.dumps({**report, "stages": results}))
    return 0


# ---- the command


def _stages(group: str, model: SAM2, folder: Path, args: argparse.Namespace) -> list[Stage]:
    from . import stages

    makers: dict[str, Callable[[], list[Stage]]] = {
        "load": lambda: [stages.load_stage(folder, args.dtype or "")],
        "image": lambda: stages.image_stages(model),
        "everything": lambda: [stages.everything_stage(model)],
        "video": lambda: stages.video_stages(model),
        "start-up": stages.start_up_stages,
    }
    return makers[group]()


def _run(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from ..checkpoint import loading
    from ..hub.download import check_model
    from . import stages

    if args.model is not None:
        check_model(args.model, None)
    if args.chip is not None and args.chip not in CHIPS:
        raise ValueError(f"--chip {args.chip!r} is none of those known: {', '.join(CHIPS)}")
    if args.modelled and args.stages != list(GROUPS):
        raise UsageError("--stages does not go with --modelled, which has stages of its own")
    if args.modelled:
        return _run_modelled(args)
    model = stages.build_model(args.size, args.model, args.dtype)
    name = args.model or args.size
    report: dict[str, Any] = {"machine": machine(), "model": name, "dtype": dtype_name(model.dtype)}
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="mlx_sam2-benchmark-") as temporary:
        folder = Path(temporary) / "model"
        if "load" in args.stages:
            loading.save(model, folder)
        groups = tqdm(args.stages, unit="group", disable=None, leave=False)
        for group in groups:
            groups.set_postfix_str(group)
            for stage in _stages(group, model, folder, args):
                results[stage.name] = measure(stage, args.repeat)
                if args.chip is not None:
                    results[stage.name] |= modelled(stage, args.chip)
    if not args.json:
        say(_table(report, results, args.chip))
    say(json.dumps({**report, "stages": results}))
    return 0


def heading(report: dict[str, Any]) -> str:
    found = report["machine"]
    what = ", ".join(report[key] for key in ("model", "dtype") if key in report)
    return (
        f"{what}, {found['device']} ({found['backend']}), {found['system']}, "
        f"Python {found['python']}, MLX {found['mlx']}, mlx_sam2 {found['mlx_sam2']}"
    )


def _table(report: dict[str, Any], results: dict[str, dict[str, Any]], chip: str | None) -> str:
    lines = [
        heading(report),
        "",
        "| stage | median ms | min | max | runs | peak MB |",
        "|---|---|---|---|---|---|",
    ]
    for name, r in results.items():
        peak = f"{r['peak_mb']:.0f}" if "peak_mb" in r else ""
        lines.append(
            f"| {name} | {r['median_ms']:.1f} | {r['min_ms']:.1f} | {r['max_ms']:.1f} | {r['runs']} | {peak} |"
        )
    return "\n".join([*lines, *(_modelled_tables(results, chip) if chip is not None else [])]) + "\n"


def _modelled_tables(results: dict[str, dict[str, Any]], chip: str) -> list[str]:
    """The lines of two tables: stages, then the operations of each."""
    columns = ("milliseconds", "expected_ms", "minimum_ms", "gigabytes", "gflop", "launches")
    known = {name: r for name, r in results.items() if "modelled_milliseconds" in r}
    head = f"| modelled on {chip} | ms | expected | at least | GB | GFLOP | launches | live MB |"
    lines = ["", head, "|---|" + "---|" * 7]
    for name, r in known.items():
        cells = [format(r[f"modelled_{c}"], ".4g") for c in (*columns, "live_mb")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [
        "",
        f"| stage, modelled on {chip} | operation | ms | expected | GB | GFLOP | launches |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, r in known.items():
        for operation, part in r["modelled_operations"].items():
            if part["milliseconds"] >= SHOWN_SHARE * r["modelled_milliseconds"]:  # the line of JSON has all
                cells = [format(part[c], ".3g") for c in columns if c != "minimum_ms"]
                lines.append(f"| {name} | {operation} | {' | '.join(cells)} |")
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return execute(build_parser(), argv, _guarded)


def _guarded(args: argparse.Namespace) -> int:
    """``_run`` with one line for an error."""
    try:
        return _run(args)
    except (ValueError, RuntimeError, OSError) as error:  # HubError is a RuntimeError
        return fail(PROG, error)
