"""``python -m mlx_sam2.doctor``."""

from .command import main

__all__ = ["main"]
