"""The two-way transformer of the mask decoder (official ``modeling/sam/transformer.py``), for few tokens.

A prompt has some eight tokens of its own and the image thousands, so nearly all work lies in projecting the image for
attention to it and from it. None of that has to be done:

- A score is q . (W_k x + b_k) = (W_k^T q) . x + a constant of q, which the softmax does not see. So queries are taken
  through W_k, a few, instead of the image, thousands. Values follow the sum: sum_j p_j (W_v x_j + b_v) =
  W_v (sum_j p_j x_j) + b_v. The same holds with the image as queries.
- In the first layer the image does not depend on the prompt yet: its projections serve all prompts (``ImageSide``).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn

from ..config.parts import DecoderConfig
from ..kernels import attend
from ..kernels.attention import softmax
from .layers import MLP, Attention, merge_heads, split_heads


class ImageSide(NamedTuple):
    """What the first layer needs of an image, whatever the prompt. M = h * w; D is the width of its attentions."""

    tokens: mx.array  # (1, M, C) features with the mask embedding of prompts without a mask
    position: mx.array  # (1, M, C)
    key: mx.array  # (1, M, D) for tokens that look at the image
    value: mx.array  # (1, M, D)
    query: mx.array  # (1, M, D) for the image that looks at tokens


class CrossAttention(Attention):
    """Attention between tokens and an image."""

    def _are_few(self, count: int) -> bool:
        """Whether so many tokens, once for every head, are no more than the channels of a projected image."""
        return self.num_heads * count <= self.k_proj.weight.shape[0]

    def _apart(self, x: mx.array) -> mx.array:
        """(B, N, heads * D) -> (B, heads * N, heads * D): row h * N + n is token n with all heads but h set to zero."""
        b, n, width = x.shape
        own = mx.eye(self.num_heads, dtype=x.dtype)[:, None, :, None]  # (heads, 1, heads, 1)
        return (own * x.reshape(b, 1, n, self.num_heads, -1)).reshape(b, -1, width)

    def _together(self, x: mx.array) -> mx.array:
        """(B, heads * N, heads * D) -> (B, N, heads * D): of row h * N + n only head h."""
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
        q = self._apart(self.q_proj(q) / math.sqrt(self.q_proj.weight.shape[0] // self.num_heads))
        shares = softmax((q @ self.k_proj.weight) @ k.swapaxes(1, 2))  # (B, heads * N, M)
        found = (shares @ v) @ self.v_proj.weight.T  # (B, heads * N, heads * D)
        return self.out_proj(self._together(found) + self.v_proj.bias)

    def at(self, q: mx.array, image: ImageSide) -> mx.array:
        """q (B, N, C) -> (B, N, C), all looking at the same image."""
        b, n, _ = q.shape
        q = self.q_proj(q).reshape(1, b * n, -1)
        q, k, v = (split_heads(x, self.num_heads) for x in (q, image.key, image.value))
        return self.out_proj(merge_heads(attend(q, k, v)).reshape(b, n, -1))


class ImageToTokenAttention(CrossAttention):
    """Queries are the image, keys and values tokens."""

    def __call__(self, q: mx.array, k: mx.array, v: mx.array, projected: mx.array | None = None) -> mx.array:
        """q (B or 1, M, C), k and v (B, N, C) -> (B, M, C); ``projected`` is ``q_proj(q)`` where that is known."""
        n = k.shape[1]
        if not self._are_few(n):
            return super().__call__(q, k, v)
        b, m, width = k.shape[0], q.shape[1], self.q_proj.weight.shape[0]
        keys = self._apart(self.k_proj(k) / math.sqrt(width // self.num_heads))
        if projected is not None:
            scores = projected @ keys.swapaxes(1, 2)  # (B, M, heads * N)
        else:
            constant = (keys @ self.q_proj.bias)[:, None]  # (B, 1, heads * N)
            scores = q @ (keys @ self.q_proj.weight).swapaxes(1, 2) + constant
        shares = softmax(scores.reshape(b, m, self.num_heads, n)).reshape(b, m, -1)
        values = self._apart(self.v_proj(v)) @ self.out_proj.weight.T  # (B, heads * N, C)
        return shares @ values + self.out_proj.bias


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

    def image_side(self, image: mx.array, position: mx.array) -> ImageSide:
        """The projections of an image (1, M, C) that no prompt has touched yet."""
        to_image, to_tokens = self.cross_attn_token_to_image, self.cross_attn_image_to_token
        placed = image + position
        key, value, query = to_image.k_proj(placed), to_image.v_proj(image), to_tokens.q_proj(placed)
        return ImageSide(image, position, key, value, query)

    def __call__(
        self,
        queries: mx.array,
        keys: mx.array,
        query_pe: mx.array,
        key_pe: mx.array,
        shared: ImageSide | None = None,
    ) -> tuple[mx.array, mx.array]:
        """queries (B, N, C) and keys (B or 1, M, C), with their position encodings; both come back with B.

        ``shared`` is ``image_side(keys, key_pe)`` where the keys are one image for all.
        """
        if self._skip_first_layer_pe:  # the first layer has no positions and no residual
            queries = self.self_attn(queries, queries, queries)
        else:
            q = queries + query_pe
            queries = queries + self.self_attn(q, q, queries)
        queries = self.norm1(queries)

        placed = keys + key_pe
        to_image, to_tokens = self.cross_attn_token_to_image, self.cross_attn_image_to_token
        q = queries + query_pe
        queries = queries + (to_image.at(q, shared) if shared is not None else to_image(q, placed, keys))
        queries = self.norm2(queries)
        queries = self.norm3(queries + self.mlp(queries))
        q = queries + query_pe
        keys = keys + to_tokens(placed, q, queries, None if shared is None else shared.query)
        return queries, self.norm4(keys)


class TwoWayTransformer(nn.Module):
    """Decodes tokens against an image embedding."""

    def __init__(self, dim: int, config: DecoderConfig):
        super().__init__()
        self.layers = [TwoWayAttentionBlock(dim, config, skip_first_layer_pe=i == 0) for i in range(config.depth)]
        self.final_attn_token_to_image = TokenToImageAttention(dim, config.num_heads, config.attention_downsample_rate)
        self.norm_final_attn = nn.LayerNorm(dim)

    def __call__(
        self, image: mx.array, position: mx.array, tokens: mx.array, shared: ImageSide | None = None
    ) -> tuple[mx.array, mx.array]:
        """Tokens (B, N, C) and image (B, M, C) after the transformer.

        Args:
            image: (B or 1, M, C).
            position: (1, M, C).
            tokens: (B, N, C).
            shared: ``image_side`` of the first layer where that is known; several prompts on one image make it.
        """
        first, *others = self.layers
        if shared is None and len(image) < len(tokens):
            shared = first.image_side(image, position)
        queries, keys = first(tokens, image, tokens, position, shared)
        for layer in others:
            queries, keys = layer(queries, keys, tokens, position)
        attended = self.final_attn_token_to_image(queries + tokens, keys + position, keys)
        return self.norm_final_attn(queries + attended), keys
