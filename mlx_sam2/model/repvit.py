"""The RepViT trunk (arXiv 2307.09283; timm ``repvit_m1``, as EdgeTAM uses it): convolutions, channels last.

Names follow timm's, so those of the checkpoint. ``folded`` computes the same function with fewer operations: batch
norms and the branches of a token mixer become part of one convolution. The weights as trained stay in the model.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map

from ..config.edgetam import RepViTConfig
from .derived import Derived
from .layers import gelu, pointwise

NORM_EPS = 1e-5
Folded = tuple[mx.array, mx.array]  # weight (O, kH, kW, I / groups) and bias (O,) of a convolution


class BatchNorm(nn.Module):
    """Batch normalisation by the running statistics, in training too: no batch of ours is large enough for its own."""

    def __init__(self, dim: int):
        super().__init__()
        self.weight, self.bias = mx.ones((dim,)), mx.zeros((dim,))
        self.running_mean, self.running_var = mx.zeros((dim,)), mx.ones((dim,))

    def affine(self) -> tuple[mx.array, mx.array]:
        """The factor and the summand of each channel, (C,) float32."""
        weight, bias, mean, var = (
            x.astype(mx.float32) for x in (self.weight, self.bias, self.running_mean, self.running_var)
        )
        factor = weight / mx.sqrt(var + NORM_EPS)
        return factor, bias - mean * factor

    def __call__(self, x: mx.array) -> mx.array:
        factor, summand = self.affine()
        return x * factor.astype(x.dtype) + summand.astype(x.dtype)


class ConvNorm(nn.Module):
    """A convolution without bias, then its batch norm."""

    def __init__(self, dim: int, dim_out: int, kernel: int = 1, stride: int = 1, groups: int = 1):
        super().__init__()
        self.c = nn.Conv2d(dim, dim_out, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False)
        self.bn = BatchNorm(dim_out)

    def __call__(self, x: mx.array) -> mx.array:
        return self.bn(self.convolve(x, self.c.weight))

    def convolve(self, x: mx.array, weight: mx.array) -> mx.array:
        """The convolution with this weight in the place of its own."""
        if weight.shape[1:3] == (1, 1) and self.c.groups == 1 and self.c.stride == (1, 1):
            return x @ weight.reshape(len(weight), -1).T
        return mx.conv2d(x, weight, self.c.stride, self.c.padding, groups=self.c.groups)

    def folded(self) -> Folded:
        """Weight and bias of the one convolution that computes the same, float32."""
        factor, summand = self.bn.affine()
        return self.c.weight.astype(mx.float32) * factor[:, None, None, None], summand


class TokenMixer(nn.Module):
    """A depthwise convolution, a depthwise factor, and the input itself, summed."""

    def __init__(self, dim: int, kernel: int):
        super().__init__()
        self.conv = ConvNorm(dim, dim, kernel, groups=dim)
        self.conv1 = ConvNorm(dim, dim, groups=dim)

    def __call__(self, x: mx.array) -> mx.array:
        return self.conv(x) + self.conv1(x) + x

    def folded(self) -> Folded:
        """All three as one depthwise convolution: factor and identity stand in the centre of its kernel."""
        (weight, bias), (centre, more) = self.conv.folded(), self.conv1.folded()
        margin = weight.shape[1] // 2
        return weight + mx.pad(centre + 1, ((0, 0), (margin, margin), (margin, margin), (0, 0))), bias + more


class SqueezeExcite(nn.Module):
    """A factor for each channel, from the means of all channels."""

    def __init__(self, dim: int, inner: int):
        super().__init__()
        self.fc1 = nn.Conv2d(dim, inner, 1)
        self.fc2 = nn.Conv2d(inner, dim, 1)

    def __call__(self, x: mx.array) -> mx.array:
        return x * self.factor(_mean(x)).astype(x.dtype)

    def factor(self, mean: mx.array) -> mx.array:
        """(B, 1, 1, C) means -> (B, 1, 1, C) factors from 0 to 1, float32."""
        x = nn.relu(pointwise(mean.astype(self.fc1.weight.dtype), self.fc1.weight, self.fc1.bias))
        return mx.sigmoid(pointwise(x, self.fc2.weight, self.fc2.bias).astype(mx.float32))


def _mean(x: mx.array) -> mx.array:
    """(B, H, W, C) -> (B, 1, 1, C) float32. Rows by a product, which sums half precision in float32 in one pass."""
    rows = mx.full((1, 1, 1, x.shape[2]), 1 / x.shape[2], x.dtype) @ x  # (B, H, 1, C)
    return rows.astype(mx.float32).mean(axis=1, keepdims=True)


class ChannelMixer(nn.Module):
    """Two 1x1 convolutions with a GELU between them."""

    def __init__(self, dim: int, ratio: int):
        super().__init__()
        self.conv1 = ConvNorm(dim, ratio * dim)
        self.conv2 = ConvNorm(ratio * dim, dim)

    def __call__(self, x: mx.array) -> mx.array:
        return self.conv2(gelu(self.conv1(x)))

    def folded(self) -> tuple[mx.array, mx.array, mx.array, mx.array]:
        """W1, b1', W2, b2 with x + mixer(x) = u + W2 gelu(W1 u + b1') for u = x + b2.

        With b2 in what comes before, where a bias is added anyway, the second product adds the whole residual.
        """
        (first, bias), (second, last) = self.conv1.folded(), self.conv2.folded()
        return first, bias - first.reshape(len(bias), -1) @ last, second, last


def _add_mixed(u: mx.array, first: mx.array, bias: mx.array, second: mx.array) -> mx.array:
    hidden = gelu(pointwise(u, first, bias))
    return mx.addmm(u, hidden, second.reshape(len(second), -1).T)


class RepViTBlock(nn.Module):
    """Token mixer, squeeze-excite in every other block, and a channel mixer around which alone there is a residual."""

    def __init__(self, config: RepViTConfig, dim: int, squeezes: bool):
        super().__init__()
        self.token_mixer = TokenMixer(dim, config.kernel_size)
        if squeezes:
            self.se = SqueezeExcite(dim, config.squeezed(dim))
        self.channel_mixer = ChannelMixer(dim, config.mlp_ratio)

    def __call__(self, x: mx.array, folded: Any = None) -> mx.array:
        """(B, H, W, C) -> the same shape."""
        if folded is None:
            x = self.token_mixer(x)
            x = self.se(x) if "se" in self else x
            return x + self.channel_mixer(x)
        (kernel, bias), (first, mixed, second, last) = folded
        x = self.token_mixer.conv.convolve(x, kernel)
        if "se" not in self:
            return _add_mixed(x + (bias + last), first, mixed, second)
        factor = self.se.factor(_mean(x) + bias.astype(mx.float32))  # the mean, then the bias: one pass less
        u = x * factor.astype(x.dtype) + (bias * factor + last).astype(x.dtype)
        return _add_mixed(u, first, mixed, second)

    def folded(self) -> Any:
        return self.token_mixer.folded(), self.channel_mixer.folded()


class Downsample(nn.Module):
    """A block at the old size; half the grid; the new width; two more 1x1 convolutions with a residual."""

    def __init__(self, config: RepViTConfig, dim: int, dim_out: int):
        super().__init__()
        self.pre_block = RepViTBlock(config, dim, squeezes=False)
        self.spatial_downsample = ConvNorm(dim, dim, config.kernel_size, stride=2, groups=dim)
        self.channel_downsample = ConvNorm(dim, dim_out)
        self.ffn = ChannelMixer(dim_out, config.mlp_ratio)

    def __call__(self, x: mx.array, folded: Any = None) -> mx.array:
        """(B, H, W, C) -> (B, H / 2, W / 2, dim_out)."""
        if folded is None:
            x = self.channel_downsample(self.spatial_downsample(self.pre_block(x)))
            return x + self.ffn(x)
        before, kernel, (weight, bias), (first, mixed, second) = folded
        x = self.spatial_downsample.convolve(self.pre_block(x, before), kernel)
        return _add_mixed(pointwise(x, weight, bias), first, mixed, second)

    def folded(self) -> Any:
        kernel, spatial = self.spatial_downsample.folded()
        weight, bias = self.channel_downsample.folded()
        *mixer, last = self.ffn.folded()
        bias = bias + weight.reshape(len(bias), -1) @ spatial + last
        return self.pre_block.folded(), kernel, (weight, bias), tuple(mixer)


class Stage(nn.Module):
    """Blocks of one width."""

    def __init__(self, config: RepViTConfig, stage: int):
        super().__init__()
        dims = config.embed_dims
        if stage > 0:
            self.downsample = Downsample(config, dims[stage - 1], dims[stage])
        self.blocks = [RepViTBlock(config, dims[stage], i % 2 == 0) for i in range(config.depths[stage])]

    def __call__(self, x: mx.array, folded: Any = None) -> mx.array:
        before, blocks = folded or (None, [None] * len(self.blocks))
        if "downsample" in self:
            x = self.downsample(x, before)
        for block, its in zip(self.blocks, blocks, strict=True):
            x = block(x, its)
        return x

    def folded(self) -> Any:
        before = self.downsample.folded() if "downsample" in self else ()
        return before, [block.folded() for block in self.blocks]


class Stem(nn.Module):
    """Two strided convolutions with a GELU between them."""

    def __init__(self, config: RepViTConfig):
        super().__init__()
        dim = config.embed_dims[0]
        self.conv1 = ConvNorm(3, dim // 2, config.kernel_size, stride=2)
        self.conv2 = ConvNorm(dim // 2, dim, config.kernel_size, stride=2)

    def __call__(self, x: mx.array, folded: Any = None) -> mx.array:
        """(B, S, S, 3) -> (B, S / 4, S / 4, C)."""
        if folded is None:
            return self.conv2(gelu(self.conv1(x)))
        (first, bias), (second, last) = folded
        return self.conv2.convolve(gelu(self.conv1.convolve(x, first) + bias), second) + last

    def folded(self) -> Any:
        return self.conv1.folded(), self.conv2.folded()


class RepViTBody(nn.Module):
    """The stem and the stages, under timm's names."""

    def __init__(self, config: RepViTConfig):
        super().__init__()
        self.stem = Stem(config)
        for i in range(len(config.embed_dims)):
            setattr(self, f"stages_{i}", Stage(config, i))

    def parts(self) -> list[Stem | Stage]:
        return [self.stem, *(self[name] for name in sorted(self) if name.startswith("stages_"))]


