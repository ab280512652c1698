"""``python -m mlx_sam2.track``."""

from .command import main

__all__ = ["main"]
