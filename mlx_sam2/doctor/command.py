"""``python -m mlx_sam2.doctor``: describe this machine, check the kernels on it, find the faster ways."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import sys
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .. import cli
from ..config.published import published
from ..text import dtype_name

if TYPE_CHECKING:
    from ..model.sam2 import SAM2
    from .known_answers import Verification
    from .measure import Measurement

PROG = cli.program("doctor")

DESCRIPTION = "Check this machine, and choose between the Metal kernels and MLX's own operations by measuring both."
EPILOG = """\
On a Mac every operation of the model that has a Metal kernel is checked and timed both ways at the shapes of that
model (one image; one frame of one object with a full memory), and the faster way is stored for this chip, this
version of MLX and this version of mlx_sam2. Elsewhere the operations that stand in for the kernels are checked.
The output is meant to be pasted into a bug report; it holds no names of yours but folders of caches.

Exit codes: 0 all that was asked for is right; 1 something is wrong, or --weights could not be verified; 2 bad input.
"""


def build_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(prog=PROG, description=DESCRIPTION, epilog=EPILOG)
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--model",
        default="base_plus",
        help="whose shapes are measured: a published name needs no weights; default: %(default)s",
    )
    which.add_argument(
        "--weights",
        metavar="MODEL",
        help="fetch this model, measure its shapes, and compare its scores on a photo with the published ones",
    )
    parser.add_argument("--revision", help="branch, tag or commit of the Hub repository of --weights")
    cli.add_weights_key(parser)
    parser.add_argument(
        "--dtype",
        choices=cli.DTYPES,
        help="default: float16 on an Apple GPU, float32 elsewhere",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document instead")
    parser.add_argument(
        "--quick", action="store_true", help="fewer repetitions; kernels are checked on small cases only"
    )
    parser.add_argument("--no-store", action="store_true", help="measure, but leave the stored choices as they are")
    return parser


# ---- examining


def examine(args: argparse.Namespace, model: SAM2, no_weights: str | None) -> dict[str, Any]:
    """All findings, in the form of the JSON document; ``no_weights`` is the reason why --weights was not fetched."""
    import mlx.core as mx
    from tqdm import tqdm

    from ..kernels import rules
    from . import examination, measure, stages

    facts = examination.facts()
    product = examination.probe()
    wrong, notes = examination.opinions(facts, product)
    calls = measure.record(model)
    # kernels are measured with MLX_SAM2_KERNELS=0 too
    has_metal = rules.metal_allowed() or mx.metal.is_available()
    products = examination.yardstick() if has_metal else None  # halves take MLX's CPU backend minutes
    if has_metal:
        rows = measure.measure(calls, facts["bandwidth_gb_s"], args.quick, products)
    else:
        notes.append("no Metal here: MLX's own operations take the place of the kernels")
        rows = measure.verify_references(calls, product["precision"] == "reduced")
    quiet = None if sys.stderr else True  # None: where stderr is no terminal
    measured = list(tqdm(rows, total=len(calls), unit="op", leave=False, disable=quiet))
    for row in measured:
        if row.fault and row.served:
            wrong.append(f"{row.op} ({row.variant}, {row.size}): {row.fault}")
    stored = _store(measured, notes) if has_metal and not args.no_store else None
    timed = []
    if has_metal:  # after the choices: as the model runs from now on
        timed = list(stages.measure(model, args.quick, (products or {}).get(dtype_name(model.dtype))))
    verification = _verify(args.weights, model, no_weights, wrong) if args.weights else None
    return {
        "machine": facts,
        "float32_product": product,
        "large_products_gflop_s": products,
        "fused_head_dims": examination.fused_pairs() if has_metal else None,
        "model": args.weights or args.model,
        "dtype": dtype_name(model.dtype),
        "ops": [dataclasses.asdict(row) for row in measured],
        "stages": [dataclasses.asdict(row) for row in timed],
        "stored": stored,
        "weights": verification and {**dataclasses.asdict(verification), "agrees": verification.agrees},
        "wrong": wrong,
        "notes": notes,
        **_verdict(wrong, verification),
    }


def _store(rows: list[Measurement], notes: list[str]) -> str | None:
    """Store the faster ways; returns the file."""
    from ..kernels import choices
    from . import measure

    try:
        return str(choices.store(measure.chosen(rows)))
    except OSError as error:
        notes.append(f"the choices could not be stored ({error.filename or choices.path()}: {error.strerror})")
        return None


def _verify(name: str, model: SAM2, no_weights: str | None, wrong: list[str]) -> Verification:
    from . import known_answers

    if no_weights is not None:
        return known_answers.Verification(name, unverified=no_weights)
    verification = known_answers.verify(model, name)
    if verification.agrees is False:
        wrong.append(
            f"the scores of {name} are not those of {verification.variant}: either these are other weights, or this "
            "machine computes wrongly"
        )
    return verification


def _verdict(wrong: list[str], verification: Verification | None) -> dict[str, Any]:
    if wrong:
        return {"verdict": "wrong", "exit_code": cli.FAILURE}
    if verification is not None and verification.agrees is None:
        return {"verdict": "not verified", "exit_code": cli.FAILURE}
    return {"verdict": "fine", "exit_code": 0}


# ---- showing


def report(findings: dict[str, Any]) -> str:
    """The findings as text, the verdict last."""
    lines = ["mlx_sam2 doctor", *_machine_lines(findings), "", *_op_lines(findings), *_stage_lines(findings)]
    if findings["stored"]:
        lines.append(f"choices stored in {findings['stored']}")
    if findings["weights"]:
        lines += ["", *_weights_lines(findings["weights"])]
    lines.append("")
    lines += [f"wrong: {text}" for text in findings["wrong"]] + [f"note: {text}" for text in findings["notes"]]
    verdict = {
        "fine": "fine",
        "wrong": f"WRONG, {len(findings['wrong'])} of the checks failed",
        "not verified": "the machine is fine, but the weights were NOT verified",
    }[findings["verdict"]]
    return "\n".join([*lines, f"verdict: {verdict}"])


def _machine_lines(findings: dict[str, Any]) -> list[str]:
    facts, product = findings["machine"], findings["float32_product"]
    precision = {"float32": "full precision", "reduced": "reduced precision (TF32)", "wrong": "WRONG"}
    bandwidth = "" if facts["bandwidth_gb_s"] is None else f", {facts['bandwidth_gb_s']:g} GB/s"
    shown = {
        "mlx_sam2": f"{facts['mlx_sam2']}, MLX {facts['mlx']}, Python {facts['python']}",
        "system": facts["system"],
        "chip": f"{facts['chip']}, {facts['cpu_cores']} CPU cores, {facts['memory_gb']:g} GB{bandwidth}",
        "features": f"of a video's frames take up to {facts['feature_cache_gb']:g} GB of memory",
        "backend": facts["backend"],
        "BLAS": facts["blas"] or "built into MLX" if facts["system"].startswith("Linux") else None,
        "float32": f"{precision[product['precision']]} (relative error {product['relative_error']:.1e}), "
        f"{product['gflop_s']:g} GFLOP/s",
        "products": None
        if findings["large_products_gflop_s"] is None
        else ", ".join(f"{dtype} {rate:g} GFLOP/s" for dtype, rate in findings["large_products_gflop_s"].items())
        + ", the yardstick of the table",
        "fused": None
        if findings["fused_head_dims"] is None
        else "attention of head dims " + ", ".join(dims for dims, has in findings["fused_head_dims"].items() if has),
        "variables": f"MLX_SAM2_KERNELS {facts['MLX_SAM2_KERNELS'] or 'unset'}, "
        f"MLX_ENABLE_TF32 {facts['MLX_ENABLE_TF32'] or 'unset'}",
        "packages": ", ".join(f"{name} {version or 'missing'}" for name, version in facts["packages"].items()),
        "Hub cache": facts["hub"]["cache"] or "none",
        "choices": facts["choices"],
    }
    return [f"  {name:<9} {text}" for name, text in shown.items() if text is not None]


def _op_lines(findings: dict[str, Any]) -> list[str]:
    head = ("op", "shape", "calls", "difference", "kernel ms", "MLX ms", "MB", "of peak", "of product", "faster")
    lines = [head]
    for row in findings["ops"]:
        faster = None if row["mlx_ms"] is None else "kernel" if row["kernel_chosen"] else "MLX"
        lines.append(
            (
                row["op"],
                f"{row['variant']} {row['size']}",
                f"{row['count']}",
                _number(row["difference"], ".1e"),
                _number(row["kernel_ms"], ".3f"),
                _number(row["mlx_ms"], ".3f"),
                _number(row["megabytes"], ".1f"),
                _number(row["share"], ".0%"),
                _number(row["of_product"], ".0%"),
                faster or "",
            )
        )
    return [f"ops of {findings['model']}, {findings['dtype']}:", *_table(lines, left=("op", "shape", "faster"))]


def _stage_lines(findings: dict[str, Any]) -> list[str]:
    if not findings["stages"]:
        return []
    lines = [("stage", "ms", "GFLOP", "of product")]
    for row in findings["stages"]:
        share = _number(row["of_product"], ".0%")
        lines.append((row["stage"], f"{row['milliseconds']:.2f}", f"{row['gflop']:.1f}", share))
    return ["stages, as they run now:", *_table(lines, left=("stage",))]


def _table(lines: list[tuple[str, ...]], left: Sequence[str]) -> list[str]:
    """Columns under the first line, those that ``left`` names to the left; columns without a value are left out."""
    filled = [i for i in range(len(lines[0])) if any(line[i] for line in lines[1:])]
    lines = [tuple(line[i] for i in filled) for line in lines]
    widths = [max(len(text) for text in column) for column in zip(*lines, strict=True)]
    cells = [
        [t.ljust(w) if name in left else t.rjust(w) for t, w, name in zip(line, widths, lines[0], strict=True)]
        for line in lines
    ]
    return [f"  {'  '.join(line).rstrip()}" for line in cells]


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _weights_lines(weights: dict[str, Any]) -> list[str]:
    def numbers(values: Sequence[float]) -> str:
        return " ".join(f"{v:.4f}" for v in values)

    if weights["unverified"]:
        return [f"weights of {weights['model']}: NOT verified, {weights['unverified']}"]
    result = "agree" if weights["agrees"] else "DIFFER"
    origin = "stored with" if weights["variant"] == "demo" else "published for"
    return [
        f"weights of {weights['model']}: scores {numbers(weights['scores'])}, {origin} {weights['variant']}: "
        f"{numbers(weights['expected'])}: they {result}"
    ]


def document(value: Any) -> Any:
    """Findings as JSON can hold them: null for infinity and NaN, such as a score of a broken GPU."""
    if isinstance(value, dict):
        return {key: document(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [document(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# ---- the command


def load_model(args: argparse.Namespace) -> tuple[SAM2, str | None]:
    """The model of --weights, or a published configuration with random weights that are never evaluated.

    Returns:
        The model, and the reason why the Hub did not give the published --weights, or None.

    Raises:
        ValueError, HubError, OSError: one line.
    """
    from ..checkpoint import loading
    from ..hub.client import HubError
    from ..hub.download import check_model
    from ..model.sam2 import SAM2

    if args.weights is None and args.revision is not None:
        raise cli.UsageError("--revision goes with --weights")
    name = args.weights or args.model
    known = None if os.path.exists(name) else published(name)
    reason = None
    if args.weights or not known:
        check_model(name, args.revision)
        try:
            options = {"dtype": args.dtype, "revision": args.revision, **cli.weights_key(args)}
            return loading.load(name, **options), None
        except HubError as error:
            if not known:
                raise
            reason = str(error)  # the machine can be examined without weights
    model = SAM2(known.config)
    model.set_dtype(loading.parse_dtype(args.dtype))
    return model.eval(), reason


def _run(args: argparse.Namespace) -> int:
    try:
        model, no_weights = load_model(args)
    except (ValueError, RuntimeError, OSError) as error:  # HubError is a RuntimeError
        return cli.fail(PROG, error)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "mlx_sam2: ")  # the report says the same
        findings = examine(args, model, no_weights)
    cli.say(json.dumps(document(findings), indent=1, allow_nan=False) if args.json else report(findings))
    return findings["exit_code"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return cli.execute(build_parser(), argv, _run)
