"""Follow one object through a video with the Python API, and draw it into an overlay video.

python examples/track_clip.py [VIDEO X,Y OVERLAY.mp4 [MODEL]]
Without arguments: clip.mp4 of this folder, with the model in the package.
"""

from __future__ import annotations

import sys
from pathlib import Path

from mlx_sam2 import SAM2VideoPredictor
from mlx_sam2.frames.films import OverlaySink

CLIP = str(Path(__file__).with_name("clip.mp4"))


def main(video: str = CLIP, point: str = "65,105", output: str = "track_clip.mp4", model: str = "demo") -> None:
    predictor = SAM2VideoPredictor.from_pretrained(model)
    x, y = map(float, point.split(","))
    with (
        predictor.init_state(video) as state,
        OverlaySink(output, True, fps=state.source.fps, display=state.source.display) as overlay,
    ):
        # The click is answered at once; show this mask to the user, and add points until it is right.
        _, _, logits = predictor.add_new_points_or_box(state, frame_idx=0, obj_id=1, points=[[x, y]], labels=[1])
        print(f"frame 0: {int((logits[0] > 0).sum())} pixels")

        for t, obj_ids, logits in predictor.propagate_in_video(state):
            masks = {obj_id: mask[0] > 0 for obj_id, mask in zip(obj_ids, logits, strict=True)}
            overlay.write(t, state.source[t], masks, time=state.source.time(t))
    print(f"{t + 1} frames -> {output}")


if __name__ == "__main__":
    if len(sys.argv) not in (1, 4, 5):
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
