"""``python -m mlx_sam2.convert``."""

from .command import main

__all__ = ["main"]
