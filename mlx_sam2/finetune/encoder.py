"""The image encoder and memory attention in training: drop path, dropout, gradient checkpoints.

The layers are the model's; only the way through them is written again, as the official training mode goes it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from ..config.parts import MemoryConfig
from ..kernels import axial_rope
from ..kernels.windows import max_pool
from ..model.compiled import holding
from ..model.image_encoder import MultiScaleBlock
from ..model.layers import ACTIVATIONS, merge_heads, split_heads
from ..model.memory import POSITION_SCALE, MemoryAttentionLayer, RoPEAttention
from ..model.position_encoding import sine_position_encoding
from ..model.results import ImageFeatures
from ..model.sam2 import SAM2
from .rollout import Attend

Layer = Callable[..., mx.array]


def encode_images(
    model: SAM2, pixels: mx.array, drop_path: float = 0.0, key: mx.array | None = None, checkpoint: bool = False
) -> ImageFeatures:
    """``SAM2.encode_image`` of (N, S, S, 3), with drop path growing to ``drop_path`` over the trunk's blocks.

    Args:
        key: of ``mx.random``, for the drop path.
        checkpoint: compute the activations of a block again in the backward pass.
    """
    encoder, decoder, config = model.image_encoder, model.sam_mask_decoder, model.config
    trunk = encoder.trunk
    x = trunk.patch_embed(pixels.astype(model.dtype))
    x = x + trunk.position_embedding(*x.shape[1:3]).astype(x.dtype)
    count = len(trunk.blocks)
    keys = mx.random.split(key, count) if drop_path else [None] * count
    features = []
    for i, block in enumerate(trunk.blocks):
        kept = None if keys[i] is None else _kept(len(x), drop_path * i / max(count - 1, 1), keys[i])
        x = _run(_block, block, checkpoint, x, kept)
        if i in config.trunk.stage_end_indices:
            features.append(x)
    heads = (decoder.conv_s0, decoder.conv_s1) if config.use_high_res_features_in_sam else ()
    levels = encoder.neck(features, heads)[: len(features) - config.scalp]
    return ImageFeatures(levels[-1], (levels[0], levels[1]) if heads else None)


def _run(function: Layer, layer: nn.Module, checkpoint: bool, *args: Any) -> mx.array:
    """Call a function of a layer and arrays, keeping its activations or computing them again."""
    if not checkpoint:
        return function(layer, *args)
    if (calls := _stood_in.get()) is not None:
        calls.append(Call(function, layer, args))
        return _stand_in(function(layer, *args).shape, layer, args)
    return mx.checkpoint(lambda weights, *args: function(holding(layer, weights), *args))(layer.parameters(), *args)


class Call(NamedTuple):
    """A call whose activations would be computed again in the backward pass."""

    function: Layer
    layer: nn.Module
    args: tuple[Any, ...]


_stood_in: ContextVar[list[Call] | None] = ContextVar("stood_in", default=None)


@contextmanager
def checkpoints_stood_in() -> Iterator[list[Call]]:
    """Replace checkpointed calls by stand-ins that keep nothing, and list them: MLX lists no graph that has any."""
    calls: list[Call] = []
    token = _stood_in.set(calls)
    try:
        yield calls
    finally:
        _stood_in.reset(token)


def _stand_in(shape: tuple[int, ...], layer: nn.Module, args: tuple[Any, ...]) -> mx.array:
    """An array that depends on the weights of a layer and on what it is given."""
    arrays = [value for _, value in tree_flatten(layer.parameters())] + [x for x in args if x is not None]
    return mx.zeros(shape, args[0].dtype) + sum(x.sum().astype(args[0].dtype) for x in arrays)


def _kept(count: int, rate: float, key: mx.array) -> mx.array:
    """What the two branches of a block are multiplied by, (2, N, 1, 1, 1): 0, or more than 1 in its stead."""
    return mx.random.bernoulli(1 - rate, (2, count, 1, 1, 1), key) / (1 - rate)


def _block(block: MultiScaleBlock, x: mx.array, kept: mx.array | None) -> mx.array:
    """A block of the trunk, plainly: no residual stream, no bands of rows."""
    normed = block.norm1(x)
    if "proj" in block:
        x = block.proj(normed)
        if block.q_stride is not None:
            x = max_pool(x, block.q_stride)
    attended = block.attn.proj(block.attn(normed))
    x = x + (attended if kept is None else kept[0].astype(x.dtype) * attended)
    fed = block.mlp(block.norm2(x))
    return x + (fed if kept is None else kept[1].astype(x.dtype) * fed)


def memory_attention(model: SAM2, dropout: float, key: mx.array | None, checkpoint: bool = False) -> Attend | None:
    """``model.attend_memory`` with dropout, for ``roll_out``; None if nothing differs. Every call draws anew."""
    if not dropout and not checkpoint:
        return None
    config = model.config.memory_attention
    calls = iter(range(1 << 30))

    def attend(embedding: mx.array, *recalled: Any) -> mx.array:
        keys, values, num_tail, _ = model.memory_tokens(*recalled)
        _, h, w, c = embedding.shape
        position = sine_position_encoding(h, w, c, model.config.neck.temperature, model.dtype).reshape(1, h * w, c)
        x = mx.broadcast_to(embedding.reshape(-1, h * w, c), (len(keys), h * w, c))
        x = x + POSITION_SCALE * position if config.pos_enc_at_input else x
        layers = model.memory_attention.layers
        drawn = mx.random.split(key[next(calls) % len(key)], len(layers)) if dropout else [None] * len(layers)
        for layer, own in zip(layers, drawn, strict=True):
            if own is None:
                call = lambda layer, x, keys, values: layer(  # noqa: E731
                    x, position, keys, values, (h, w), num_tail, None, 1, (h, w)
                )
                x = _run(call, layer, checkpoint, x, keys, values)
            else:
                call = lambda layer, x, keys, values, own: _dropping_layer(  # noqa: E731
                    layer, config, x, position, keys, values, (h, w), num_tail, dropout, own
                )
                x = _run(call, layer, checkpoint, x, keys, values, own)
        return model.memory_attention.norm(x).reshape(-1, h, w, c)

    return attend


def _dropping_layer(
    layer: MemoryAttentionLayer,
    config: MemoryConfig,
    x: mx.array,
    position: mx.array,
    keys: mx.array,
    values: mx.array,
    grid: tuple[int, int],
    num_tail: int,
    rate: float,
    key: mx.array,
) -> mx.array:
    """A layer of memory attention with dropout of scores, of the feed-forward's activations and of all three sums."""
    drawn = iter(mx.random.split(mx.stop_gradient(key), 6))  # under a checkpoint every argument gets a gradient

    def drop(y: mx.array) -> mx.array:
        return _dropped(y, rate, next(drawn))

    normed = layer.norm1(x)
    q = normed + position if config.pos_enc_at_attn else normed
    x = x + drop(_attention(layer.self_attn, config, q, q, normed, grid, 0, drop))
    normed = layer.norm2(x)
    q = normed + position if config.pos_enc_at_cross_attn_queries else normed
    x = x + drop(_attention(layer.cross_attn_image, config, q, keys, values, grid, num_tail, drop))
    hidden = drop(ACTIVATIONS[config.activation](layer.linear1(layer.norm3(x))))
    return x + drop(layer.linear2(hidden))


def _dropped(x: mx.array, rate: float, key: mx.array) -> mx.array:
    return mx.where(mx.random.bernoulli(1 - rate, x.shape, key), x / (1 - rate), 0).astype(x.dtype)


def _attention(
    attention: RoPEAttention,
    config: MemoryConfig,
    q: mx.array,
    k: mx.array,
    v: mx.array,
    grid: tuple[int, int],
    num_tail: int,
    drop: Callable[[mx.array], mx.array],
) -> mx.array:
    heads = attention.num_heads
    q = axial_rope(split_heads(attention.q_proj(q), heads), *grid, config.rope_theta)
    k = axial_rope(split_heads(attention.k_proj(k), heads), *grid, config.rope_theta, num_tail)
    scores = (q / math.sqrt(q.shape[-1])) @ k.swapaxes(-1, -2)
    shares = drop(mx.softmax(scores, axis=-1, precise=True))
    return attention.out_proj(merge_heads(shares @ split_heads(attention.v_proj(v), heads)))
