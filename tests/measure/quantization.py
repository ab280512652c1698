"""Print size, memory and agreement with float32 of every precision, a row each, on the prompts of an image golden.

python tests/measure/quantization.py [NAME] [--decoder]   (image_tiny_truck takes minutes, image_nano_truck seconds)

Weights are the goldens' synthetic ones, whose masks look like texture: more of their edge can move than of an object's.
All are computed in float32, so what a row shows is what its weights have lost. --decoder packs the mask decoder's
transformer, which the converter leaves alone, and nothing else.
"""

from __future__ import annotations

import _paths  # noqa: F401  # isort: skip

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import goldens
import synthetic
from golden_runs import arguments
from mlx_sam2 import images
from mlx_sam2.checkpoint import loading as checkpoint
from mlx_sam2.convert import conversion
from mlx_sam2.hub import download
from mlx_sam2.model import quantization
from mlx_sam2.model.quantization import Scheme
from mlx_sam2.model.sam2 import SAM2
from mlx_sam2.sam2_image_predictor import SAM2ImagePredictor

ROWS = {
    "float32": ("float32", None),
    "float16": ("float16", None),
    "bfloat16": ("bfloat16", None),
    "8 bits, groups of 64": ("float16", Scheme(64, 8)),
    "4 bits, groups of 32": ("float16", Scheme(32, 4)),
    "4 bits, groups of 64": ("float16", Scheme(64, 4)),
    "4 bits, groups of 128": ("float16", Scheme(128, 4)),
}
DECODER = "sam_mask_decoder.transformer."

# Peak memory of a process above that of its imports, and the time of the call.
MEASURE = """
import resource, sys, time
from pathlib import Path
from mlx_sam2.checkpoint import loading
from mlx_sam2.convert import conversion
from mlx_sam2.hub import download
from mlx_sam2.model.quantization import Scheme
def peak():
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return 1024 * int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
import mlx.core as mx
mx.eval(mx.zeros(1))
before, start = peak(), time.perf_counter()
kept = eval(sys.argv[1])
print((peak() - before) / 1e6, time.perf_counter() - start)
"""


def measure(expression: str) -> tuple[float, float]:
    """Megabytes and seconds of an expression in a process of its own."""
    done = subprocess.run([sys.executable, "-c", MEASURE, expression], capture_output=True, text=True, check=True)
    megabytes, seconds = map(float, done.stdout.split())
    return megabytes, seconds


def masks_of(model: SAM2, golden: goldens.Golden) -> np.ndarray:
    """The masks of every prompt of a golden, (N, H, W) bool."""
    predictor = SAM2ImagePredictor(model)
    predictor.set_image(images.read(goldens.input_path(golden.about["image"])))
    found, low_res, scores = [], {}, {}
    for case in golden.about["cases"]:
        key = case["name"]
        masks, scores[key], low_res[key] = predictor.predict(**arguments(case["prompt"], low_res, scores))
        found.append((masks > 0).reshape(-1, *masks.shape[-2:]))
    return np.concatenate(found)


def overlap(masks: np.ndarray, expected: np.ndarray) -> tuple[float, float]:
    """Mean and smallest IoU."""
    both, either = (masks & expected).sum(axis=(1, 2)), (masks | expected).sum(axis=(1, 2))
    ious = both / np.maximum(either, 1)
    return float(ious.mean()), float(ious.min())


def table(name: str) -> None:
    golden = goldens.read(name)
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary) / "source"
        checkpoint.save(golden.model(), source)
        expected = masks_of(checkpoint.load(source, dtype="float32"), golden)
        print(f"{len(expected)} masks of {name}, synthetic weights, computed in float32\n")
        print("| weights | MB | mask IoU, mean | smallest | converting, MB | loading, MB | loading, s |")
        print("|---|---|---|---|---|---|---|")
        for label, (dtype, scheme) in ROWS.items():
            out = Path(temporary) / "out" / label
            job = conversion.prepare(download.Fetched(source), dtype=dtype, scheme=scheme)
            conversion.write(job, out)
            size = (out / "model.safetensors").stat().st_size / 1e6
            mean, least = overlap(
                masks_of(synthetic.unquantized(checkpoint.load(out, dtype="float32")), golden), expected
            )
            again = f"download.Fetched(Path({str(source)!r})), dtype={dtype!r}, scheme={scheme!r}"
            writing = f"conversion.write(conversion.prepare({again}), Path({str(out) + ' again'!r}))"
            converting, _ = measure(writing)
            loading, seconds = measure(f"loading.load({str(out)!r}, dtype={dtype!r})")
            cells = f"{size:.1f} | {mean:.4f} | {least:.4f} | {converting:.0f} | {loading:.0f} | {seconds:.2f}"
            print(f"| {label} | {cells} |", flush=True)


def decoder_table(name: str) -> None:
    """What 4 bits do to the layers of the converter's table, and to the mask decoder's."""
    golden = goldens.read(name)
    model = golden.model()
    expected = masks_of(model, golden)
    scheme = Scheme(64, 4)
    decoder = {
        layer: Scheme(group, 4)
        for layer, module in model.named_modules()
        if layer.startswith(DECODER) and hasattr(module, "to_quantized")
        if (group := quantization.fitting_group(module.weight.shape[1], scheme.group_size))
    }
    print("| packed in 4 bits | share of the weights | mask IoU, mean | smallest |\n|---|---|---|---|")
    for label, schemes in (("what the converter packs", quantization.plan(model, scheme)[0]), ("decoder", decoder)):
        packed = model.with_config(model.config)
        modules, whole = dict(model.named_modules()), sum(v.size for v in _leaves(model))
        share = sum(modules[layer].weight.size for layer in schemes) / whole
        quantization.quantize(packed, schemes)
        mean, least = overlap(masks_of(synthetic.unquantized(packed), golden), expected)
        print(f"| {label} | {share:.0%} | {mean:.4f} | {least:.4f} |", flush=True)


def _leaves(model: SAM2) -> list:
    from mlx.utils import tree_flatten

    return [value for _, value in tree_flatten(model.parameters())]


def main(arguments: list[str]) -> None:
    if not synthetic.GOLDEN.is_dir():
        sys.exit(goldens.MISSING)
    names = [a for a in arguments if not a.startswith("-")] or ["image_tiny_truck"]
    for name in names:
        (decoder_table if "--decoder" in arguments else table)(name)


if __name__ == "__main__":
    main(sys.argv[1:])
