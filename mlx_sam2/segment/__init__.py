"""``python -m mlx_sam2.segment``."""

from .command import main

__all__ = ["main"]
