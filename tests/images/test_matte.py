"""Mattes: what each setting does to a mask, the filters against their definitions, and colours of the edge."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from scipy import ndimage

from mlx_sam2.images.filters import blur, box_mean, grow, guided_filter
from mlx_sam2.images.matte import Edges, alpha, decontaminated, refined_mask
from mlx_sam2.masks import fill_holes, remove_small_regions
from mlx_sam2.model.resize import resize_bilinear

H, W = 90, 70
RNG = np.random.default_rng(5)
NOISE = RNG.normal(size=(H, W)).astype(np.float32)
GREY = np.full((H, W, 3), 100, np.uint8)


def disc(radius: float = 25, hole: float = 0, centre: tuple[int, int] = (45, 35)) -> np.ndarray:
    """Logits (H, W) that fall by one a pixel from the edge of a disc or a ring, and are 0 on the edge."""
    y, x = np.mgrid[:H, :W]
    distance = np.hypot(y - centre[0], x - centre[1])
    return np.minimum(radius - distance, distance - hole if hole else np.inf).astype(np.float32)


# ---- settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"edge": "fuzzy"}, "edge='fuzzy': it must be one of hard, soft, guided"),
        ({"grow": 1.5}, "grow=1.5: it must be a whole number from -200 to 200"),
        ({"feather": -1}, "feather=-1: it must be a number from 0 to 200"),
        ({"width": float("nan")}, "width=nan: it must be a number"),
        ({"fill_holes": -3}, "fill_holes=-3: it must be a whole number from 0 up"),
        ({"radius": 0}, "radius=0: it must be a whole number from 1 to 200"),
        ({"smooth": True}, "smooth=True"),
    ],
)
def test_settings_out_of_range(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        Edges(**settings)


def test_defaults_are_the_mask() -> None:
    edges = Edges()
    assert edges.is_default and not edges.is_soft and not edges.changes_masks
    mask = NOISE > 0
    assert refined_mask(mask, edges) is mask
    for given in (NOISE, mask):
        assert np.array_equal(alpha(given, GREY, edges), mask)


# ---- each setting


@pytest.mark.parametrize("edges", [Edges(grow=3), Edges(grow=-4), Edges(fill_holes=40, min_area=30, grow=1)])
def test_a_hard_matte_is_the_refined_mask(edges: Edges) -> None:
    logits = ndimage.gaussian_filter(NOISE, 1.5)
    assert np.array_equal(alpha(logits, GREY, edges) > 0.5, refined_mask(logits > 0, edges))


@pytest.mark.parametrize("kind", ["soft", "guided"])
def test_the_matte_crosses_one_half_where_the_mask_ends(kind: str) -> None:
    logits = disc(hole=10)
    matte = alpha(logits, GREY, Edges(edge=kind, width=6))
    assert matte.dtype == np.float32
    assert ((matte > 0) & (matte < 1)).any()
    if kind == "soft":
        assert np.allclose(matte, np.clip(logits / 6 + 0.5, 0, 1))
    assert np.mean((matte > 0.5) != (logits > 0)) < 0.02
    assert matte[45, 35] == 0 and matte[45, 53] == 1 and matte[0, 0] == 0


def test_low_resolution_logits_are_upscaled_as_the_models_masks_are() -> None:
    low = RNG.normal(size=(16, 16)).astype(np.float32)
    full = np.array(resize_bilinear(mx.array(low)[None, ..., None], (H, W)))[0, ..., 0]
    edges = Edges(edge="soft", width=2)
    assert np.abs(alpha(low, GREY, edges) - alpha(full, GREY, edges)).max() < 1e-6  # 2e-7 measured


def test_growing_a_soft_edge_moves_it_and_keeps_its_softness() -> None:
    edges = Edges(edge="soft", width=8)
    for n in (5, -5):
        moved, wanted = alpha(disc(), GREY, replace(edges, grow=n)), alpha(disc(25 + n), GREY, edges)
        assert np.abs(moved - wanted).max() < 0.05  # the disc is one of pixels: 0.03


def test_holes_and_specks_leave_no_ring() -> None:
    logits = disc(hole=4)  # a hole of 49 pixels with a soft rim
    speck = np.maximum(disc(), disc(3, centre=(80, 60)))
    edges = Edges(edge="soft", width=6)
    assert alpha(logits, GREY, edges)[45, 35] < 0.5
    assert (alpha(logits, GREY, replace(edges, fill_holes=60))[35:56, 25:46] == 1).all()
    assert alpha(logits, GREY, replace(edges, fill_holes=20))[45, 35] < 0.5, "the hole is larger"
    assert not alpha(speck, GREY, replace(edges, min_area=40))[75:].any()
    assert alpha(speck, GREY, replace(edges, min_area=10))[80, 60] > 0.9


def test_refined_masks_follow_the_rules_of_components() -> None:
    mask = ndimage.gaussian_filter(NOISE, 1.0) > 0
    filled = fill_holes(np.where(mask, 1.0, -1.0), 12, 1.0) > 0
    assert np.array_equal(refined_mask(mask, Edges(fill_holes=12)), filled)
    assert np.array_equal(refined_mask(mask, Edges(min_area=12)), remove_small_regions(mask, 13, "islands")[0])


def test_the_guided_filter_finds_an_edge_that_the_logits_miss() -> None:
    """The logits are a cell off; the colours say where the object ends."""
    true = disc(25) > 0
    photo = np.where(true[..., None], np.uint8([200, 90, 60]), np.uint8([40, 120, 180]))
    photo = np.clip(photo + RNG.normal(0, 2, photo.shape), 0, 255).astype(np.uint8)
    off = disc(25, centre=(45, 38)) * 2
    wrong = [np.abs(alpha(off, photo, Edges(edge=kind, radius=10)) - true).mean() for kind in ("soft", "guided")]
    assert wrong[1] < 0.6 * wrong[0]  # 0.43


def test_an_object_at_the_border_and_none_at_all() -> None:
    edges = Edges(edge="guided", feather=3, grow=2, fill_holes=9, min_area=9)
    whole = alpha(np.full((H, W), 20, np.float32), GREY, edges)
    assert (whole == 1).all()
    assert not alpha(np.full((H, W), -1024, np.float32), GREY, edges).any()
    assert alpha(np.full((1, 1), 5, np.float32), GREY[:1, :1], Edges(edge="guided", feather=3)).tolist() == [[1]]
    with pytest.raises(ValueError, match="the mask is"):
        alpha(np.ones((3, 3), bool), GREY, edges)


# ---- filters


@pytest.mark.parametrize("radius", [1, 4, 200])
def test_box_mean_is_the_mean_of_the_pixels_there_are(radius: int) -> None:
    x = np.stack([NOISE, 1e3 + NOISE], axis=2)
    ones = np.ones((H, W))
    for channel in range(2):
        size = 2 * radius + 1
        sums = ndimage.uniform_filter(x[..., channel].astype(np.float64), size, mode="constant")
        wanted = sums / ndimage.uniform_filter(ones, size, mode="constant")
        assert np.abs(box_mean(x, radius)[..., channel] - wanted).max() < 1e-3  # of 1e3: float32 has 6e-5


@pytest.mark.parametrize("sigma", [0.6, 1.9, 2.0, 7.5])
def test_blur_is_gaussian(sigma: float) -> None:
    x = np.zeros((H, W), np.float32)
    x[45, 35] = 1
    wanted = ndimage.gaussian_filter(x, sigma, truncate=6)
    assert np.abs(blur(x, sigma) - wanted).max() < 0.12 * wanted.max()  # three boxes: 0.09 at sigma 2
    assert blur(x, sigma).sum() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("radius", [1, 2, 5, 13])
def test_growing_is_by_euclidean_distance(radius: int) -> None:
    mask = NOISE > 1.8
    assert np.array_equal(grow(mask, radius), ndimage.distance_transform_edt(~mask) <= radius)
    assert np.array_equal(grow(~mask, -radius), ~grow(mask, radius))
    assert np.array_equal(grow(NOISE, radius) > 1.8, grow(mask, radius)), "every level grows alike"


def test_the_guided_filter_is_that_of_its_paper() -> None:
    """Pixel by pixel from the definition: least squares in every window, then the mean of the models."""
    guide = RNG.integers(0, 256, (14, 11, 3)).astype(np.uint8)
    p, r, epsilon = RNG.random((14, 11)).astype(np.float32), 2, 1e-2
    models = np.zeros((14, 11, 4))
    windows = {
        (y, x): np.s_[max(y - r, 0) : y + r + 1, max(x - r, 0) : x + r + 1] for y in range(14) for x in range(11)
    }
    for at, window in windows.items():
        colours, values = guide[window].reshape(-1, 3) / 255, p[window].ravel()
        centred = colours - colours.mean(0)
        slope = np.linalg.solve(
            centred.T @ centred / len(values) + epsilon * np.eye(3), centred.T @ (values - values.mean()) / len(values)
        )
        models[at] = [*slope, values.mean() - slope @ colours.mean(0)]
    wanted = [
        [models[windows[y, x]].reshape(-1, 4).mean(0) @ [*guide[y, x] / 255, 1] for x in range(11)] for y in range(14)
    ]
    assert np.abs(guided_filter(p, guide, r, epsilon) - wanted).max() < 1e-5  # 5e-7


# ---- colours


def test_the_edge_loses_the_colour_of_the_background() -> None:
    matte = alpha(disc(), GREY, Edges(edge="soft", width=8))
    own, ground = np.array([180, 40, 30.0]), np.array([20, 90, 220.0])
    photo = np.rint(matte[..., None] * own + (1 - matte[..., None]) * ground).astype(np.uint8)
    cleaned = decontaminated(photo, matte)
    edge = (matte > 0.1) & (matte < 1)
    assert np.abs(photo[edge] - own).mean() > 40
    assert np.abs(cleaned[edge] - own).max() < 6
    assert np.array_equal(cleaned[matte == 1], photo[matte == 1])
    far = ndimage.distance_transform_edt(matte == 0) > 17
    assert np.array_equal(cleaned[far], photo[far])
    hard = (matte > 0.5).astype(np.float32)
    assert decontaminated(photo, hard) is photo
