"""transformers' SAM 2 beside ours, on the same weights: an oracle written apart from the official code.

It differs from that code on purpose in places (mask prompts in video, hole filling), which are left out.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import synthetic
from checkpoint_files import parameter_shapes, published_widths, transformers_config
from mlx_sam2.checkpoint import key_map
from mlx_sam2.config.sam2 import SAM2Config
from mlx_sam2.model.resize import resize_bilinear
from mlx_sam2.model.sam2 import SAM2

REASON = "needs the extra `reference`: pip install -e '.[reference]'"
torch = pytest.importorskip("torch", reason=REASON)
transformers = pytest.importorskip("transformers", reason=REASON)

torch.set_num_threads(1)  # small models; more threads only fight with those of MLX's BLAS

# Measured: logits 7e-5 (their deviation is 4 to 7), scores 1e-6, pointers 3e-6.
LOGIT_TOL, SCORE_TOL, POINTER_TOL = 4e-4, 1e-5, 2e-5
PROMPTS = {
    "click": ([[70.0, 120.0]], [1]),
    "clicks": ([[70.0, 120.0], [200.5, 31.0], [9.0, 250.0]], [1, 0, 1]),
}


def load_into(theirs: Any, state: dict[str, np.ndarray]) -> Any:
    """Fill a transformers model from official names; every key of it must be met."""
    renamed = {}
    for key in theirs.state_dict():
        if key == key_map.POINT_TABLE:
            value = np.concatenate([state[row] for row in key_map.POINT_ROWS])
        else:
            value = state[key_map.from_transformers(key)]
        renamed[key] = torch.from_numpy(np.array(value))
    theirs.load_state_dict(renamed, strict=True)
    return theirs.eval()


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """(3, S, S, 3): three frames, normalised."""
    frames = np.stack([synthetic.picture(256, 256, seed) for seed in range(3)]).astype(np.float32) / 255
    return ((frames - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).astype(np.float32)


def channels_first(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, 1)))


@pytest.fixture(scope="module")
def config_json() -> dict[str, Any]:
    return transformers_config()


@pytest.mark.slow
@pytest.mark.parametrize("name", PROMPTS)
def test_image_model(name: str, pixels: np.ndarray, config_json: dict, nano_model: SAM2) -> None:
    parts = {key: config_json[key] for key in ("vision_config", "prompt_encoder_config", "mask_decoder_config")}
    theirs = load_into(transformers.Sam2Model(transformers.Sam2Config(**parts)), synthetic.nano_state())
    points, labels = PROMPTS[name]
    with torch.no_grad():
        expected = theirs(
            pixel_values=channels_first(pixels[:1]),
            input_points=torch.tensor([[points]]),
            input_labels=torch.tensor([[labels]]),
            multimask_output=True,
        )
    features = nano_model.encode_image(mx.array(pixels[:1]))
    low_res, scores = nano_model.predict_masks(features, mx.array([points]), mx.array([labels]))
    np.testing.assert_allclose(np.array(low_res), expected.pred_masks[0], rtol=0, atol=LOGIT_TOL)
    np.testing.assert_allclose(np.array(scores), expected.iou_scores[0], rtol=0, atol=SCORE_TOL)


@pytest.mark.slow
def test_video_model(pixels: np.ndarray, config_json: dict) -> None:
    """A click on frame 0, its memory, and frame 1 tracked with that memory and that pointer."""
    values = published_widths(config_json)
    config = SAM2Config.from_dict(values)
    state = synthetic.make_state(parameter_shapes(config), 1, synthetic.NANO_OVERRIDES)
    state["sam_mask_decoder.pred_obj_score_head.layers.2.bias"] += 20  # the object is there on both frames
    theirs = load_into(transformers.Sam2VideoModel(transformers.Sam2VideoConfig(**values)), state)
    points, labels = PROMPTS["click"]
    session = transformers.Sam2VideoInferenceSession(channels_first(pixels), 256, 256, dtype=torch.float32)
    session.obj_id_to_idx(1)
    session.add_point_inputs(0, 0, {"point_coords": torch.tensor([[points]]), "point_labels": torch.tensor([[labels]])})
    session.obj_with_new_inputs = [1]
    with torch.no_grad():
        expected = [theirs(session, frame_idx=i).pred_masks.numpy() for i in range(2)]
    stored = [
        session.output_dict_per_obj[0][kind][i]
        for i, kind in enumerate(("cond_frame_outputs", "non_cond_frame_outputs"))
    ]

    ours = synthetic.build_model(config, state)
    frames = [ours.encode_image(mx.array(pixels[i : i + 1])) for i in range(2)]
    first = ours.predict_object(
        ours.add_no_memory(frames[0].embedding),
        frames[0].high_res,
        mx.array([points]),
        mx.array([labels]),
        multimask=True,
    )
    mask = resize_bilinear(first.low_res_mask, (256, 256))
    memory = ours.encode_memory(frames[0].embedding, mask, first.object_score, binarize=True)
    memory = memory.astype(mx.bfloat16).astype(mx.float32)
    theirs_memory = stored[0]["maskmem_features"].float().numpy().reshape(memory.shape)  # (1, h, w, M)
    # Where rounding to bfloat16 falls the other way, the two are one step apart: 2**-8 of the value.
    np.testing.assert_allclose(np.array(memory), theirs_memory, rtol=2**-7, atol=1e-4)
    memory = mx.array(theirs_memory)
    newest = config.num_maskmem - 1  # the row of a prompted frame
    attended = ours.attend_memory(
        frames[1].embedding, memory[:, None], mx.array([[newest]]), first.pointer[:, None], mx.array([[0.5]])
    )
    second = ours.predict_object(attended, frames[1].high_res, multimask=True)

    assert first.object_score.item() > 0
    assert second.object_score.item() > 0
    for i, prediction in enumerate([first, second]):
        low_res, pointer = np.array(prediction.low_res_mask[..., 0]), np.array(prediction.pointer)
        np.testing.assert_allclose(low_res, expected[i][:, 0], rtol=0, atol=LOGIT_TOL)
        np.testing.assert_allclose(pointer, stored[i]["object_pointer"][:, 0], rtol=0, atol=POINTER_TOL)
