"""Synthetic SAM 2 weights, so that every test runs without a download.

Each tensor is filled from a counter-based random stream seeded by its own key, in integer arithmetic
followed by float32 rounding: the same bits on every platform, which `digest` checks. The gains are chosen so
that activations stay in the range of the trained model, clicks act locally and masks change sign. The
goldens of the official code (`tests/reference/answers`, and `../shared/golden` where it stands) use the same recipe.

    nano_config("nano")   the small configuration (256 pixels, 1.7 M parameters); "nano20": its SAM 2.0 twin
    nano_state()          its weights: {official key: float32 array in PyTorch layout}
    nano_model()          a mlx_sam2 SAM2 that holds them
"""

from __future__ import annotations

import hashlib
import json
import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import mlx.nn as nn

    from mlx_sam2.config.sam2 import SAM2Config
    from mlx_sam2.model.sam2 import SAM2

DATA = Path(__file__).parents[1] / "reference" / "answers"
GOLDEN = Path(__file__).parents[3] / "shared" / "golden"  # the house's large goldens; absent in a lone clone

Overrides = dict[str, dict[str, float]]  # {key: {"mul": a, "add": b}}, applied last as w * a + b

# Mask 0 a little calmer, so that the stability fallback takes both branches; object scores around zero, so
# that both signs occur (the bias that does it depends on the seed).
NANO_OVERRIDES: Overrides = {
    "sam_mask_decoder.pred_obj_score_head.layers.2.weight": {"mul": 2.5},
    "sam_mask_decoder.pred_obj_score_head.layers.2.bias": {"add": -6},
    "sam_mask_decoder.output_hypernetworks_mlps.0.layers.2.weight": {"mul": 0.9},
    "sam_mask_decoder.output_hypernetworks_mlps.0.layers.2.bias": {"mul": 0.9},
}
NANO_DIGEST = "0c193ab19725b2888c5e21667ed1a6f71709a84675200ea064732a9f70cf51a9"  # of nano_state()


def shapes(name: str = "nano") -> dict[str, tuple[int, ...]]:
    """Keys and shapes of the official checkpoint of a small configuration, `nano` or `nano20`."""
    text = (DATA / f"official_{name}.json").read_text()
    return {key: tuple(shape) for key, shape in json.loads(text).items()}


def config_dict(name: str = "nano") -> dict[str, Any]:
    """The configuration in the terms of the official YAML: {"model": {...}}."""
    return json.loads((DATA / f"config_{name}.json").read_text())


def nano_config(name: str = "nano") -> SAM2Config:
    from mlx_sam2.config.sam2 import SAM2Config

    return SAM2Config.from_dict(config_dict(name))


@lru_cache(maxsize=4)
def _cached_state(name: str, seed: int, overrides: str) -> dict[str, np.ndarray]:
    state = make_state(shapes(name), seed, json.loads(overrides))
    for value in state.values():
        value.flags.writeable = False
    return state


def nano_state(seed: int = 1, overrides: Overrides = NANO_OVERRIDES, name: str = "nano") -> dict[str, np.ndarray]:
    """Official key names, PyTorch layouts. The dict is the caller's, the arrays are shared and read-only."""
    return dict(_cached_state(name, seed, json.dumps(overrides)))


def nano_model(seed: int = 1, overrides: Overrides = NANO_OVERRIDES, name: str = "nano") -> SAM2:
    """A model with `nano_state`, loaded the way a checkpoint is."""
    return build_model(nano_config(name), nano_state(seed, overrides, name))


def build_model(config: SAM2Config, state: dict[str, np.ndarray]) -> SAM2:
    """`SAM2(config)` holding a state dict in official names and PyTorch layouts."""
    import mlx.core as mx

    from mlx_sam2.checkpoint import key_map
    from mlx_sam2.model.sam2 import SAM2

    model = SAM2(config)
    weights = {}
    for key, value in state.items():
        if key_map.is_counter(key):
            continue
        axes = key_map.mlx_axes(key)
        weights[key] = mx.array(value if axes is None else np.ascontiguousarray(value.transpose(axes)))
    model.load_weights(list(weights.items()), strict=True)
    return model.eval()


def unquantized(model: SAM2) -> SAM2:
    """A model without packed layers, whose weights are what the packed ones stand for."""
    from mlx.utils import tree_flatten

    from mlx_sam2.model import quantization
    from mlx_sam2.model.sam2 import SAM2

    weights = dict(tree_flatten(model.parameters()))
    for name, scheme in quantization.schemes_of(model).items():
        parts = [weights.pop(f"{name}.{leaf}") for leaf in ("weight", "scales", "biases")]
        weights[f"{name}.weight"] = quantization.unpack(*parts, scheme)
    plain = SAM2(model.config)
    plain.load_weights(list(weights.items()), strict=True)
    return plain


