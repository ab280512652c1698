"""Make `model.npz`: heads, a given mask as output, memories of two variants of nano by the official code.

python tests/reference/answers/make_model.py        (with the packages of "Oracle tests" in CONTRIBUTING.md)
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

DATA = Path(__file__).parent
sys.path[:0] = [str(DATA.parent), *(str(DATA.parents[1] / name) for name in ("support", "checkpoint"))]

import mlx_sam2  # noqa: E402, F401  before MLX: mlx_sam2/_blas.py
from goldens import channels_last  # noqa: E402
from model_variants import (  # noqa: E402
    HEADS,
    STORED,
    STORED_VARIANTS,
    VARIANTS,
    Pair,
    both_features,
    every_other,
    official_heads,
    official_mask_as_output,
    official_memory,
)


def main() -> None:
    arrays = {}
    for variant in STORED_VARIANTS:
        pair = Pair(VARIANTS[variant])
        theirs, _ = both_features(pair)
        answers = {name: official_heads(pair, theirs, name) for name in HEADS}
        answers["mask"] = official_mask_as_output(pair, theirs)
        answers |= {f"memory.{c}": official_memory(pair, theirs, c) for c in (False, True)}
        for name, answer in answers.items():
            for what, x in answer.items():
                x = x.numpy()
                arrays[f"{variant}.{name}.{what}"] = every_other(channels_last(x) if x.ndim == 4 else x)
    np.savez_compressed(STORED, **arrays)


if __name__ == "__main__":
    main()
