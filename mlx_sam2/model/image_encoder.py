"""The image encoder: trunk and FPN neck (official ``modeling/backbones/``; Hiera, arXiv 2306.00989)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..config.edgetam import RepViTConfig
from ..config.parts import FpnConfig, HieraConfig
from ..config.sam2 import SAM2Config
from ..kernels import global_attention, mask_unit_attention
from ..kernels.cpu import in_pieces
from ..kernels.windows import max_pool
from .derived import Derived
from .layers import MLP, pointwise
from .repvit import RepViT
from .residual import ResidualStream, by_rows
from .resize import resize_bicubic, resize_bilinear

TRUNK_NORM_EPS = 1e-6


class MultiScaleAttention(nn.Module):
    """Attention within windows or over the whole grid, with optional max-pooling of the queries."""

    def __init__(self, dim: int, dim_out: int, num_heads: int, q_stride: int | None, window: int):
        super().__init__()
        self.num_heads = num_heads
        self.q_stride = q_stride or 1
        self.window = window  # 0: the whole grid
        self.qkv = nn.Linear(dim, 3 * dim_out)
        self.proj = nn.Linear(dim_out, dim_out)

    def __call__(self, x: mx.array) -> mx.array:
        """(B, H, W, dim) -> (B, H // q_stride, W // q_stride, dim_out), not projected yet."""
        qkv = self.qkv(x)
        if self.window:
            return mask_unit_attention(qkv, self.qkv.bias, self.num_heads, self.window, self.q_stride)
        q, k, v = mx.split(qkv, 3, axis=-1)  # each (B, H, W, dim_out)
        if self.q_stride > 1:
            q = max_pool(q, self.q_stride)
        b, h, w, _ = q.shape
        q, k, v = (t.reshape(b, -1, self.num_heads, t.shape[-1] // self.num_heads).swapaxes(1, 2) for t in (q, k, v))
        return global_attention(q, k, v).swapaxes(1, 2).reshape(b, h, w, -1)  # attended: (B, heads, H * W, D)


class MultiScaleBlock(nn.Module):
    """One Hiera block: mask-unit (window) or global attention, then an MLP."""

    def __init__(self, config: HieraConfig, block: int):
        super().__init__()
        stage = config.stage_of_block(block)
        dim = config.embed_dim_at_stage(config.stage_of_block(max(block - 1, 0)))
        dim_out = config.embed_dim_at_stage(stage)
        pools = block in config.q_pool_block_indices
        self.q_stride = config.q_stride[0] if pools else None
        self.norm1 = nn.LayerNorm(dim, eps=TRUNK_NORM_EPS)
        heads, window = config.num_heads_at_stage(stage), config.window_size_of_block(block)
        self.attn = MultiScaleAttention(dim, dim_out, heads, self.q_stride, window)
        self.norm2 = nn.LayerNorm(dim_out, eps=TRUNK_NORM_EPS)
        self.mlp = MLP(dim_out, int(dim_out * config.mlp_ratio), dim_out, 2, activation="gelu")
        if dim != dim_out:
            self.proj = nn.Linear(dim, dim_out)

    def __call__(self, x: mx.array) -> mx.array:
        """(B, H, W, dim) -> (B, H', W', dim_out), half the grid where the queries are pooled."""
        return self.advance(ResidualStream.of(x)).value()

    def advance(self, stream: ResidualStream) -> ResidualStream:
        """``__call__`` on a residual stream."""
        if not in_pieces():
            return self._add_mlp(self._add_attention(stream))
        if self.attn.window:  # windows are independent of each other
            return by_rows(lambda s: self._add_mlp(self._add_attention(s)), stream, self.attn.window)
        return by_rows(self._add_mlp, self._add_attention(stream), 1)

    def _add_attention(self, stream: ResidualStream) -> ResidualStream:
        normed = stream.normed(self.norm1)
        if "proj" in self:  # the shortcut is projected from the normed input
            stream = ResidualStream.starting(self.proj, normed)
            if self.q_stride is not None:
                stream = stream._replace(x=max_pool(stream.x, self.q_stride))
        return stream.plus(self.attn.proj, self.attn(normed))

    def _add_mlp(self, stream: ResidualStream) -> ResidualStream:
        return stream.plus(self.mlp.layers[-1], self.mlp.hidden(stream.normed(self.norm2)))


class PatchEmbed(nn.Module):
    """Overlapping patches: one strided convolution, (B, S, S, 3) -> (B, S / 4, S / 4, C)."""

    def __init__(self, config: HieraConfig):
        super().__init__()
        self.proj = nn.Conv2d(
            3, config.embed_dim, config.patch_kernel_size, stride=config.patch_stride, padding=config.patch_padding
        )

    def __call__(self, x: mx.array) -> mx.array:
        return self.proj(x)


class Hiera(nn.Module):
    """The Hiera trunk; returns the feature map at the end of every stage, highest resolution first."""

    precision = None  # that of the model

    def __init__(self, config: HieraConfig):
        super().__init__()
        self._stage_ends = config.stage_end_indices
        self._patches = (config.patch_kernel_size - 2 * config.patch_padding, config.patch_stride)
        self._position: Derived[dict[object, mx.array]] = Derived()
        window = config.window_spec[0]
        self.patch_embed = PatchEmbed(config)
        self.pos_embed = mx.zeros((1, *config.window_pos_embed_bkg_spatial_size, config.embed_dim))
        self.pos_embed_window = mx.zeros((1, window, window, config.embed_dim))
        self.blocks = [MultiScaleBlock(config, i) for i in range(config.total_blocks)]

    def position_embedding(self, height: int, width: int) -> mx.array:
        """(1, height, width, C): the background embedding, interpolated, plus the window embedding, tiled."""
        background = resize_bicubic(self.pos_embed, (height, width))
        window = self.pos_embed_window.shape[1]
        return background + mx.tile(self.pos_embed_window, (1, height // window, width // window, 1))

    def prepared(self, pixels: mx.array) -> mx.array:
        """The position embedding for images of this size and dtype; cached until its parameters or the size change."""
        kernel, stride = self._patches
        key = (*((side - kernel) // stride + 1 for side in pixels.shape[1:3]), pixels.dtype)
        positions = self._position.get([self.pos_embed, self.pos_embed_window], dict)
        if key not in positions:
            positions.clear()
            positions[key] = self.position_embedding(*key[:2]).astype(pixels.dtype)
        return positions[key]

    def __call__(self, pixels: mx.array, position: mx.array | None = None) -> list[mx.array]:
        """(B, H, W, 3) normalised pixels -> one (B, H / stride, W / stride, width) per stage.

        ``position`` is ``prepared(pixels)`` if the caller has it.
        """
        x = self.patch_embed(pixels)
        x = x + (self.position_embedding(*x.shape[1:3]).astype(x.dtype) if position is None else position)
        stream, features = ResidualStream.of(x), []
        for i, block in enumerate(self.blocks):
            stream = block.advance(stream)
            if i in self._stage_ends:
                features.append(stream.value())
        return features


class LateralConv(nn.Module):
    """A convolution under the name ``conv``, as the checkpoint has it."""

    def __init__(self, in_channels: int, config: FpnConfig):
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, config.d_model, config.kernel_size, stride=config.stride, padding=config.padding
        )

    def __call__(self, x: mx.array, head: nn.Conv2d | None = None) -> mx.array:
        """The convolution, then a 1x1 convolution ``head``, as one convolution: (W2 W1) x + (W2 b1 + b2)."""
        weight, bias = self.conv.weight, self.conv.bias  # (O, kH, kW, I), (O,)
        if head is not None:
            second = head.weight.reshape(len(head.bias), -1).astype(mx.float32)  # (O2, O)
            weight = (second @ weight.reshape(len(bias), -1).astype(mx.float32)).reshape(-1, *weight.shape[1:])
            bias = second @ bias.astype(mx.float32) + head.bias
            weight, bias = weight.astype(x.dtype), bias.astype(x.dtype)
        if weight.shape[1:3] == (1, 1):
            return pointwise(x, weight, bias)
        return mx.conv2d(x, weight, padding=self.conv.padding) + bias


class FpnNeck(nn.Module):
    """Feature pyramid without output convolutions; only some levels receive top-down features."""

    def __init__(self, config: FpnConfig):
        super().__init__()
        self._config = config
        self.convs = [LateralConv(c, config) for c in config.backbone_channel_list]  # lowest resolution first

    def __call__(self, features: list[mx.array], heads: Sequence[nn.Conv2d] = ()) -> list[mx.array]:
        """Per level (B, H, W, C_level) -> (B, H, W, d_model), highest resolution first.

        ``heads`` are 1x1 convolutions applied to the first levels. A level that nothing else reads is never computed:
        its two convolutions are joined into one.
        """
        outputs: list[mx.array] = []
        previous = None
        top_down = self._config.fpn_top_down_levels
        for level, conv in zip(reversed(range(len(features))), self.convs, strict=True):
            head = heads[level] if level < len(heads) else None
            if head is not None and level not in top_down and level - 1 not in top_down:
                outputs.append(conv(features[level], head))
                continue
            lateral = conv(features[level])
            if level in top_down and previous is not None:
                lateral = lateral + self._upsample(previous).astype(lateral.dtype)
                if self._config.fuse_type == "avg":
                    lateral = lateral / 2
            previous = lateral
            outputs.append(lateral if head is None else head(lateral))
        return outputs[::-1]

    def _upsample(self, x: mx.array) -> mx.array:
        if self._config.fpn_interp_model == "nearest":
            return mx.repeat(mx.repeat(x, 2, axis=1), 2, axis=2)
        return resize_bilinear(x, (2 * x.shape[1], 2 * x.shape[2]))


TRUNKS: dict[type, type[Hiera] | type[RepViT]] = {HieraConfig: Hiera, RepViTConfig: RepViT}


class ImageEncoder(nn.Module):
    """Trunk and neck; ``scalp`` drops that many of the lowest resolutions after the neck has used them."""

    def __init__(self, config: SAM2Config):
        super().__init__()
        self._levels = len(config.trunk.widths) - config.scalp
        self.trunk = TRUNKS[type(config.trunk)](config.trunk)
        self.neck = FpnNeck(config.neck)

    def entry(self, pixels: mx.array) -> mx.array:
        """Pixels in the dtype that the trunk computes in."""
        return pixels.astype(self._dtype if self.trunk.precision is None else self.trunk.precision)

    @property
    def _dtype(self) -> mx.Dtype:
        return self.neck.convs[0].conv.weight.dtype

    def prepared(self, pixels: mx.array) -> Any:
        """What the trunk computes from its weights alone, for pixels of this size and dtype; cached."""
        return self.trunk.prepared(pixels)

    def __call__(self, pixels: mx.array, prepared: Any = None, heads: Sequence[nn.Conv2d] = ()) -> list[mx.array]:
        """(B, S, S, 3) -> feature maps of strides 4, 8 and 16, each with d_model channels or those of its head.

        ``pixels`` in a dtype as from ``entry``; ``prepared`` as from the method, or None; ``heads`` as for ``FpnNeck``.
        """
        features = self.trunk(pixels, prepared)
        if self.trunk.precision is not None:
            features = [level.astype(self._dtype) for level in features]
        return self.neck(features, heads)[: self._levels]
