"""Print the table of docs/kernels.md: how far each kernel is from its reference, and what it moves, in the emulator.

    python tests/measure/kernel_table.py [op ...] [--dtype float16 ...]

A row is a case, its values those of float32 / float16 / bfloat16, or one value where they agree. Every case of every op
runs in check mode: bounds, races, barriers, uninitialised reads; a case that fails ends the table with the emulator's
report. Cases of full size would take hours: they run in fast mode, which counts no bytes, and take minutes.
"""

from __future__ import annotations

import _paths  # noqa: F401  # isort: skip

import argparse
import importlib
import math
import pkgutil
from collections.abc import Iterator, Sequence
from typing import Any
from unittest.mock import patch

import mlx.core as mx

import mlx_sam2.kernels
from metal import NAMES, emulated, emulator
from mlx_sam2.kernels.dispatch import Op, exact_reference, make_arguments, relative_difference

MAX_CHECKED = 1 << 21  # elements of the inputs of a case
HEAD = ("op", "variant", "size", "difference", "bytes", "threadgroup memory", "threads")


def ops() -> list[Op]:
    """Every op of the package."""
    names = sorted(m.name for m in pkgutil.iter_modules(mlx_sam2.kernels.__path__))
    modules = [importlib.import_module(f"mlx_sam2.kernels.{name}") for name in names]
    found = {id(v): v for module in modules for v in vars(module).values() if isinstance(v, Op)}
    return list(found.values())


def measure(op: Op, args: tuple[Any, ...]) -> dict[str, Any]:
    """Run the kernel: its difference from the reference, and the sums over its launches."""
    metalcpu = emulator()
    checked = sum(x.size for x in args if isinstance(x, mx.array)) <= MAX_CHECKED
    threads, real = [], metalcpu.run

    def run(kernel: Any, inputs: Any, **options: Any) -> Any:
        threads.append(math.prod(map(min, options["threadgroup"], options["grid"])))
        return real(kernel, inputs, **options)

    with emulated(mode="check" if checked else "fast") as reports, patch.object(metalcpu, "run", run):
        result = op.kernel(*args)
    moved = sum(
        counts["loaded"] + counts["stored"]
        for report in reports
        for buffer, counts in report.traffic.items()
        if not buffer.endswith(("_shape", "_strides", "_ndim"))
    )
    return {
        "difference": relative_difference(result, exact_reference(op, args)),
        "bytes": f"{moved / op.minimum_bytes(*args):.2f}" if checked else "",
        "memory": max(report.threadgroup_bytes for report in reports),
        "threads": max(threads),
    }


def rows(chosen: list[Op], dtypes: list[str]) -> Iterator[tuple[str, ...]]:
    """A row for each case; where dtypes differ, their values are apart by " / "."""
    for op in chosen:
        for case in op.cases:
            found = {}
            for name in dtypes:
                args = make_arguments(case, NAMES[name])
                if op.supports(*args):
                    found[name] = op.variant(*args).removeprefix(name).strip(), op.size(*args), measure(op, args)
            if not found:
                continue
            variants, sizes, measured = zip(*found.values(), strict=True)
            differences = " / ".join(f"{m['difference']:.1e}" for m in measured)
            of_some = "" if len(found) == len(dtypes) else f" ({', '.join(found)})"
            columns = [_joined([str(m[key]) for m in measured]) for key in ("bytes", "memory", "threads")]
            yield (op.name, _joined(variants), _joined(sizes), differences + of_some, *columns)


def _joined(values: Sequence[str]) -> str:
    return values[0] if len(set(values)) == 1 else " / ".join(values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = {op.name: op for op in ops()}
    parser.add_argument("op", nargs="*", choices=[*known, []], help=f"of {', '.join(known)}; all unless named")
    parser.add_argument("--dtype", nargs="+", choices=NAMES, default=list(NAMES))
    options = parser.parse_args()
    print("| " + " | ".join(HEAD) + " |")
    print("|" + " --- |" * len(HEAD))
    for row in rows([known[name] for name in options.op or known], options.dtype):
        print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
