"""A loop over frames that come one by one: the mask of each gives the box for the next."""

import numpy as np
from PIL import Image
from sam2.build_sam import build_sam2
from sam2.sam2_image_predictor import SAM2ImagePredictor

predictor = SAM2ImagePredictor(build_sam2(CONFIG, CHECKPOINT, device=DEVICE).to(DEVICE))
box, found = np.array(BOX, dtype=np.float32), []
for name in FRAME_FILES[:4]:
    frame = np.asarray(Image.open(name).convert("RGB"))
    predictor.set_image(frame)
    masks, scores, _ = predictor.predict(box=box[None, :], multimask_output=False)
    mask = masks[0].astype(bool)
    found.append(mask)
    if mask.any():
        ys, xs = np.nonzero(mask)
        box = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], dtype=np.float32)
    predictor.reset_predictor()
RESULT["masks"] = np.stack(found)
