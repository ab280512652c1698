"""What a user does first, with an installed package: run by .ci/run on every Python that the machine has.

python .ci/smoke.py [--lowest]

It stands on the standard library and what the package itself needs. A line for each thing that works; the first that
does not ends it with 1.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def run(*arguments: object, folder: Path) -> str:
    """Standard output of a command of the package; SystemExit with all that it said if it fails."""
    command = [sys.executable, "-m", *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, env=environment())
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}\nexit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def environment() -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "error:::mlx_sam2"}


def expect(ok: object, what: str) -> None:
    if not ok:
        raise SystemExit(f"not as it should be: {what}")
    print(f"  {what}", flush=True)


def photo(folder: Path) -> None:
    line = run(
        "mlx_sam2.segment", EXAMPLES / "coins.png", "--point", "271,119", "--model", "demo", "--json", folder=folder
    )
    area = json.loads(line)["masks"][0]["area"]
    expect(1500 < area < 2500, f"a photo: the coin has {area} pixels")


def heic(folder: Path) -> None:
    shot = EXAMPLES.parent / "tests" / "data" / "reports" / "iphone.heic"
    line = run("mlx_sam2.segment", shot, "--point", "500,400", "--model", "demo", "--json", folder=folder)
    found = json.loads(line)
    expect((found["width"], found["height"]) == (1024, 768), "a HEIC photo: 1024 x 768")


def film(folder: Path) -> None:
    clip = EXAMPLES / "clip.mp4"
    arguments = ("--point", "65,105", "--model", "demo", "--output", "masks", "--overlay", "overlay.mp4")
    run("mlx_sam2.track", clip, *arguments, folder=folder)
    expect(len(list((folder / "masks").glob("*.png"))) == 30, "a film: 30 masks")
    import av

    with av.open(str(folder / "overlay.mp4")) as container:
        frames = sum(1 for _ in container.decode(video=0))
    expect(frames == 30, f"its overlay: 30 frames, PyAV {av.__version__}")


def conversion(folder: Path) -> None:
    import mlx_sam2

    demo = Path(mlx_sam2.__file__).parent / "demo"
    run("mlx_sam2.convert", "--hf-path", demo, "--to", "official", "--mlx-path", "demo.pt", folder=folder)
    run(
        "mlx_sam2.convert",
        "--hf-path",
        "demo.pt",
        "--config",
        demo / "config.json",
        "-q",
        "--mlx-path",
        "back-8bit",
        folder=folder,
    )
    line = run(
        "mlx_sam2.segment",
        EXAMPLES / "coins.png",
        "--point",
        "271,119",
        "--model",
        "back-8bit",
        "--json",
        folder=folder,
    )
    expect(json.loads(line)["masks"][0]["area"] > 1000, "a conversion there and back, and a mask with it")


def app(folder: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "mlx_sam2.app",
        str(EXAMPLES / "coins.png"),
        "--model",
        "demo",
        "--no-browser",
        "--port",
        "0",
    ]
    server = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment()
    )
    try:
        first = server.stdout.readline()
        address = re.search(r"http://\S+", first)
        if not address:
            raise SystemExit(f"the app: {first}{server.stdout.read()}")
        with urllib.request.urlopen(address[0], timeout=60) as page:
            html = page.read().decode()
        expect("<html" in html and "mlx_sam2" in html, "the app's page")
    finally:
        server.terminate()
        server.wait(60)


def light(folder: Path) -> None:
    for command in ("segment", "track", "convert", "doctor", "benchmark", "export", "app"):
        expect_usage = run(f"mlx_sam2.{command}", "--help", folder=folder).startswith("usage:")
        if not expect_usage:
            raise SystemExit(f"{command} --help prints no usage")
    script = subprocess.run(
        [Path(sys.executable).with_name("mlx-sam2"), "segment", "--help"], capture_output=True, text=True
    )
    expect(script.stdout.startswith("usage: mlx-sam2 segment"), "--help of every command, mlx-sam2 as a script")


def main() -> None:
    names = ("mlx", "numpy", "pillow", "av", "huggingface-hub", "safetensors", "fastapi", "uvicorn", "pillow-heif")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    print(f"Python {platform.python_version()}: {versions}", flush=True)
    with tempfile.TemporaryDirectory() as made:
        for check in (light, photo, heic, film, conversion, app):
            (folder := Path(made) / check.__name__).mkdir()
            check(folder)


if __name__ == "__main__":
    main()
