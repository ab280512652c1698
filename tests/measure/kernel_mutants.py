"""Break the kernels on purpose, one slip at a time, and print which case of the op catches it.

    python tests/measure/kernel_mutants.py [op ...]

A mutant is caught if a case differs from its definition (of the older kernels: from the reference) by more than the
tests allow, in float32, or if the emulator reports an error (bounds, races, unwritten elements). Ends with 1 if one
survives.
"""

from __future__ import annotations

import _paths  # noqa: F401  # isort: skip

import argparse
import sys
import warnings
from typing import Any
from unittest.mock import patch

import mlx.core as mx

from kernel_definitions import by_definition, difference
from metal import RELATIVE, emulated
from mlx_sam2.kernels.axial_memory_attention import axial_memory_attention_op
from mlx_sam2.kernels.dispatch import Op, exact_reference, make_arguments, metal_kernel, relative_difference
from mlx_sam2.kernels.memory_attention import memory_attention_op
from mlx_sam2.kernels.residual_layer_norm import residual_layer_norm_op
from mlx_sam2.kernels.shifted_layer_norm import shifted_layer_norm_op
from mlx_sam2.kernels.upscaling import mask_logits_op, upscaled_layer_norm_op

WIDE = 256  # channels of cases that are left out: the emulator compiles each variant of them for 20 seconds

MUTANTS: list[tuple[Op, str, str]] = [  # op, text of its source or header, what takes its place
    (axial_memory_attention_op, "part * strips / parts; strip < end", "part * (strips / parts); strip < end"),
    (axial_memory_attention_op, "part + 1 == parts && tail > 0", "part == 0 && tail > 0"),
    (axial_memory_attention_op, "groups = (used + 7) / 8", "groups = metal::max(used / 8, 1u)"),
    (axial_memory_attention_op, "base + t < used && strip * COLUMNS + j < W)", "strip * COLUMNS + j < W)"),
    (axial_memory_attention_op, "at < tail : at < used && strip * COLUMNS + j < W", "at < tail : at < used"),
    (axial_memory_attention_op, "at < tail : at < used &&", "true : at < used &&"),
    (axial_memory_attention_op, " + column_offset[j]", ""),
    (axial_memory_attention_op, " + row_offset", ""),
    (axial_memory_attention_op, "offsets_1[W + y]", "offsets_1[y]"),
    (axial_memory_attention_op, "total *= shrink", "total *= 1.0f"),
    (axial_memory_attention_op, "result[d] *= shrink", "result[d] *= 1.0f"),
    (axial_memory_attention_op, "second = from + metal::min(query + 1, N - 1)", "second = from + query"),
    (axial_memory_attention_op, "y = pointers ? 0 : block / groups", "y = block / groups"),
    (axial_memory_attention_op, "x = pointers ? 0 :", "x ="),
    (axial_memory_attention_op, "j / 2 * 16 + t / 2 * 4", "t / 2 * 16 + j / 2 * 4"),
    (axial_memory_attention_op, "(pointers ? M : cells * M)", "(cells * M)"),
    (axial_memory_attention_op, "(pointers ? used : 0) + at", "at"),
    (axial_memory_attention_op, "q_shape[0] == 1 ? 0 : item * N", "0"),
    (axial_memory_attention_op, "block % groups * 8", "0"),
    (axial_memory_attention_op, "(c % F * 8 + c / F) * LDW", "c * LDW"),
    (residual_layer_norm_op, "squares / WIDTH + eps", "squares / WIDTH"),
    (residual_layer_norm_op, "row % uint(x_shape[0])", "0"),
    (residual_layer_norm_op, "row % uint(position_shape[0])", "row"),
    (residual_layer_norm_op, " + float4(((const device T4*)shift)[at])", ""),
    (residual_layer_norm_op, "n = LANES / 2; n > 0; n /= 2) total", "n = LANES / 4; n > 0; n /= 2) total"),
    (residual_layer_norm_op, "lane < QUADS ? v[i] - mean : float4(0.0f)", "lane < QUADS ? v[i] - mean : float4(-mean)"),
    (upscaled_layer_norm_op, "Y % 2 * 2 + X % 2", "X % 2 * 2 + Y % 2"),
    (upscaled_layer_norm_op, "row % (uint(more_shape[0]) * H * W)", "row % (H * W)"),
    (upscaled_layer_norm_op, "line / H * (H / 2)", "0"),
    (upscaled_layer_norm_op, "T4(gelu_of(normed))", "T4(normed)"),
    (mask_logits_op, "b * MASKS * QUADS", "0"),
    (mask_logits_op, "b % uint(more_shape[0]) * 2 * h", "0"),
    (mask_logits_op, "+ line % 2) * 2 * QUADS", "+ line % 2) * QUADS"),
    (
        mask_logits_op,
        "float4(from[QUADS + i]) + float4(added[QUADS + i])",
        "float4(from[QUADS + i]) + float4(added[i])",
    ),
    (mask_logits_op, "float4(-4.0f), float4(4.0f)", "float4(-2.5f), float4(2.5f)"),
    # the older kernels: slips that the cases did not see before
    (memory_attention_op, "part * blocks / parts; block < (part + 1)", "part * (blocks / parts); block < (part + 1)"),
    (
        memory_attention_op,
        "+ bias[item / uint(q_shape[1]) * M + key]",
        "+ metal::max(-30.0f, bias[item / uint(q_shape[1]) * M + key])",
    ),
    (shifted_layer_norm_op, "/ WIDTH + eps", "/ WIDTH"),
]
OLDER = {memory_attention_op.name, shifted_layer_norm_op.name}


def caught_by(op: Op, old: str, new: str) -> str | None:
    """The first case that catches a mutant, and how."""

    def broken(name: str, inputs: Any, outputs: Any, source: str, header: str = "") -> Any:
        if old not in source + header:
            applied.append(False)
            return metal_kernel(name, inputs, outputs, source, header)
        applied.append(True)
        return metal_kernel(name, inputs, outputs, source.replace(old, new), header.replace(old, new))

    module, applied = sys.modules[op.kernel.__module__], list[bool]()
    for number, case in enumerate(op.cases):
        args = make_arguments(case, mx.float32) if max(case[0].shape) < WIDE else ()
        if not args or not op.supports(*args):
            continue
        applied.clear()
        try:
            with patch.object(module, "metal_kernel", broken), emulated("check"):
                got = op.kernel(*args)
                mx.eval(got)
        except (RuntimeError, ValueError) as error:  # what the emulator reports
            return f"case {number}: {type(error).__name__}: {str(error).strip().splitlines()[0][:60]}"
        if not any(applied):
            continue
        if op.name in OLDER:
            found = relative_difference(got, exact_reference(op, args))
        else:
            found = difference(got, by_definition(op, args))
        if not found <= RELATIVE[mx.float32]:
            return f"case {number}: {found:.1e}"
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("op", nargs="*", choices=[*sorted({op.name for op, *_ in MUTANTS}), []], help="default: all")
    chosen = parser.parse_args().op
    warnings.simplefilter("ignore")
    survivors = 0
    print("| op | slip | caught by |\n|---|---|---|")
    for op, old, new in MUTANTS:
        if not chosen or op.name in chosen:
            how = caught_by(op, old, new)
            survivors += how is None
            print(f"| {op.name} | `{old}` -> `{new}` | {how or 'NOTHING'} |", flush=True)
    print(f"\n{survivors} survive")
    return int(survivors > 0)


if __name__ == "__main__":
    sys.exit(main())
