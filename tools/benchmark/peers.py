"""The same work by another package, in turn: ``python tools/benchmark/peers.py PEER``.

Prints ratios, ours over the peer's, then one line of JSON.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import comparison
from mlx_sam2.checkpoint import loading
from mlx_sam2.text import dtype_name
from sides import NEEDS, STAGES
from workers import ON_MLX, Worker, compare, conditions, pair

PEERS = tuple(NEEDS)


def run(peer: str, spec: dict[str, Any], peer_python: str | None, repeat: int, chip: str | None) -> dict[str, Any]:
    """Compare every stage with a peer; with a chip and a peer on MLX, the modelled times as well."""
    stages: dict[str, Any] = {}
    with pair(peer, spec, peer_python) as (mine, other):
        report = {"peer": peer, "ours": mine.about, "theirs": other.about, "environment": conditions()}
        for stage in STAGES:
            stages[stage] = compare((mine, stage), (other, stage), repeat)
        modelled = modelled_ratios(mine, other, chip) if chip is not None and peer in ON_MLX else {}
    return {**report, "stages": stages, "modelled": modelled}


def modelled_ratios(mine: Worker, other: Worker, chip: str) -> dict[str, Any]:
    """Modelled milliseconds of both graphs on a chip, in the dtype of the workers, and their ratio."""
    found = {}
    for stage in STAGES:
        a, b = (w.ask("model", stage, chip=chip)["milliseconds"] for w in (mine, other))
        found[stage] = {"ours_ms": round(a, 3), "peer_ms": round(b, 3), "ratio": round(a / b, 4)}
    return found


def table(report: dict[str, Any], chip: str | None) -> str:
    """The report as text."""
    peer = report["peer"]
    lines = [_about("ours", report["ours"]), _about(peer, report["theirs"]), _about("both", report["environment"]), ""]
    lines += [f"| stage | ours ms | {peer} ms | ratio | ours peak MB | {peer} peak MB | ratio |", "|---|" + "---|" * 6]
    for name, r in report["stages"].items():
        if r is None:
            lines.append(f"| {name} | not measured | | | | | |")
            continue
        cells = [f"{r['ours_ms']:.1f}", f"{r['peer_ms']:.1f}", f"{r['ratio']:.2f}"]
        cells += [_or_nothing(r.get(key), form) for key, form in _PEAKS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    if report["modelled"]:
        lines += ["", f"| modelled on {chip} | ours ms | {peer} ms | ratio |", "|---|---|---|---|"]
    for name, r in report["modelled"].items():
        lines.append(f"| {name} | {r['ours_ms']:.2f} | {r['peer_ms']:.2f} | {r['ratio']:.2f} |")
    return "\n".join(lines) + "\n"


_PEAKS: Sequence[tuple[str, str]] = (("ours_peak_mb", ".0f"), ("peer_peak_mb", ".0f"), ("peak_ratio", ".2f"))


def _or_nothing(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _about(name: str, values: dict[str, Any]) -> str:
    return f"{name}: " + (", ".join(f"{key} {value}" for key, value in values.items()) or "nothing set")


def main(argv: Sequence[str] | None = None) -> int:
    parser = comparison.parser("peers.py", "Do the same work here and in another package, in turn, and print ratios.")
    parser.add_argument("peer", choices=PEERS, metavar="PEER", help=f"of {', '.join(PEERS)}")
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], help="default: that of `segment`")
    parser.add_argument("--chip", help="add the modelled times on this chip, 'M2 Max' say, for a peer on MLX")
    parser.add_argument("--peer-compile", action="store_true", help="let a peer on PyTorch run under torch.compile")
    args = parser.parse_args(argv)
    if args.peer_compile and args.peer in ON_MLX:
        parser.error("--peer-compile goes with transformers or sam2")

    def compare_all() -> tuple[dict[str, Any], str]:
        dtype = dtype_name(loading.parse_dtype(args.dtype))
        spec = comparison.spec(args, dtype=dtype, compile=args.peer_compile)
        report = run(args.peer, spec, args.peer_python, args.repeat, args.chip)
        return {"dtype": dtype, **report}, table(report, args.chip)

    return comparison.run(parser.prog, args, compare_all)


if __name__ == "__main__":
    sys.exit(main())
