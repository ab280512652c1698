"""The official package on small synthetic weights: what stands in for its build functions in tests/patterns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import synthetic
from official import hydra_utils, omegaconf, torch

PREDICTOR = "sam2.sam2_video_predictor.SAM2VideoPredictor"
STABLE = {
    "dynamic_multimask_via_stability": True,
    "dynamic_multimask_stability_delta": 0.05,
    "dynamic_multimask_stability_thresh": 0.98,
}


def build_video_predictor(
    config_file: str,
    ckpt_path: str,
    device: str,
    mode: str = "eval",
    hydra_overrides_extra: Sequence[str] = (),
    apply_postprocessing: bool = True,
) -> Any:
    """``build_sam2_video_predictor``; ``config_file`` and ``ckpt_path`` are ours and not read."""
    config = deepcopy(synthetic.config_dict()["model"]) | {"_target_": PREDICTOR}
    config.pop("sam_mask_decoder_extra_args", None)
    if apply_postprocessing:
        config |= {"sam_mask_decoder_extra_args": STABLE, "binarize_mask_from_pts_for_mem_enc": True}
        config["fill_hole_area"] = 8
    for override in hydra_overrides_extra:
        name, _, value = override.removeprefix("++model.").partition("=")
        config[name] = value == "true"
    model = hydra_utils.instantiate(omegaconf.OmegaConf.create(config), _recursive_=True)
    tensors = {key: torch.from_numpy(value) for key, value in synthetic.nano_state().items()}
    model.load_state_dict(tensors, strict=True)
    attend = model.memory_attention.forward  # without pointers the official code would fail on bfloat16
    model.memory_attention.forward = lambda **given: attend(**given | {"memory": given["memory"].float()})
    return model.eval()


def any_size(init: Callable[..., None]) -> Callable[..., None]:
    """The constructor of the official image predictor, whose feature sizes are hard coded to 1024 pixels."""

    def wrapped(self: Any, sam_model: Any, *args: Any, **options: Any) -> None:
        init(self, sam_model, *args, **options)
        self._bb_feat_sizes = [(sam_model.image_size // s,) * 2 for s in (4, 8, 16)]

    return wrapped
