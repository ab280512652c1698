"""Share a run among the processes that ``mlx.launch`` has started, on one machine or many."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class RanksError(RuntimeError):
    """The other processes cannot be reached. One line."""


@dataclass(frozen=True)
class Ranks:
    """This process's place in a run. One that ``mlx.launch`` did not start is alone, and does not load MLX."""

    rank: int = 0
    size: int = 1
    group: Any = None

    @classmethod
    def join(cls) -> Ranks:
        """Connect to the other processes, if ``mlx.launch`` has started some: it says so in the environment.

        Raises:
            RanksError: they cannot be reached.
        """
        hostfile = os.environ.get("MLX_HOSTFILE")
        if "MLX_RANK" not in os.environ or (hostfile and not _text(hostfile).strip()):  # blank: one process
            return cls()
        import mlx.core as mx

        try:
            group = mx.distributed.init(strict=True, backend="ring" if hostfile else "any")
        except (RuntimeError, ValueError) as error:
            raise RanksError(f"cannot join the processes of mlx.launch ({error})") from None
        return cls(group.rank(), group.size(), group)

    def share(self, things: list[Any]) -> list[Any]:
        """This process's share: every size-th thing, beginning at its number. Together the shares are all things."""
        return things[self.rank :: self.size]

    def total(self, *numbers: int) -> list[int]:
        """Add up the processes' numbers. Every process waits here for all others.

        Raises:
            RanksError: one of them has ended.
        """
        if self.group is None:
            return list(numbers)
        import mlx.core as mx

        try:
            return mx.distributed.all_sum(mx.array(numbers), group=self.group, stream=mx.cpu).tolist()
        except RuntimeError as error:
            raise RanksError(f"another process of this run has ended ({error}); the same command goes on") from None


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError as error:
        raise RanksError(f"cannot join the processes of mlx.launch: {path}: {error.strerror}") from None
