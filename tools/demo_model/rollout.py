"""A clip through the memory, as the official video predictor does it, keeping all masks for the losses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from model import Decoded, decode

__all__ = ["FrameFeatures", "frame_features", "nothing_asked", "remember", "start", "track"]

NO_OBJECT = -1024.0


@dataclass
class FrameFeatures:
    """Features of one frame for N objects: for the decoder, and flattened (HW, N, C) for the memory."""

    maps: list[torch.Tensor]  # (N, C, ...) of stride 4, 8, 16
    flat: torch.Tensor
    position: torch.Tensor

    @property
    def size(self) -> tuple[int, int]:
        return self.maps[2].shape[-2], self.maps[2].shape[-1]


def frame_features(model: nn.Module, maps: list[torch.Tensor], clips: torch.Tensor) -> FrameFeatures:
    """Features of one frame of every clip, (B, C, ...), repeated for its objects: clips (N,) names each one's clip."""
    maps = [m[clips] for m in maps]
    coarse = maps[2]
    position = model.image_encoder.neck.position_encoding(coarse).to(coarse.dtype)
    return FrameFeatures(maps, coarse.flatten(2).permute(2, 0, 1), position.flatten(2).permute(2, 0, 1))


def nothing_asked(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The prompt of a tracked frame: one point that is none (the prompt encoder pads a second)."""
    return torch.zeros(count, 1, 2), -torch.ones(count, 1, dtype=torch.int32)


def _chosen(model: nn.Module, out: Decoded, several: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Mask (N, 1, S/4, S/4) and pointer (N, C): best of three, or the single one; gated by the object score."""
    rows = torch.arange(len(out.masks))
    which = 1 + out.ious[:, 1:].argmax(1) if several else torch.zeros(len(rows), dtype=torch.long)
    there = (out.score > 0).float()
    masks = torch.where(there[:, :, None, None] > 0, out.masks[rows, which][:, None], NO_OBJECT)
    pointer = there * model.obj_ptr_proj(out.tokens[rows, which]) + (1 - there) * model.no_obj_ptr
    return masks, pointer


def start(
    model: nn.Module,
    features: FrameFeatures,
    points: tuple[torch.Tensor, torch.Tensor] | None,
    masks: torch.Tensor | None,
) -> tuple[Decoded | None, dict[str, Any]]:
    """The first frame: points (decoded; official multimask for one click) or masks (N, 1, S, S), taken as they are."""
    if masks is not None:
        result = model._use_mask_as_output(features.maps[2], features.maps[:2], masks)
        return None, _stored(model, features, result[4], result[5], result[6], True)
    with_embed = features.maps[2] + model.no_mem_embed.view(1, -1, 1, 1)
    out = decode(model, [*features.maps[:2], with_embed], points, None)
    low, pointer = _chosen(model, out, points[0].shape[1] == 1)
    return out, _stored(model, features, _full(model, low), pointer, out.score, True)


def track(
    model: nn.Module, features: FrameFeatures, memory: dict[str, Any], frame: int, frames: int, use_memory: bool = True
) -> tuple[Decoded, torch.Tensor, dict[str, Any]]:
    """A later frame: all masks, the chosen low-resolution mask (N, 1, S/4, S/4), and what to keep in memory."""
    if use_memory:
        coarse = model._prepare_memory_conditioned_features(
            frame_idx=frame,
            is_init_cond_frame=False,
            current_vision_feats=[features.flat],
            current_vision_pos_embeds=[features.position],
            feat_sizes=[features.size],
            output_dict=memory,
            num_frames=frames,
        )
    else:
        coarse = features.maps[2] + model.no_mem_embed.view(1, -1, 1, 1)
    out = decode(model, [*features.maps[:2], coarse], nothing_asked(len(features.maps[2])), None)
    low, pointer = _chosen(model, out, True)
    return out, low, _stored(model, features, _full(model, low), pointer, out.score, False)


def remember(memory: dict[str, Any], frame: int, stored: dict[str, Any], prompted: bool) -> None:
    memory["cond_frame_outputs" if prompted else "non_cond_frame_outputs"][frame] = stored


def _full(model: nn.Module, low: torch.Tensor) -> torch.Tensor:
    return F.interpolate(low, size=(model.image_size,) * 2, mode="bilinear", align_corners=False)


def _stored(
    model: nn.Module,
    features: FrameFeatures,
    masks: torch.Tensor,
    pointer: torch.Tensor,
    score: torch.Tensor,
    prompted: bool,
) -> dict[str, Any]:
    memory, position = model._encode_new_memory(
        current_vision_feats=[features.flat],
        feat_sizes=[features.size],
        pred_masks_high_res=masks,
        object_score_logits=score,
        is_mask_from_pts=prompted,
    )
    return {"maskmem_features": memory, "maskmem_pos_enc": position, "obj_ptr": pointer}
