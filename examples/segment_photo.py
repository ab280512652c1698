"""Click on a photo, and correct the mask with a second click.

python examples/segment_photo.py [PHOTO X Y [MODEL]]
Without arguments: one of the coins of this folder, with the model in the package.
"""

import sys
from pathlib import Path

from mlx_sam2 import SAM2ImagePredictor, images

COINS = str(Path(__file__).with_name("coins.png"))


def main(photo: str = COINS, x: str = "271", y: str = "119", model: str = "demo") -> None:
    image = images.read(photo)
    point = (float(x), float(y))

    predictor = SAM2ImagePredictor.from_pretrained(model)
    predictor.set_image(image)  # the slow part, once a photo
    masks, scores, low_res = predictor.predict(point_coords=[point], point_labels=[1])  # three masks

    # A second click corrects the best one: pass its logits on.
    best = scores.argmax()
    corner = (0, 0)
    masks, scores, _ = predictor.predict(
        point_coords=[point, corner],
        point_labels=[1, 0],  # on the object, not on the object
        mask_input=low_res[best : best + 1],
        multimask_output=False,
    )
    picture = images.overlay(image, masks[0], [point, corner], [1, 0])
    images.write("segment_photo_overlay.png", picture, overwrite=True)
    print(f"score {scores[0]:.3f}, {int(masks[0].sum())} pixels -> segment_photo_overlay.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
