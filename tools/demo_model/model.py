"""The official SAM 2 modules in the small config, with the two steps that training needs: features and masks."""

from __future__ import annotations

import sys
import types
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

__all__ = ["CONFIG", "AuxiliaryHead", "Decoded", "build", "decode", "encode", "load_config", "look_nearby"]

CONFIG = Path(__file__).with_name("demo.yaml")


class Decoded:
    """What the mask decoder says: masks (N, 4, S/4, S/4) logits, ious (N, 4), tokens (N, 4, C), score (N, 1)."""

    def __init__(self, masks: torch.Tensor, ious: torch.Tensor, tokens: torch.Tensor, score: torch.Tensor):
        self.masks, self.ious, self.tokens, self.score = masks, ious, tokens, score


def load_config(image_size: int = 256) -> dict[str, Any]:
    """The official YAML as a dict, at another image size where training starts on small pictures."""
    config = yaml.safe_load(CONFIG.read_text())
    model = config["model"]
    model["image_size"] = image_size
    layer = model["memory_attention"]["layer"]
    for attention in (layer["self_attention"], layer["cross_attention"]):
        attention["feat_sizes"] = [image_size // 16] * 2
    return config


def _without_torchvision() -> None:
    """The package imports torchvision in its predictors' module; the model itself never uses it."""
    try:
        import torchvision  # noqa: F401
    except ImportError:
        for name in ("torchvision", "torchvision.transforms"):
            sys.modules.setdefault(name, types.ModuleType(name))
        for name in ("Normalize", "Resize", "ToTensor"):
            setattr(sys.modules["torchvision.transforms"], name, object)


def build(image_size: int = 256) -> nn.Module:
    """SAM2Base with random weights; the decoder's cross attentions start by looking at the place of a prompt."""
    _without_torchvision()
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    model = instantiate(OmegaConf.create(deepcopy(load_config(image_size)["model"])), _recursive_=True)
    look_at_prompts(model)
    return model


@torch.no_grad()
def look_at_prompts(model: nn.Module, gain: float = 2.0) -> None:
    """Give queries and keys of the cross attentions the same few frequencies of the position encoding.

    Points and pixels share one random Fourier encoding, [sin(f x) | cos(f x)], whose inner product peaks where
    they coincide. A random start has to find that; measured without: no progress for 30,000 samples.
    """
    transformer = model.sam_mask_decoder.transformer
    attentions = [transformer.final_attn_token_to_image]
    for layer in transformer.layers:
        attentions += [layer.cross_attn_token_to_image, layer.cross_attn_image_to_token]
    half = model.hidden_dim // 2
    for n, attention in enumerate(attentions):
        rows = torch.arange(attention.internal_dim // 2)
        frequency = (rows + n * 7) % half
        for projection in (attention.q_proj, attention.k_proj):
            projection.weight.mul_(0.5)
            projection.weight[2 * rows, frequency] += gain
            projection.weight[2 * rows + 1, half + frequency] += gain


@torch.no_grad()
def look_nearby(model: nn.Module, gain: float = 3.0, frequencies: int = 8) -> None:
    """Let the memory attention begin by reading what each memory holds at the same place.

    A constant part of queries and keys, in the fastest frequencies of the rotary encoding of x and of y, makes
    their product fall with the distance. Values are untouched.
    """
    for layer in model.memory_attention.layers:
        attention = layer.cross_attn_image
        half = attention.internal_dim // 2
        pairs = torch.arange(frequencies) * 2
        for projection in (attention.q_proj, attention.k_proj):
            projection.bias[pairs] += gain
            projection.bias[half + pairs] += gain


def encode(model: nn.Module, images: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """(B, 3, S, S) normalised -> features for the decoder [stride 4, stride 8, stride 16], and the neck's own."""
    neck = model.image_encoder(images)["backbone_fpn"]
    decoder = model.sam_mask_decoder
    return [decoder.conv_s0(neck[0]), decoder.conv_s1(neck[1]), neck[2]], neck


def decode(
    model: nn.Module,
    features: list[torch.Tensor],
    points: tuple[torch.Tensor, torch.Tensor] | None,
    mask_logits: torch.Tensor | None,
) -> Decoded:
    """All four masks of N prompts; features are (N, C, ...), one per prompt, memory or no_mem_embed already added.

    points: coordinates (N, P, 2) in pixels, labels (N, P); mask_logits (N, 1, S/4, S/4).
    """
    sparse, dense = model.sam_prompt_encoder(points, None, mask_logits)
    if points is None:
        sparse = sparse.expand(features[2].shape[0], -1, -1)
    masks, ious, tokens, score = model.sam_mask_decoder.predict_masks(
        image_embeddings=features[2],
        image_pe=model.sam_prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        repeat_image=False,
        high_res_features=features[:2],
    )
    return Decoded(masks, ious, tokens, score)


class AuxiliaryHead(nn.Module):
    """For training only: what the encoder's features say of every pixel (edge, object or not, which object)."""

    def __init__(self, width: int, channels: int = 16):
        super().__init__()
        self.levels = nn.ModuleList(nn.Conv2d(width, channels + 2, 1) for _ in range(3))
        self.scale = nn.Parameter(torch.tensor([5.0, -1.0]))

    def forward(self, neck: list[torch.Tensor]) -> torch.Tensor:
        """Neck levels -> (B, 2 + channels, S/4, S/4)."""
        total = self.levels[0](neck[0])
        for level, features in zip(self.levels[1:], neck[1:], strict=False):
            total = total + nn.functional.interpolate(level(features), size=total.shape[-2:], mode="nearest")
        return total
