"""The pictures of README and docs, made by the model in the package: docs/images/*.png.

python tools/pictures/make_pictures.py [NAME ...]        (with PyAV; after new weights look at every one of them)
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

import demo_scenes  # noqa: E402
from mlx_sam2 import SAM2AutomaticMaskGenerator, SAM2ImagePredictor, SAM2VideoPredictor, images  # noqa: E402
from mlx_sam2.images.drawing import draw_masks, overlay_labels  # noqa: E402
from mlx_sam2.masks import to_label_image  # noqa: E402
from mlx_sam2.segment import command  # noqa: E402

OUT = ROOT / "docs" / "images"
MOST_BYTES = 300_000
CLICK = "271,119"  # of README's first command


def click() -> np.ndarray:
    """What README's first command draws."""
    path = OUT / ".click.png"
    code = command.main([str(ROOT / "examples/coins.png"), "--point", CLICK, "--model", "demo", "--overlay", str(path)])
    if code:
        raise SystemExit("README's first command failed")
    picture = np.asarray(Image.open(path))
    path.unlink()
    return picture


def coins() -> np.ndarray:
    """A click on each coin; every answer in a colour of its own."""
    photo, truths = demo_scenes.coins()
    predictor = SAM2ImagePredictor.from_pretrained("demo", dtype="float32")
    predictor.set_image(photo)
    labels = np.zeros(photo.shape[:2], np.uint16)
    for n, truth in enumerate(truths, 1):
        y, x = ndimage.center_of_mass(truth)
        masks, scores, _ = predictor.predict([(x, y)], [1])
        labels[masks[scores.argmax()] > 0] = n
    return overlay_labels(photo, labels)


def everything() -> np.ndarray:
    """Automatic masks of two scenes."""
    generator = SAM2AutomaticMaskGenerator.from_pretrained(
        "demo", dtype="float32", points_per_side=16, pred_iou_thresh=0.6, stability_score_thresh=0.8
    )
    shown = []
    for n in (2, 3):
        image, _ = demo_scenes.still(n)
        shown.append(overlay_labels(image, to_label_image(generator.generate(image))))
    return np.hstack(shown)


def track() -> np.ndarray:
    """One click on the first frame of the clip; four of its frames."""
    predictor = SAM2VideoPredictor.from_pretrained("demo", dtype="float32")
    shown = []
    with predictor.init_state(str(ROOT / "examples/clip.mp4")) as state:
        predictor.add_new_points_or_box(state, 0, 1, points=[(65, 105)], labels=[1])
        for t, ids, logits in predictor.propagate_in_video(state):
            if t in (0, 10, 15, 25):
                shown.append(draw_masks(state.source[t], {ids[0]: logits[0, 0] > 0}))
    return np.hstack(shown)


PICTURES: dict[str, Callable[[], np.ndarray]] = {
    "click": click,
    "coins": coins,
    "everything": everything,
    "track": track,
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[*PICTURES, []], metavar="NAME", help=", ".join(PICTURES))
    options = parser.parse_args(argv)
    OUT.mkdir(parents=True, exist_ok=True)
    for name in options.names or PICTURES:
        path = OUT / f"{name}.png"
        images.write(path, PICTURES[name](), overwrite=True)
        size = path.stat().st_size
        print(f"{path.relative_to(ROOT)}: {size:,} bytes")
        if size > MOST_BYTES:
            raise SystemExit(f"{path} is larger than {MOST_BYTES:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
