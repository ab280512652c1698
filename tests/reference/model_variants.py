"""Variants of the nano configuration: the official model and ours, on the same weights, asked the same questions."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import mlx.core as mx
import numpy as np

import synthetic
from checkpoint_files import parameter_shapes
from goldens import channels_last, close
from mlx_sam2.config.sam2 import SAM2Config
from mlx_sam2.model.results import ImageFeatures
from mlx_sam2.model.sam2 import SAM2
from synthetic import normal


def changed(**changes: Any) -> dict[str, Any]:
    """nano's official YAML with some keys changed; "a__b" is the path a.b below "model"."""
    values = synthetic.config_dict()
    for path, value in changes.items():
        node, (*parents, leaf) = values["model"], path.split("__")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return values


TRUNK, NECK, LAYER = "image_encoder__trunk__", "image_encoder__neck__", "memory_attention__layer__"
NO_POINTERS = {"use_obj_ptrs_in_encoder": False, "fixed_no_obj_ptr": False, "pred_obj_scores": False}
BOTH = ("self_attention__", "cross_attention__")
VARIANTS = {
    "size_128": changed(image_size=128),
    "size_160": changed(image_size=160),
    "size_512": changed(image_size=512),
    "no_high_resolution": changed(use_high_res_features_in_sam=False),
    "no_object_score": changed(pred_obj_scores=False, pred_obj_scores_mlp=False, fixed_no_obj_ptr=False),
    "linear_heads": changed(
        pred_obj_scores_mlp=False, use_mlp_for_obj_ptr_proj=False, iou_prediction_use_sigmoid=False
    ),
    "soft_pointer": changed(soft_no_obj_ptr=True),
    "added_pointer": changed(fixed_no_obj_ptr=False),
    "first_token_pointer": changed(use_multimask_token_for_obj_ptr=False),
    "bilinear_average_neck": changed(
        **{NECK + "fpn_interp_model": "bilinear", NECK + "fuse_type": "avg", NECK + "fpn_top_down_levels": [0, 1, 2]}
    ),
    "three_by_three_neck": changed(**{NECK + "kernel_size": 3, NECK + "padding": 1}),
    "three_stages": changed(
        image_encoder__scalp=0,
        **{TRUNK + "stages": [2, 1, 2], TRUNK + "window_spec": [4, 6, 5], TRUNK + "global_att_blocks": [4]},
        **{TRUNK + "q_pool": 2, NECK + "backbone_channel_list": [64, 32, 16], NECK + "fpn_top_down_levels": [2]},
    ),
    "odd_trunk": changed(
        **{TRUNK + "dim_mul": 1.5, TRUNK + "head_mul": 1.0, TRUNK + "num_heads": 2},
        **{TRUNK + "window_spec": [8, 6, 10, 5]},
        **{NECK + "backbone_channel_list": [54, 36, 24, 16], TRUNK + "window_pos_embed_bkg_spatial_size": [5, 9]},
    ),
    "all_positions": changed(
        memory_attention__pos_enc_at_input=False,
        **{LAYER + "activation": "gelu", LAYER + "pos_enc_at_attn": True},
        **{LAYER + "pos_enc_at_cross_attn_queries": True, LAYER + "pos_enc_at_cross_attn_keys": False},
    ),
    "memory_heads": changed(
        **{f"{LAYER}{kind}{key}": value for kind in BOTH for key, value in (("num_heads", 2), ("downsample_rate", 2))},
        **{f"{LAYER}{kind}rope_theta": 100.0 for kind in BOTH},
    ),
    "plain_times": changed(
        proj_tpos_enc_in_obj_ptrs=False, use_signed_tpos_enc_to_obj_ptrs=False, no_obj_embed_spatial=False
    ),
    "no_times": changed(add_tpos_enc_to_obj_ptrs=False, proj_tpos_enc_in_obj_ptrs=False),
    "no_pointers": changed(**NO_POINTERS, add_tpos_enc_to_obj_ptrs=False, proj_tpos_enc_in_obj_ptrs=False),
    "memory_encoder": changed(
        **{f"memory_encoder__mask_downsampler__{k}": v for k, v in (("kernel_size", 4), ("stride", 4), ("padding", 0))},
        memory_encoder__fuser__layer__use_dwconv=False,
        memory_encoder__fuser__layer__layer_scale_init_value=0.0,
        memory_encoder__fuser__num_layers=1,
        sigmoid_scale_for_mem_enc=1.0,
        sigmoid_bias_for_mem_enc=0.0,
    ),
}  # fmt: skip


