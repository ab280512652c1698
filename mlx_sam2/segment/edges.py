"""Edges of ``segment`` with prompts: the settings that were given, and the pictures that they make."""

from __future__ import annotations

import argparse

import numpy as np

from .. import cli, images
from ..images.backgrounds import Layers
from ..images.matte import Edges, alpha, decontaminated, refined_mask


def edges_of(args: argparse.Namespace) -> Edges:
    return Edges(**cli.edge_settings(args), min_area=args.min_mask_region_area or 0)


def mask_and_matte(logits: np.ndarray, pixels: np.ndarray, edges: Edges, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """The mask (H, W) bool, and the matte, float32 in 0..1 or the mask itself.

    Args:
        logits: (H, W) at the photo's size; `cells` is how many the model gave a side.
        pixels: (H, W, 3) uint8.
    """
    mask = refined_mask(logits > 0, edges)
    return mask, alpha(logits, pixels, edges, cells) if edges.is_soft else mask


def cutout(pixels: np.ndarray, matte: np.ndarray, edges: Edges, layers: Layers) -> np.ndarray:
    """The object on transparency (H, W, 4), or with what stands behind it or in its place (H, W, 3), uint8."""
    own = decontaminated(pixels, matte) if edges.decontaminate else pixels
    return images.cutout(own, matte) if layers.are_none else layers.composed(pixels, own, matte)
