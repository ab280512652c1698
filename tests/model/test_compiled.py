"""Compiled stages give what the others give, follow every change of the weights, and hold on to nothing.

On a CPU MLX starts a C++ compiler for every fused chain: tests that compile the encoder are slow ones.
"""

from __future__ import annotations

import gc
import threading
import weakref

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

import synthetic
from mlx_sam2.kernels import dispatch
from mlx_sam2.model import compiled as compiling
from mlx_sam2.model import residual
from mlx_sam2.model.compiled import compiled
from mlx_sam2.model.quantization import Scheme, plan, quantize
from mlx_sam2.model.sam2 import SAM2


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages are compiled as on a GPU."""
    monkeypatch.setattr(compiling, "compiles", lambda: not dispatch.is_watched())


def pixels(model: SAM2, seed: int = 0) -> mx.array:
    size = model.config.image_size
    return mx.array(np.random.default_rng(seed).standard_normal((1, size, size, 3), dtype=np.float32))


def encoded(model: SAM2, x: mx.array) -> list[np.ndarray]:
    return [np.array(a) for a in model.encode_image(x).arrays()]


def plainly(model: SAM2, x: mx.array) -> list[np.ndarray]:
    """Without compiling, by another model with the same weights, which has kept nothing."""
    with dispatch.references_only():
        return encoded(model.with_config(model.config), x)


def same(a: list[np.ndarray], b: list[np.ndarray]) -> None:
    for x, y in zip(a, b, strict=True):
        # measured: 1e-6 of the largest; a chain in one pass rounds less often
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-5 * np.abs(y).max())


def differs(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    return any(np.abs(x - y).max() > 1e-3 for x, y in zip(a, b, strict=True))


@pytest.mark.slow
def test_a_compiled_encoder_gives_the_same(on_gpu: None) -> None:
    model = synthetic.nano_model()
    for seed in (0, 1):
        x = pixels(model, seed)
        same(encoded(model, x), plainly(model, x))


def updated(model: SAM2) -> None:
    bias = model.image_encoder.trunk.patch_embed.proj.bias
    model.update({"image_encoder": {"trunk": {"patch_embed": {"proj": {"bias": bias + 0.7}}}}})


def moved_position(model: SAM2) -> None:
    model.image_encoder.trunk.pos_embed += 0.5  # in place


def moved_window(model: SAM2) -> None:
    model.image_encoder.trunk.pos_embed_window[0, 0, 0] = 2.0


def head(model: SAM2) -> None:
    model.sam_mask_decoder.conv_s0.weight = 2 * model.sam_mask_decoder.conv_s0.weight


def lateral(model: SAM2) -> None:
    model.image_encoder.neck.convs[-1].conv.bias = 2 + model.image_encoder.neck.convs[-1].conv.bias


def everything(model: SAM2) -> None:
    model.apply(lambda w: 1.1 * w)


def packed(model: SAM2) -> None:
    schemes, _ = plan(model, Scheme(32, 4))
    assert schemes
    quantize(model, schemes)


CHANGES = (updated, moved_position, moved_window, head, lateral, everything, packed)


@pytest.mark.parametrize("change", CHANGES, ids=lambda c: c.__name__)
@pytest.mark.parametrize("compiles", [pytest.param(True, marks=pytest.mark.slow), False], ids=["compiled", "plain"])
def test_a_changed_weight_counts_at_once(change, compiles: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "compiles", lambda: compiles and not dispatch.is_watched())
    model = synthetic.nano_model()
    x = pixels(model)
    before = encoded(model, x)
    change(model)
    after = encoded(model, x)
    assert differs(before, after)
    same(after, plainly(model, x))


def test_one_graph_for_each_shape_and_dtype(on_gpu: None) -> None:
    traces: list[tuple[int, ...]] = []

    class Counted(nn.Module):
        @compiled
        def double(self, x: mx.array, more: float | None = None) -> mx.array:
            traces.append(x.shape)
            return 2 * x

    module = Counted()
    for shape in ((2,), (3,), (2,), (3,)):
        assert module.double(mx.ones(shape)).sum().item() == 2 * shape[0]
    assert traces == [(2,), (3,)]
    module.double(mx.ones((2,), mx.float16))
    assert len(traces) == 3


@pytest.mark.slow
def test_an_error_leaves_the_model_as_it_was(on_gpu: None) -> None:
    model = synthetic.nano_model()
    x = pixels(model)
    before = encoded(model, x)
    with pytest.raises(ValueError, match="shape"):
        model.encode_image(mx.zeros((1, 3, 64, 64)))
    same(encoded(model, x), before)


@pytest.mark.slow
def test_nothing_outlives_the_model(on_gpu: None) -> None:
    model = synthetic.nano_model()
    encoded(model, pixels(model))
    gone, weight = weakref.ref(model), weakref.ref(model.image_encoder.trunk)
    del model  # without the garbage collector: 900 MB should not wait for it
    assert gone() is None and weight() is None


@pytest.mark.slow
def test_memory_does_not_grow_from_call_to_call(on_gpu: None) -> None:
    model = synthetic.nano_model()
    x = pixels(model)
    for _ in range(2):
        encoded(model, x)
    gc.collect()
    before = mx.get_active_memory()
    for _ in range(5):
        encoded(model, x)
    assert mx.get_active_memory() <= before


@pytest.mark.slow
def test_other_threads(on_gpu: None) -> None:
    model = synthetic.nano_model()
    x = pixels(model)
    found: list[list[np.ndarray]] = []

    def work() -> None:
        found.append(encoded(model, x))

    for _ in range(3):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    for result in found:
        same(result, encoded(model, x))
    assert len(found) == 3


def test_gradients_reach_every_weight_of_the_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through pieces and bands too; and what is kept must not stand in for what is differentiated."""
    monkeypatch.setattr(residual, "PIECE", 1)
    model = synthetic.nano_model()
    x = pixels(model)
    before = encoded(model, x)

    def loss(model: SAM2) -> mx.array:
        return sum(a.square().mean() for a in model.encode_image(x).arrays())

    value, gradients = nn.value_and_grad(model, loss)(model)
    for name in ("image_encoder", "sam_mask_decoder"):
        for key, gradient in tree_flatten(gradients[name]):
            if name == "image_encoder" or "conv_s" in key:
                assert np.abs(np.array(gradient)).max() > 0, key
    trunk = model.image_encoder.trunk
    trunk.pos_embed = trunk.pos_embed + 1e-3 * gradients["image_encoder"]["trunk"]["pos_embed"]
    assert loss(model) > value
    trunk.pos_embed = trunk.pos_embed - 1e-3 * gradients["image_encoder"]["trunk"]["pos_embed"]
    same(encoded(model, x), before)


@pytest.mark.slow
def test_inside_a_transformation_of_the_caller(on_gpu: None) -> None:
    model = synthetic.nano_model()
    x = pixels(model)
    whole = mx.compile(lambda x: model.encode_image(x).arrays(), inputs=model)
    expected = encoded(model, x)
    same([np.array(a) for a in whole(x)], expected)
    everything(model)
    assert differs([np.array(a) for a in whole(x)], expected)


@pytest.mark.slow
def test_ops_are_seen_at_every_call(on_gpu: None) -> None:
    model = synthetic.nano_model()
    x = pixels(model)
    encoded(model, x)
    with dispatch.recorded() as calls:
        model.encode_image(x)
    assert {op.name for op, _ in calls} == {"global_attention", "mask_unit_attention", "shifted_layer_norm"}


def test_not_on_the_cpu() -> None:
    """There MLX would want a C++ compiler at run time."""
    if mx.default_device() != mx.cpu:
        pytest.skip("MLX's default device here is a GPU")
    assert not compiling.compiles()
