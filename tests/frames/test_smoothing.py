"""Mattes averaged over time: what stands still becomes steady, what moves does not lag, nothing crosses a cut."""

from __future__ import annotations

import numpy as np
import pytest

from mlx_sam2.frames.smoothing import MatteFrame, Patch, Smoother, patch_of

H, W = 40, 60
RNG = np.random.default_rng(3)
GROUND = RNG.integers(60, 90, (H, W, 3)).astype(np.uint8)


def frame(index: int, matte: np.ndarray, pixels: np.ndarray = GROUND) -> MatteFrame:
    return MatteFrame(index, index / 25, pixels, {1: patch_of(matte.astype(np.float32))})


def smoothed(frames: list[MatteFrame], reach: int) -> list[np.ndarray]:
    smoother = Smoother(reach)
    done = [ready for given in frames for ready in smoother.push(given)] + list(smoother.flush())
    assert [ready.index for ready in done] == [given.index for given in frames]
    assert all(ready.pixels is given.pixels for ready, given in zip(done, frames, strict=True))
    return [ready.mattes[1].full((H, W)) for ready in done]


def square(x: int, value: float = 1.0) -> np.ndarray:
    matte = np.zeros((H, W), np.float32)
    matte[10:30, x : x + 20] = value
    return matte


def test_without_smoothing_mattes_are_as_given() -> None:
    mattes = [RNG.random((H, W)).astype(np.float32) for _ in range(3)]
    for given, got in zip(mattes, smoothed([frame(i, m) for i, m in enumerate(mattes)], 0), strict=True):
        assert np.abs(given - got).max() <= 0.5 / 65535 + 1e-7


def test_flicker_on_a_still_picture_shrinks() -> None:
    values = [0.5 + 0.2 * (-1) ** i for i in range(12)]
    found = smoothed([frame(i, square(20, v)) for i, v in enumerate(values)], 2)
    inner = [matte[20, 30] for matte in found]
    assert np.ptp(values) == pytest.approx(0.4)
    assert np.ptp(inner[2:-2]) < 0.2
    assert np.mean(inner) == pytest.approx(0.5, abs=0.03)
    assert not any(matte[5].any() for matte in found)


def test_what_moves_neither_lags_nor_smears() -> None:
    mattes = [square(5 + 4 * i) for i in range(8)]
    shots = [np.where(matte[..., None] > 0, np.uint8(230), GROUND) for matte in mattes]
    found = smoothed([frame(i, m, p) for i, (m, p) in enumerate(zip(mattes, shots, strict=True))], 3)
    assert max(np.abs(got - given).mean() for got, given in zip(found, mattes, strict=True)) < 0.01
    assert all(np.array_equal(got > 0.5, given > 0.5) for got, given in zip(found, mattes, strict=True))


def test_nothing_crosses_a_cut() -> None:
    """The colours at the object are the same before and after, so that only the cut itself can tell."""
    other = RNG.integers(160, 255, (H, W, 3)).astype(np.uint8)
    other[8:32, 15:45] = GROUND[8:32, 15:45]
    before, after = square(20, 1.0), square(20, 0.25)
    given = [frame(i, before) for i in range(4)] + [frame(i, after, other) for i in range(4, 8)]
    found = smoothed(given, 3)
    assert all(np.abs(matte - before).max() < 1e-4 for matte in found[:4])
    assert all(np.abs(matte - after).max() < 1e-4 for matte in found[4:])


def test_an_object_that_comes_late_is_not_thinned() -> None:
    smoother = Smoother(2)
    given = [MatteFrame(0, 0.0, GROUND, {}), *(frame(i, square(20)) for i in (1, 2, 3))]
    done = [ready for f in given for ready in smoother.push(f)] + list(smoother.flush())
    assert [list(ready.mattes) for ready in done] == [[], [1], [1], [1]]
    assert all(np.array_equal(ready.mattes[1].full((H, W)), square(20)) for ready in done[1:])


def test_it_holds_a_window_of_frames_only() -> None:
    smoother = Smoother(2)
    waiting, ready = 0, 0
    for i in range(40):
        ready += len(list(smoother.push(frame(i, square(20)))))
        waiting = max(waiting, i + 1 - ready)
    assert waiting == 2 and len(smoother._frames) <= 5


def test_patches_hold_what_is_not_empty() -> None:
    matte = np.zeros((H, W), np.float32)
    assert patch_of(matte).values.size == 0 and not patch_of(matte).full((H, W)).any()
    matte[3:7, 50:60] = RNG.random((4, 10))
    patch = patch_of(matte)
    assert isinstance(patch, Patch) and patch.values.shape == (4, 10)
    assert np.abs(patch.full((H, W)) - matte).max() < 1e-5
    part = (slice(5, 12), slice(40, 55))
    assert np.array_equal(patch.cut(part), patch.full((H, W))[part])
