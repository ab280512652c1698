"""Boxes of a detector, all at once, each mask cleaned up and put into one picture of labels."""

import numpy as np
from PIL import Image
from sam2.build_sam import build_sam2
from sam2.sam2_image_predictor import SAM2ImagePredictor

detections = np.array([BOX, [BOX[0] + 10, BOX[1] + 10, BOX[2], BOX[3]], [5, 5, 60, 50]], dtype=np.float32)
predictor = SAM2ImagePredictor(build_sam2(CONFIG, CHECKPOINT, device=DEVICE))
predictor.model.eval()
predictor.set_image(Image.open(PHOTO).convert("RGB"))
masks, scores, _ = predictor.predict(point_coords=None, point_labels=None, box=detections, multimask_output=False)
if masks.ndim == 4:
    masks = masks.squeeze(1)
assert masks.shape[0] == len(detections)
labels = np.zeros(masks.shape[1:], np.uint8)
for i in np.argsort(scores.reshape(-1)):
    labels[masks[i].astype(bool)] = i + 1
RESULT["masks"], RESULT["scores"], RESULT["any"] = masks > 0, scores.reshape(-1), labels > 0
