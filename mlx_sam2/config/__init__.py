"""Configurations: ours, the official YAML's and transformers' forms of it, and the published models."""

from __future__ import annotations

from .parts import ConfigError, DecoderConfig, FpnConfig, HieraConfig, MemoryConfig, MemoryEncoderConfig
from .published import PUBLISHED
from .sam2 import SAM2Config

__all__ = [
    "PUBLISHED",
    "ConfigError",
    "DecoderConfig",
    "FpnConfig",
    "HieraConfig",
    "MemoryConfig",
    "MemoryEncoderConfig",
    "SAM2Config",
]
