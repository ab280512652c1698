"""The sides of a comparison that run on MLX: this package and mlx-sam 0.3.0.

mlx_sam2 is imported before mlx on both sides: on Linux that lets MLX multiply with the machine's BLAS.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import mlx_sam2  # isort: skip  # before mlx
import mlx.core as mx
from mlx.utils import tree_map

from mlx_sam2.benchmark import stages
from mlx_sam2.machine import loaded_blas
from mlx_sam2.model.results import ImageFeatures
from mlx_sam2.video.tracker import Tracker
from sides import APART, CLICK, ENCODE, NOW, OBJECTS, TOGETHER, TRACK, Graph, Run, Side, version_of


def _side(versions: dict[str, str], makers: dict[str, Callable[[], Run]], graphs: dict[str, Any]) -> Side:
    blas = os.path.basename(loaded_blas() or "MLX's own") if sys.platform.startswith("linux") else "the system's"
    about = {"mlx": mx.__version__, "device": str(mx.default_device()), "blas": blas, **versions}

    def peak_mb() -> float:  # MLX's is 0 after a reset until something is allocated
        return max(mx.get_peak_memory(), mx.get_active_memory()) / 1e6

    return Side(about, makers, mx.reset_peak_memory, peak_mb, graphs)


def ours(spec: dict[str, Any]) -> Side:
    """This package."""
    model = stages.build_model(spec["size"], spec["model"], spec["dtype"])
    size = model.config.image_size

    def pixels() -> mx.array:
        return mx.random.normal((1, size, size, 3)).astype(model.dtype)

    def encoded() -> ImageFeatures:
        features = model.encode_image(pixels())
        mx.eval(features.arrays())
        return features

    def encode() -> Run:
        image = pixels()
        mx.eval(image)
        return lambda: mx.eval(model.encode_image(image).arrays())

    def click() -> Run:
        features = encoded()
        points, labels = mx.full((1, 1, 2), size / 2), mx.ones((1, 1), mx.int32)
        return lambda: mx.eval(model.predict_masks(features, points, labels))

    def track(count: int, together: bool) -> Run:
        tracker, features = Tracker(model, fill_hole_area=0), encoded()
        tracks = [stages.full_track(model, NOW, seed) for seed in range(count)]
        batches = [tracks] if together else [[one] for one in tracks]
        return lambda: [tracker.track(features, b, NOW, reverse=False, num_frames=2 * NOW) for b in batches]

    makers = {
        ENCODE: encode,
        CLICK: click,
        TRACK: lambda: track(1, together=True),
        TOGETHER: lambda: track(OBJECTS, together=True),
        APART: lambda: track(OBJECTS, together=False),
    }
    return _side({"mlx_sam2": mlx_sam2.__version__}, makers, stages.modelled_graphs(model))


def mlx_sam(spec: dict[str, Any]) -> Side:
    """mlx-sam 0.3.0. It gets halves where it would promote features of a model in half precision to float32."""
    peer = _MlxSam(spec)
    makers = {ENCODE: peer.encode, CLICK: peer.click, TRACK: peer.track}
    graphs = {ENCODE: peer.encode_graph, CLICK: peer.click_graph, TRACK: peer.frame_graph}
    return _side({"mlx_sam": version_of("mlx-sam")}, makers, graphs)


class _MlxSam:
    """mlx-sam's segmenter with random weights, called as its own video predictor calls it."""

    def __init__(self, spec: dict[str, Any]) -> None:
        from mlx_sam.config import FpnConfig, HieraConfig, Sam2ImageEncoderConfig
        from mlx_sam.models.segmenter import Sam2ImageSegmenter

        self.config = spec["config"]
        trunk, neck, self.size = self.config["trunk"], self.config["neck"], self.config["image_size"]
        names = ("embed_dim", "num_heads", "stages", "global_att_blocks", "window_spec", "q_pool", "mlp_ratio")
        widths, levels = (tuple(neck[n]) for n in ("backbone_channel_list", "fpn_top_down_levels"))
        hiera = HieraConfig(
            image_size=self.size,
            pos_embed_hw=(self.size // 4, self.size // 4),
            **{n: tuple(v) if isinstance(v := trunk[n], list) else v for n in names},
        )
        fpn = FpnConfig(d_model=neck["d_model"], backbone_channel_list=widths, fpn_top_down_levels=levels)
        self.model = Sam2ImageSegmenter(Sam2ImageEncoderConfig(hiera=hiera, fpn=fpn))
        self.model.set_image_size(self.size)
        self.dtype = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}[spec["dtype"]]
        self.model.update(tree_map(lambda w: w.astype(self.dtype), self.model.parameters()))
        mx.eval(self.model.parameters())
        self.model.eval()
        self.model.memory_attention_dtype = None if self.dtype == mx.float32 else spec["dtype"]
        self.width, self.side = neck["d_model"], self.size // 16

    # ---- what is timed

    def encode(self) -> Run:
        image = self._pixels()
        mx.eval(image)
        return lambda: mx.eval(self._encoding(image))

    def click(self) -> Run:
        out = self.model.encode_image(self._pixels())
        points, labels = mx.full((1, 1, 2), self.size / 2), mx.ones((1, 1), mx.int32)
        mx.eval(out)

        def run() -> None:
            found = self.model.predict_from_encoded(out, points, labels, multimask_output=True)
            mx.eval(found["low_res_masks"], found["ious"])

        return run

    def track(self) -> Run:
        run, features = self._frame(), [f.astype(self.dtype) for f in self._encoding(self._pixels())]
        mx.eval(features)
        return lambda: mx.eval(run(*features))

    # ---- graphs. Each function runs once before it is traced: that fills its caches of encodings, which tracing cannot

    def encode_graph(self) -> Graph:
        image = self._pixels()
        self._encoding(image)
        return self._encoding, (image,)

    def click_graph(self) -> Graph:
        _, (features, *high_res) = self.frame_graph()
        image = {"vision_features": features, "high_res_features": high_res}
        labels = mx.ones((1, 1), mx.int32)

        def run(points: mx.array) -> tuple[mx.array, ...]:
            found = self.model.predict_from_encoded(image, points, labels, multimask_output=True)
            return found["low_res_masks"], found["ious"]

        points = mx.full((1, 1, 2), self.size / 2)
        run(points)
        return run, (points,)

    def frame_graph(self) -> Graph:
        shapes = ((self.width, self.side), (self.width // 8, 4 * self.side), (self.width // 4, 2 * self.side))
        examples = tuple(mx.zeros((1, c, n, n), self.dtype) for c, n in shapes)
        mx.eval(examples)
        run = self._frame()
        run(*examples)
        return run, examples

    # ---- their parts

    def _pixels(self) -> mx.array:
        return mx.random.normal((1, 3, self.size, self.size)).astype(self.dtype)

    def _encoding(self, pixels: mx.array) -> tuple[mx.array, ...]:
        out = self.model.encode_image(pixels)
        return out["vision_features"], *out["high_res_features"]

    def _memory(self, frame: int) -> dict[str, Any]:
        shape = (1, self.config["memory_encoder"]["out_dim"], self.side, self.side)
        features = mx.random.normal(shape).astype(self.dtype)
        position = self.model.memory_encoder.position_encoding(features)
        pointer = mx.random.normal((1, self.width)).astype(self.dtype)
        mx.eval(features, position, pointer)
        return {"maskmem_features": features, "maskmem_pos_enc": position, "obj_ptr": pointer, "frame_idx": frame}

    def _frame(self) -> Callable[..., tuple[mx.array, ...]]:
        """A tracked frame with a full memory bank, as a function of the frame's features."""
        model, first = self.model, NOW - self.config["max_obj_ptrs_in_encoder"]
        prompted, tracked = [self._memory(first)], [self._memory(t) for t in range(first + 1, NOW)]
        grids = [mx.zeros((1, self.width, n * self.side, n * self.side), self.dtype) for n in (4, 2, 1)]
        positions = [model.neck.position_encoding(grid) for grid in grids]
        mx.eval(positions)

        def run(features: mx.array, *high_res: mx.array) -> tuple[mx.array, ...]:
            image = {"vision_features": features, "vision_pos_enc": positions, "high_res_features": list(high_res)}
            attended = model.condition_with_memories(image, tracked, cond_memories=prompted, current_frame_idx=NOW)
            image["vision_features"] = attended
            # one mask, without the no-memory embedding: as its own video predictor asks
            found = model.predict_from_encoded(image, None, None, multimask_output=False, add_no_mem_embed=False)
            mask, score = found["low_res_masks"], found["object_score_logits"]
            return mask, found["obj_ptr"], score, model.encode_memory(features, mask, score)["vision_features"]

        return run
