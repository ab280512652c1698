"""Make `layers.npz`: resizing by torch, position encodings and rotations by the official code.

python tests/reference/answers/make_layers.py        (with the packages of "Oracle tests" in CONTRIBUTING.md)
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

DATA = Path(__file__).parent
sys.path[:0] = [str(DATA.parent), str(DATA.parents[1] / "support")]

from synthetic import normal  # noqa: E402

# (height, width, channels) -> (height, width). Inputs are synthetic.normal(case, shape, 0).
RESIZE = {
    "double": ((8, 6, 2), (16, 12)),
    "up_odd": ((5, 7, 1), (13, 9)),
    "down_odd": ((13, 9, 2), (5, 7)),
    "up_and_down": ((40, 5, 1), (16, 14)),
    "same": ((4, 3, 2), (4, 3)),
    "one_axis": ((9, 4, 1), (9, 11)),
    "one_row": ((1, 6, 1), (4, 3)),
    "one_column": ((6, 1, 1), (3, 4)),
    "one_pixel": ((1, 1, 3), (5, 3)),
    "to_one_pixel": ((11, 17, 1), (1, 1)),
    "nearly_same": ((17, 15, 1), (16, 16)),
    "large_reduction": ((300, 211, 2), (7, 5)),
    "thin_reduction": ((2, 640, 1), (9, 13)),
    "position_embedding": ((7, 7, 1), (32, 32)),
}
SINE = {"square": (4, 4, 16), "wide": (3, 5, 8), "one_cell": (1, 1, 64), "published": (2, 2, 256)}
TIMES = [0.0, 0.2, 1.0, -0.6, 7.0]
TIME_CHANNELS = (8, 64)
POINTS = [[0.0, 0.0], [0.5, 0.5], [1.0, 0.25], [0.123, 0.987], [-0.3, 1.7]]  # outside, too
RANDOM_FEATURES, RANDOM_GRID = 6, (3, 5)
# height, width, channels, frames of keys, keys without a place, theta
ROPE = {"wide": (2, 3, 8, 1, 0, 10000.0), "frames": (3, 3, 4, 3, 2, 10000.0), "theta": (4, 2, 16, 2, 4, 50.0)}


def rope_input(name: str) -> np.ndarray:
    height, width, channels, frames, tail, _ = ROPE[name]
    return normal(name, (2, 2, frames * height * width + tail, channels), 0)


def resized() -> dict[str, np.ndarray]:
    import torch

    modes = {
        "bilinear": {"mode": "bilinear"},
        "antialias": {"mode": "bilinear", "antialias": True},
        "bicubic": {"mode": "bicubic"},
    }
    arrays = {}
    for name, (shape, size) in RESIZE.items():
        x = torch.from_numpy(normal(name, shape, 0)).permute(2, 0, 1)[None].contiguous()
        for mode, how in modes.items():
            y = torch.nn.functional.interpolate(x, size, align_corners=False, **how)
            arrays[f"{mode}.{name}"] = y[0].permute(1, 2, 0).numpy()
    return arrays


def encoded() -> dict[str, np.ndarray]:
    import torch
    from sam2.modeling import position_encoding as official
    from sam2.modeling.sam2_utils import get_1d_sine_pe

    arrays = {}
    for name, (height, width, channels) in SINE.items():
        pe = official.PositionEmbeddingSine(num_pos_feats=channels)
        arrays[f"sine.{name}"] = pe(torch.zeros(1, 1, height, width))[0].permute(1, 2, 0).numpy()
    for channels in TIME_CHANNELS:
        arrays[f"time.{channels}"] = get_1d_sine_pe(torch.tensor(TIMES), channels).numpy()
    random = official.PositionEmbeddingRandom(RANDOM_FEATURES)
    random.positional_encoding_gaussian_matrix[:] = torch.from_numpy(normal("random", (2, RANDOM_FEATURES), 0))
    points = random.forward_with_coords(torch.tensor([POINTS]) * torch.tensor([200.0, 100.0]), (100, 200))
    arrays["random.points"] = points[0].numpy()
    arrays["random.grid"] = random(RANDOM_GRID).permute(1, 2, 0).numpy()
    for name, (height, width, channels, frames, _tail, theta) in ROPE.items():
        x = torch.from_numpy(rope_input(name))
        turns = official.compute_axial_cis(channels, width, height, theta)
        n = frames * height * width
        query = x[:, :, : height * width]
        _, keys = official.apply_rotary_enc(query, x[:, :, :n], turns, repeat_freqs_k=True)
        arrays[f"rope.{name}"] = torch.cat([keys, x[:, :, n:]], dim=2).numpy()
    return arrays


def main() -> None:
    import official  # noqa: F401  puts stand-ins where sam2 asks for torchvision

    np.savez_compressed(DATA / "layers.npz", **resized(), **encoded())


if __name__ == "__main__":
    main()
