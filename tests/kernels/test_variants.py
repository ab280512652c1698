"""Every variant of a kernel that the published models send has a case, in every dtype."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from functools import cache
from typing import Any

import mlx.core as mx
import pytest

import metal
from mlx_sam2.config.published import PUBLISHED
from mlx_sam2.kernels.dispatch import Op, Tensor, recorded, references_only
from mlx_sam2.model.results import ImageFeatures
from mlx_sam2.model.sam2 import SAM2

OPS = {op.name: op for op in metal.all_ops()}
SIZES = (1024, 512)  # pixels; at 512 tiny is MedSAM2
OBJECTS = (1, 4, 16)


def placeholders(args: tuple[Any, ...], dtype: mx.Dtype) -> list[Any]:
    """Arrays that nothing evaluates; float32 becomes the dtype, but for those that are float32 in every model."""
    return [mx.zeros(a.shape, a.dtype or dtype) if isinstance(a, Tensor) else a for a in args]


def variants(op: Op, calls: list[tuple[Any, ...]], dtype: mx.Dtype) -> set[str]:
    arguments = [placeholders(args, dtype) for args in calls]
    return {op.variant(*args) for args in arguments if op.supports(*args)}


def frames(model: SAM2, features: ImageFeatures) -> Iterator[None]:
    """Frames of several objects: with a full memory, an early one, padded and pooled ones."""
    config, most = model.config, model.config.max_obj_ptrs_in_encoder
    for count in OBJECTS:
        for memories, pointers in ((config.num_maskmem, most), (1, 1), (2, 2)):
            bank = mx.zeros((count, memories, *config.memory_shape), mx.bfloat16)
            times = mx.zeros((count, memories), mx.int32)
            recalled = bank, times, mx.zeros((count, pointers, config.neck.d_model)), mx.zeros((count, pointers))
            present = mx.ones((count, memories + pointers), mx.bool_)
            poolings = (1, 2) if config.spatial_perceiver is None else (1,)
            for mask, pooling in itertools.product((None, present), poolings):
                model.attend_memory(features.embedding, *recalled, mask, pooling)
                yield


@cache
def sent(dtype_name: str) -> dict[str, set[str]]:
    """The variants that the models send, of each op."""
    dtype, found = metal.NAMES[dtype_name], {name: set() for name in OPS}
    for name in sorted(n for n in PUBLISHED if not n.startswith("sam2_")):  # 2.0 differs in no shape
        for size in SIZES if PUBLISHED[name].config.spatial_perceiver is None else SIZES[:1]:
            model = SAM2(dataclasses.replace(PUBLISHED[name].config, image_size=size))
            model.set_dtype(dtype)
            with references_only(), recorded() as calls:
                features = model.encode_image(mx.zeros((1, size, size, 3)))
                for _ in frames(model, features):
                    pass
                model.decode(features.embedding, features.high_res, mx.zeros((2, 1, 2)), mx.zeros((2, 1)), None)
            for op, args in calls:
                found[op.name] |= variants(op, [args], dtype)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("dtype", metal.NAMES)
@pytest.mark.parametrize("name", OPS)
def test_every_variant_has_a_case(name: str, dtype: str) -> None:
    op = OPS[name]
    wanted = sent(dtype)[name]
    assert wanted, "the models never call it"
    assert wanted - variants(op, list(op.cases), metal.NAMES[dtype]) == set()


@pytest.mark.slow
def test_the_variants_are_the_known_ones() -> None:
    """So that a model that suddenly sends fewer is seen, too."""
    found = sent("float16")
    assert found["memory_attention"] == {
        f"float16 D=256 Dv={width} keys {keys}{biased}"
        for width, biases in ((64, ("", " biased")), (256, ("",)))
        for keys in ("split", "whole")
        for biased in biases
    }
    assert found["axial_memory_attention"] == {
        f"float16 D=256 M=64 columns split{biased}" for biased in ("", " biased")
    }
    assert found["residual_layer_norm"] == {"float16 C=256"} and found["upscaled_layer_norm"] == {"float16 C=64"}
    assert found["mask_logits"] == {"float16 C=32 masks=4"}
    assert len(found["shifted_layer_norm"]) == 12
    assert len(found["mask_unit_attention"]) == 20
    assert found["axial_rope"] == {"float16 D=256"}


def test_a_variant_without_a_case_is_seen() -> None:
    op = OPS["axial_rope"]
    assert variants(op, [(Tensor((1, 1, 35, 40)), 5, 7, 10000.0, 0)], mx.float32) - variants(
        op, list(op.cases), mx.float32
    ) == {"float32 D=40"}
