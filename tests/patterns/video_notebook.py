"""A notebook on a video: click, look, click again, propagate, keep the masks of each frame as numpy has them."""

import numpy as np
from sam2.build_sam import build_sam2_video_predictor

predictor = build_sam2_video_predictor(CONFIG, CHECKPOINT, device=DEVICE)
inference_state = predictor.init_state(video_path=FRAMES)
predictor.reset_state(inference_state)

points = np.array([POINT], dtype=np.float32)
labels = np.array([1], np.int32)
_, out_obj_ids, out_mask_logits = predictor.add_new_points_or_box(
    inference_state=inference_state, frame_idx=0, obj_id=1, points=points, labels=labels
)
RESULT["first"] = (out_mask_logits[0] > 0.0).cpu().numpy()

points = np.array([POINT, [POINT[0] + 4, POINT[1] + 2]], dtype=np.float32)
_, out_obj_ids, out_mask_logits = predictor.add_new_points_or_box(
    inference_state=inference_state, frame_idx=0, obj_id=1, points=points, labels=np.array([1, 1], np.int32)
)
assert list(out_obj_ids) == [1] and 1 in inference_state["obj_ids"]

video_segments = {}
for out_frame_idx, out_obj_ids, out_mask_logits in predictor.propagate_in_video(inference_state):
    video_segments[out_frame_idx] = {
        out_obj_id: (out_mask_logits[i] > 0.0).cpu().numpy() for i, out_obj_id in enumerate(out_obj_ids)
    }
assert len(video_segments) == inference_state["num_frames"]
RESULT["tracked"] = np.stack([video_segments[t][1].squeeze(0) for t in sorted(video_segments)])
