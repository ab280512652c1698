"""The sides of a comparison that run on PyTorch: transformers' SAM 2 and the official package."""

from __future__ import annotations

import types
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from mlx_sam2.config.published import PUBLISHED
from mlx_sam2.config.sam2 import SAM2Config
from sides import CLICK, ENCODE, NOW, TRACK, Run, Side, version_of


def torch_side(spec: dict[str, Any]) -> Side:
    """transformers or sam2 on CUDA; without CUDA on MPS, else on the CPU."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    dtype = getattr(torch, spec["dtype"])
    make = {"transformers": transformers, "sam2": sam2}[spec["side"]]
    torch.manual_seed(0)
    stages = make(spec, torch, device, dtype)
    versions = {"torch": torch.__version__, "device": device, spec["side"]: version_of(spec["side"])}
    versions["compiled"] = "yes" if spec["compile"] else "no"

    def waiting(maker: Callable[[], Run]) -> Callable[[], Run]:
        def make() -> Run:
            with torch.inference_mode():
                run = maker()
            return lambda: _until_done(run, torch, device)

        return make

    def reset() -> None:
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()

    def peak() -> float | None:  # PyTorch counts on CUDA alone
        return torch.cuda.max_memory_allocated() / 1e6 if device == "cuda" else None

    return Side(versions, {name: waiting(maker) for name, maker in stages.items()}, reset, peak)


def _until_done(run: Run, torch: types.ModuleType, device: str) -> None:
    with torch.inference_mode():
        run()
    if device == "cuda":
        torch.cuda.synchronize()
    elif device == "mps":
        torch.mps.synchronize()


def transformers(spec: dict[str, Any], torch: types.ModuleType, device: str, dtype: Any) -> dict[str, Any]:
    """transformers' ``Sam2VideoModel``; its image half is the one of ``Sam2Model``."""
    from transformers import Sam2VideoConfig, Sam2VideoInferenceSession, Sam2VideoModel

    config = SAM2Config.from_dict(spec["config"])
    size = config.image_size
    model = Sam2VideoModel(Sam2VideoConfig(**config.to_transformers())).to(device=device, dtype=dtype).eval()
    if spec["compile"]:
        model.vision_encoder = torch.compile(model.vision_encoder)
        model.memory_attention = torch.compile(model.memory_attention)
    pixels = torch.randn(1, 3, size, size, device=device, dtype=dtype)

    def click() -> Run:
        embeddings = model.get_image_embeddings(pixels)
        points = torch.full((1, 1, 1, 2), size / 2, device=device)
        labels = torch.ones((1, 1, 1), dtype=torch.int32, device=device)
        return lambda: model._single_frame_forward(
            input_points=points, input_labels=labels, image_embeddings=list(embeddings), multimask_output=True
        )

    def track() -> Run:
        session = Sam2VideoInferenceSession(
            video_height=size, video_width=size, inference_device=device, inference_state_device=device, dtype=dtype
        )
        session.processed_frames = dict.fromkeys(range(NOW + 1), pixels[0])
        session.obj_id_to_idx(1)
        first, side = NOW - config.max_obj_ptrs_in_encoder, config.embedding_size

        def memory() -> dict[str, Any]:
            grid = (side * side, 1, config.memory_encoder.out_dim)
            return {
                "maskmem_features": torch.randn(grid, device=device, dtype=dtype),
                "maskmem_pos_enc": torch.randn(grid, device=device, dtype=dtype),
                "object_pointer": torch.randn(1, config.neck.d_model, device=device, dtype=dtype),
            }

        bank = session.output_dict_per_obj[0]
        bank["cond_frame_outputs"][first] = memory()
        for t in range(first + 1, NOW):
            bank["non_cond_frame_outputs"][t] = memory()
        return lambda: model(inference_session=session, frame_idx=NOW)  # it keeps the features of the last image

    return {ENCODE: lambda: lambda: model.get_image_embeddings(pixels), CLICK: click, TRACK: track}


def sam2(spec: dict[str, Any], torch: types.ModuleType, device: str, dtype: Any) -> dict[str, Any]:
    """The official package; half precision by autocast, as its documentation says."""
    model = _official(spec, device)
    size = model.image_size
    pixels = torch.randn(1, 3, size, size, device=device)
    if spec["compile"]:
        model.image_encoder.forward = torch.compile(model.image_encoder.forward)
        model.memory_attention.forward = torch.compile(model.memory_attention.forward)

    def precision() -> AbstractContextManager[Any]:
        return torch.autocast(device, dtype=dtype, enabled=dtype != torch.float32)

    def features() -> tuple[Any, ...]:
        with precision():
            return model._prepare_backbone_features(model.forward_image(pixels))

    def encode() -> None:
        with precision():
            model.forward_image(pixels)

    def click() -> Run:
        _, levels, _, sizes = features()
        maps = [x.permute(1, 2, 0).reshape(1, -1, *s) for x, s in zip(levels, sizes, strict=True)]
        point = {
            "point_coords": torch.full((1, 1, 2), size / 2, device=device),
            "point_labels": torch.ones((1, 1), dtype=torch.int32, device=device),
        }

        def run() -> None:
            with precision():
                model._forward_sam_heads(maps[-1], point, high_res_features=maps[:-1], multimask_output=True)

        return run

    def track() -> Run:
        _, levels, positions, sizes = features()
        first, (h, w) = NOW - model.max_obj_ptrs_in_encoder, sizes[-1]

        def memory() -> dict[str, Any]:
            return {
                "maskmem_features": torch.randn(1, model.mem_dim, h, w, device=device),
                "maskmem_pos_enc": [torch.randn(1, model.mem_dim, h, w, device=device)],
                "obj_ptr": torch.randn(1, model.hidden_dim, device=device),
            }

        tracked = {t: memory() for t in range(first + 1, NOW)}
        bank = {"cond_frame_outputs": {first: memory()}, "non_cond_frame_outputs": tracked}

        def run() -> None:
            with precision():
                model.track_step(NOW, False, levels, positions, sizes, None, None, bank, 2 * NOW)

        return run

    return {ENCODE: lambda: encode, CLICK: click, TRACK: track}


def _official(spec: dict[str, Any], device: str) -> Any:
    """A model with random weights, from a configuration file in the official package."""
    from sam2.build_sam import build_sam2

    name = next((p.name for p in PUBLISHED.values() if spec["size"] in (p.name, p.short_name)), None)
    if name is None or spec["model"] is not None:
        raise ValueError("the official package is measured at the published sizes only: use --size, without --model")
    version, _, size = name.partition("_hiera_")
    letter = {"tiny": "t", "small": "s", "base_plus": "b+", "large": "l"}[size]
    return build_sam2(f"configs/{version}/{version}_hiera_{letter}.yaml", None, device=device)
