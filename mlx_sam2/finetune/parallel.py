"""Several processes (``mlx.launch``): gradients and numbers of objects are averaged (official DDP)."""

from __future__ import annotations

import mlx.core as mx

from .optimizer import Arrays


class World:
    """The processes of a run; one without ``mlx.launch``."""

    def __init__(self) -> None:
        self._group = mx.distributed.init() if mx.distributed.is_available() else None
        self.size = self._group.size() if self._group else 1
        self.rank = self._group.rank() if self._group else 0

    def mean(self, value: float) -> float:
        """The mean of a number over all processes."""
        if self.size == 1:
            return float(value)
        return float(mx.distributed.all_sum(mx.array(float(value)), group=self._group)) / self.size

    def average(self, gradients: Arrays, masters: Arrays) -> Arrays:
        """The mean of gradients, of those that any process has; where one has none, it counts as zeros.

        All of them travel as one array.
        """
        if self.size == 1:
            return gradients
        there = mx.distributed.all_sum(mx.array([float(name in gradients) for name in masters]), group=self._group)
        flat = mx.concatenate([gradients.get(name, mx.zeros_like(value)).flatten() for name, value in masters.items()])
        flat = mx.distributed.all_sum(flat, group=self._group) / self.size
        parts, start = {}, 0
        for (name, value), count in zip(masters.items(), there.tolist(), strict=True):
            if count:
                parts[name] = flat[start : start + value.size].reshape(value.shape)
            start += value.size
        return parts
