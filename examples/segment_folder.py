"""Everything in every photo of a folder: a picture of the masks, and a label image (0 for none, 1, 2, ... by mask).

python examples/segment_folder.py [FOLDER [OUTPUT [MODEL]]]
Without arguments: the photos of this folder, with the model in the package.

The command does the same and more: python -m mlx_sam2.segment FOLDER --everything --coco out.json
"""

import sys
from pathlib import Path

from mlx_sam2 import SAM2AutomaticMaskGenerator, images, masks

SUFFIXES = (".jpg", ".jpeg", ".png")
RESULTS = ("_mask", "_overlay")  # of the segment command, which writes them beside photos
SMALL = {"points_per_side": 16, "pred_iou_thresh": 0.6, "stability_score_thresh": 0.8}  # demo's masks are coarser


def main(folder: str = str(Path(__file__).parent), output: str = "segment_folder", model: str = "demo") -> None:
    generator = SAM2AutomaticMaskGenerator.from_pretrained(model, **(SMALL if model == "demo" else {}))
    Path(output).mkdir(exist_ok=True)
    for path in sorted(p for p in Path(folder).iterdir() if p.suffix.lower() in SUFFIXES):
        if path.stem.endswith(RESULTS):
            continue
        image = images.read(path)
        records = generator.generate(image)  # best first
        labels = masks.to_label_image(records) if records else image[..., 0] * 0
        images.write(Path(output) / f"{path.stem}_labels.png", labels, overwrite=True)
        images.write(Path(output) / f"{path.stem}_overlay.png", images.overlay_labels(image, labels), overwrite=True)
        print(f"{path.name}: {len(records)} masks -> {output}/{path.stem}_overlay.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
