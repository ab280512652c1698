"""Synthetic EdgeTAM weights: the random stream of ``synthetic``, and rules for the parts that only EdgeTAM has.

Running statistics are no trivial ones, and the rows of some convolutions sum to zero, or one constant a channel would
drown the picture. The goldens of the official EdgeTAM code use the same recipe.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

import synthetic
from synthetic import Overrides, normal

if TYPE_CHECKING:
    import mlx.core as mx

    from mlx_sam2.config.sam2 import SAM2Config
    from mlx_sam2.model.sam2 import SAM2

NANO = "edgetam_nano"
STEPS = 1000  # what every num_batches_tracked says
# Object scores around zero, so that both signs occur (seed 11).
NANO_OVERRIDES: Overrides = {
    "sam_mask_decoder.pred_obj_score_head.layers.2.weight": {"mul": 2.5},
    "sam_mask_decoder.pred_obj_score_head.layers.2.bias": {"add": 0.56},
    "sam_mask_decoder.iou_prediction_head.layers.2.weight": {"mul": 1.6},
}
_MIXER, _PERCEIVER = r"(channel_mixer|ffn)\.", r"^spatial_perceiver\.layers\.\d+\."

# First match wins. "linear": gain * n / sqrt(fan in); "raw": gain * n; "about": mean + gain * n.
_RULES: list[tuple[str, tuple[str, float] | tuple[str, float, float]]] = [
    (r"token_mixer\.conv1\.bn\.running_var$", ("about", 2e-3, 4e-4)),
    (r"token_mixer\.conv1\.bn\.running_mean$", ("raw", 4e-3)),
    (r"token_mixer\.conv1\.c\.weight$", ("linear", 0.030)),
    (r"token_mixer\.conv1\.bn\.weight$", ("about", 0.30, 0.15)),
    (r"token_mixer\.conv\.bn\.running_var$", ("about", 2.0, 0.44)),
    (r"token_mixer\.conv\.bn\.weight$", ("about", 0.6, 0.15)),
    (r"(pre_block|blocks\.\d*[13579])\.channel_mixer\.conv1\.bn\.running_var$", ("about", 3.0, 0.6)),
    (_MIXER + r"conv1\.bn\.running_var$", ("about", 2.0, 0.44)),
    (_MIXER + r"conv1\.c\.weight$", ("linear", 1.2)),
    (_MIXER + r"conv2\.bn\.running_var$", ("about", 0.5, 0.11)),
    (_MIXER + r"conv2\.bn\.running_mean$", ("raw", 0.06)),
    (_MIXER + r"conv2\.bn\.weight$", ("about", 1.0, 0.2)),
    (r"spatial_downsample\.bn\.running_var$", ("about", 4.0, 0.88)),
    (r"trunk\.body\.stem\.conv1\.c\.weight$", ("linear", 3.0)),
    (r"trunk\.body\.stem\.conv1\.bn\.running_var$", ("about", 2.0, 0.44)),
    (r"trunk\.body\.stem\.conv2\.bn\.running_var$", ("about", 0.5, 0.11)),
    (r"trunk\.body\..*\.c\.weight$", ("linear", 1.0)),
    (r"\.se\.fc1\.weight$", ("linear", 1.2)),
    (r"\.se\.fc2\.weight$", ("linear", 1.5)),
    (r"\.se\.fc2\.bias$", ("about", 0.3, 0.5)),
    (r"\.running_mean$", ("raw", 0.12)),
    (r"\.running_var$", ("about", 1.0, 0.22)),
    (r"\.bn\.weight$", ("about", 1.0, 0.2)),
    (r"\.bn\.bias$", ("raw", 0.1)),
    (r"^image_encoder\.neck\.convs\.[01]\.conv\.weight$", ("linear", 0.4)),
    (r"^image_encoder\.neck\.convs\.3\.conv\.weight$", ("linear", 1.2)),
    (r"^image_encoder\.neck\.convs\.2\.conv\.weight$", ("linear", 0.6)),
    (r"^spatial_perceiver\.latents(_2d)?$", ("raw", 0.6)),
    (_PERCEIVER + r"attn\.to_q\.weight$", ("linear", 1.8)),
    (_PERCEIVER + r"attn\.to_kv\.weight$", ("linear", 1.4)),
    (_PERCEIVER + r"self_attn\.to_q\.weight$", ("linear", 1.5)),
    (_PERCEIVER + r"self_attn\.to_kv\.weight$", ("linear", 1.3)),
    (_PERCEIVER + r"attn\.to_out\.weight$", ("linear", 2.0)),
    (_PERCEIVER + r"self_attn\.to_out\.weight$", ("linear", 1.4)),
    (_PERCEIVER + r"(self_)?ff\.1\.weight$", ("linear", 1.4)),
    (_PERCEIVER + r"(self_)?ff\.3\.weight$", ("linear", 1.0)),
]
_CENTRED = re.compile(
    r"stem\.conv1\.c\.weight$|trunk\.body\..*(channel_mixer|ffn)\.conv2\.c\.weight$|stem\.conv2\.c\.weight$"
)


def make_state(
    key_shapes: dict[str, tuple[int, ...]], seed: int = 0, overrides: Overrides | None = None
) -> dict[str, np.ndarray]:
    """As ``synthetic.make_state``. Counters of batch norms are int64."""
    common = {}
    state: dict[str, np.ndarray] = {}
    for key, shape in key_shapes.items():
        rule = next((rule for pattern, rule in _RULES if re.search(pattern, key)), None)
        if key.endswith("num_batches_tracked"):
            state[key] = np.array(STEPS, np.int64)
        elif rule is None:
            common[key] = shape
        else:
            state[key] = _overridden(_tensor(key, tuple(shape), seed, rule), (overrides or {}).get(key))
    return {**state, **synthetic.make_state(common, seed, overrides)}


def _overridden(value: np.ndarray, override: dict[str, float] | None) -> np.ndarray:
    if override is None:
        return value
    return (value * np.float32(override.get("mul", 1.0)) + np.float32(override.get("add", 0.0))).astype(np.float32)


def _tensor(key: str, shape: tuple[int, ...], seed: int, rule: tuple) -> np.ndarray:
    f32, noise, (kind, *gains) = np.float32, normal(key, shape, seed), rule
    if kind == "raw":
        value = f32(gains[0]) * noise
    elif kind == "about":
        value = f32(gains[0]) + f32(gains[1]) * noise
    else:
        value = f32(gains[0] / np.sqrt(np.float64(int(np.prod(shape[1:]))))) * noise
        if _CENTRED.search(key):
            share = f32(0.9 if "stem.conv1" in key else 1.0)
            mean = value.astype(np.float64).mean(axis=tuple(range(1, value.ndim)), keepdims=True)
            value = value - share * mean.astype(f32)
    return np.ascontiguousarray(value, dtype=f32)


# ---------------------------------------------------------------------------------------------- the small model


def nano_config() -> SAM2Config:
    """256 pixels, the trunk at its real width, 24 1-D and 16 2-D latents."""
    return synthetic.nano_config(NANO)


@lru_cache(maxsize=1)
def _shapes() -> dict[str, tuple[int, ...]]:
    from checkpoint_files import parameter_shapes

    found = parameter_shapes(nano_config())
    counters = [key.removesuffix("running_mean") for key in found if key.endswith(".running_mean")]
    return {**found, **{f"{key}num_batches_tracked": () for key in counters}}


@lru_cache(maxsize=1)
def _state() -> dict[str, np.ndarray]:
    state = make_state(_shapes(), 11, NANO_OVERRIDES)
    for value in state.values():
        value.flags.writeable = False
    return state


def nano_state() -> dict[str, np.ndarray]:
    """Official key names and layouts, counters included. The dict is the caller's, the arrays are read-only."""
    return dict(_state())


