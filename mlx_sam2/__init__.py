"""SAM 2 and SAM 2.1 for Apple silicon, on MLX.

Importing this package is cheap: MLX and all else that a class needs is imported when the class is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ._blas import prefer_system_blas

if TYPE_CHECKING:
    from .automatic_mask_generator import SAM2AutomaticMaskGenerator
    from .checkpoint.loading import load
    from .config.sam2 import SAM2Config
    from .sam2_image_predictor import SAM2ImagePredictor
    from .sam2_video_predictor import SAM2VideoPredictor

__version__ = "0.1.0"
__all__ = [
    "SAM2AutomaticMaskGenerator",
    "SAM2Config",
    "SAM2ImagePredictor",
    "SAM2VideoPredictor",
    "__version__",
    "load",
]

_ROOMS = {
    "SAM2AutomaticMaskGenerator": "automatic_mask_generator",
    "SAM2Config": "config.sam2",
    "SAM2ImagePredictor": "sam2_image_predictor",
    "SAM2VideoPredictor": "sam2_video_predictor",
    "load": "checkpoint.loading",
}

prefer_system_blas()  # has to come before MLX is imported


if not TYPE_CHECKING:  # or type checkers would let every name pass

    def __getattr__(name: str) -> Any:
        if name not in _ROOMS:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{__name__}.{_ROOMS[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