def variant_weights(values: dict[str, Any]) -> tuple[SAM2Config, dict[str, np.ndarray]]:
    config = SAM2Config.from_dict(values).with_postprocessing(True)
    return config, synthetic.make_state(parameter_shapes(config), 1, synthetic.NANO_OVERRIDES)


class Pair:
    """The official model and ours, on the same weights."""

    def __init__(self, values: dict[str, Any]):
        import official  # skips, with its reason, where the official code is not installed

        self.torch = official.torch
        self.config, state = variant_weights(values)
        self.official = official.official_model(deepcopy(values), state)
        self.ours = synthetic.build_model(self.config, state)
        self.size = self.config.image_size

    def tensor(self, x: np.ndarray) -> Any:
        """Channels last to torch's order."""
        return self.torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, 1) if x.ndim == 4 else x))

    def compare(self, got: mx.array, expected: Any, atol: float, what: str) -> None:
        expected = expected.detach().numpy()
        close(got, channels_last(expected) if expected.ndim == 4 else expected, atol, what)


def pictures(size: int) -> np.ndarray:
    return np.stack([synthetic.picture(size, size, seed) / 128 - 1 for seed in (0, 1)]).astype(np.float32)


def both_features(pair: Pair) -> tuple[Any, ImageFeatures]:
    """Features of two pictures by both: official (features, positions, sizes), and ours."""
    pixels = pictures(pair.size)
    with pair.torch.no_grad():
        theirs = pair.official._prepare_backbone_features(pair.official.forward_image(pair.tensor(pixels)))[1:]
    return theirs, pair.ours.encode_image(mx.array(pixels))


def planes(pair: Pair, theirs: Any) -> list[Any]:
    """The official (H * W, B, C) features as (B, C, H, W)."""
    return [x.permute(1, 2, 0).unflatten(2, size) for x, size in zip(theirs[0], theirs[2], strict=True)]


# For two objects, one on each picture: points and labels, or none; a mask prompt or none; multimask.
HEADS = {
    "tracking": (None, False, True),
    "clicks": ((2, (1, 0)), False, False),
    "box_and_mask": ((2, (2, 3)), True, False),
    "click_multimask": ((1, (1,)), True, True),
}


def head_prompt(name: str, config: SAM2Config) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None, bool]:
    given, with_mask, multimask = HEADS[name]
    points = labels = mask = None
    if given is not None:
        points = (normal("points", (2, given[0], 2), 0) * 0.2 + 0.5).astype(np.float32) * config.image_size
        labels = np.array([given[1]] * 2, np.int32)
    if with_mask:
        mask = 4 * normal("mask", (2, 4 * config.embedding_size, 4 * config.embedding_size, 1), 0)
    return points, labels, mask, multimask


def official_heads(pair: Pair, theirs: Any, name: str) -> dict[str, Any]:
    points, labels, mask, multimask = head_prompt(name, pair.config)
    *high_res, embedding = planes(pair, theirs)
    with pair.torch.no_grad():
        _, _, ious, low_res, _, pointer, score = pair.official._forward_sam_heads(
            embedding,
            None if points is None else {"point_coords": pair.tensor(points), "point_labels": pair.tensor(labels)},
            None if mask is None else pair.tensor(mask),
            high_res or None,
            multimask,
        )
    return {"ious": ious, "low_res": low_res, "pointer": pointer, "score": score}


