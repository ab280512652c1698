"""The bars that the project sets itself for speed: ``python tools/benchmark/bars.py``.

Each is a ratio of ours over another time or memory, of the same run on the same machine: pass, fail or not run.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import comparison
from mlx_sam2.benchmark.command import DEFAULT_CHIP
from mlx_sam2.benchmark.stages import start_up_stages
from sides import APART, CLICK, ENCODE, OBJECTS, TOGETHER, TRACK
from workers import PeerMissing, Worker, compare, conditions, pair, worker

PEER = "mlx-sam"
NOT_INSTALLED, ONLY_MODELLED = f"{PEER} is not installed", "left out by --modelled"
FAST_ROUNDS = 3  # times the rounds for short stages, one over it for long ones
MANY = f"tracked frame, {OBJECTS} objects"


@dataclass(frozen=True)
class Result:
    """One row of the table."""

    bar: str
    limit: float  # of the ratio; see `strict`
    ratio: float | None  # None: not run
    remark: str
    strict: bool = False  # the ratio has to stay below the limit, not at most reach it

    @property
    def verdict(self) -> str:
        if self.ratio is None:
            return "not run"
        return "pass" if self.ratio < self.limit or (self.ratio == self.limit and not self.strict) else "fail"


def run(
    spec: dict[str, Any], peer_python: str | None, repeat: int, chip: str, only_modelled: bool = False
) -> dict[str, Any]:
    """Measure every bar.

    Args:
        spec: size, model, config, compile, as for ``workers.worker``; the bars set the dtypes.
        peer_python: interpreter with mlx-sam 0.3.0, and MLX; None: this one.
        repeat: rounds of each comparison; three times as many for clicks and starts, a third for 16 objects.
        chip: the chip of the modelled times.
        only_modelled: leave out the measured ones.
    """
    with _sides({**spec, "dtype": "float16"}, peer_python) as (mine, other, missing):
        results = _modelled(mine, other, chip)
        about = {"ours": mine.about, PEER: None if other is None else other.about}
    measured: dict[str, Any] = {}
    if missing is None and not only_modelled:
        with pair(PEER, {**spec, "dtype": "float32"}, peer_python) as (mine, other):
            measured = _measured(mine, other, repeat)
    why_not = ONLY_MODELLED if only_modelled else NOT_INSTALLED
    results += _against_peer(measured, why_not)
    results += [_many(measured, why_not), _start_up(0 if only_modelled else repeat), _cuda(about["ours"])]
    return {
        **about,
        "environment": conditions(),
        "chip": chip,
        "missing": missing,
        "bars": [{**asdict(r), "result": r.verdict} for r in results],
        "measured": measured,
    }


def _measured(mine: Worker, other: Worker, repeat: int) -> dict[str, Any]:
    found = {}
    for stage in (ENCODE, CLICK, TRACK):
        rounds = FAST_ROUNDS * repeat if stage == CLICK else repeat
        found[stage] = compare((mine, stage), (other, stage), rounds)
    few = -(-repeat // FAST_ROUNDS)  # a round is 32 tracked frames
    found[MANY] = compare((mine, TOGETHER), (mine, APART), few, warm_up=False)
    return found


@contextmanager
def _sides(spec: dict[str, Any], python: str | None) -> Iterator[tuple[Worker, Worker | None, str | None]]:
    """Our side, the peer's or None, and how to install a missing peer. Ours is modelled without it, too."""
    with ExitStack() as stack:
        try:
            mine, other = stack.enter_context(pair(PEER, spec, python))
            missing = None
        except PeerMissing as error:
            mine, other, missing = stack.enter_context(worker("ours", spec, sys.executable)), None, str(error)
        yield mine, other, missing


def _modelled(mine: Worker, other: Worker | None, chip: str) -> list[Result]:
    encode = mine.ask("model", ENCODE, chip=chip)
    track = mine.ask("model", TRACK, chip=chip)["milliseconds"]
    spent, least = encode["milliseconds"], encode["minimum_ms"]
    ratio, remark = None, NOT_INSTALLED
    if other is not None:
        theirs = other.ask("model", TRACK, chip=chip)["milliseconds"]
        ratio, remark = track / theirs, f"{track:.2f} ms, {PEER} {theirs:.2f} ms"
    return [
        Result(
            f"modelled on {chip}, float16: image encode over its physical minimum",
            1.1,
            spent / least,
            f"{spent:.2f} ms, at least {least:.2f} ms",
        ),
        Result(f"modelled on {chip}, float16: tracked frame, full memory, over {PEER}", 0.45, ratio, remark),
    ]


