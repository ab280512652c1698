"""The official PyTorch SAM 2 (PyPI `sam2` 1.1.0) as a running oracle; see "Oracle tests" in CONTRIBUTING.md.

sam2 asks for torchvision and, for hole filling, for a CUDA extension. Of these it uses three transforms and
one function here, so plain stand-ins take their place where they are missing.
"""

from __future__ import annotations

import importlib
import sys
import types
from copy import deepcopy
from typing import Any

import numpy as np
import pytest

REASON = "needs the official code (CONTRIBUTING.md, Oracle tests)"

torch = pytest.importorskip("torch", reason=REASON)
hydra_utils = pytest.importorskip("hydra.utils", reason=REASON)
omegaconf = pytest.importorskip("omegaconf", reason=REASON)

torch.set_num_threads(1)  # small models; more threads only fight with those of MLX's BLAS


class ToTensor:
    """(H, W, 3) -> (3, H, W); uint8 becomes float32 in 0..1, floats stay as they are."""

    def __call__(self, image: Any) -> torch.Tensor:
        tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
        return tensor.float() / 255 if tensor.dtype == torch.uint8 else tensor


class Resize(torch.nn.Module):
    """Antialiased bilinear, as torchvision does to a float tensor."""

    def __init__(self, size: tuple[int, int]):
        super().__init__()
        self.height, self.width = size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size = [self.height, self.width]
        x = torch.nn.functional.interpolate(x[None], size, mode="bilinear", align_corners=False, antialias=True)
        return x[0]


class Normalize(torch.nn.Module):
    def __init__(self, mean: list[float], std: list[float]):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - self.mean) / self.std


def connected_components(mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels and areas of the 8-connected components of (N, 1, H, W) masks; both 0 on the background."""
    from scipy import ndimage

    labels, areas = np.zeros(mask.shape, np.int32), np.zeros(mask.shape, np.int32)
    for n, plane in enumerate(mask[:, 0].numpy()):
        labels[n, 0], _ = ndimage.label(plane, np.ones((3, 3)))
        area = np.bincount(labels[n, 0].ravel())
        area[0] = 0
        areas[n, 0] = area[labels[n, 0]]
    return torch.from_numpy(labels), torch.from_numpy(areas)


def _import_transforms() -> None:
    """sam2.utils.transforms, with stand-ins while it is imported; transformers must not see them."""
    try:
        importlib.import_module("torchvision.transforms")
    except ImportError:
        transforms = types.ModuleType("torchvision.transforms")
        transforms.ToTensor, transforms.Resize, transforms.Normalize = ToTensor, Resize, Normalize
        root = types.ModuleType("torchvision")
        root.transforms = transforms
        sys.modules.update({"torchvision": root, "torchvision.transforms": transforms})
        importlib.import_module("sam2.utils.transforms")
        del sys.modules["torchvision"], sys.modules["torchvision.transforms"]


def _put_extension() -> None:
    try:
        importlib.import_module("sam2._C")
    except ImportError:
        extension = types.ModuleType("sam2._C")
        extension.get_connected_componnets = connected_components  # the official spelling
        sys.modules["sam2._C"] = sam2._C = extension


sam2 = pytest.importorskip("sam2", reason=REASON)
_import_transforms()
_put_extension()


def official_model(
    config: dict[str, Any], state: dict[str, np.ndarray], apply_postprocessing: bool = True
) -> torch.nn.Module:
    """The official image model of a config in the form of the official YAML, with the given weights."""
    model_config = deepcopy(config["model"])
    model_config.pop("sam_mask_decoder_extra_args", None)
    if apply_postprocessing:  # what build_sam2 adds
        model_config["sam_mask_decoder_extra_args"] = {
            "dynamic_multimask_via_stability": True,
            "dynamic_multimask_stability_delta": 0.05,
            "dynamic_multimask_stability_thresh": 0.98,
        }
    model = hydra_utils.instantiate(omegaconf.OmegaConf.create(model_config), _recursive_=True)
    tensors = {key: torch.from_numpy(np.array(value)) for key, value in state.items()}
    model.load_state_dict(tensors, strict=True)
    return model.eval()


def official_image_predictor(model: torch.nn.Module, **options: Any) -> Any:
    from sam2.sam2_image_predictor import SAM2ImagePredictor

    predictor = SAM2ImagePredictor(model, **options)
    predictor._bb_feat_sizes = [(model.image_size // s,) * 2 for s in (4, 8, 16)]  # hard coded to 1024 pixels
    return predictor
