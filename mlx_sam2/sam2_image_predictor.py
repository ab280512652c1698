"""The official module of this name: scripts import ``SAM2ImagePredictor`` from here."""

from .image_predictor import SAM2ImagePredictor

__all__ = ["SAM2ImagePredictor"]
