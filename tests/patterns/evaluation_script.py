"""A script of an evaluation: objects from a picture of labels, tracked together, written as palettes, and measured."""

import numpy as np
from sam2.build_sam import build_sam2_video_predictor

predictor = build_sam2_video_predictor(
    config_file=CONFIG, ckpt_path=CHECKPOINT, device=DEVICE, apply_postprocessing=False,
    hydra_overrides_extra=["++model.non_overlap_masks=true"],
)  # fmt: skip
height, width = SIZE
truth = np.zeros((height, width), np.uint8)
truth[height // 6 : height // 2, width // 6 : width // 2] = 1
truth[height // 2 : height - 20, width // 2 : width - 20] = 2

inference_state = predictor.init_state(video_path=FRAMES, async_loading_frames=False)
assert (inference_state["video_height"], inference_state["video_width"]) == (height, width)
for object_id in np.unique(truth)[1:]:
    predictor.add_new_mask(inference_state=inference_state, frame_idx=0, obj_id=int(object_id), mask=truth == object_id)

palettes = []
for _, out_obj_ids, out_mask_logits in predictor.propagate_in_video(inference_state):
    per_obj = {
        obj: (out_mask_logits[i] > 0.0).cpu().numpy().reshape(height, width) for i, obj in enumerate(out_obj_ids)
    }
    palette = np.zeros((height, width), np.uint8)
    for object_id in sorted(per_obj)[::-1]:
        palette[per_obj[object_id]] = object_id
    palettes.append(palette)
RESULT["first"] = np.stack([palettes[0] == 1, palettes[0] == 2])
RESULT["later"] = np.stack([p > 0 for p in palettes[1:4]])
