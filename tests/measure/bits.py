"""Hash what the commands and the Python API give, to hold two commits against each other bit by bit.

    python tests/measure/bits.py [--checkout DIR] > after.txt       then the same with another checkout, and diff

Every case runs in a process of its own, with the package of the checkout, the demo model in it and the pictures of
`examples/`. A line is a case, a file or a result of it, and a hash. Films are hashed frame by frame. Needs PyAV.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# name: arguments of `python -m`; {demo} is the folder of the model, {out} a folder for results
COMMANDS = {
    "segment point": "segment coins.png --point 271,119 --json",
    "segment files": "segment coffee.jpg --box 150,60,470,330 --negative 20,20 --output m.png --overlay o.png "
    "--cutout c.png",
    "segment three": "segment coins.png --point 271,119 --multimask --output m.png",
    "segment mask": "segment coins.png --mask m0.png --output m.png --json",
    "everything": "segment coins.png --everything --overlay o.png --json --points-per-side 12",
    "everything folder": "segment photos --everything --coco all.json --output masks --points-per-side 8 "
    "--crop-layers 1",
    "segment bad input": "segment coins.png --point 9999,1",
    "track": "track clip.mp4 --point 65,105 --output masks --overlay o.mp4",
    "track lines": "track clip.mp4 --point 1:65,105 --negative 1:5,5 --box 2:100,60,180,140 --frames 12 "
    "--output r.jsonl",
    "track backwards": "track clip.mp4 --point 156,128@20 --reverse --start 20 --frames 8 --output masks",
    "track everything": "track clip.mp4 --everything --frames 8 --points-per-side 8 --pred-iou 0.5 --stability 0.5 "
    "--output masks",
    "track approximations": "track clip.mp4 --point 65,105 --memory-pooling 2 --max-memories 3 --frames 10 "
    "--output masks",
    "convert": "convert --hf-path {demo} --dtype bfloat16 --mlx-path demo-bf16",
    "convert packed": "convert --hf-path {demo} -q --mlx-path demo-8bit",
    "convert official": "convert --hf-path {demo} --to official --mlx-path demo.pt",
    "convert transformers": "convert --hf-path {demo} --to transformers --mlx-path demo-hf",
    "export": "export --no-kernels --max-points 2 --output exported",
    "benchmark": "benchmark --size tiny --modelled --json",
}
ON_THE_DEMO = ("segment", "track", "export")

API = """
import hashlib, json, sys
import numpy as np
from PIL import Image
import mlx_sam2
from mlx_sam2 import SAM2AutomaticMaskGenerator, SAM2ImagePredictor, SAM2VideoPredictor, masks
def show(name, *values):
    made = hashlib.sha256()
    for value in values:
        array = np.asarray(value)
        made.update(repr((array.dtype.str, array.shape)).encode() + np.ascontiguousarray(array).tobytes())
    print("api", name, made.hexdigest()[:24], sep="\\t")
coins = np.array(Image.open("coins.png").convert("RGB"))
for dtype in ("float32", "float16"):
    predictor = SAM2ImagePredictor.from_pretrained("demo", dtype=dtype)
    predictor.set_image(coins)
    show(f"{dtype} embedding", predictor.get_image_embedding())
    point = dict(point_coords=np.array([[271, 119]]), point_labels=np.array([1]))
    show(f"{dtype} click", *predictor.predict(**point, return_logits=True))
    boxes = np.array([[240, 90, 300, 150], [20, 20, 90, 90]])
    _, _, low = found = predictor.predict(box=boxes, multimask_output=False)
    show(f"{dtype} boxes", *found)
    show(f"{dtype} mask", *predictor.predict(**point, mask_input=low[0], multimask_output=False, return_logits=True))
    predictor.set_image_batch([coins, coins[:200, :300]])
    results = predictor.predict_batch([point["point_coords"]] * 2, [point["point_labels"]] * 2)
    show(f"{dtype} batch", *[a for column in results for a in column])
