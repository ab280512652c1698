"""Memory attention and memory encoder (official ``modeling/memory_attention.py``, ``modeling/memory_encoder.py``)."""

from __future__ import annotations

import math

import mlx.core as mx
import mlx.nn as nn

from ..config.edgetam import PerceiverConfig
from ..config.parts import MemoryConfig, MemoryEncoderConfig
from ..config.sam2 import SAM2Config
from ..kernels import axial_memory_attention, axial_rope, expand_bias, memory_attention
from .layers import ACTIVATIONS, GELU, Attention, gelu, merge_heads, split_heads
from .position_encoding import sine_position_encoding, sine_time_encoding

ENCODER_NORM_EPS = 1e-6  # LayerNorm2d; memory attention uses 1e-5, MLX's default
POSITION_SCALE = 0.1  # of the sine encoding added to the input of memory attention


class RoPEAttention(Attention):
    """Attention whose queries and keys are rotated by their place in the grid."""

    def __init__(self, config: MemoryConfig, kv_in_dim: int | None = None):
        super().__init__(config.d_model, config.num_heads, config.downsample_rate, kv_in_dim)
        self._theta = config.rope_theta

    def __call__(
        self,
        q: mx.array,
        k: mx.array,
        v: mx.array,
        grid: tuple[int, int],
        num_tail: int = 0,
        bias: mx.array | None = None,
        pooling: int = 1,
        key_grid: tuple[int, int] | None = None,
    ) -> mx.array:
        """q (B or 1, h * w, C), k and v (B, frames * h * w + num_tail, C_kv) -> (B, h * w, C).

        With ``pooling`` above 1 the keys are averaged after their rotation; ``v`` is given pooled. ``bias`` is
        (B, frames + num_tail).
        ``key_grid`` is that of the frames in the keys, if it is not that of the queries.
        """
        key_grid = grid if key_grid is None else key_grid
        q = axial_rope(split_heads(self.q_proj(q), self.num_heads), *grid, self._theta)
        if self.num_heads == 1 and pooling == 1 and _is_narrow(self.k_proj):
            weight, offset = self.k_proj.weight, self.k_proj.bias
            return self._project(
                axial_memory_attention(q.squeeze(1), k, v, weight, offset, key_grid, self._theta, num_tail, bias)
            )
        k = axial_rope(split_heads(self.k_proj(k), self.num_heads), *key_grid, self._theta, num_tail)
        k = pool_cells(k, key_grid, num_tail, pooling)
        q = mx.broadcast_to(q, (len(k), *q.shape[1:]))
        bias = expand_bias(bias, num_tail, key_grid[0] * key_grid[1] // pooling**2)
        if self.num_heads > 1:
            v = split_heads(self.v_proj(v), self.num_heads)
            return self.out_proj(merge_heads(memory_attention(q, k, v, bias)))
        # The weights of a query sum to 1, so the affine projection of the values can follow the attention. Then the
        # attention reads C_kv channels instead of C, and h * w tokens are projected instead of all memories.
        return self._project(memory_attention(q, k, v[:, None], bias).squeeze(1))

    def _project(self, x: mx.array) -> mx.array:
        """Both projections, of the values and of the results, as one: (B, h * w, C_kv) -> (B, h * w, C)."""
        first, second = self.v_proj, self.out_proj
        if not (type(first) is type(second) is nn.Linear):  # quantised
            return second(first(x))
        return mx.addmm(second(first.bias), x, (second.weight @ first.weight).T)


def _is_narrow(layer: nn.Module) -> bool:
    """Whether a layer widens its input, as the projection of memories does, and is a linear layer as it was built."""
    return type(layer) is nn.Linear and layer.weight.shape[1] < layer.weight.shape[0]


def pool_cells(x: mx.array, grid: tuple[int, int], num_tail: int, pooling: int) -> mx.array:
    """Mean of every ``pooling`` x ``pooling`` cells of the frames in (..., frames * h * w + num_tail, C)."""
    if pooling == 1:
        return x
    *front, n, channels = x.shape
    rows, columns = grid[0] // pooling, grid[1] // pooling
    cells = x[..., : n - num_tail, :].reshape(*front, -1, rows, pooling, columns, pooling, channels)
    pooled = cells.mean(axis=(-4, -2)).reshape(*front, -1, channels)
    return mx.concatenate([pooled, x[..., n - num_tail :, :]], axis=-2) if num_tail else pooled


class MemoryAttentionLayer(nn.Module):
    """Self-attention over the frame, cross-attention to the memories, feed-forward; norms come first."""

    def __init__(self, config: MemoryConfig):
        super().__init__()
        dim = config.d_model
        self._config = config
        self._activation = ACTIVATIONS[config.activation]
        self.self_attn = RoPEAttention(config)
        self.cross_attn_image = RoPEAttention(config, kv_in_dim=config.kv_in_dim)
        self.linear1 = nn.Linear(dim, config.dim_feedforward)
        self.linear2 = nn.Linear(config.dim_feedforward, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.norm3 = nn.LayerNorm(dim)

    def __call__(
        self,
        x: mx.array,
        position: mx.array,
        keys: mx.array,
        values: mx.array,
        grid: tuple[int, int],
        num_tail: int,
        bias: mx.array | None,
        pooling: int,
        key_grid: tuple[int, int],
    ) -> mx.array:
        """x (B or 1, h * w, C) attends to itself and to memories; arguments as in ``RoPEAttention``."""
        normed = self.norm1(x)
        q = normed + position if self._config.pos_enc_at_attn else normed
        x = x + self.self_attn(q, q, normed, grid)

        normed = self.norm2(x)
        q = normed + position if self._config.pos_enc_at_cross_attn_queries else normed
        x = x + self.cross_attn_image(q, keys, values, grid, num_tail, bias, pooling, key_grid)
        return x + self.linear2(self._activation(self.linear1(self.norm3(x))))


class MemoryAttention(nn.Module):
    """Conditions the features of a frame on the memories of an object."""

    def __init__(self, config: MemoryConfig, perceiver: PerceiverConfig | None = None):
        super().__init__()
        self._config = config
        self._perceiver = perceiver
        self.layers = [MemoryAttentionLayer(config) for _ in range(config.num_layers)]
        self.norm = nn.LayerNorm(config.d_model)

    def __call__(
        self,
        features: mx.array,
        position: mx.array,
        keys: mx.array,
        values: mx.array,
        num_tail: int,
        present: mx.array | None = None,
        pooling: int = 1,
    ) -> mx.array:
        """Attend to memories.

        Args:
            features: (B or 1, h, w, C) of the frame; with 1, the self-attention of the first layer runs once for all.
            position: (1, h, w, C) sine encoding of the frame.
            keys, values: (B, Nk, M) tokens: T whole memories, then ``num_tail`` tokens of object pointers. A memory is
                a map of h * w cells, or what the perceiver made of it. The keys include their positions if the
                configuration adds these.
            num_tail: tokens at the end of memory that are not rotated.
            present: (B, T + num_tail) bool, False for frames and pointer tokens that are padding; these are left out
                exactly. None if there is no padding.
            pooling: an approximation if above 1: keys and values of memories are averaged over this many rows and
                columns, and such a mean counts as often as the cells in it.

        Returns:
            (B, h, w, C).
        """
        _, h, w, c = features.shape
        position = position.astype(features.dtype).reshape(1, h * w, c)
        x = features.reshape(-1, h * w, c)
        if self._config.pos_enc_at_input:
            x = x + POSITION_SCALE * position
        key_grid, placeless = (h, w), 0
        if self._perceiver is not None:
            key_grid, placeless = (self._perceiver.side, self._perceiver.side), self._perceiver.num_latents
        cells = key_grid[0] * key_grid[1]
        memories = (keys.shape[1] - num_tail) // (placeless + cells)
        if placeless:
            keys, values = (_placed_first(t, placeless, cells, num_tail) for t in (keys, values))
        tail = num_tail + memories * placeless
        values = pool_cells(values, key_grid, tail, pooling)
        bias = _memory_bias(present, pooling, (len(keys), memories + num_tail), num_tail, placeless)
        for layer in self.layers:
            x = layer(x, position, keys, values, (h, w), tail, bias, pooling, key_grid)
        return self.norm(x).reshape(-1, h, w, c)


def _placed_first(tokens: mx.array, placeless: int, cells: int, num_tail: int) -> mx.array:
    """Move tokens without a place in a grid behind all that have one; attention does not depend on the order of keys.

    (B, T * (placeless + cells) + num_tail, M) -> the cells of T memories, their placeless tokens, and the tail.
    """
    b, n, m = tokens.shape
    memories = tokens[:, : n - num_tail].reshape(b, -1, placeless + cells, m)
    parts = [memories[:, :, placeless:].reshape(b, -1, m), memories[:, :, :placeless].reshape(b, -1, m)]
    return mx.concatenate([*parts, tokens[:, n - num_tail :]] if num_tail else parts, axis=1)


def _memory_bias(
    present: mx.array | None, pooling: int, shape: tuple[int, int], num_tail: int, placeless: int
) -> mx.array | None:
    """A bias for the scores of each frame and each token behind the frames, float32, -inf for padding.

    ``shape`` is that of ``present``, (B, T + num_tail). Each frame counts for its ``placeless`` tokens too. None if all
    are 0.
    """
    if present is None and pooling == 1:
        return None
    frames = shape[1] - num_tail
    if present is None:
        present = mx.ones(shape, mx.bool_)
    bias = mx.where(present, 0.0, -math.inf)
    if pooling == 1 and not placeless:
        return bias
    parts = [bias[:, :frames] + math.log(pooling**2), bias[:, frames:]]
    if placeless:
        parts.insert(1, mx.repeat(bias[:, :frames], placeless, axis=1))
    return mx.concatenate(parts, axis=1)


def pointer_tokens(
    pointers: mx.array, times: mx.array, config: SAM2Config, projection: nn.Module | None, dtype: mx.Dtype
) -> tuple[mx.array, mx.array]:
    """Pointers (B, P, C) at times (B, P) -> tokens and positions, each (B, P * C / M, M).

    ``projection`` of the encodings of times, in ``dtype``, if the configuration asks for it.
    """
    b, count, dim = pointers.shape
    mem_dim = config.memory_encoder.out_dim
    if not config.add_tpos_enc_to_obj_ptrs:
        position = mx.zeros((b * count, mem_dim))
    elif projection is not None:
        position = projection(sine_time_encoding(times.flatten(), dim).astype(dtype))
    else:
        position = sine_time_encoding(times.flatten(), mem_dim)
    position = mx.repeat(position, dim // mem_dim, axis=0)  # the parts of a pointer share its position
    return pointers.reshape(b, -1, mem_dim), position.reshape(b, -1, mem_dim)


class MaskDownSampler(nn.Module):
    """Strided convolutions from a mask of the model's input size to its feature map."""

    def __init__(self, config: MemoryEncoderConfig):
        super().__init__()
        stride, channels = config.mask_downsampler_stride, 1
        self.encoder = []
        for _ in range(config.num_downsampler_layers):
            kernel, padding = config.mask_downsampler_kernel_size, config.mask_downsampler_padding
            conv = nn.Conv2d(channels, channels * stride**2, kernel, stride=stride, padding=padding)
            channels *= stride**2
            self.encoder += [conv, nn.LayerNorm(channels, eps=ENCODER_NORM_EPS), GELU()]
        self.encoder.append(nn.Conv2d(channels, config.in_dim, 1))

    def __call__(self, x: mx.array) -> mx.array:
        """(B, S, S, 1) -> (B, h, w, C)."""
        for layer in self.encoder:
            x = layer(x)
        return x


class CXBlock(nn.Module):
    """A ConvNeXt block (arXiv 2201.03545): depthwise convolution, norm, two pointwise layers, scaled residual."""

    def __init__(self, config: MemoryEncoderConfig):
        super().__init__()
        dim = config.in_dim
        groups = dim if config.fuser_use_dwconv else 1
        self.dwconv = nn.Conv2d(dim, dim, config.fuser_kernel_size, padding=config.fuser_padding, groups=groups)
        self.norm = nn.LayerNorm(dim, eps=ENCODER_NORM_EPS)
        self.pwconv1 = nn.Linear(dim, 4 * dim)
        self.pwconv2 = nn.Linear(4 * dim, dim)
        if config.fuser_layer_scale_init_value > 0:
            self.gamma = mx.full((dim,), config.fuser_layer_scale_init_value)

    def __call__(self, x: mx.array) -> mx.array:
        y = self.pwconv2(gelu(self.pwconv1(self.norm(self.dwconv(x)))))
        return x + (self.gamma * y if "gamma" in self else y)


class Fuser(nn.Module):
    """A stack of ConvNeXt blocks."""

    def __init__(self, config: MemoryEncoderConfig):
        super().__init__()
        self.layers = [CXBlock(config) for _ in range(config.fuser_num_layers)]

    def __call__(self, x: mx.array) -> mx.array:
        for layer in self.layers:
            x = layer(x)
        return x


class MemoryEncoder(nn.Module):
    """Fuses the features of a frame with its mask into a memory."""

    def __init__(self, config: MemoryEncoderConfig):
        super().__init__()
        self._config = config
        self.mask_downsampler = MaskDownSampler(config)
        self.pix_feat_proj = nn.Conv2d(config.in_dim, config.in_dim, 1)
        self.fuser = Fuser(config)
        if config.out_dim != config.in_dim:
            self.out_proj = nn.Conv2d(config.in_dim, config.out_dim, 1)

    def __call__(self, features: mx.array, masks: mx.array) -> mx.array:
        """features (B or 1, h, w, C), masks (B, S, S, 1) already scaled -> memories (B, h, w, M)."""
        x = self.pix_feat_proj(features) + self.mask_downsampler(masks.astype(features.dtype))
        x = self.fuser(x)
        return self.out_proj(x) if "out_proj" in self else x

    def position_encoding(self, height: int, width: int) -> mx.array:
        """Sine encoding of the cells of a memory, (1, height, width, M)."""
        return sine_position_encoding(height, width, self._config.num_pos_feats, self._config.temperature)
