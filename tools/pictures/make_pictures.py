"""The pictures of README and docs, made by the model in the package: docs/images/*.png.

python tools/pictures/make_pictures.py [NAME ...]        (with PyAV; after new weights look at every one of them)
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

import demo_scenes  # noqa: E402
from mlx_sam2 import SAM2AutomaticMaskGenerator, SAM2ImagePredictor, SAM2VideoPredictor, images  # noqa: E402
from mlx_sam2.images.backgrounds import checkerboard, composed  # noqa: E402
from mlx_sam2.images.drawing import draw_masks, overlay_labels  # noqa: E402
from mlx_sam2.images.matte import Edges, alpha, decontaminated  # noqa: E402
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


def shape(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """A photo (360, 360, 3) uint8 of a made-up object with hair, corners or holes, and its true alpha in 0..1."""
    side, scale = 360, 4
    rng = np.random.default_rng(0)
    drawn = Image.new("L", (side * scale, side * scale))
    draw = ImageDraw.Draw(drawn)
    if kind == "hair":
        draw.ellipse([scale * c for c in (90, 110, 270, 290)], fill=255)
        for angle in rng.uniform(np.pi, 2 * np.pi, 220):
            bent, reach = angle + rng.uniform(-0.15, 0.15), rng.uniform(95, 111)
            ends = [(180 + r * np.cos(a), 200 + r * np.sin(a)) for r, a in ((85, angle), (reach, bent))]
            draw.line([scale * c for end in ends for c in end], fill=255, width=int(rng.integers(4, 8)))
    elif kind == "hard":
        draw.polygon([(scale * x, scale * y) for x, y in ((70, 290), (180, 50), (295, 255))], fill=255)
    else:
        for box, value in (((60, 60, 300, 300), 255), ((130, 130, 230, 230), 0)):
            draw.ellipse([scale * c for c in box], fill=value)
    truth = np.asarray(drawn.resize((side, side), Image.Resampling.BOX), np.float32) / 255
    y, x = np.mgrid[:side, :side]
    ground = np.stack([60 + x / 6, 150 + y / 6, np.full_like(x, 200)], axis=2) + rng.normal(0, 1, (side, side, 3))
    own = np.stack([150 + 50 * np.sin(x / 9), 60 + 0 * x, 40 + 0 * y], axis=2) + rng.normal(0, 1, (side, side, 3))
    mixed = truth[..., None] * own + (1 - truth[..., None]) * ground
    return np.clip(mixed, 0, 255).round().astype(np.uint8), truth


def edges() -> np.ndarray:
    """Hair, corners and holes: the photo, the mask, and the matte with clean colours over a checkerboard."""
    predictor = SAM2ImagePredictor.from_pretrained("demo", dtype="float32")
    rows = []
    for kind in ("hair", "hard", "holes"):
        photo, truth = shape(kind)
        predictor.set_image(photo)
        y, x = np.nonzero(truth)
        box = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1])
        found, _, low_res = predictor.predict(box=box, multimask_output=False, return_logits=True)
        board = checkerboard(*truth.shape)
        soft = alpha(found[0], photo, Edges("guided", width=2, fill_holes=200), cells=low_res.shape[-1])
        hard = alpha(found[0], photo, Edges())
        clean = decontaminated(photo, soft)
        pair = [composed(photo, hard, board), composed(clean, soft, board)]
        rows.append(np.hstack([photo, *pair])[30:320])
    picture = Image.fromarray(np.vstack(rows)).quantize(192, dither=Image.Dither.NONE)
    return np.asarray(picture.convert("RGB"))


PICTURES: dict[str, Callable[[], np.ndarray]] = {
    "click": click,
    "coins": coins,
    "everything": everything,
    "track": track,
    "edges": edges,
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
