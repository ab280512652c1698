"""Names, attributes and dictionaries of the official package that scripts import, read, keep and set."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import synthetic
from mlx_sam2 import SAM2AutomaticMaskGenerator, SAM2ImagePredictor, SAM2VideoPredictor, build_sam, masks
from mlx_sam2.model.sam2 import SAM2
from mlx_sam2.sam2_video_predictor import SAM2VideoPredictorVOS
from mlx_sam2.utils import amg, misc
from mlx_sam2.utils.session import InferenceState
from mlx_sam2.utils.transforms import SAM2Transforms

CLICK: dict[str, Any] = {"point_coords": np.array([[30, 20]]), "point_labels": np.array([1])}


@pytest.fixture
def predictor(nano_model: SAM2) -> SAM2ImagePredictor:
    made = SAM2ImagePredictor(nano_model)
    made.set_image(synthetic.picture(60, 80))
    return made


@pytest.fixture
def state(nano_model: SAM2) -> Iterator[InferenceState]:
    frames = [synthetic.picture(60, 80, seed) for seed in range(4)]
    with SAM2VideoPredictor(nano_model).init_state(frames) as opened:
        yield opened


# ---- the embedding of photos


def test_features_of_the_official_form(predictor: SAM2ImagePredictor) -> None:
    features = predictor._features
    side = predictor.model.config.embedding_size
    assert features["image_embed"].shape == (1, 64, side, side)
    assert [f.shape for f in features["high_res_feats"]] == [(1, 8, 4 * side, 4 * side), (1, 16, 2 * side, 2 * side)]
    assert (features["image_embed"] == predictor.get_image_embedding()).all()
    assert predictor._bb_feat_sizes == [(4 * side, 4 * side), (2 * side, 2 * side), (side, side)]
    assert predictor._orig_hw == [(60, 80)] and predictor._is_image_set and not predictor._is_batch


def test_a_cache_of_embeddings_as_scripts_keep_it(predictor: SAM2ImagePredictor) -> None:
    expected = predictor.predict(**CLICK)[2]
    kept, size = predictor._features, predictor._orig_hw
    predictor.set_image(synthetic.picture(50, 50, seed=3))
    assert not np.array_equal(predictor.predict(**CLICK)[2], expected)
    predictor._features, predictor._orig_hw, predictor._is_image_set = kept, size, True
    assert np.array_equal(predictor.predict(**CLICK)[2], expected)


def test_features_that_went_through_a_file(predictor: SAM2ImagePredictor, nano_model: SAM2) -> None:
    expected = predictor.predict(**CLICK)[2]
    kept = pickle.loads(pickle.dumps(predictor.get_features()))  # noqa: S301  our own
    assert type(kept) is dict and sorted(kept) == ["high_res_feats", "image_embed"]
    other = SAM2ImagePredictor(nano_model)
    other.set_features(kept, [(60, 80)])
    assert (
        np.abs(other.predict(**CLICK)[2] - expected).max() < 1e-4
    )  # measured 1.1e-5: no_mem_embed added and taken off


def test_features_of_another_model_are_refused(predictor: SAM2ImagePredictor) -> None:
    other = SAM2ImagePredictor.from_pretrained("demo")
    other.set_image(synthetic.picture(60, 80))
    for features in (other._features, dict(other._features)):
        with pytest.raises(ValueError, match="it comes from another model"):
            predictor._features = features
    predictor.predict(**CLICK)


def test_copies_of_features_have_their_arrays(predictor: SAM2ImagePredictor) -> None:
    for copied in (dict(predictor._features), {**predictor._features}, predictor._features.copy()):
        assert copied["image_embed"].ndim == 4 and len(copied["high_res_feats"]) == 2
        predictor._features = copied


def test_features_that_a_script_changes_count(predictor: SAM2ImagePredictor) -> None:
    before = predictor.predict(**CLICK, return_logits=True)[0]
    predictor._features["image_embed"] *= 0
    changed = predictor.predict(**CLICK, return_logits=True)[0]
    assert not np.allclose(before, changed)
    kept = predictor.get_features()
    kept["image_embed"] = kept["image_embed"] + 1
    assert np.array_equal(changed, predictor.predict(**CLICK, return_logits=True)[0])  # a copy: not asked to yet
    predictor._features = kept
    assert not np.allclose(changed, predictor.predict(**CLICK, return_logits=True)[0])


def test_prepared_prompts_go_into_predict(predictor: SAM2ImagePredictor) -> None:
    box, mask = [10, 10, 60, 50], np.ones((1, 64, 64), np.float32)
    for given in (
        {"point_coords": [[40, 30]], "point_labels": [1]},
        {"box": box},
        {"box": [box, box]},
        {"point_coords": [[40, 30]], "point_labels": [0], "box": box, "mask_input": mask},
    ):
        asked = [given.get(name) for name in ("point_coords", "point_labels", "box", "mask_input")]
        logits, points, labels, corners = predictor._prep_prompts(*asked, normalize_coords=True)
        found = predictor._predict(points, labels, corners, logits, True, return_logits=False)
        expected = predictor.predict(**given)
        assert found[0].dtype == bool and found[0].ndim == 4
        for ours, theirs in zip(found, expected, strict=True):
            assert np.allclose(ours[0] if theirs.shape != ours.shape else ours, theirs, atol=1e-6)


def test_several_images_at_once(predictor: SAM2ImagePredictor) -> None:
    pictures = [synthetic.picture(40, 50), synthetic.picture(50, 40, seed=1)]
    predictor.set_image_batch(pictures)
    features, sizes = predictor.get_features(), predictor._orig_hw
    assert features["image_embed"].shape[0] == 2
    expected = predictor.predict_batch([CLICK["point_coords"]] * 2, [CLICK["point_labels"]] * 2)[2]
    predictor.reset_predictor()
    assert predictor._features is None
    predictor.set_features(features, sizes)
    again = predictor.predict_batch([CLICK["point_coords"]] * 2, [CLICK["point_labels"]] * 2)[2]
    assert all(np.array_equal(a, b) for a, b in zip(again, expected, strict=True))


@pytest.mark.parametrize(
    ("features", "words"),
    [
        ([], "must be what predictor._features gave"),
        ({"image_embed": 1}, "must be what predictor._features gave"),
        ({"image_embed": np.zeros((1, 8, 16, 16)), "high_res_feats": []}, "it comes from another model"),
        ({"image_embed": np.zeros((8, 16, 16)), "high_res_feats": []}, r"must be \(B, C, h, w\)"),
    ],
)
def test_features_that_are_none(predictor: SAM2ImagePredictor, features: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        predictor.set_features(features, [(60, 80)])
    with pytest.raises(ValueError, match="2 sizes are given for the features of 1 images"):
        predictor.set_features(predictor.get_features(), [(60, 80)] * 2)


def test_prompts_and_transforms(predictor: SAM2ImagePredictor) -> None:
    size = predictor.model.config.image_size
    mask, points, labels, box = predictor._prep_prompts([[40, 30]], [1], [0, 0, 80, 60], np.zeros((1, 64, 64)), True)
    assert points.tolist() == [[[size / 2, size / 2]]] and labels.tolist() == [[1]]
    assert box.tolist() == [[[0, 0], [size, size]]] and mask.shape == (1, 1, 64, 64)
    assert predictor._prep_prompts(None, None, None, None, True) == (None,) * 4
    transforms = SAM2Transforms(size, 0.0)
    low = predictor.predict(**CLICK)[2]
    full = transforms.postprocess_masks(masks=low[None], orig_hw=(60, 80))
    assert full.shape == (1, 3, 60, 80)
    assert transforms(synthetic.picture(60, 80)).shape == (3, size, size)
    assert transforms.forward_batch([synthetic.picture(9, 9)] * 2).shape == (2, 3, size, size)
    with pytest.raises(ValueError, match="needs orig_hw"):
        transforms.transform_coords([[1, 2]], normalize=True)


# ---- sessions


def test_a_session_is_a_dict(state: InferenceState) -> None:
    assert state["num_frames"] == state.get("num_frames") == 4 and "num_frames" in state and "mine" not in state
    assert {"video_height", "video_width", "obj_ids", "obj_id_to_idx", "device"} <= set(state.keys()) == set(state)
    state["mine"] = [1]
    state["mine"].append(2)
    assert state["mine"] == [1, 2] and dict(state.items())["mine"] == [1, 2] and len(state) == len(state.values())
    del state["mine"]
    assert state.get("mine", 5) == 5 and state
    with pytest.raises(KeyError, match="belongs to the session"):
        state["num_frames"] = 7
    with pytest.raises(KeyError, match=r"state\.frame"):
        state["output_dict_per_obj"]


def test_a_session_is_a_dict_to_write(state: InferenceState) -> None:
    state.setdefault("mine", []).append(3)
    state.update({"other": 1}, more=2)
    assert state["mine"] == [3] and state.pop("other") == 1 and state.pop("other", None) is None
    assert "other" not in state and state["more"] == 2
    for change in (lambda: state.pop("num_frames"), lambda: state.update(num_frames=1)):
        with pytest.raises(KeyError, match="belongs to the session"):
            change()
    assert state.setdefault("num_frames", 0) == state.num_frames


def test_object_ids(state: InferenceState, nano_model: SAM2) -> None:
    predictor = SAM2VideoPredictor(nano_model)
    for obj_id in (7, 3):
        predictor.add_new_points_or_box(state, 0, obj_id, points=[[30, 20]], labels=[1])
    assert state["obj_id_to_idx"] == {7: 0, 3: 1} and state["obj_idx_to_id"] == {0: 7, 1: 3}


def test_results_of_video_as_torch_would_give_them(state: InferenceState, nano_model: SAM2) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")
    arrays = SAM2VideoPredictor(nano_model)
    arrays.add_new_points_or_box(state, 0, 1, points=[[30, 20]], labels=[1])
    plain = [masks[0].cpu().numpy() for _, _, masks in arrays.propagate_in_video(state)]
    tensors = SAM2VideoPredictor(nano_model, return_tensors="torch")
    tensors.reset_state(state)
    _, _, first = tensors.add_new_points_or_box(state, 0, 1, points=[[30, 20]], labels=[1])
    assert isinstance(first, torch.Tensor)
    for mine, (_, _, found) in zip(plain, tensors.propagate_in_video(state), strict=True):
        assert torch.equal(found[0], torch.from_numpy(mine))


def test_options_set_after_construction_count(state: InferenceState, nano_model: SAM2) -> None:
    def tracked(predictor: SAM2VideoPredictor) -> np.ndarray:
        predictor.reset_state(state)
        for t in (0, 1, 2):
            predictor.add_new_points_or_box(state, t, 1, points=[[30, 20]], labels=[1])
        return np.stack([masks for _, _, masks in predictor.propagate_in_video(state)])

    predictor = SAM2VideoPredictor(nano_model)
    state.tracker = predictor.tracker
    before = tracked(predictor)
    predictor.max_cond_frames_in_attn = 2
    assert predictor.max_cond_frames_in_attn == predictor.model.config.max_cond_frames_in_attn == 2
    assert not np.array_equal(tracked(predictor), before)
    predictor.fill_hole_area = 8
    assert predictor.tracker.fill_hole_area == 8
    with pytest.raises(ValueError, match="fill_hole_area='x': it must be a number of pixels"):
        predictor.fill_hole_area = "x"
    with pytest.raises(ValueError, match="must be -1 or at least 2"):
        predictor.max_cond_frames_in_attn = 1
    assert predictor.image_encoder is predictor.model.image_encoder
    with pytest.raises(AttributeError, match="has no attribute 'nothing', and neither has its model"):
        _ = predictor.nothing


# ---- names


def test_constructors_warn_of_what_they_do_not_know(nano_model: SAM2) -> None:
    for make in (SAM2ImagePredictor, SAM2VideoPredictor, SAM2VideoPredictorVOS, SAM2AutomaticMaskGenerator):
        with pytest.warns(UserWarning, match="has no option speed: ignored"):
            make(nano_model, speed=11)


def test_build_names() -> None:
    assert build_sam.HF_MODEL_ID_TO_FILENAMES["facebook/sam2.1-hiera-base-plus"] == (
        "configs/sam2.1/sam2.1_hiera_b+.yaml",
        "sam2.1_hiera_base_plus.pt",
    )
    with pytest.raises(ImportError, match=r"is of a fork; live video is built in.*\.stream\(\)"):
        from mlx_sam2.build_sam import build_sam2_camera_predictor  # noqa: F401
    with pytest.raises(ImportError, match="cannot import name 'build_sam3'"):
        from mlx_sam2.build_sam import build_sam3  # noqa: F401
    with pytest.raises(ValueError, match="is no official model; there are facebook/sam2"):
        build_sam._hf_download("me/mine")


def test_load_checkpoint(nano_model: SAM2, tmp_path: Any) -> None:
    from mlx_sam2.checkpoint.loading import save

    save(nano_model, tmp_path / "nano")
    model = build_sam.as_official(SAM2(nano_model.config))
    build_sam._load_checkpoint(model, None)
    build_sam._load_checkpoint(model, str(tmp_path / "nano"))
    assert mx.array_equal(model.no_mem_embed, nano_model.no_mem_embed).item()


def test_small_regions_of_found_masks() -> None:
    plain, holed = np.zeros((30, 40), bool), np.zeros((30, 40), bool)
    plain[5:20, 5:20] = holed[5:20, 5:20] = True
    holed[10, 10] = False
    data = amg.MaskData(rles=amg.mask_to_rle_pytorch(np.stack([holed, plain])), boxes=np.array([[5, 5, 19, 19]] * 2))
    kept = SAM2AutomaticMaskGenerator.postprocess_small_regions(data, 4, 0.7)
    assert len(kept["rles"]) == 1 and (amg.rle_to_mask(kept["rles"][0]) == plain).all()
    assert SAM2AutomaticMaskGenerator.postprocess_small_regions(amg.MaskData(rles=[]), 4, 0.7)["rles"] == []


def test_refinement_of_masks(nano_model: SAM2) -> None:
    generator = SAM2AutomaticMaskGenerator(nano_model)
    predictor = generator.predictor
    predictor.set_image(synthetic.picture(60, 80))
    points = np.array([[30.0, 20.0], [50.0, 40.0], [10.0, 10.0]])
    low = np.concatenate([predictor.predict(p[None], [1], multimask_output=False)[2] for p in points])
    inside = predictor._transforms.transform_coords(points, normalize=True, orig_hw=(60, 80))
    refined, ious = generator.refine_with_m2m(inside, np.ones(3), low, 2)
    assert refined.shape == (3, 1, 60, 80) and ious.shape == (3, 1)
    alone = predictor.predict(points[1:2], [1], mask_input=low[1:2], multimask_output=False, return_logits=True)
    assert np.abs(refined[1] - alone[0]).max() < 1e-4 and abs(ious[1, 0] - alone[1][0]) < 1e-6


def test_helpers_of_misc() -> None:
    mask = np.zeros((1, 1, 8, 8), bool)
    mask[0, 0, 1:3, 1:3] = mask[0, 0, 5, 5] = True
    labels, areas = misc.get_connected_components(mask)
    assert labels[0, 0, 1, 1] != labels[0, 0, 5, 5] and areas[0, 0, 1, 1] == 4 and areas[0, 0, 0, 0] == 0
    assert misc.mask_to_box(mask).tolist() == [[[1, 1, 5, 5]]]
    filled = misc.fill_holes_in_mask_scores(np.where(~mask, 1.0, -1.0), 4)
    assert (filled > 0).all()
    with pytest.raises(ValueError, match="max_area=0"):
        misc.fill_holes_in_mask_scores(filled, 0)
    old = misc.concat_points(None, np.zeros((1, 1, 2)), np.ones((1, 1)))
    assert misc.concat_points(old, np.ones((1, 2, 2)), np.zeros((1, 2)))["point_labels"].tolist() == [[1, 0, 0]]
    frames, height, width = misc.load_video_frames([synthetic.picture(6, 9)] * 3, 32)
    misc.load_video_frames([synthetic.picture(6, 9)], 32, True, (0.485, 0.456, 0.406), [0.229, 0.224, 0.225])
    with pytest.raises(ValueError, match="img_mean and img_std cannot be chosen"):
        misc.load_video_frames([synthetic.picture(6, 9)], 32, img_mean=(0.5, 0.5, 0.5))
    assert frames.shape == (3, 3, 32, 32) and (height, width) == (6, 9)


def test_helpers_of_amg() -> None:
    logits = np.array([[[-3, 0.5], [0.5, 3]]], np.float32)
    assert amg.calculate_stability_score(logits, 0, 1).tolist() == pytest.approx([1 / 3])
    assert amg.box_xyxy_to_xywh([1, 2, 4, 6]).tolist() == [1, 2, 3, 4]
    boxes, layers = amg.generate_crop_boxes((100, 80), 1, 0.3)
    assert boxes[0] == [0, 0, 80, 100] and layers == [0, 1, 1, 1, 1]
    assert amg.is_box_near_crop_edge([[0, 30, 30, 45]], [10, 10, 60, 60], [0, 0, 80, 100]).tolist() == [True]
    assert amg.is_box_near_crop_edge([[9, 9, 20, 20]], [10, 10, 60, 60], [0, 0, 80, 100], atol=2).tolist() == [False]
    assert amg.uncrop_boxes_xyxy([[0, 0, 1, 1]], [5, 7, 9, 9]).tolist() == [[5, 7, 6, 8]]
    assert amg.uncrop_points([[1, 1]], [5, 7, 9, 9]).tolist() == [[6, 8]]
    assert amg.uncrop_masks(np.ones((1, 2, 4)), [5, 7, 9, 9], 12, 10).sum() == 8
    assert amg.batched_mask_to_box(np.zeros((2, 4, 4))).tolist() == [[0] * 4] * 2
    assert amg.build_point_grid(n_per_side=2).tolist() == [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]
    grids = amg.build_all_layer_point_grids(n_per_side=4, n_layers=1, scale_per_layer=2)
    assert [len(grid) for grid in grids] == [16, 4]
    assert masks.rle_area(amg.coco_encode_rle(uncompressed_rle=amg.mask_to_rle_pytorch(np.ones((1, 2, 3)))[0])) == 6
    data = amg.MaskData(a=[1, 2, 3], b=np.arange(3))
    data.filter(np.array([True, False, True]))
    data.cat(amg.MaskData(a=[9], b=np.array([9]), c=[1]))
    assert data["a"] == [1, 3, 9] and data["b"].tolist() == [0, 2, 9] and data["c"] == [1]
    with pytest.raises(ValueError, match="same length"):
        next(amg.batch_iterator(2, [1], [1, 2]))
    with pytest.raises(TypeError, match="takes lists and numpy arrays"):
        data["d"] = 3
