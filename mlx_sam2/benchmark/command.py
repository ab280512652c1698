"""Times the stages of a model on this machine: ``python -m mlx_sam2.benchmark``.

A table, then one line of JSON. Speed does not depend on the weights: without ``--model`` they are random.
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

from ..cli import BAD_INPUT, FAILURE, Parser, complain
from ..text import dtype_name
from .peers import PEERS

if TYPE_CHECKING:
    from ..model.sam2 import SAM2
    from .roofline import Cost
    from .roofline_steps import Step
    from .stages import Stage

BARS_CHIP = "M2 Max"
SHOWN_SHARE = 0.005  # of a stage: operations that cost less are not in the table
GROUPS = ("load", "image", "everything", "video", "start-up")
MIN_SECONDS = 1.0  # of repetitions of a fast stage


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m mlx_sam2.benchmark",
        description="Time the stages of a model on this machine. Prints a table, and one line of JSON at the end.",
    )
    parser.add_argument(
        "--size",
        default="tiny",
        help="published size with random weights: tiny, small, base_plus, large, sam2-tiny, ...; default: %(default)s",
    )
    parser.add_argument("--model", help="measure with the weights of this folder, file or Hub id instead")
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], help="default: that of `segment`")
    parser.add_argument(
        "--stages",
        nargs="+",
        choices=GROUPS,
        default=list(GROUPS),
        help="which stages to run; default: all",
    )
    parser.add_argument("--repeat", type=_positive, default=5, help="runs at least, after one to warm up; default: 5")
    parser.add_argument(
        "--chip",
        help="add the modelled time of the stages on this chip ('M2 Max', ...): bytes and operations of the graph "
        "that MLX would run there",
    )
    parser.add_argument(
        "--modelled", action="store_true", help=f"run nothing: modelled times alone; default chip: {BARS_CHIP}"
    )
    compared = parser.add_argument_group("comparisons", "each side in a process of its own, in turn")
    which = compared.add_mutually_exclusive_group()
    which.add_argument("--peer", choices=PEERS, help="do the same work with this package as well, and print ratios")
    which.add_argument("--bars", action="store_true", help="print the project's bars for speed: ratio, pass or fail")
    compared.add_argument("--peer-python", metavar="PYTHON", help="interpreter that has the peer; default: this one")
    compared.add_argument("--peer-compile", action="store_true", help="let a peer on PyTorch run under torch.compile")
    parser.add_argument("--json", action="store_true", help="print the line of JSON only")
    return parser


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 up")
    return int(text)


# ---- measuring


def measure(stage: Stage, repeat: int) -> dict[str, Any]:
    """Median and spread in milliseconds, and peak memory of MLX in MB, after one run to warm up."""
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
    """What the numbers belong to."""
    import mlx.core as mx

    from .. import __version__

    device = mx.device_info()
    return {
        "device": str(device.get("device_name", platform.machine())),
        "backend": "metal" if mx.metal.is_available() else str(mx.default_device().type).rsplit(".", 1)[-1],
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "mlx": mx.__version__,
        "mlx_sam2": __version__,
    }


def modelled(stage: Stage, chip: str) -> dict[str, Any]:
    """Cost of a stage on a named chip, from its graph; empty for stages without one."""
    from . import roofline

    if stage.graph is None:
        return {}
    function, examples = stage.graph
    steps = roofline.trace(function, *examples)
    found = {f"modelled_{name}": round(value, 3) for name, value in _total(steps, chip)._asdict().items()}
    parts = roofline.by_operation(steps, roofline.CHIPS[chip])
    return {**found, "modelled_operations": {name: part._asdict() for name, part in parts.items()}}


def _total(steps: list[Step], chip: str) -> Cost:
    from . import roofline

    return roofline.cost(steps, roofline.CHIPS[chip])


def _run_modelled(args: argparse.Namespace) -> int:
    """``--modelled``: graphs only, nothing is run."""
    from . import sides
    from .stages import Stage

    dtype, chip = args.dtype or "float16", args.chip or BARS_CHIP
    side = sides.ours({"size": args.size, "model": args.model, "dtype": dtype})
    report: dict[str, Any] = {"machine": machine(), "model": args.model or args.size, "dtype": dtype, "chip": chip}
    results = {name: modelled(Stage(name, int, graph=graph()), chip) for name, graph in side.graphs.items()}
    if not args.json:
        print("\n".join([_heading(report), *_modelled_tables(results, chip)]) + "\n")
    print(json.dumps({**report, "stages": results}))
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
    from . import roofline, stages

    if args.chip is not None and args.chip not in roofline.CHIPS:
        raise ValueError(f"--chip {args.chip!r} is none of those known: {', '.join(roofline.CHIPS)}")
    if args.bars or args.peer is not None:
        return _compare(args)
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
        print(_table(report, results, args.chip))
    print(json.dumps({**report, "stages": results}))
    return 0


def _compare(args: argparse.Namespace) -> int:
    """``--peer`` and ``--bars``: two sides in processes of their own."""
    from ..checkpoint import loading
    from . import bars, peers, stages

    config = stages.read_config(args.size, args.model).to_dict()
    spec = {"size": args.size, "model": args.model, "config": config, "compile": args.peer_compile}
    report: dict[str, Any] = {"machine": machine(), "model": args.model or args.size}
    if args.bars:
        report |= bars.run(spec, args.peer_python, args.repeat, args.chip or BARS_CHIP, args.modelled)
        text = bars.table(report)
    else:
        spec["dtype"] = report["dtype"] = dtype_name(loading.parse_dtype(args.dtype))
        report |= peers.run(args.peer, spec, args.peer_python, args.repeat, args.chip)
        text = peers.table(report, args.chip)
    if not args.json:
        print(_heading(report) + "\n" + text)
    print(json.dumps(report))
    return FAILURE if any(bar["result"] == "fail" for bar in report.get("bars", ())) else 0


def _heading(report: dict[str, Any]) -> str:
    found = report["machine"]
    what = ", ".join(report[key] for key in ("model", "dtype") if key in report)
    return (
        f"{what}, {found['device']} ({found['backend']}), {found['system']}, "
        f"Python {found['python']}, MLX {found['mlx']}, mlx_sam2 {found['mlx_sam2']}"
    )


def _table(report: dict[str, Any], results: dict[str, dict[str, Any]], chip: str | None) -> str:
    lines = [
        _heading(report),
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
    """Stages, then what each spends its time on."""
    columns = ("milliseconds", "minimum_ms", "gigabytes", "gflop", "launches")
    known = {name: r for name, r in results.items() if "modelled_milliseconds" in r}
    lines = ["", f"| modelled on {chip} | ms | at least | GB | GFLOP | launches |", "|---|---|---|---|---|---|"]
    for name, r in known.items():
        lines.append(f"| {name} | {' | '.join(format(r[f'modelled_{c}'], '.4g') for c in columns)} |")
    lines += [
        "",
        f"| stage, modelled on {chip} | operation | ms | GB | GFLOP | launches |",
        "|---|---|---|---|---|---|",
    ]
    for name, r in known.items():
        for operation, part in r["modelled_operations"].items():
            if part["milliseconds"] >= SHOWN_SHARE * r["modelled_milliseconds"]:  # the line of JSON has all
                cells = [format(part[c], ".3g") for c in columns if c != "minimum_ms"]
                lines.append(f"| {name} | {operation} | {' | '.join(cells)} |")
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.bars and args.dtype is not None:
        parser.error("--bars has dtypes of its own: leave --dtype out")
    if args.peer_python is not None and not (args.bars or args.peer):
        parser.error("--peer-python needs --peer or --bars")
    if args.peer_compile and args.peer not in ("transformers", "sam2"):
        parser.error("--peer-compile needs --peer transformers or sam2")
    if (args.bars or args.peer or args.modelled) and args.stages != list(GROUPS):
        parser.error("--stages does not go with --peer, --bars and --modelled, which have their own")
    if args.peer and args.modelled:
        parser.error("--modelled goes with --bars or alone: --peer adds modelled times with --chip")
    from ..hub.client import HubError

    try:
        return _run(args)
    except (ValueError, HubError) as error:  # of the options, the checkpoint or its configuration
        complain(parser.prog, error)
        return BAD_INPUT
    except (RuntimeError, OSError) as error:
        complain(parser.prog, error)
        return FAILURE
    except KeyboardInterrupt:
        return 130
