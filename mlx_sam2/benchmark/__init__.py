"""``python -m mlx_sam2.benchmark``."""

from .command import main

__all__ = ["main"]
