"""Largest differences of EdgeTAM from the official code, part by part, in float32 on this machine.

    python tests/measure/edgetam_parts.py [--large]      (--large: 1024 pixels too, minutes on a CPU)

Noise is that of the official code against itself on another CPU backend (../shared/golden/README.md). Parts are fed
the official inputs of that part where these are stored; images and videos run from end to end. In videos single
roundings of memories to bfloat16 flip.
"""

from __future__ import annotations

import _paths  # noqa: F401  # isort: skip

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator

import mlx.core as mx
import numpy as np

import golden_runs
import goldens
import synthetic
from differences import largest_differences
from goldens import Golden, channels_last
from mlx_sam2 import images
from mlx_sam2.images.preprocess import preprocess_photo
from mlx_sam2.model.position_encoding import sine_position_encoding

VIDEOS = ["video_edgetam_nano_two_objects", "video_edgetam_nano_masks", "video_edgetam_nano_long"]
KINDS = {
    golden_runs.LOGIT_TOL: "logits",
    golden_runs.SCORE_TOL: "object score",
    golden_runs.POINTER_TOL: "pointer",
    golden_runs.MEMORY_TOL: "memory",
}
NOISE = {"logits": "8e-03 (long: 2e-02)", "object score": "5e-03", "pointer": "2e-03", "memory": "3e-02"}


def apart(got: mx.array, expected: np.ndarray) -> tuple[float, float]:
    """The largest difference, and the largest value that it belongs to."""
    expected = expected.astype(np.float32).reshape(got.shape)
    return float(np.abs(np.array(got) - expected).max()), float(np.abs(expected).max())


def trunk(golden: Golden) -> Iterator[tuple[str, float, float, str]]:
    encoder = golden.model().image_encoder
    photo = images.read(goldens.input_path(golden.about["image"]))
    pixels = mx.array(preprocess_photo(photo, golden.about["image_size"]))
    for how, prepared in (("as trained", None), ("folded", encoder.prepared(pixels))):
        features = encoder.trunk(pixels, prepared)
        for i, level in enumerate(features):
            name = next(key for key in golden.tensors if key.split(".sub")[0] == f"trunk.stages_{i}")
            step = int(name.rpartition(".sub")[2]) if ".sub" in name else 1
            yield (
                f"trunk {how}, stage {i}",
                *apart(level[:, ::step, ::step], channels_last(golden.tensors[name])),
                "4e-05",
            )
    for i, level in enumerate(encoder.neck(features)):
        step, name = (4, "enc.fpn0.sub4") if i == 0 else (1, f"enc.fpn{i}")
        if name in golden.tensors:
            found = apart(level[:, ::step, ::step], channels_last(golden.tensors[name]))
            yield f"neck, level {i}", *found, "4e-05"


def memory(golden: Golden) -> Iterator[tuple[str, float, float, str]]:
    model, tensors = golden.model(), golden.tensors
    mask = mx.array(channels_last(tensors["memenc1.mask_for_mem"].astype(np.float32)))
    encoded = model.memory_encoder(mx.array(channels_last(tensors["memenc1.pix_feat"])), mask)
    yield "memory encoder", *apart(encoded, channels_last(tensors["memenc1.out"])), ""
    perceiver, x = model.spatial_perceiver, mx.array(channels_last(tensors["perceiver1.x"]))
    side, count = x.shape[1], model.config.spatial_perceiver.num_latents
    position = model.memory_encoder.position_encoding(side, side)
    latents = mx.concatenate([perceiver.latents, perceiver.latents_2d])[None]
    for i, layer in enumerate(perceiver.layers):
        latents = layer(latents, x, position)
        yield f"perceiver, layer {i}, 1-D", *apart(latents[:, :count], tensors[f"perceiver1.layer{i}.latents_1d"]), ""
        yield f"perceiver, layer {i}, 2-D", *apart(latents[:, count:], tensors[f"perceiver1.layer{i}.latents_2d"]), ""
    yield "perceiver", *apart(perceiver(x, position), tensors["perceiver1.out"]), ""
    current, tokens, rounded = (tensors[f"memattn4.{k}"].swapaxes(0, 1) for k in ("curr", "memory", "memory_pos"))
    tail = next(c["num_obj_ptr_tokens"] for c in golden.about["captures"] if c["prefix"] == "memattn4")
    own = np.array(perceiver.position_encoding())  # the stored positions are float16
    times = np.array(model.maskmem_tpos_enc).reshape(-1, own.shape[1])
    rows = [np.abs(times - t.astype(np.float32)).sum(axis=1).argmin() for t in rounded[0, : -tail : len(own)]]
    positions = np.concatenate([own + times[row] for row in rows] + [np.zeros((tail, own.shape[1]), np.float32)])
    features = mx.array(current.reshape(len(current), side, side, -1))
    frame = sine_position_encoding(side, side, features.shape[-1])
    out = model.memory_attention(features, frame, mx.array(tokens + positions), mx.array(tokens), tail)
    expected = tensors["memattn4.out"].swapaxes(0, 1)
    yield "memory attention", *apart(out.reshape(expected.shape), expected), ""


def video(name: str) -> Iterator[tuple[str, float, float, str]]:
    golden = goldens.read(name)
    found: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])

    def record(ours: np.ndarray, theirs: np.ndarray, tolerance: tuple[float, float], *_: object) -> None:
        largest = found[KINDS[tolerance]]
        largest[0] = max(largest[0], float(np.abs(ours.astype(np.float64) - theirs).max()))
        largest[1] = max(largest[1], float(np.abs(theirs[theirs > -1024]).max(initial=0)))

    predictor = golden_runs.build(golden)
    records = iter(enumerate(golden.about["records"]))
    golden_runs.assert_close = record
    with predictor.init_state(goldens.input_path(golden.about["video"])) as state:

        def check(step: int, frame_idx: int | None, obj_ids: list[int], masks: np.ndarray | None) -> None:
            index, said = next(records)
            if masks is not None:
                golden_runs.compare(golden.tensors, said, f"r{index}", state, masks)

        golden_runs.run_script(predictor, state, golden.about["script"], check)
    for kind, (difference, largest) in found.items():
        yield f"{name}: {kind}", difference, largest, NOISE[kind]


def image(name: str) -> Iterator[tuple[str, float, float | None, str]]:
    count, features, logits, scores, _ = largest_differences(name)
    yield f"{name}: embedding", features, None, "4e-05"
    yield f"{name}: logits of {count} prompts", logits, None, "1e-03"
    yield f"{name}: IoU", scores, None, "3e-06"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--large", action="store_true", help="the model of 1024 pixels, too")
    large = parser.parse_args().large
    if not synthetic.GOLDEN.is_dir():
        sys.exit(goldens.MISSING)

    def rows() -> Iterator[tuple[str, float, float | None, str]]:
        yield from trunk(goldens.read("image_edgetam_nano"))
        yield from memory(goldens.read(VIDEOS[0]))
        for name in ["image_edgetam_nano", *["image_edgetam_truck"] * large]:
            yield from image(name)
        for name in [*VIDEOS, *["video_edgetam"] * large]:
            yield from video(name)

    print("| part | largest difference | of at most | noise of the official code |\n|---|---|---|---|")
    for part, difference, largest, noise in rows():
        print(f"| {part} | {difference:.1e} | {'' if largest is None else f'{largest:.3g}'} | {noise} |", flush=True)


if __name__ == "__main__":
    main()
