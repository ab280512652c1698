"""A program that uses the package freezes with PyInstaller without any flag, and runs where nothing is installed."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys
import numpy as np
from PIL import Image
from mlx_sam2 import SAM2ImagePredictor, __version__
predictor = SAM2ImagePredictor.from_pretrained("demo")
predictor.set_image(np.array(Image.open(sys.argv[1]).convert("RGB")))
masks, scores, _ = predictor.predict(point_coords=np.array([[271, 119]]), point_labels=np.array([1]))
print(__version__, int(masks[scores.argmax()].sum()))
"""


def needed(*names: str) -> set[str]:
    """The distributions that those of `names` ask for on this machine, themselves included."""
    found: set[str] = set()
    ahead = list(names)
    while ahead:
        name = re.split(r"[^\w.-]", ahead.pop(), maxsplit=1)[0].lower().replace("_", "-")
        if name in found:
            continue
        try:
            ahead += [need for need in importlib.metadata.requires(name) or () if "extra ==" not in need]
        except importlib.metadata.PackageNotFoundError:
            continue  # of another system, or of another Python
        found.add(name)
    return found


def clean_environment(folder: Path) -> Path:
    """The Python of an environment that holds the package, PyInstaller, and what they need: links to those here."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    site = next(folder.glob("lib/python*/site-packages"))
    (site / "mlx_sam2").symlink_to(ROOT / "mlx_sam2")
    for name in sorted(needed("mlx-sam2", "pyinstaller")):
        for file in importlib.metadata.files(name) or ():
            top = file.parts[0]
            if (
                top not in ("..", "__pycache__")
                and not (site / top).exists()
                and top.split(".")[0] != "_editable_impl_mlx_sam2"
            ):
                (site / top).symlink_to(
                    Path(file.locate()).parents[len(file.parts) - 2] if len(file.parts) > 1 else file.locate()
                )
    return folder / "bin" / "python"


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="the links of the clean environment are made for Linux and macOS")
def test_a_program_freezes_without_flags(tmp_path: Path) -> None:
    pytest.importorskip("PyInstaller", reason="pyinstaller is not installed: pip install -e '.[dev]'")
    python = clean_environment(tmp_path / "clean")
    (tmp_path / "click.py").write_text(PROGRAM)
    frozen = subprocess.run(
        [python, "-m", "PyInstaller", "--log-level", "WARN", "click.py"], cwd=tmp_path, capture_output=True, text=True
    )
    assert frozen.returncode == 0, frozen.stderr[-3000:]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(
        [tmp_path / "dist" / "click" / "click", ROOT / "examples" / "coins.png"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    version, area = done.stdout.split()
    assert version == importlib.metadata.version("mlx-sam2")
    assert 1500 < int(area) < 2500
