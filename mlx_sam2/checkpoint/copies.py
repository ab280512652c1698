"""Find a SAM 2 in a file: in dicts ("model", "state_dict"), behind prefixes ("module."), in several copies (EMA).

A copy is found by the names of its image encoder. Its label is the way that leads to it, such as "model",
"state_dict.ema_model" or, without any wrapper, "".
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..text import shown, some

# Parts that torch's wrappers add to names, anywhere: compile, (Distributed)DataParallel, FSDP, checkpointing.
_WRAPPERS = {"_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
_ENCODERS = ("image_encoder", "vision_encoder")  # official, transformers
_AVERAGED = re.compile(r"(^|[._])(ema|ema\w*|\w*_ema|averaged?|avg|swa|shadow|teacher)([._]|$)")
_USUAL = ("", "model", "state_dict", "model_state_dict")  # labels that are taken before others
MOST_COPIES = 16
_NO_WEIGHTS = ("optimizer", "optim", "scheduler", "lr_scheduler", "loss")


@dataclass(frozen=True)
class Copy:
    """One copy of the weights."""

    label: str
    tensors: dict[str, Any]  # by their names below the label
    beside: tuple[str, ...] = ()  # names of the same dict that belong to no copy

    @property
    def shown(self) -> str:
        """The label, safe to print: it comes out of the file."""
        return shown(self.label, 60) or "the outermost"


class CopyError(ValueError):
    """A file's copies of the weights cannot be told apart, or lack the one that was asked for. One line."""


def find(dicts: Mapping[str, Mapping[str, Any]]) -> list[Copy]:
    """All copies in the dicts of a file, in its order. ``dicts`` maps places ("" is the outermost) to tensors by name.

    Raises:
        CopyError: names cannot be told apart, or there are too many copies.
    """
    found: list[Copy] = []
    for place, group in dicts.items():
        if place.split(".")[0] not in _NO_WEIGHTS:
            found += _within(place, group)
        if len(found) > MOST_COPIES:
            raise CopyError(f"it holds over {MOST_COPIES} copies of the weights")
    return found


def choose(copies: list[Copy], weights_key: str | None, path: Path) -> Copy:
    """The copy called ``weights_key``; None: the trained weights rather than their average, with a warning.

    Raises:
        CopyError: there is no such copy, or several.
    """
    labels = ", ".join(copy.shown for copy in copies)
    if weights_key is not None:
        found = [copy for copy in copies if copy.label == weights_key]
        found = found or [copy for copy in copies if weights_key in copy.label.split(".")]
        if len(found) != 1:
            what = f"{len(found)} copies of the weights fit" if found else "no copy of the weights is called"
            raise CopyError(f"{path}: {what} weights_key={weights_key!r}; it holds {labels}")
        return found[0]
    chosen = min(copies, key=_rank)
    if len(copies) > 1:
        warnings.warn(
            f"mlx_sam2: {path} holds {len(copies)} copies of the weights ({labels}): {chosen.shown} is taken; "
            "weights_key= (--weights-key) chooses",
            UserWarning,
            stacklevel=2,
        )
    return chosen


def _rank(copy: Copy) -> tuple[bool, int]:
    """Sorts trained weights before averages, and usual labels before others."""
    unusual = _USUAL.index(copy.label) if copy.label in _USUAL else len(_USUAL)
    return bool(_AVERAGED.search(copy.label)), unusual


def _within(place: str, group: Mapping[str, Any]) -> list[Copy]:
    """The copies in one dict, which their prefixes tell apart."""
    unwrapped = {_unwrapped(name): value for name, value in group.items()}
    if len(unwrapped) != len(group):
        raise CopyError(f"two of its tensors have the same name without wrappers: {some(_twice(group))}")
    found: dict[str, dict[str, Any]] = {p: {} for name in unwrapped if (p := _prefix(name)) is not None}
    prefixes = sorted(found, key=len, reverse=True)
    if len(prefixes) > MOST_COPIES:  # each name is compared with each of them below
        raise CopyError(f"it holds over {MOST_COPIES} copies of the weights")
    beside = []
    for name, value in unwrapped.items():
        prefix = next((p for p in prefixes if name.startswith(p)), None)
        if prefix is None:
            beside.append(name)
        else:
            found[prefix][name.removeprefix(prefix)] = value
    labels = {prefix: ".".join(filter(None, (place, prefix.rstrip(".")))) for prefix in found}
    return [Copy(labels[prefix], tensors, tuple(beside)) for prefix, tensors in found.items()]


def _unwrapped(name: str) -> str:
    parts = name.split(".")
    return ".".join(part for part in parts if part not in _WRAPPERS) if _WRAPPERS & set(parts) else name


def _prefix(name: str) -> str | None:
    """The part of a name before the image encoder; None: the name belongs to another module."""
    parts = name.split(".")
    at = next((i for i, part in enumerate(parts[:-1]) if part in _ENCODERS), None)
    return None if at is None else "".join(f"{part}." for part in parts[:at])


def _twice(group: Mapping[str, Any]) -> list[str]:
    return [name for name, times in Counter(map(_unwrapped, group)).items() if times > 1]
