"""Large photos in the app: the same bits as ever, previews at the size that is shown, no click decoded twice."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the app's extra is not installed: pip install 'mlx-sam2[app]'")

from app_machine import Machine, clip, photo, png
from mlx_sam2.app.image_work import ImageWork, as_mask, shown_size
from mlx_sam2.app.schemas import PreviewAsk, Prompt
from mlx_sam2.masks import mask_to_rle
from mlx_sam2.sam2_image_predictor import SAM2ImagePredictor


def enlarged(size: tuple[int, int]) -> np.ndarray:
    """A photo of another size, (H, W)."""
    picture = photo()
    rows, columns = (np.arange(n) * m // n for n, m in zip(size, picture.shape, strict=False))
    return picture[rows][:, columns]


@pytest.mark.parametrize("size", [(67, 41), (300, 1031), (1500, 1000)])
def test_masks_are_those_of_predict_to_the_bit_at_any_size(model: str, size: tuple[int, int]) -> None:
    predictor = SAM2ImagePredictor.from_pretrained(model)
    work = ImageWork(predictor, enlarged(size))
    for x, y in ((0.4, 0.5), (0.1, 0.9), (0.8, 0.2)):
        point = (x * size[1], y * size[0])
        masks, scores, _ = predictor.predict([point], [1])
        found, chosen = work.answer(Prompt(points=[(*point, 1)]))
        assert found == [as_mask(mask > 0, float(score)) for mask, score in zip(masks, scores, strict=True)]
        assert chosen == scores.argmax()


def test_a_preview_is_made_at_the_size_that_is_shown(machine: Machine) -> None:
    session = machine.open(png(enlarged((300, 1031))))
    ask = {"x": 500, "y": 100, "side": 400}
    small = machine.client.post(f"/api/sessions/{session}/preview", json=ask).json()["mask"]
    full = machine.client.post(f"/api/sessions/{session}/preview", json={**ask, "side": None}).json()["mask"]
    assert small["size"] == [116, 400] and full["size"] == [300, 1031]
    assert small["score"] == full["score"] and small["area"] > 0
    assert small["area"] * (300 * 1031) / (116 * 400) == pytest.approx(full["area"], rel=0.05)
    assert machine.client.post(f"/api/sessions/{session}/preview", json={**ask, "side": 5}).status_code == 422


def test_a_click_where_the_preview_was_is_not_decoded_again(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = SAM2ImagePredictor.from_pretrained(model)
    work = ImageWork(predictor, photo())
    decoded: list[Any] = []
    decode = predictor.predict_low_res
    monkeypatch.setattr(predictor, "predict_low_res", lambda **options: decoded.append(1) or decode(**options))
    seen = work.preview(PreviewAsk(x=30, y=40))
    masks, chosen = work.answer(Prompt(points=[(30, 40, 1)]))
    assert len(decoded) == 1 and masks[chosen] == seen
    work.answer(Prompt(points=[(30, 40, 0)]))  # another label, and another place
    work.answer(Prompt(points=[(31, 40, 1)]))
    assert len(decoded) == 3
    masks, _, _ = predictor.predict([(30, 40), (60, 20)], [1, 0], mask_input=None, multimask_output=False)
    assert (
        work.answer(Prompt(points=[(30, 40, 1), (60, 20, 0)], refine=False))[0][0].counts
        == mask_to_rle(masks[0])["counts"]
    )


def test_a_size_to_be_shown_is_never_larger_and_never_empty() -> None:
    assert shown_size((400, 600), None) == shown_size((400, 600), 600) == (400, 600)
    assert shown_size((4000, 6000), 1500) == (1000, 1500)
    assert shown_size((1, 60_000), 16) == (1, 16)


def test_the_timeline_has_a_decoder_of_its_own(machine: Machine) -> None:
    session = machine.open(clip(6), "clip.mp4")
    held = machine.app.sessions.get(session)
    large = machine.client.get(f"/api/sessions/{session}/frames/4?side=1280")
    assert large.status_code == 200 and held.strip is None
    small = machine.client.get(f"/api/sessions/{session}/frames/4?side=128")
    strip = held.strip
    assert small.content == large.content and strip is not None and strip is not held.source  # it is 96 pixels wide
    machine.client.delete(f"/api/sessions/{session}")
    assert held.strip is None and held.source is None
