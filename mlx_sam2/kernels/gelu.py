"""The exact GELU (arXiv 1606.08415), and its error function as a rational function."""

from __future__ import annotations

import math

import mlx.core as mx
import mlx.nn as nn

from .cpu import PIECE, one_by_one

# erf(z) = z P(z^2) / Q(z^2) for |z| < 4, beyond which it is 1 in float32: the rational approximation that Eigen and XLA
# use. Highest power first.
ERF_P = (-2.72614225801306e-10, 2.77068142495902e-08, -2.10102402082508e-06, -5.69250639462346e-05,
          -7.34990630326855e-04, -2.95459980854025e-03, -1.60960333262415e-02)  # fmt: skip
ERF_Q = (-1.45660718464996e-05, -2.13374055278905e-04, -1.68282697438203e-03, -7.37332916720468e-03,
          -1.42647390514189e-02)  # fmt: skip


def gelu(x: mx.array) -> mx.array:
    """The exact (erf) GELU of any array.

    MLX's CPU backend calls erf element by element, 20 times as long as a product; there, products and sums take its
    place, within 2e-6 of the same values.
    """
    if mx.default_device().type != mx.cpu or x.dtype != mx.float32:
        return nn.gelu(x)
    if x.size <= PIECE:
        return _gelu_by_products(x)
    parts = mx.split(x.flatten(), range(PIECE, x.size, PIECE))
    return mx.concatenate(one_by_one(_gelu_by_products, [(part,) for part in parts])).reshape(x.shape)


def _gelu_by_products(x: mx.array) -> mx.array:
    z = mx.clip(x * math.sqrt(0.5), -4, 4)
    square = z * z
    return (0.5 * x) * (1 + z * _polynomial(ERF_P, square) / _polynomial(ERF_Q, square))


def _polynomial(coefficients: tuple[float, ...], x: mx.array) -> mx.array:
    """Horner's scheme, highest power first."""
    total = x * coefficients[0] + coefficients[1]
    for c in coefficients[2:]:
        total = total * x + c
    return total


def _metal_polynomial(coefficients: tuple[float, ...]) -> str:
    text = f"float4({coefficients[0]!r}f)"
    for c in coefficients[1:]:
        text = f"metal::fma({text}, s, float4({c!r}f))"
    return text


# The same for kernels, in float32.
METAL_GELU = f"""
inline float4 gelu_of(float4 x) {{
    const float4 z = metal::clamp(x * {math.sqrt(0.5)!r}f, float4(-4.0f), float4(4.0f)), s = z * z;
    const float4 p = {_metal_polynomial(ERF_P)};
    const float4 q = {_metal_polynomial(ERF_Q)};
    return 0.5f * x * (1.0f + z * p / q);
}}
"""