class RepViT(nn.Module):
    """The trunk; returns the feature map at the end of every stage, highest resolution first."""

    precision = mx.float32  # in models of any: its blocks pass roundings on, and no norm between them stops that

    def __init__(self, config: RepViTConfig):
        super().__init__()
        self._folded: Derived[dict[mx.Dtype, Any]] = Derived()
        self.body = RepViTBody(config)

    def prepared(self, pixels: mx.array) -> Any:
        """The folded weights in the dtype of the pixels, cached until a weight changes.

        They are computed in float32, whatever comes after.
        """
        sources = [value for _, value in tree_flatten(self.body.parameters())]
        found = self._folded.get(sources, dict)
        if pixels.dtype not in found:
            found.clear()
            found[pixels.dtype] = tree_map(
                lambda x: x.astype(pixels.dtype), [part.folded() for part in self.body.parts()]
            )
        return found[pixels.dtype]

    def __call__(self, pixels: mx.array, folded: Any = None) -> list[mx.array]:
        """(B, H, W, 3) normalised pixels -> one (B, H / stride, W / stride, width) per stage.

        ``folded`` is ``prepared(pixels)``; None computes as trained, convolution by convolution.
        """
        stem, *stages = self.body.parts()
        folds = [None] * (1 + len(stages)) if folded is None else folded
        x, features = stem(pixels, folds[0]), []
        for stage, its in zip(stages, folds[1:], strict=True):
            x = stage(x, its)
            features.append(x)
        return features