cleaned = SAM2ImagePredictor.from_pretrained("demo", dtype="float32", max_hole_area=20, max_sprinkle_area=20)
cleaned.set_image(coins)
show("cleaned", *cleaned.predict(**point))
options = dict(dtype="float32", points_per_side=8, output_mode="coco_rle")
generator = SAM2AutomaticMaskGenerator.from_pretrained("demo", **options)
show("everything", [json.dumps(generator.generate(coins), sort_keys=True)])
predictor = SAM2VideoPredictor.from_pretrained("demo", dtype="float32")
for memory in ("disk", "ram"):
    with predictor.init_state("clip.mp4", memory=memory) as state:
        answers = [predictor.add_new_points_or_box(state, 0, 1, points=[[65, 105]], labels=[1])[2]]
        answers.append(predictor.add_new_points_or_box(state, 0, 2, box=[100, 60, 180, 140])[2])
        more = dict(points=[[70, 100]], labels=[1], clear_old_points=False)
        answers.append(predictor.add_new_points_or_box(state, 0, 1, **more)[2])
        for t, ids, logits in predictor.propagate_in_video(state, max_frame_num_to_track=10):
            answers += [np.array([t, *ids]), logits]
        answers.append(predictor.add_new_points_or_box(state, 6, 2, points=[[5, 5]], labels=[0])[2])
        mask = np.zeros(state.video_size, bool)
        mask[40:90, 50:120] = True
        answers.append(predictor.add_new_mask(state, 8, 3, mask)[2])
        for t, ids, logits in predictor.propagate_in_video(state, start_frame_idx=8, reverse=True):
            answers += [np.array([t, *ids]), logits]
        answers += [masks for _, masks in predictor.remove_object(state, 2)[1]]
        show(f"video {memory}", *answers)
"""


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:24]


def film(path: Path) -> Iterator[bytes]:
    import av

    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            yield frame.to_ndarray(format="rgb24").tobytes()


def exported(path: Path) -> Iterator[bytes]:
    """What an exported encoder answers: its file holds names that MLX makes up at every run."""
    import mlx.core as mx
    import numpy as np

    encode = mx.import_function(str(path))
    pixels = np.linspace(-2, 2, 256 * 256 * 3, dtype=np.float32).reshape(1, 256, 256, 3)
    yield from (np.array(array.astype(mx.float32)).tobytes() for array in encode(mx.array(pixels)))


def hash_of(path: Path) -> str:
    if path.suffix == ".mlxfn":
        return digest(b"".join(exported(path))) if "encoder" in path.name else f"{path.stat().st_size} bytes"
    return digest(b"".join(film(path))) if path.suffix == ".mp4" else digest(path.read_bytes())


def run(checkout: Path, arguments: list[str], folder: Path) -> tuple[int, str]:
    environment = {**os.environ, "PYTHONPATH": str(checkout), "PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout if done.returncode == 0 else done.stdout + done.stderr


def prepare(folder: Path) -> set[Path]:
    """The inputs of the cases, in a fresh folder."""
    from PIL import Image, ImageDraw

    for name in ("coins.png", "coffee.jpg", "clip.mp4"):
        shutil.copy(ROOT / "examples" / name, folder)
    (folder / "photos").mkdir()
    for name in ("coins.png", "coffee.jpg"):
        Image.open(folder / name).convert("RGB").resize((150, 120)).save(folder / "photos" / f"{name[:-4]}.png")
    rough = Image.new("L", Image.open(folder / "coins.png").size)
    ImageDraw.Draw(rough).ellipse([245, 95, 300, 145], fill=255)
    rough.save(folder / "m0.png")
    made = {path for path in folder.rglob("*") if path.is_file()}
    for path in made:
        os.utime(path, (0, 0))  # fingerprints of photos hold it
    return made


def cases(checkout: Path, only: str) -> Iterator[tuple[str, str, str]]:
    """(case, what, hash)."""
    for name, line in {**COMMANDS, "api": ""}.items():
        if only not in name:
            continue
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            before = prepare(folder)
            words = line.format(demo=checkout / "mlx_sam2" / "demo").split()
            arguments = ["-c", API] if name == "api" else ["-m", f"mlx_sam2.{words[0]}", *words[1:]]
            if words and words[0] in ON_THE_DEMO:
                arguments += ["--model", "demo"]
            code, text = run(checkout, arguments, folder)
            if name == "api" and code == 0:
                yield from (("api", what, found) for _, what, found in (row.split("\t") for row in text.splitlines()))
                continue
            said = text.replace(str(folder), "FOLDER").replace(str(checkout), "CHECKOUT")
            said = re.sub(r"[\d.]+ frames/s", "RATE", said)
            yield name, f"exit {code}, {len(said)} characters", digest(said.encode())
            for path in sorted(path for path in folder.rglob("*") if path.is_file() and path not in before):
                yield name, str(path.relative_to(folder)), hash_of(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkout", type=Path, default=ROOT, help="whose package runs; default: this one")
    parser.add_argument("--only", default="", help="cases whose name holds this")
    args = parser.parse_args()
    for case, what, found in cases(args.checkout.resolve(), args.only):
        print(f"{case:22} {found}  {what}", flush=True)


if __name__ == "__main__":
    main()
