"""Make tests/data/demo: scenes, sprites and grounds for the tests of the demo model, and what the examples look at.

python tests/data/make_demo_scenes.py        (with scikit-image and PyAV)

The examples get coins.png, whose labels are in tests/data/demo, and clip.mp4, a film of these sprites.

The scenes are those of tools/demo_model, from a seed that neither the training nor the evaluation uses. Photographs in
it: skimage.data.coins() (no known copyright restrictions), and crops as textures of those that
tools/demo_model/README.md lists (CC0, public domain).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

DATA = Path(__file__).parent / "demo"
ROOT = DATA.parents[2]
sys.path[:0] = [str(ROOT / "tools" / "demo_model"), str(ROOT / "tests" / "support"), str(ROOT)]

from clips import _as_image  # noqa: E402
from evaluate import classical_coins  # noqa: E402
from pool import EVAL_FIRST, seed_of  # noqa: E402
from scenes import make_background, make_scene, make_sprite  # noqa: E402
from textures import TextureBank  # noqa: E402

SEED = EVAL_FIRST + 77_000
SCENES = (0, 1, 2, 3, 4, 5, 6, 7)
SPRITES = {"blob": 0, "ellipse": 1, "polygon": 2, "rectangle": 3, "star": 4, "composite": 5}  # kind: number of the seed
GROUNDS = (20, 21, 22)
SPRITE_SIDE = 72


def main() -> None:
    DATA.mkdir(exist_ok=True)
    bank = TextureBank(SEED)
    for n, index in enumerate(SCENES):
        scene = make_scene(seed_of(SEED, index), bank)
        Image.fromarray(scene.image).save(DATA / f"scene_{n}.jpg", quality=92, subsampling=0)
        names = np.dstack([scene.ids, scene.parts, np.zeros_like(scene.ids)])
        Image.fromarray(names).save(DATA / f"scene_{n}_names.png", optimize=True)
    for n, (kind, index) in enumerate(SPRITES.items()):
        sprite = _as_image(make_sprite(seed_of(SEED, 1000 + index), bank, SPRITE_SIDE, kind))
        sprite.save(DATA / f"sprite_{n}.png", optimize=True)
    for n, index in enumerate(GROUNDS):
        ground = np.clip(make_background(seed_of(SEED, 2000 + index), bank, 320), 0, 255).astype(np.uint8)
        Image.fromarray(ground).save(DATA / f"ground_{n}.jpg", quality=85)
    photo, truths = classical_coins()
    labels = np.zeros(photo.shape[:2], np.uint8)
    for n, truth in enumerate(truths, 1):
        labels[truth] = n
    Image.fromarray(photo[..., 0]).save(ROOT / "examples" / "coins.png", optimize=True)
    Image.fromarray(labels).save(DATA / "coins_labels.png", optimize=True)
    make_clip(ROOT / "examples" / "clip.mp4")


def make_clip(path: Path) -> None:
    """An object that passes in front of another one; 30 frames."""
    import av

    from demo_scenes import LEFT, MIDDLE, RIGHT, Actor, along, film

    actors = [Actor(2, along(MIDDLE, (132, 134), scale=0.8)), Actor(1, along(LEFT, RIGHT, turn=30))]
    with av.open(str(path), "w") as file:
        stream = file.add_stream("h264", rate=12, options={"crf": "18"})
        stream.width = stream.height = 256
        stream.pix_fmt = "yuv420p"
        for frame in film(1, actors, 30, noise=1.5)[0]:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        file.mux(stream.encode())


if __name__ == "__main__":
    main()