def with_weights(module: nn.Module) -> nn.Module:
    """Fill a part of a model, each parameter from a stream of its own name."""
    import mlx.core as mx
    from mlx.utils import tree_map_with_path

    return module.update(
        tree_map_with_path(lambda name, x: mx.array(normal(name, x.shape, 0)) / 8, module.parameters())
    )


def picture(height: int = 300, width: int = 200, seed: int = 0) -> np.ndarray:
    """A (H, W, 3) uint8 picture: discs of plain colours on a gradient, with grain. Integers only."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([x * 160 // width + 40, y * 160 // height + 30, (x + y) * 140 // (width + height)], -1)
    draw = np.random.RandomState(seed)  # the legacy generator: its stream never changes
    for _ in range(9):
        row, column = draw.randint(height), draw.randint(width)
        least = min(height, width) // 12
        radius = draw.randint(least, max(min(height, width) // 4, least + 1))
        inside = (y - row) ** 2 + (x - column) ** 2 < radius**2
        image[inside] = draw.randint(0, 256, 3)
    return (image + draw.randint(-12, 13, image.shape)).clip(0, 255).astype(np.uint8)


# ---------------------------------------------------------------------------------------------- the recipe

# First match wins. "linear": gain * n / sqrt(fan in); "raw": gain * n; "about": mean + gain * n.
_RULES: list[tuple[str, tuple[str, float] | tuple[str, float, float]]] = [
    (r"positional_encoding_gaussian_matrix$", ("raw", 0.4)),
    (r"trunk\.pos_embed$", ("raw", 0.5)),
    (r"trunk\.pos_embed_window$", ("raw", 0.4)),
    (r"^maskmem_tpos_enc$", ("raw", 0.6)),
    (r"^no_mem_embed$|^no_mem_pos_enc$", ("raw", 0.4)),
    (r"^no_obj_ptr$|^no_obj_embed_spatial$", ("raw", 0.8)),
    (r"point_embeddings\.\d\.weight$|not_a_point_embed\.weight$", ("raw", 1.0)),
    (r"no_mask_embed\.weight$", ("raw", 0.4)),
    (r"(iou_token|mask_tokens|obj_score_token)\.weight$", ("raw", 0.5)),
    (r"\.gamma$", ("about", 0.6, 0.2)),
    (r"^mask_downsample\.weight$", ("about", 0.5, 0.2)),
    (r"^mask_downsample\.bias$", ("about", -4.0, 0.5)),
    (r"trunk\.blocks\.\d+\.attn\.qkv\.weight$", ("linear", 1.3)),
    (r"trunk\.blocks\.\d+\.(attn\.proj|mlp\.layers\.1)\.weight$", ("linear", 0.6)),
    (r"trunk\.blocks\.\d+\.mlp\.layers\.0\.weight$", ("linear", 1.2)),
    (r"trunk\.blocks\.\d+\.proj\.weight$", ("linear", 1.0)),
    (r"patch_embed\.proj\.weight$", ("linear", 1.5)),
    (r"neck\.convs\.\d\.conv\.weight$", ("linear", 0.35)),
    (r"memory_attention\..*(q_proj|k_proj)\.weight$", ("linear", 1.6)),
    (r"memory_attention\..*linear1\.weight$", ("linear", 1.4)),
    (r"memory_attention\..*\.weight$", ("linear", 1.0)),
    (r"mask_downsampler\.encoder\.\d+\.weight$", ("linear", 1.4)),
    (r"memory_encoder\.(pix_feat_proj|out_proj)\.weight$", ("linear", 1.0)),
    (r"memory_encoder\..*pwconv1\.weight$", ("linear", 1.4)),
    (
        r"mask_decoder\.transformer\..*(cross_attn_\w+|final_attn_token_to_image|self_attn)\.(q|k)_proj\.weight$",
        ("linear", 0.8),
    ),
    (r"mask_decoder\.transformer\..*cross_attn_image_to_token\.out_proj\.weight$", ("linear", 3.5)),
    (r"output_hypernetworks_mlps\.\d\.layers\.2\.weight$", ("linear", 2.5)),
    (r"output_hypernetworks_mlps\.\d\.layers\.2\.bias$", ("raw", 0.5)),
    (r"iou_prediction_head\.layers\.2\.weight$", ("linear", 2.0)),
    (r"pred_obj_score_head\.layers\.2\.weight$", ("linear", 4.0)),
    (
        r"(obj_ptr_proj|iou_prediction_head|pred_obj_score_head|output_hypernetworks_mlps\.\d)\.layers\.[01]\.weight$",
        ("linear", 1.4),
    ),
    (r"conv_s0\.weight$", ("linear", 0.35)),
    (r"conv_s1\.weight$", ("linear", 0.4)),
    (r"output_upscaling\.3\.weight$", ("linear", 1.5)),
]
_DECODER_CROSS = re.compile(
    r"^(sam_mask_decoder\.transformer\..*(?:cross_attn_\w+|final_attn_token_to_image))\.(q|k)_proj\.weight$"
)
_DECODER_SELF = re.compile(r"sam_mask_decoder\.transformer\..*self_attn\.(q|k)_proj\.weight$")
_HYPERNETWORK = re.compile(r"output_hypernetworks_mlps\.\d\.layers\.2\.weight$")
_TRANSPOSED = re.compile(r"output_upscaling\.[03]\.weight$")


def make_state(
    key_shapes: dict[str, tuple[int, ...]], seed: int = 0, overrides: Overrides | None = None
) -> dict[str, np.ndarray]:
    """{official key: float32 array} for any configuration, with the overrides of a golden's "weights"."""
    state = {}
    for key, shape in key_shapes.items():
        value = _tensor(key, tuple(shape), seed)
        if override := (overrides or {}).get(key):
            mul, add = np.float32(override.get("mul", 1.0)), np.float32(override.get("add", 0.0))
            value = (value * mul + add).astype(np.float32)
        state[key] = value
    return state


