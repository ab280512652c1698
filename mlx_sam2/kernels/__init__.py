"""Operations with a pure-MLX reference each; Metal kernels join them here."""

from .axial_rope import axial_rope

__all__ = ["axial_rope"]
