"""Several photos in one call, the size of the model printed, its weights looked at."""

import numpy as np
from PIL import Image
from sam2.build_sam import build_sam2
from sam2.sam2_image_predictor import SAM2ImagePredictor

model = build_sam2(CONFIG, CHECKPOINT, device=DEVICE)
total = sum(p.numel() for p in model.parameters())
names = list(model.state_dict().keys())
assert total > 1e6 and any(name.startswith("image_encoder.trunk") for name in names)
predictor = SAM2ImagePredictor(model)
photos = [np.array(Image.open(path).convert("RGB")) for path in (PHOTO, OTHER)]
predictor.set_image_batch(photos)
points = [np.array([[POINT]]), np.array([[[20, 15]], [[5, 5]]])]
masks_batch, scores_batch, logits_batch = predictor.predict_batch(
    points, [np.array([[1]]), np.array([[1], [1]])], box_batch=None, multimask_output=True
)
best = [masks.reshape(-1, *masks.shape[-2:])[np.argmax(scores)] for masks, scores in zip(masks_batch, scores_batch)]
RESULT["first"], RESULT["second"] = best[0] > 0, best[1] > 0
assert masks_batch[1].shape[:2] == (2, 3) and len(logits_batch) == 2
