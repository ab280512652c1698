"""Reading the house's large goldens: the official code's answers under ../shared/golden (see its README.md)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import synthetic
import synthetic_edgetam

if TYPE_CHECKING:
    import mlx.core as mx

    from mlx_sam2.model.sam2 import SAM2

# Official against official on another CPU backend (golden/README.md); tests allow ten times that.
FEATURE_TOL, LOGIT_TOL, SCORE_TOL = 7e-5, 4e-4, 1e-5
EDGETAM_TOL = 4e-4, 1e-2, 3e-5  # the same three

MISSING = f"no goldens at {synthetic.GOLDEN}: they are not part of the repository"
needs_goldens = pytest.mark.skipif(not synthetic.GOLDEN.is_dir(), reason=MISSING)


@dataclass(frozen=True)
class Golden:
    """One case file: what was asked, and the tensors that came out."""

    about: dict[str, Any]
    tensors: dict[str, np.ndarray]

    @property
    def tolerances(self) -> tuple[float, float, float]:
        """Of features, logits and scores."""
        return EDGETAM_TOL if self.about["config"].startswith("edgetam") else (FEATURE_TOL, LOGIT_TOL, SCORE_TOL)

    def model(self) -> SAM2:
        weights = self.about["weights"]
        overrides = json.dumps(weights["overrides"], sort_keys=True)
        return _model(self.about["config"], weights["seed"], overrides, weights["sha256"])


def read(name: str) -> Golden:
    path = synthetic.GOLDEN / name
    about = json.loads(path.with_suffix(".json").read_text())
    return Golden(about, load_file(path.with_suffix(".safetensors")))


def input_path(name: str) -> Path:
    return synthetic.GOLDEN / "inputs" / name


def official_name(config: str) -> str:
    """ "sam2.1_tiny" -> "sam2.1_hiera_tiny"; nano, nano20 and EdgeTAM's stay."""
    return config if config.startswith(("nano", "edgetam")) else config.replace("_", "_hiera_", 1)


@lru_cache(maxsize=1)
def _model(config: str, seed: int, overrides: str, sha256: str) -> SAM2:
    from mlx_sam2.config.published import PUBLISHED

    name = official_name(config)
    manifest = json.loads((synthetic.GOLDEN / "manifest" / f"official_{name}.json").read_text())["keys"]
    shapes = {key: tuple(entry["shape"]) for key, entry in manifest.items()}
    recipe = synthetic_edgetam if name.startswith("edgetam") else synthetic
    state = recipe.make_state(shapes, seed, json.loads(overrides))
    assert synthetic.digest(state) == sha256, "the recipe has made other weights than the golden's"
    chosen = PUBLISHED[name].config if name in PUBLISHED else synthetic.nano_config(name)
    return synthetic.build_model(chosen, state)


def channels_last(x: np.ndarray) -> np.ndarray:
    return np.moveaxis(x, 1, -1)


def close(got: mx.array, expected: np.ndarray, atol: float, what: str) -> None:
    """fp16-stored goldens may be off by their own rounding."""
    rtol = 2**-11 if expected.dtype == np.float16 else 0
    assert got.shape == expected.shape, what
    np.testing.assert_allclose(np.array(got), expected.astype(np.float32), rtol=rtol, atol=atol, err_msg=what)