def digest(state: dict[str, np.ndarray]) -> str:
    """sha256 over keys and bytes; a golden's JSON carries it."""
    total = hashlib.sha256()
    for key in sorted(state):
        total.update(key.encode())
        total.update(np.ascontiguousarray(state[key]).tobytes())
    return total.hexdigest()


def normal(key: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Nearly normal float32 numbers: sums of the four 16-bit parts of a splitmix64 stream begun at `key`."""
    count = int(np.prod(shape, dtype=np.int64))
    out = np.empty(count, np.float32)
    start = np.uint64(int.from_bytes(hashlib.sha256(f"{seed}|{key}".encode()).digest()[:8], "little"))
    half = np.uint64(0xFFFF)
    with np.errstate(over="ignore"):  # the stream wraps around 2**64 by design
        for a in range(0, count, 1 << 20):
            b = min(count, a + (1 << 20))
            z = start + np.arange(a + 1, b + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            z = z ^ (z >> np.uint64(31))
            total = (z & half) + ((z >> np.uint64(16)) & half) + ((z >> np.uint64(32)) & half) + (z >> np.uint64(48))
            out[a:b] = (total.astype(np.float64) - 131070.0) / 37837.226954768585  # mean 0, variance 1
    return out.reshape(shape)


def _rule(key: str, shape: tuple[int, ...]) -> tuple[str, float] | tuple[str, float, float]:
    if len(shape) == 1 and key.endswith(".weight"):
        return ("about", 1.0, 0.2)  # every 1-D weight belongs to a norm
    for pattern, rule in _RULES:
        if re.search(pattern, key):
            return rule
    return ("raw", 0.15) if key.endswith(".bias") else ("linear", 1.0)


def _tensor(key: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    f32 = np.float32
    noise = normal(key, shape, seed)
    cross = _DECODER_CROSS.search(key)
    if cross and cross[2] == "k":  # keys lean on queries: clicks attend where their position encoding matches
        noise = f32(0.8) * normal(f"{cross[1]}.q_proj.weight", shape, seed) + f32(0.6) * noise

    kind, *gains = _rule(key, shape)
    if kind == "raw":
        value = f32(gains[0]) * noise
    elif kind == "about":
        value = f32(gains[0]) + f32(gains[1]) * noise
    else:
        fan_in = shape[0] if _TRANSPOSED.search(key) else int(np.prod(shape[1:]))
        gain = gains[0] / np.sqrt(np.float64(fan_in))
        if _HYPERNETWORK.search(key):
            gain *= np.sqrt(8.0 / shape[0])  # keeps the scale of the logits independent of the width
        value = f32(gain) * noise

    if cross:  # each row also picks one sine or cosine channel of the position encoding
        rows, channels = shape
        row = np.arange(rows)
        value[row, np.where(row % 2 == 0, row // 2, channels // 2 + row // 2)] += f32(2.0)
    if _DECODER_SELF.search(key):
        value = value + f32(1.6) * np.eye(shape[0], shape[1], dtype=f32)
    if _HYPERNETWORK.search(key):  # remove most of what the channels have in common, so masks take both signs
        value = value - f32(0.9) * value.astype(np.float64).mean(0, keepdims=True).astype(f32)
    return np.ascontiguousarray(value, dtype=f32)
