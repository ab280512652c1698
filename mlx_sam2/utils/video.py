"""What scripts read and set on the official video predictor, which is the model itself."""

from __future__ import annotations

import dataclasses
from typing import Any

from ..video.tracker import Tracker
from .module import MODEL_OPTIONS, ModuleMethods, OfficialSAM2, as_official


class OfficialVideoAttributes(ModuleMethods):
    """For ``SAM2VideoPredictor``: options of ``SAM2Base`` can be read and set, parts of the model can be read."""

    model: OfficialSAM2
    tracker: Tracker

    def _module(self) -> OfficialSAM2:
        return self.model

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("model", "tracker"):
            raise AttributeError(name)
        if name in MODEL_OPTIONS:
            return getattr(self.model.config, name)
        try:
            return getattr(self.model, name)
        except AttributeError:
            raise AttributeError(
                f"{type(self).__name__} has no attribute {name!r}, and neither has its model"
            ) from None

    def __setattr__(self, name: str, value: Any) -> None:
        """An option of the model counts from the next frame on, in open sessions too; ValueError if it does not fit."""
        if name in MODEL_OPTIONS:
            config = dataclasses.replace(self.model.config, **{name: value})
            self.model = as_official(self.model.with_config(config))
            self.tracker.use(self.model)
        else:
            super().__setattr__(name, value)
