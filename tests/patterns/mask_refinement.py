"""From mask to mask: a rough mask becomes a prompt, and its answer the next one."""

import numpy as np
from PIL import Image
from sam2.build_sam import build_sam2
from sam2.sam2_image_predictor import SAM2ImagePredictor
from sam2.utils.amg import calculate_stability_score, mask_to_rle_pytorch, rle_to_mask

predictor = SAM2ImagePredictor(build_sam2(CONFIG, CHECKPOINT, device=DEVICE), mask_threshold=0.0)
image = np.array(Image.open(PHOTO).convert("RGB"))
predictor.set_image(image)
side = predictor._bb_feat_sizes[0][0]
x, y = POINT[0] * side / image.shape[1], POINT[1] * side / image.shape[0]
rows, columns = np.mgrid[:side, :side]
logits = np.where((columns - x) ** 2 + (rows - y) ** 2 < (side / 8) ** 2, 8.0, -8.0).astype(np.float32)[None]
history = []
for _ in range(3):
    masks, scores, logits = predictor.predict(
        point_coords=np.array([POINT]), point_labels=np.array([1]), mask_input=logits, multimask_output=False
    )
    history.append(masks[0] > 0)
RESULT["history"] = np.stack(history)
full, _, _ = predictor.predict(
    point_coords=np.array([POINT]), point_labels=np.array([1]), multimask_output=True, return_logits=True
)
as_input = TENSOR(full)
RESULT["stability"] = np.asarray(calculate_stability_score(as_input, 0.0, 1.0))
rles = mask_to_rle_pytorch(as_input > 0)
assert all((rle_to_mask(rle) == (logit > 0)).all() for rle, logit in zip(rles, full))
