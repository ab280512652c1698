"""Hooks for PyInstaller, found through the entry point `pyinstaller40`: a frozen program needs no flags."""

from __future__ import annotations

from pathlib import Path


def hook_dirs() -> list[str]:
    """The folder of the hooks (PyInstaller's entry point `hook-dirs`)."""
    return [str(Path(__file__).parent)]
