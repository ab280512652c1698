"""The functions that are exported, their files, and the manifest that describes them."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx

from .. import __version__
from ..images import preprocess
from ..kernels import dispatch, rules
from ..model.sam2 import SAM2
from ..text import dtype_name

FEATURES = ("embedding", "high_res_4", "high_res_8")
PREDICTIONS = ("masks", "ious", "single_mask", "single_iou", "object_score")
LABELS = {"1": "on the object", "0": "off the object", "2": "top left of a box", "3": "bottom right of a box"}


def encoder_function(model: SAM2) -> Callable[..., list[mx.array]]:
    """pixels (1, S, S, 3) -> the arrays of ``ImageFeatures``."""

    def image_encoder(pixels: mx.array) -> list[mx.array]:
        return model.encode_image(pixels).arrays()

    return image_encoder


def decoder_function(model: SAM2) -> Callable[..., list[mx.array]]:
    """Features, points (1, N, 2), labels (1, N) and an optional mask (1, 4h, 4w, 1) -> ``PREDICTIONS``.

    These are the three masks of ``multimask_output=True`` with their IoUs, the single one of False with its IoU, and
    the object score. MLX is lazy: an app pays only for the results that it reads.
    """
    num_features = 3 if model.config.use_high_res_features_in_sam else 1

    def mask_decoder(*inputs: mx.array) -> list[mx.array]:
        embedding, *high_res = inputs[:num_features]
        points, labels, *mask = inputs[num_features:]
        high = tuple(high_res) if high_res else None
        output = model.decode(model.add_no_memory(embedding), high, points, labels, mask[0] if mask else None)
        several, one = (model.sam_mask_decoder.select(output, multimask) for multimask in (True, False))
        return [*several, *one, output.object_score]

    return mask_decoder


def export(model: SAM2, folder: Path, *, with_kernels: bool, max_points: int) -> dict[str, Any]:
    """Write the two functions and the manifest into an existing folder; returns the manifest.

    Raises:
        OSError: a file cannot be written.
    """
    size, mask_size = model.config.image_size, model.sam_prompt_encoder.mask_input_size
    mx.eval(model.parameters())  # or the files would hold the operations that read the weights
    pixels = mx.zeros((1, size, size, 3))
    encode, decode = encoder_function(model), decoder_function(model)
    mask = mx.zeros((1, *mask_size, 1))
    prompts = [[mx.zeros((1, n, 2)), mx.zeros((1, n), mx.int32)] for n in range(1, max_points + 1)]
    with dispatch.references_only():  # for the shapes; without Metal a kernel can only be traced
        features = encode(pixels)
        predictions = decode(*features, *prompts[0])
    with _kernels_as_asked(with_kernels):
        kernels = _write(folder / "image_encoder.mlxfn", encode, [[pixels]])
        traces = [[*features, *prompt, *given] for prompt in prompts for given in ([], [mask])]
        kernels += _write(folder / "mask_decoder.mlxfn", decode, traces)
    inputs = [*zip(FEATURES, features, strict=False), ("points", prompts[0][0]), ("labels", prompts[0][1])]
    manifest = _manifest(model, kernels)
    manifest["functions"] = {
        "image_encoder": {
            "file": "image_encoder.mlxfn",
            "inputs": [_tensor("pixels", pixels)],
            "outputs": [_tensor(*pair) for pair in zip(FEATURES, features, strict=False)],
        },
        "mask_decoder": {
            "file": "mask_decoder.mlxfn",
            "inputs": [*(_tensor(*pair) for pair in inputs), {**_tensor("mask", mask), "optional": True}],
            "outputs": [_tensor(*pair) for pair in zip(PREDICTIONS, predictions, strict=True)],
            "max_points": max_points,
        },
    }
    for entry in manifest["functions"]["mask_decoder"]["inputs"]:
        if entry["name"] in ("points", "labels"):
            entry["shape"][1] = "N"
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    return manifest


def _kernels_as_asked(with_kernels: bool) -> contextlib.AbstractContextManager[None]:
    """The way that ops take while they are traced."""
    if not with_kernels or rules.setting() == "0":
        return dispatch.references_only()
    return dispatch.tracing_on_metal() if rules.metal_allowed() else dispatch.tracing_for_metal()


def _write(path: Path, function: Callable[..., list[mx.array]], traces: list[list[mx.array]]) -> Counter[str]:
    """Write one function with a trace for each list of inputs; returns the calls of each kernel in the first trace."""
    found: Counter[str] = Counter()

    def see(record: dict[str, Any]) -> None:
        if record.get("name") == "CustomKernel":
            name = record["arguments"][0].removeprefix("custom_kernel_mlx_sam2_")
            found[name.partition("__")[0]] += 1  # without its template arguments

    mx.export_function(see, function, *traces[0])
    try:
        with mx.exporter(str(path), function) as exporter:
            for trace in traces:
                exporter(*trace)
    except RuntimeError as error:
        if "nable to write" not in str(error):
            raise
        raise OSError(f"{path.name} cannot be written ({error}): is the disk full?") from None
    return found


def _tensor(name: str, array: mx.array) -> dict[str, Any]:
    return {"name": name, "shape": list(array.shape), "dtype": dtype_name(array.dtype)}


def _manifest(model: SAM2, kernels: Counter[str]) -> dict[str, Any]:
    """The manifest but for its functions."""
    return {
        "format": 1,
        "mlx_sam2": __version__,
        "mlx": mx.__version__,
        "dtype": dtype_name(model.dtype),
        "kernels": dict(kernels),
        "device": "gpu" if mx.default_device() == mx.gpu else "cpu",  # of all operations but the kernels
        "image_size": model.config.image_size,
        "preprocessing": {
            "pixels": "RGB in 0..1, resized to image_size x image_size (bilinear, antialiased, aspect ratio not kept), "
            "then (value - mean) / std; channels last",
            "mean": list(preprocess.MEAN),
            "std": list(preprocess.STD),
        },
        "prompts": {
            "points": "x, y in pixels of the resized photo: x / width * image_size, y / height * image_size",
            "labels": LABELS,
            "box": "its two corners as points with labels 2 and 3, before other points",
            "mask": "logits of an earlier prediction, one of `masks`, clipped to -32..32, with a last axis of 1",
        },
        "results": {
            "masks": "logits: resize to the photo (bilinear, half-pixel centres), above 0 is the object",
            "ious": "of each mask; take the mask with the highest for a single click, `single_mask` otherwise",
        },
    }
