"""Fine-tuning: ``python -m mlx_sam2.finetune``, and the same from Python.

from mlx_sam2.finetune import Arguments, Trainer

trainer = Trainer(model, dataset.items, arguments=Arguments(preset="lora", steps=300))
trainer.run(print)
trainer.use(model)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .arguments import ArgumentError, Arguments
    from .trainer import Event, Trainer, TrainingError

from .command import main

_ROOMS = {
    "ArgumentError": "arguments",
    "Arguments": "arguments",
    "Event": "trainer",
    "Trainer": "trainer",
    "TrainingError": "trainer",
}
__all__ = ["ArgumentError", "Arguments", "Event", "Trainer", "TrainingError", "main"]

if not TYPE_CHECKING:  # so that --help of the command loads no MLX

    def __getattr__(name: str) -> Any:
        if name not in _ROOMS:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{__name__}.{_ROOMS[name]}"), name)
