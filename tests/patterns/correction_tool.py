"""An editor of tracks: two objects, one corrected on a later frame, tracked both ways, one removed, all forgotten."""

import numpy as np
from sam2.build_sam import build_sam2_video_predictor

predictor = build_sam2_video_predictor(
    CONFIG, CHECKPOINT, DEVICE, "eval", ["++model.add_all_frames_to_correct_as_cond=true"]
)
state = predictor.init_state(FRAMES, offload_video_to_cpu=True, offload_state_to_cpu=True)
state["annotations"] = {}
predictor.add_new_points_or_box(state, 2, 1, points=[POINT], labels=[1])
predictor.add_new_points_or_box(state, frame_idx=2, obj_id=2, box=np.array(BOX, np.float32))
for t, ids, logits in predictor.propagate_in_video(state, start_frame_idx=2, max_frame_num_to_track=3):
    state["annotations"][t] = {i: logits[k, 0].detach().cpu().numpy() > 0 for k, i in enumerate(ids)}
_, ids, logits = predictor.add_new_points_or_box(state, 4, 2, points=np.array([POINT]), labels=np.array([0]))
for t, ids, logits in predictor.propagate_in_video(state, reverse=True):
    state["annotations"].setdefault(t, {})
    for k, i in enumerate(ids):
        state["annotations"][t][i] = np.array(logits[k].squeeze(0).cpu()) > 0
assert sorted(state["annotations"]) == [0, 1, 2, 3, 4, 5]
RESULT["one"] = np.stack([state["annotations"][t][1] for t in range(6)])
left, updated = predictor.remove_object(state, 2)
assert list(left) == [1] and state.get("obj_ids") == [1] and "annotations" in state
predictor.reset_state(state)
assert len(state["obj_ids"]) == 0
