"""``python -m mlx_sam2.export``."""

from .command import main

__all__ = ["main"]