def nano_model() -> SAM2:
    """A new model with ``nano_state``, loaded the way a checkpoint is."""
    return synthetic.build_model(nano_config(), nano_state())


def calibrated_model(pixels: mx.array, residual: float = 1.0) -> SAM2:
    """``nano_model`` whose batch norms have the statistics of these pictures (N, S, S, 3), as training leaves them.

    ``residual`` scales what the residual branches of the trunk add: random ones add more than trained ones do.
    """
    from mlx_sam2.model import repvit

    def calibrate(norm: repvit.BatchNorm, x: mx.array) -> mx.array:
        norm.running_mean, norm.running_var = x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))
        factor, summand = norm.affine()
        return x * factor + summand

    model = nano_model()
    body, plain = model.image_encoder.trunk.body, repvit.BatchNorm.__call__
    for name, part in body.named_modules():
        if name.endswith("conv2.bn") and not name.startswith("stem"):
            part.weight, part.bias = part.weight * residual, part.bias * residual
    try:
        repvit.BatchNorm.__call__ = calibrate
        model.image_encoder.trunk(pixels)
    finally:
        repvit.BatchNorm.__call__ = plain
    return model


def trunk_state(model: SAM2) -> dict[str, np.ndarray]:
    """``nano_state`` with the batch norms of a model."""
    norms = {
        f"image_encoder.trunk.body.{name}.{key}": np.array(value)
        for name, part in model.image_encoder.trunk.body.named_modules()
        if name.endswith(".bn")
        for key, value in part.items()
    }
    return nano_state() | norms
