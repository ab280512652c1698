"""The two-way transformer of the mask decoder (official ``modeling/sam/transformer.py``), for few tokens.

A prompt has about eight tokens and the image thousands, so nearly all work would be projecting the image for the
attention to it and from it. None of that is necessary:

- A score is q . (W_k x + b_k) = (W_k^T q) . x + a constant of q, which the softmax cancels. So the few queries are
  multiplied by W_k instead of the thousands of image tokens. Values are projected after the sum: sum_j p_j (W_v x_j +
  b_v) = W_v (sum_j p_j x_j) + b_v. The same holds with the image as queries.
- In the first layer the image does not depend on the prompt yet: one set of ``ImageProjections`` serves all prompts.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn

from ..config.parts import DecoderConfig
from ..kernels import attend, residual_layer_norm
from ..kernels.attention import softmax
from .layers import MLP, Attention, merge_heads, split_heads


class ImageProjections(NamedTuple):
    """The projections of an image in the first layer, the same for all prompts. M = h * w; D is the attention width."""

    tokens: mx.array  # (1, M, C) features plus the mask embedding of prompts without a mask
    position: mx.array  # (1, M, C)
    key: mx.array  # (1, M, D) for tokens that look at the image
    value: mx.array  # (1, M, D)
    query: mx.array  # (1, M, D) for the image that looks at tokens


class CrossAttention(Attention):
    """Attention between tokens and an image."""

    def _are_few(self, count: int) -> bool:
        """Whether this many tokens, times the heads, are no more than the channels of a projected image."""
        return self.num_heads * count <= self.k_proj.weight.shape[0]

    def _spread_heads(self, x: mx.array) -> mx.array:
        """(B, N, heads * D) -> (B, heads * N, heads * D): row h * N + n is token n with all heads but h set to zero."""
        b, n, width = x.shape
        own = mx.eye(self.num_heads, dtype=x.dtype)[:, None, :, None]  # (heads, 1, heads, 1)
        return (own * x.reshape(b, 1, n, self.num_heads, -1)).reshape(b, -1, width)

    def _gather_heads(self, x: mx.array) -> mx.array:
        """(B, heads * N, heads * D) -> (B, N, heads * D): takes head h of row h * N + n."""
        b, rows, width = x.shape
        heads = self.num_heads
        own = mx.eye(heads, dtype=x.dtype)[:, None, :, None]
        return (own * x.reshape(b, heads, rows // heads, heads, -1)).sum(1).reshape(b, -1, width)


class TokenToImageAttention(CrossAttention):
    """Queries are tokens, keys and values the image."""

    def __call__(self, q: mx.array, k: mx.array, v: mx.array) -> mx.array:
        """q (B, N, C), k and v (B or 1, M, C) -> (B, N, C)."""
        if not self._are_few(q.shape[1]):
            return super().__call__(q, k, v)
        q = self._spread_heads(self.q_proj(q) / math.sqrt(self.q_proj.weight.shape[0] // self.num_heads))
        shares = softmax((q @ self.k_proj.weight) @ k.swapaxes(1, 2))  # (B, heads * N, M)
        found = (shares @ v) @ self.v_proj.weight.T  # (B, heads * N, heads * D)
        return self.out_proj(self._gather_heads(found) + self.v_proj.bias)

    def to_projected_image(self, q: mx.array, image: ImageProjections) -> mx.array:
        """q (B, N, C) -> (B, N, C): B prompts attend to one image that is projected already."""
        b, n, _ = q.shape
        q = self.q_proj(q).reshape(1, b * n, -1)
        q, k, v = (split_heads(x, self.num_heads) for x in (q, image.key, image.value))
        return self.out_proj(merge_heads(attend(q, k, v)).reshape(b, n, -1))


class ImageToTokenAttention(CrossAttention):
    """Queries are the image, keys and values tokens."""

    def __call__(self, q: mx.array, k: mx.array, v: mx.array, projected_q: mx.array | None = None) -> mx.array:
        """q (B or 1, M, C), k and v (B, N, C) -> (B, M, C); ``projected_q`` is ``q_proj(q)`` if known."""
        result, bias = self.apart(q, k, v, projected_q)
        return result + bias

    def apart(self, q: mx.array, k: mx.array, v: mx.array, projected_q: mx.array | None) -> tuple[mx.array, mx.array]:
        """The result without the last bias, and that bias (C,): arguments as above."""
        n = k.shape[1]
        if not self._are_few(n):
            return super().__call__(q, k, v), mx.zeros_like(self.out_proj.bias)
        b, m, width = k.shape[0], q.shape[1], self.q_proj.weight.shape[0]
        keys = self._spread_heads(self.k_proj(k) / math.sqrt(width // self.num_heads))
        if projected_q is not None:
            scores = projected_q @ keys.swapaxes(1, 2)  # (B, M, heads * N)
        else:
            constant = (keys @ self.q_proj.bias)[:, None]  # (B, 1, heads * N)
            scores = q @ (keys @ self.q_proj.weight).swapaxes(1, 2) + constant
        shares = softmax(scores.reshape(b, m, self.num_heads, n)).reshape(b, m, -1)
        values = self._spread_heads(self.v_proj(v)) @ self.out_proj.weight.T  # (B, heads * N, C)
        return shares @ values, self.out_proj.bias


class TwoWayAttentionBlock(nn.Module):
    """Tokens attend to themselves and to the image, then the image attends to the tokens."""

    def __init__(self, dim: int, config: DecoderConfig, skip_first_layer_pe: bool):
        super().__init__()
        heads, rate = config.num_heads, config.attention_downsample_rate
        self._skip_first_layer_pe = skip_first_layer_pe
        self.self_attn = Attention(dim, heads)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attn_token_to_image = TokenToImageAttention(dim, heads, rate)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLP(dim, config.mlp_dim, dim, 2)
        self.norm3 = nn.LayerNorm(dim)
        self.norm4 = nn.LayerNorm(dim)
        self.cross_attn_image_to_token = ImageToTokenAttention(dim, heads, rate)

    def project_image(self, image: mx.array, position: mx.array) -> ImageProjections:
        """Project an image (1, M, C) as it enters the first layer."""
        to_image, to_tokens = self.cross_attn_token_to_image, self.cross_attn_image_to_token
        placed = image + position
        key, value, query = to_image.k_proj(placed), to_image.v_proj(image), to_tokens.q_proj(placed)
        return ImageProjections(image, position, key, value, query)

    def __call__(
        self,
        queries: mx.array,
        keys: mx.array,
        query_pe: mx.array,
        key_pe: mx.array,
        projected: ImageProjections | None = None,
        placed: mx.array | None = None,
    ) -> tuple[mx.array, mx.array, mx.array]:
        """queries (B, N, C) and keys (B or 1, M, C), with their position encodings -> both, and keys + key_pe, with
        batch B.

        ``projected`` is ``project_image(keys, key_pe)``, if the keys are one image for all prompts and it is known;
        ``placed`` is keys + key_pe, if known.
        """
        if self._skip_first_layer_pe:  # the first layer has no positions and no residual
            queries = self.self_attn(queries, queries, queries)
        else:
            q = queries + query_pe
            queries = queries + self.self_attn(q, q, queries)
        queries = self.norm1(queries)

        placed = keys + key_pe if placed is None else placed
        to_image, to_tokens = self.cross_attn_token_to_image, self.cross_attn_image_to_token
        q = queries + query_pe
        found = to_image(q, placed, keys) if projected is None else to_image.to_projected_image(q, projected)
        queries = queries + found
        queries = self.norm2(queries)
        queries = self.norm3(queries + self.mlp(queries))
        q = queries + query_pe
        found, bias = to_tokens.apart(placed, q, queries, None if projected is None else projected.query)
        norm = self.norm4
        return queries, *residual_layer_norm(keys, found, bias, norm.weight, norm.bias, key_pe, norm.eps)


class TwoWayTransformer(nn.Module):
    """Decodes tokens against an image embedding."""

    def __init__(self, dim: int, config: DecoderConfig):
        super().__init__()
        self.layers = [TwoWayAttentionBlock(dim, config, skip_first_layer_pe=i == 0) for i in range(config.depth)]
        self.final_attn_token_to_image = TokenToImageAttention(dim, config.num_heads, config.attention_downsample_rate)
        self.norm_final_attn = nn.LayerNorm(dim)

    def __call__(
        self, image: mx.array, position: mx.array, tokens: mx.array, projected: ImageProjections | None = None
    ) -> tuple[mx.array, mx.array]:
        """Tokens (B, N, C) and image (B, M, C) after the transformer.

        Args:
            image: (B or 1, M, C).
            position: (1, M, C).
            tokens: (B, N, C).
            projected: ``project_image`` of the first layer if known; computed here for several prompts on one image.
        """
        first, *others = self.layers
        if projected is None and len(image) < len(tokens):
            projected = first.project_image(image, position)
        queries, keys, placed = first(tokens, image, tokens, position, projected)
        for layer in others:
            queries, keys, placed = layer(queries, keys, tokens, position, placed=placed)
        attended = self.final_attn_token_to_image(queries + tokens, placed, keys)
        return self.norm_final_attn(queries + attended), keys
