"""The bars that the project sets itself for speed: ``python -m mlx_sam2.benchmark --bars``.

A ratio each, ours over what it is held against, in the same run on the same machine, and pass, fail or not run.
"""

from __future__ import annotations

import statistics
import sys
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

from . import benchmark_peers as peers
from .benchmark_sides import APART, CLICK, ENCODE, OBJECTS, TOGETHER, TRACK

PEER = "mlx-sam"


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


def run(spec: dict[str, Any], peer_python: str | None, repeat: int, chip: str) -> dict[str, Any]:
    """Measure every bar.

    Args:
        spec: size, model, config, compile, as for ``benchmark_peers.worker``; dtypes are the bars' own.
        peer_python: interpreter with mlx-sam 0.3.0, and MLX; None: this one.
        repeat: rounds of each comparison.
        chip: whose modelled times are compared.
    """
    results: list[Result] = []
    with ExitStack() as stack:
        half, single = ({**spec, "dtype": dtype} for dtype in ("float16", "float32"))
        missing, install, python = None, None, peer_python
        try:
            mine, other = stack.enter_context(peers.pair(PEER, half, python))
        except peers.PeerMissing as error:
            missing, install, python = (
                f"{PEER} is not installed",
                str(error),
                None,
            )  # what needs no peer is measured all the same, here
            mine, other = stack.enter_context(peers.worker("ours", half, sys.executable)), None
        results += _modelled(mine, other, chip, missing)
    with ExitStack() as stack:
        if missing is None:
            mine, other = stack.enter_context(peers.pair(PEER, single, python))
        else:
            mine, other = stack.enter_context(peers.worker("ours", single, sys.executable)), None
        measured = {s: peers.compare((mine, s), (other, s), repeat) for s in (ENCODE, CLICK, TRACK)} if other else {}
        results += _against_peer(measured, missing)
        many = peers.compare((mine, TOGETHER), (mine, APART), repeat)
        results.insert(-2, _many(many, measured))
        about = {"ours": mine.about, PEER: None if other is None else other.about}
    results += [_start_up(repeat), _cuda(about["ours"])]
    return {
        **about,
        "environment": peers.conditions(),
        "chip": chip,
        "missing": install,
        "bars": [{**asdict(r), "result": r.verdict} for r in results],
        "measured": {**measured, OBJECTS_STAGE: many},
    }


OBJECTS_STAGE = f"tracked frame, {OBJECTS} objects"


def _modelled(mine: peers.Worker, other: peers.Worker | None, chip: str, missing: str | None) -> list[Result]:
    encode = mine.ask("model", ENCODE, chip=chip)
    track = mine.ask("model", TRACK, chip=chip)["milliseconds"]
    spent, least = encode["milliseconds"], encode["minimum_ms"]
    ratio, remark = None, missing or ""
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
        Result(f"modelled on {chip}, float16: tracked frame, full memory, over {PEER}", 0.6, ratio, remark),
    ]


def _against_peer(measured: dict[str, Any], missing: str | None) -> list[Result]:
    """Times of three stages, peaks of two."""

    def row(bar: str, stage: str, limit: float, kind: str, strict: bool = False) -> Result:
        name = f"float32: {bar} over {PEER}"
        if missing is not None:
            return Result(name, limit, None, missing, strict)
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


def _many(many: dict[str, Any], measured: dict[str, Any]) -> Result:
    """Ours against ours, on one encoded frame: the strictest way to read it; the remark has the others."""
    remark = f"{many['ours_ms']:.0f} ms, one by one {many['peer_ms']:.0f} ms"
    if measured:
        encode, theirs = measured[ENCODE], measured[TRACK]
        together, apart = many["ours_ms"] + encode["ours_ms"], many["peer_ms"] + OBJECTS * encode["ours_ms"]
        remark += (
            f"; with the image encoded once and {OBJECTS} times {together / apart:.2f}; "
            f"over {OBJECTS} of {PEER} {many['ours_ms'] / (OBJECTS * theirs['peer_ms']):.2f}"
        )
    name = f"float32: {OBJECTS} objects together over {OBJECTS} one by one, tracked frame, full memory"
    return Result(name, 0.6, many["ratio"], remark)


def _start_up(repeat: int) -> Result:
    from .benchmark_stages import start_up_stages

    help_, least = start_up_stages()
    rounds = [(help_.run()["seconds"], least.run()["seconds"]) for _ in range(repeat + 1)][1:]
    milliseconds = [1e3 * statistics.median(r[i] for r in rounds) for i in (0, 1)]
    remark = f"{milliseconds[0]:.0f} ms, {milliseconds[1]:.0f} ms"
    ratio = statistics.median(a / b for a, b in rounds)
    return Result('segment --help over python -c "import argparse, numpy"', 1.5, ratio, remark)


def _cuda(about: dict[str, Any]) -> Result:
    """No figure was set for CUDA: the table is asked for, by --peer."""
    on_cuda = sys.platform == "linux" and "gpu" in about["device"]
    remark = "run --peer transformers --peer-compile --dtype float16" if on_cuda else "MLX has no CUDA GPU here"
    return Result("on CUDA: the stages over transformers and mlx-sam", 1.0, None, remark)


def table(report: dict[str, Any]) -> str:
    """The report for people."""
    about = {"ours": report["ours"], PEER: report[PEER] or {}, "both": report["environment"]}
    lines = [f"{name}: " + ", ".join(f"{k} {v}" for k, v in values.items()) for name, values in about.items() if values]
    lines += ["", "| bar | at most | ratio | result | |", "|---|---|---|---|---|"]
    for r in report["bars"]:
        limit = f"below {r['limit']:g}" if r["strict"] else f"{r['limit']:g}"
        ratio = "" if r["ratio"] is None else f"{r['ratio']:.2f}"
        lines.append(f"| {r['bar']} | {limit} | {ratio} | {r['result']} | {r['remark']} |")
    if report["missing"] is not None:
        lines += ["", report["missing"]]
    return "\n".join(lines) + "\n"
