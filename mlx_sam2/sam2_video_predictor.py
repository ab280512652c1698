"""The official module of this name: scripts import ``SAM2VideoPredictor`` from here."""

from .video_predictor import SAM2VideoPredictor

__all__ = ["SAM2VideoPredictor"]