def our_heads(model: SAM2, features: ImageFeatures, name: str) -> dict[str, mx.array]:
    *prompt, multimask = head_prompt(name, model.config)
    arrays = (None if x is None else mx.array(x) for x in prompt)
    got = model.predict_object(features.embedding, features.high_res, *arrays, multimask)
    return {"ious": got.ious, "low_res": got.low_res_mask, "pointer": got.pointer, "score": got.object_score}


def given_masks(size: int) -> np.ndarray:
    """A mask for one object, an empty one for the other."""
    mask = np.zeros((2, size, size, 1), np.float32)
    mask[0, size // 3 : size // 2, 5:-9] = 1
    return mask


def official_mask_as_output(pair: Pair, theirs: Any) -> dict[str, Any]:
    *high_res, embedding = planes(pair, theirs)
    with pair.torch.no_grad():
        answer = pair.official._use_mask_as_output(embedding, high_res or None, pair.tensor(given_masks(pair.size)))
    return {"ious": answer[2], "low_res": answer[3], "pointer": answer[5], "score": answer[6]}


def our_mask_as_output(model: SAM2, features: ImageFeatures) -> dict[str, mx.array]:
    got = model.predict_from_mask(features, mx.array(given_masks(model.config.image_size)))
    return {"ious": got.ious, "low_res": got.low_res_mask, "pointer": got.pointer, "score": got.object_score}


# Memories of two objects, one of them absent, on frame 0, and their mirror image on frame 3; attended to on frame 4.
SCORES = np.array([[3.0], [-2.0]], np.float32)


def logits(size: int) -> np.ndarray:
    return 6 * normal("logits", (2, size, size, 1), 0)


def pointers(dim: int) -> np.ndarray:
    return normal("pointers", (2, 2, dim), 0)  # (object, frame, C)


def official_memory(pair: Pair, theirs: Any, clicked: bool) -> dict[str, Any]:
    pair.official.binarize_mask_from_pts_for_mem_enc = True
    mask, score = pair.tensor(logits(pair.size)), pair.torch.from_numpy(SCORES)
    given = pointers(pair.config.neck.d_model)
    with pair.torch.no_grad():
        memory, positions = pair.official._encode_new_memory(
            theirs[0], theirs[2], mask, score, is_mask_from_pts=clicked
        )
        first, later = (
            {"maskmem_features": m, "maskmem_pos_enc": positions, "obj_ptr": pair.torch.from_numpy(given[:, k])}
            for k, m in enumerate((memory, memory.flip(3)))
        )
        outputs = {"cond_frame_outputs": {0: first}, "non_cond_frame_outputs": {3: later}}
        attended = pair.official._prepare_memory_conditioned_features(
            4, False, theirs[0][-1:], theirs[1][-1:], theirs[2][-1:], outputs, num_frames=9
        )
    return {"memory": memory, "attended": attended}


def our_memory(model: SAM2, features: ImageFeatures, clicked: bool) -> dict[str, mx.array]:
    config = model.config
    mask = mx.array(logits(config.image_size))
    memory = model.encode_memory(features.embedding, mask, mx.array(SCORES), binarize=clicked)
    attended = model.attend_memory(
        features.embedding,
        mx.stack([memory, memory[:, :, ::-1]], axis=1),
        mx.array([[config.num_maskmem - 1, 0]] * 2),
        mx.array(pointers(config.neck.d_model)) if config.use_obj_ptrs_in_encoder else None,
        mx.array([[4 / 8, 1 / 8]] * 2) if config.use_obj_ptrs_in_encoder else None,
    )
    return {"memory": memory, "attended": attended}


# ---- the variants whose answers are stored, for a clone without the official code

STORED_VARIANTS = ("size_128", "plain_times")
STORED = synthetic.DATA / "model.npz"


def every_other(x: np.ndarray) -> np.ndarray:
    """What is stored of a (B, h, w, C) tensor."""
    return x[:, ::4, 1::4, ::3] if x.ndim == 4 else x
