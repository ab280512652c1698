"""Everything in a photo, sorted by area and painted, as the notebook of the generator does."""

import numpy as np
from PIL import Image
from sam2.automatic_mask_generator import SAM2AutomaticMaskGenerator
from sam2.build_sam import build_sam2

image = np.array(Image.open(PHOTO).convert("RGB"))
model = build_sam2(CONFIG, CHECKPOINT, device=DEVICE, apply_postprocessing=False)
mask_generator = SAM2AutomaticMaskGenerator(
    model=model, points_per_side=6, points_per_batch=16, pred_iou_thresh=0.3, stability_score_thresh=0.3,
    stability_score_offset=0.7, crop_n_layers=0, box_nms_thresh=0.7, min_mask_region_area=25.0, use_m2m=True,
)  # fmt: skip
anns = sorted(mask_generator.generate(image), key=lambda ann: ann["area"], reverse=True)
painted = np.zeros(image.shape[:2], np.int32)
for i, ann in enumerate(anns):
    painted[ann["segmentation"]] = i + 1
    x, y, w, h = ann["bbox"]
    assert ann["area"] == ann["segmentation"].sum() and w >= 0 and h >= 0
RESULT["count"], RESULT["covered"] = np.array([len(anns)]), painted > 0
