"""Follow one object through a video with the Python API, and draw it into an overlay video.

python examples/track_clip.py clip.mp4 210,350 tracked.mp4 [MODEL]
"""

from __future__ import annotations

import sys

from mlx_sam2 import SAM2VideoPredictor
from mlx_sam2.video_sinks import OverlaySink


def main(video: str, point: str, output: str, model: str = "tiny") -> None:
    predictor = SAM2VideoPredictor.from_pretrained(model)
    x, y = map(float, point.split(","))
    with predictor.init_state(video) as state, OverlaySink(output, fps=state.source.fps) as overlay:
        # The click is answered at once; show this mask to the user, and add points until it is right.
        _, _, logits = predictor.add_new_points_or_box(state, frame_idx=0, obj_id=1, points=[[x, y]], labels=[1])
        print(f"frame 0: {int((logits[0] > 0).sum())} pixels")

        for t, obj_ids, logits in predictor.propagate_in_video(state):
            masks = {obj_id: mask[0] > 0 for obj_id, mask in zip(obj_ids, logits, strict=True)}
            overlay.write(t, state.source[t], masks, time=state.source.time(t))
    print(f"{t + 1} frames -> {output}")


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5):
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
