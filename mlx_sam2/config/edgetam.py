"""Configuration of the parts that EdgeTAM (arXiv 2501.07256) has in the place of SAM 2's, or beside them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from .parts import Config, Rule

REPVIT = "repvit"  # tells this trunk from Hiera in a dict


@dataclass(frozen=True)
class RepViTConfig(Config):
    """The RepViT trunk (arXiv 2307.09283; the defaults are timm's ``repvit_m1``). Stages and blocks count from 0."""

    architecture: str = REPVIT
    embed_dims: tuple[int, ...] = (48, 96, 192, 384)  # of the stages
    depths: tuple[int, ...] = (2, 2, 14, 2)  # blocks of the stages; the even ones squeeze and excite
    kernel_size: int = 3
    mlp_ratio: int = 2
    squeeze_ratio: int = 4  # channels of a block over those inside squeeze-excite
    squeeze_multiple: int = 8  # to which the latter are rounded

    def _rules(self) -> Iterator[Rule]:
        yield self.architecture == REPVIT, self, "architecture", f"must be {REPVIT}"
        yield 0 < len(self.embed_dims) <= 8, self, "embed_dims", "needs one to 8 stages"
        ok = all(0 < dim <= 4096 and dim % 2 == 0 for dim in self.embed_dims)
        yield ok, self, "embed_dims", "must be even numbers from 2 to 4096"
        same = len(self.depths) == len(self.embed_dims) and min(self.depths) > 0
        yield same, self, "depths", f"needs one positive number of blocks for each of {len(self.embed_dims)} stages"
        yield self.total_blocks <= 512, self, "depths", "has over 512 blocks"
        yield self.kernel_size % 2 == 1 and self.kernel_size <= 15, self, "kernel_size", "must be odd and at most 15"
        yield self.mlp_ratio <= 64, self, "mlp_ratio", "must be at most 64"
        yield self.squeeze_multiple <= 256, self, "squeeze_multiple", "must be at most 256"

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of the feature levels, highest resolution first."""
        return self.embed_dims

    @property
    def total_blocks(self) -> int:
        """Blocks of all stages, without those of the down-sampling."""
        return sum(self.depths)

    @property
    def image_unit(self) -> int:
        """The side of the image is a multiple of it."""
        return self.stride_at_stage(len(self.embed_dims) - 1)

    def stride_at_stage(self, stage: int) -> int:
        """Input pixels per cell side: the stem halves twice, each later stage once."""
        return 4 << stage

    def squeezed(self, channels: int) -> int:
        """The channels inside squeeze-excite: a share of all, rounded half up to a multiple."""
        unit = self.squeeze_multiple
        return max(unit, (2 * channels + unit * self.squeeze_ratio) // (2 * unit * self.squeeze_ratio) * unit)


@dataclass(frozen=True)
class PerceiverConfig(Config):
    """The perceiver that turns the map of a memory into tokens (official ``modeling/perceiver.py``)."""

    dim: int = 64
    depth: int = 2
    dim_head: int = 64
    heads: int = 1
    ff_mult: int = 4
    num_latents: int = 256  # each sees the whole map; they have no place in it
    num_latents_2d: int = 256  # each sees one window of a square grid of windows
    pos_enc_at_key_value: bool = True  # kept as read: the official code adds them even if it is false
    temperature: float = 10000.0

    def _rules(self) -> Iterator[Rule]:
        yield self.depth <= 64, self, "depth", "must be at most 64"
        yield self.ff_mult <= 64, self, "ff_mult", "must be at most 64"
        yield self.dim % 4 == 0, self, "dim", "must be a multiple of 4"
        yield self.heads <= 256, self, "heads", "must be at most 256"
        yield self.side**2 == self.num_latents_2d, self, "num_latents_2d", "must be a square number"
        ok = self.heads * self.dim_head == self.dim
        yield ok, self, "dim_head", f"times heads it must be dim = {self.dim}, for the positions of keys and values"

    @property
    def side(self) -> int:
        """Side of the grid of 2-D latents."""
        return math.isqrt(self.num_latents_2d)

    @property
    def num_tokens(self) -> int:
        """Tokens of one memory."""
        return self.num_latents + self.num_latents_2d
