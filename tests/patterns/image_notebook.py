"""A notebook on one photo: a click, the best of three masks with a second click, a box with an excluded point."""

import numpy as np
from PIL import Image
from sam2.build_sam import build_sam2
from sam2.sam2_image_predictor import SAM2ImagePredictor

image = np.array(Image.open(PHOTO).convert("RGB"))
model = build_sam2(CONFIG, CHECKPOINT, device=DEVICE)
predictor = SAM2ImagePredictor(model)
predictor.set_image(image)
print(predictor._features["image_embed"].shape, predictor._features["image_embed"][-1].shape)

masks, scores, logits = predictor.predict(
    point_coords=np.array([POINT]), point_labels=np.array([1]), multimask_output=True
)
order = np.argsort(scores)[::-1]
masks, scores, logits = masks[order], scores[order], logits[order]
RESULT["click"], RESULT["scores"] = masks[0].astype(bool), scores

second, _, _ = predictor.predict(
    point_coords=np.array([POINT, [POINT[0] + 6, POINT[1]]]),
    point_labels=np.array([1, 1]),
    mask_input=logits[0, :, :][None, :, :],
    multimask_output=False,
)
RESULT["second"] = second[0] > 0
boxed, score, _ = predictor.predict(
    point_coords=np.array([[2, 2]]), point_labels=np.array([0]), box=np.array(BOX), multimask_output=False
)
RESULT["box"] = boxed.squeeze() > 0
