"""A backend of a labelling tool: photos are encoded once, their embeddings kept, clicks answered from the cache."""

import numpy as np
from PIL import Image
from sam2.build_sam import build_sam2
from sam2.sam2_image_predictor import SAM2ImagePredictor


class Backend:
    def __init__(self):
        self.predictor = SAM2ImagePredictor(build_sam2(CONFIG, CHECKPOINT, device=DEVICE))
        self.device = self.predictor.device
        self.cache = {}

    def load(self, path):
        if path in self.cache:
            self.predictor._features, self.predictor._orig_hw = self.cache[path]
            self.predictor._is_image_set = True
            return
        self.predictor.set_image(np.array(Image.open(path).convert("RGB")))
        self.cache[path] = (self.predictor._features, self.predictor._orig_hw)

    def predict(self, task):
        self.load(task["image"])
        width, height = task["width"], task["height"]
        points, labels, box = [], [], None
        for item in task["context"]:
            x, y = item["x"] * width / 100.0, item["y"] * height / 100.0
            if item["type"] == "keypointlabels":
                points.append([int(x), int(y)])
                labels.append(int(item["positive"]))
            else:
                box = [x, y, x + item["width"] * width / 100.0, y + item["height"] * height / 100.0]
        masks, probs, _ = self.predictor.predict(
            point_coords=np.array(points, dtype=np.float32) if points else None,
            point_labels=np.array(labels, dtype=np.float32) if labels else None,
            box=np.array(box) if box else None,
            multimask_output=True,
        )
        best = np.argsort(probs)[::-1][0]
        return {"mask": masks[best].astype(np.uint8), "score": float(probs[best])}


width, height = Image.open(PHOTO).size
click = {"type": "keypointlabels", "x": 100 * POINT[0] / width, "y": 100 * POINT[1] / height, "positive": 1}
frame = {"type": "rectanglelabels", "x": 10, "y": 10, "width": 50, "height": 40}
backend = Backend()
assert str(backend.device).split(":")[0] in ("cpu", "mps", "cuda")
task = {"image": PHOTO, "width": width, "height": height}
first = backend.predict({**task, "context": [click]})
backend.predict({"image": OTHER, "width": 40, "height": 30, "context": [frame]})
again = backend.predict({**task, "context": [click]})
assert (first["mask"] == again["mask"]).all() and len(backend.cache) == 2
RESULT["mask"] = first["mask"] > 0
RESULT["box"] = backend.predict({**task, "context": [frame, {**click, "positive": 0}]})["mask"] > 0
