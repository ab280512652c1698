"""EdgeTAM's trunk: as the official code computes it, and the same with norms and branches folded."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

import edgetam_half
import goldens
import half_precision
import synthetic_edgetam
from goldens import Golden, channels_last, close
from mlx_sam2 import images
from mlx_sam2.config.edgetam import RepViTConfig
from mlx_sam2.images.preprocess import preprocess_photo
from mlx_sam2.model.repvit import RepViT

FOLDED_TOL = 1e-5  # of the largest feature; measured: 3.6e-6
NOISE = 4e-5  # official against official on another CPU backend (golden/README.md)


@pytest.fixture(scope="module")
def truck() -> Golden:
    if not goldens.synthetic.GOLDEN.is_dir():
        pytest.skip(goldens.MISSING)
    return goldens.read("image_edgetam_nano")


@pytest.fixture(scope="module")
def pixels() -> mx.array:
    random = np.random.default_rng(0)
    return mx.array(random.standard_normal((2, 64, 64, 3), dtype=np.float32))


@pytest.fixture(scope="module")
def trunk() -> RepViT:
    return synthetic_edgetam.nano_model().image_encoder.trunk


def compare(golden: Golden, name: str, got: mx.array) -> None:
    found = next(key for key in golden.tensors if key.split(".sub")[0] == f"trunk.{name}")
    step = int(found.rpartition(".sub")[2]) if ".sub" in found else 1
    close(got[:, ::step, ::step], channels_last(golden.tensors[found]), 10 * NOISE, name)


def test_every_part_is_the_official_one(truck: Golden) -> None:
    encoder = truck.model().image_encoder
    body = encoder.trunk.body
    photo = images.read(goldens.input_path(truck.about["image"]))
    pixels = mx.array(preprocess_photo(photo, truck.about["image_size"]))
    x = body.stem(pixels)
    compare(truck, "stem", x)
    block, name = body.stages_0.blocks[0], "stages_0.blocks.0"
    for part in ("conv", "conv1"):
        compare(truck, f"{name}.token_mixer.{part}", block.token_mixer[part](x))
    mixed = block.token_mixer(x)
    compare(truck, f"{name}.token_mixer", mixed)
    mixed = block.se(mixed)
    compare(truck, f"{name}.se", mixed)
    compare(truck, f"{name}.channel_mixer", block.channel_mixer(mixed))
    x = body.stages_0(x)
    down, name = body.stages_1.downsample, "stages_1.downsample"
    for part in ("pre_block", "spatial_downsample", "channel_downsample"):
        x = down[part](x)
        compare(truck, f"{name}.{part}", x)
    compare(truck, f"{name}.ffn", down.ffn(x))
    for prepared in (None, encoder.prepared(pixels)):
        features = encoder.trunk(pixels, prepared)
        for i, level in enumerate(features):
            compare(truck, f"stages_{i}", level)
    for i, level in enumerate(encoder.neck(features)):
        step = 4 if i == 0 else 1
        name = f"enc.fpn{i}" + (".sub4" if i == 0 else "")
        close(level[:, ::step, ::step], channels_last(truck.tensors[name]), 10 * NOISE, name)


def test_folded_is_the_same_function(trunk: RepViT, pixels: mx.array) -> None:
    for plain, folded in zip(trunk(pixels), trunk(pixels, trunk.prepared(pixels)), strict=True):
        largest = mx.abs(plain).max().item()
        np.testing.assert_allclose(np.array(folded), np.array(plain), rtol=0, atol=FOLDED_TOL * largest)


def test_folded_weights_follow_the_weights(pixels: mx.array) -> None:
    trunk = synthetic_edgetam.nano_model().image_encoder.trunk
    first = trunk.prepared(pixels)
    assert trunk.prepared(pixels) is first
    norm = trunk.body.stages_2.blocks[13].token_mixer.conv1.bn
    norm.running_var = norm.running_var * 2
    changed = trunk.prepared(pixels)
    assert changed is not first
    plain, folded = trunk(pixels)[-1], trunk(pixels, changed)[-1]
    np.testing.assert_allclose(np.array(folded), np.array(plain), rtol=0, atol=FOLDED_TOL * mx.abs(plain).max().item())


def test_half_precision_folds_in_float32(trunk: RepViT, pixels: mx.array) -> None:
    """Folding float16 weights would round twice."""
    whole = mx.array(np.array(trunk.prepared(pixels)[1][1][0][0][0]))
    half = trunk.prepared(pixels.astype(mx.float16))[1][1][0][0][0]
    assert half.dtype == mx.float16
    np.testing.assert_array_equal(np.array(half), np.array(whole.astype(mx.float16)))


# Measured: at most 8.8e-4 and 7.1e-3, what rounding weights, hidden values and results once each comes to; float32 sums
# of products change nothing. A network of random blocks amplifies it: tests/measure/edgetam_half.py.
@pytest.mark.parametrize(("dtype", "bound"), [(mx.float16, 1.5e-3), (mx.bfloat16, 1.2e-2)])
def test_each_block_alone_moves_as_its_roundings_do(
    trunk: RepViT, pixels: mx.array, dtype: mx.Dtype, bound: float
) -> None:
    names = []
    for name, moved, _ in edgetam_half.blocks(trunk, pixels, dtype):
        names.append(name)
        assert moved < bound, name
    assert len(names) == 24


def test_a_model_in_half_precision_computes_its_trunk_in_float32() -> None:
    model = half_precision.in_dtype(synthetic_edgetam.nano_model(), mx.float16)
    encoder = model.image_encoder
    pixels = encoder.entry(mx.zeros((1, 64, 64, 3), mx.float16))
    assert pixels.dtype == mx.float32
    assert {level.dtype for level in encoder.trunk(pixels, encoder.prepared(pixels))} == {mx.float32}
    assert {level.dtype for level in encoder(pixels, encoder.prepared(pixels))} == {mx.float16}


def test_means_of_half_precision_do_not_overflow(trunk: RepViT) -> None:
    """65536 places of 8 sum to more than float16 holds."""
    squeeze = trunk.body.stages_0.blocks[0].se
    x = mx.full((1, 256, 256, 48), 8.0)
    expected = np.array(squeeze(x)[0, 0, 0])
    got = np.array(squeeze(x.astype(mx.float16))[0, 0, 0].astype(mx.float32))
    np.testing.assert_allclose(got, expected, rtol=0, atol=8 * 2**-10)


def test_channels_inside_squeeze_excite() -> None:
    """C / 4, rounded half up to a multiple of 8 (EDGETAM.md, section 2)."""
    assert [RepViTConfig().squeezed(c) for c in (48, 96, 192, 384)] == [16, 24, 48, 96]


def test_a_gradient_reaches_the_weights_as_trained(pixels: mx.array) -> None:
    trunk = synthetic_edgetam.nano_model().image_encoder.trunk
    trunk.prepared(pixels)

    def loss(weight: mx.array) -> mx.array:
        trunk.body.stem.conv1.c.weight = weight
        return trunk(pixels, trunk.prepared(pixels))[0].sum()

    assert mx.abs(mx.grad(loss)(trunk.body.stem.conv1.c.weight)).max().item() > 0