def _against_peer(measured: dict[str, Any], why_not: str) -> list[Result]:
    """Times of three stages, peaks of two; ``why_not`` is the remark on those that were not run."""

    def row(bar: str, stage: str, limit: float, kind: str, strict: bool = False) -> Result:
        name = f"float32: {bar} over {PEER}"
        if stage not in measured:
            return Result(name, limit, None, why_not, strict)
        found = measured[stage]
        values = [found[f"{side}_{'ms' if kind == 'ratio' else 'peak_mb'}"] for side in ("ours", "peer")]
        unit = "ms" if kind == "ratio" else "MB"
        remark = f"{values[0]:.0f} {unit}, {PEER} {values[1]:.0f} {unit}"
        return Result(name, limit, found[kind], remark, strict)

    return [
        row("image encode", ENCODE, 1.0, "ratio", strict=True),
        row("tracked frame, full memory", TRACK, 1.0, "ratio", strict=True),
        row("further click on an encoded image", CLICK, 0.5, "ratio"),
        row("peak memory of image encode", ENCODE, 0.7, "peak_ratio"),
        row("peak memory of a tracked frame, full memory", TRACK, 0.4, "peak_ratio"),
    ]


def _many(measured: dict[str, Any], why_not: str) -> Result:
    """Ours against ours: a frame with 16 objects over 16 frames with one, each encoded, as separate runs would."""
    name = f"float32: {OBJECTS} objects together over {OBJECTS} apart, encoding and tracked frame, full memory"
    if MANY not in measured:
        return Result(name, 0.6, None, why_not)
    many, encode, theirs = measured[MANY], measured[ENCODE]["ours_ms"], measured[TRACK]["peer_ms"]
    together, apart = many["ours_ms"] + encode, many["peer_ms"] + OBJECTS * encode
    remark = (
        f"{together:.0f} ms, apart {apart:.0f} ms; without the encoding {many['ratio']:.2f}, "
        f"that over {OBJECTS} of {PEER} {many['ours_ms'] / (OBJECTS * theirs):.2f}"
    )
    return Result(name, 0.6, together / apart, remark)


def _start_up(repeat: int) -> Result:
    name = 'segment --help over python -c "import argparse, numpy"'
    if repeat == 0:
        return Result(name, 1.5, None, ONLY_MODELLED)
    help_, least = start_up_stages()
    turns = FAST_ROUNDS * repeat + 1  # the first one fills the caches of the file system
    rounds = [(help_.run()["seconds"], least.run()["seconds"]) for _ in range(turns)][1:]
    milliseconds = [1e3 * statistics.median(r[i] for r in rounds) for i in (0, 1)]
    remark = f"{milliseconds[0]:.0f} ms, {milliseconds[1]:.0f} ms"
    return Result(name, 1.5, statistics.median(a / b for a, b in rounds), remark)


def _cuda(about: dict[str, Any]) -> Result:
    """No figure was set for CUDA; `peers.py` prints the table."""
    on_cuda = sys.platform == "linux" and "gpu" in about["device"]
    remark = "run peers.py transformers --peer-compile --dtype float16" if on_cuda else "MLX has no CUDA GPU here"
    return Result("on CUDA: the stages over transformers and mlx-sam", 1.0, None, remark)


def table(report: dict[str, Any]) -> str:
    """The report as text."""
    about = {"ours": report["ours"], PEER: report[PEER] or {}, "both": report["environment"]}
    lines = [f"{name}: " + ", ".join(f"{k} {v}" for k, v in values.items()) for name, values in about.items() if values]
    lines += ["", "| bar | at most | ratio | result | |", "|---|---|---|---|---|"]
    for r in report["bars"]:
        limit = f"below {r['limit']:g}" if r["strict"] else f"{r['limit']:g}"
        ratio = "" if r["ratio"] is None else f"{r['ratio']:.3f}"
        lines.append(f"| {r['bar']} | {limit} | {ratio} | {r['result']} | {r['remark']} |")
    if report["missing"] is not None:
        lines += ["", report["missing"]]
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    parser = comparison.parser(
        "bars.py", "Print the project's bars for speed: ratio, pass or fail. Exits with 1 if one fails."
    )
    parser.add_argument("--chip", default=DEFAULT_CHIP, help="the chip of the modelled bars; default: %(default)s")
    parser.add_argument("--modelled", action="store_true", help="the modelled bars alone; runs nothing")
    args = parser.parse_args(argv)

    def compare_all() -> tuple[dict[str, Any], str]:
        report = run(comparison.spec(args), args.peer_python, args.repeat, args.chip, args.modelled)
        return report, table(report)

    return comparison.run(parser.prog, args, compare_all)


if __name__ == "__main__":
    sys.exit(main())
