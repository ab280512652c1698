"""Lines and Python of the documentation, run as a newcomer would: on the demo model, in a folder of their own."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import doc_pages
from doc_pages import DOCS, ROOT, Block, Command, title

pytest.importorskip("av", reason="PyAV is not installed: pip install -e '.[video]'")

MODELS = "facebook/sam2.1-hiera-base-plus|sam2.1-hiera-base-plus|base_plus|(?<!sam2.1-hiera-)tiny(?!-)"
# Lines that only their parser sees here, by how they begin (of each the first one that fits), with the reason.
NOT_RUN = {
    "mlx.launch": "needs an MPI or a host file; tests/segment/test_coco.py starts several processes",
    "python -m mlx_sam2.app": "serves until Ctrl-C; tests/app/test_app_command.py",
    "python -m mlx_sam2.benchmark": "minutes; tests/benchmark and tests/tools",
    "python -m mlx_sam2.export": "tests/export/test_export.py",
    "python -m mlx_sam2.doctor  ": "measures the shapes of a published size; tests/doctor/test_doctor.py",
    "python -m mlx_sam2.doctor --weights tiny": "downloads; tests/doctor/test_doctor.py has a Hub to ask",
    "python -m mlx_sam2.convert --hf-path tuned.pt": "uploads; tests/convert/test_convert_upload.py",
    "python -m mlx_sam2.track clip.mp4 --point 65,105 --model edgetam": "downloads; tests/api/test_video_golden.py",
    "python examples/": "tests/demo/test_demo.py",
}
# Blocks of Python that are compiled only, by what stands in them.
NOT_CALLED = {
    "camera:0": "no camera; tests/frames and tests/api have streams",
    "hub.upload": "the network; tests/hub/test_upload.py",
    "build_sam2(": "a published checkpoint; tests/api/test_build.py",
    'open_dataset("labels.json"': "labels of one's own; tests/finetune/test_trainer.py",
    "to_supervision": "supervision is no part of [test]; tests/masks/test_masks_export.py",
}


def lines(page: Path) -> list[Command]:
    """The page's blocks of commands of this package and its examples."""
    found = [command for command in doc_pages.commands(page) if command.apart]
    return [c for c in found if c.program.startswith(("mlx_sam2.", "examples/"))]


def reason(command: Command) -> str | None:
    shown = command.line + "  "
    return next((why for start, why in NOT_RUN.items() if shown.startswith(start)), None)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A newcomer's folder: the examples, a photo and a clip, a folder of photos, a model of their own."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("*_*.png", "__pycache__"))
    shutil.copy(ROOT / "examples/coffee.jpg", tmp_path / "photo.jpg")
    shutil.copy(ROOT / "examples/clip.mp4", tmp_path / "clip.mp4")
    (tmp_path / "photos").mkdir()
    shutil.copy(ROOT / "examples/coins.png", tmp_path / "photos")
    shutil.copytree(ROOT / "mlx_sam2/demo", tmp_path / "tuned")
    monkeypatch.chdir(tmp_path)
    for name, value in (("MLX_SAM2_CACHE", "cache"), ("MLX_SAM2_APP_DATA", "data")):  # nothing of the user's changes
        monkeypatch.setenv(name, str(tmp_path / value))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


def with_demo(command: Command) -> list[str]:
    """Arguments of a command, with the demo model in place of the published ones."""
    args = [re.sub(MODELS, "demo", word) for word in command.args]
    takes_model = command.program in ("mlx_sam2.segment", "mlx_sam2.track") and "--model" not in args
    args += ["--model", "demo"] if takes_model else []
    return args + (["--points-per-side", "8"] if "--everything" in args else []) + ["--overwrite"] * takes_model


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in DOCS if lines(page)], ids=title)
def test_commands_of_a_page(page: Path, folder: Path) -> None:
    """One after the other, as a reader would: later lines use what earlier ones wrote."""
    for command in lines(page):
        if reason(command):
            continue
        program = ["-m", command.program] if command.program.startswith("mlx_sam2.") else [command.program]
        call = [sys.executable, *program, *with_demo(command)]
        done = subprocess.run(call, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
        assert done.returncode == 0, f"{title(page)}: {command.line}\n{done.stdout}{done.stderr}"
    if page.name == "README.md" and page.parent == ROOT:
        shown = np.array(Image.open("examples/coins_mask.png"))
        assert shown[119, 271] == 255 and shown.mean() < 64


def test_reasons_are_in_use() -> None:
    every = [command.line + "  " for page in DOCS for command in lines(page)]
    assert not [start for start in NOT_RUN if not any(line.startswith(start) for line in every)]
    blocks = [block.text for page in DOCS for block in doc_pages.blocks(page) if block.language == "python"]
    assert not [word for word in NOT_CALLED if not any(word in text for text in blocks)]


def python(page: Path) -> list[Block]:
    return [block for block in doc_pages.blocks(page) if block.language == "python"]


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in DOCS if python(page)], ids=title)
def test_python_of_a_page(page: Path, folder: Path, request: pytest.FixtureRequest) -> None:
    """Its blocks in their order, in one namespace: names of an earlier block may be used in a later one."""
    image = np.array(Image.open("photo.jpg").convert("RGB"))
    names: dict[str, Any] = {"image": image, "show": lambda future: future.result()}
    for block in python(page):
        text = re.sub(f'"({MODELS})"', '"demo"', block.text)
        if "127.0.0.1:8765" in text:
            text = text.replace("http://127.0.0.1:8765", request.getfixturevalue("app_server").rstrip("/"))
        code = compile(text, title(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        if any(word in text for word in NOT_CALLED):
            continue
        with contextlib.redirect_stdout(None):
            running = eval(code, names)  # noqa: S307  our own pages
        if asyncio.iscoroutine(running):
            with ThreadPoolExecutor(1) as thread:  # of its own: Playwright's loop may run in this one
                thread.submit(asyncio.run, running).result()
    if "httpx" in names:
        names["app"].close()  # its connection
    for name in ("masks", "mask"):
        found = names.get(name)
        if isinstance(found, np.ndarray):
            assert found.any(), f"{title(page)}: its {name} are empty"
