"""Values in nested dicts by dotted path ("trunk.embed_dim"), for the translators of configurations."""

from __future__ import annotations

from typing import Any

from ..text import brief
from .parts import PARTS, ConfigError


def lookup(tree: dict[str, Any], path: str) -> Any:
    """The value at a path; None if it is absent."""
    node: Any = tree
    for part in path.split("."):
        if not isinstance(node, dict) or part not in node:
            return None
        node = node[part]
    return node


def put(tree: dict[str, Any], path: str, value: Any) -> None:
    """Set the value at a path, making the dicts on the way."""
    *parents, leaf = path.split(".")
    for parent in parents:
        if not isinstance(tree.get(parent), dict):
            tree[parent] = {}
        tree = tree[parent]
    tree[leaf] = value


def nest(flat: dict[str, Any]) -> dict[str, Any]:
    """``{"trunk.embed_dim": 96, "image_size": 1024}`` -> ``{"trunk": {"embed_dim": 96}, ..., "image_size": 1024}``."""
    tree: dict[str, Any] = {name: {} for name in PARTS}
    for path, value in flat.items():
        put(tree, path, value)
    return tree


def check_fixed(tree: dict[str, Any], fixed: dict[str, Any], form: str) -> None:
    """Refuse values that no model of ours has; ``fixed`` maps paths to the only value that is supported."""
    for path, only in fixed.items():
        value = lookup(tree, path)
        if value is not None and value != only:
            raise ConfigError(f"{form}: {path} = {brief(value)} is not supported, only {only!r}")
