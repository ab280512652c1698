"""The official video predictor and ours behind one interface, so that a script can drive both.

A script is a list of operations, ``("points", frame, obj_id, {arguments})`` and so on (``Run.do``). ``keys`` and
``results`` show the two states in the same terms, ``Comparison`` runs a script on both and compares them.
"""

from __future__ import annotations

import contextlib
import types
from collections import Counter
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
from PIL import Image

import synthetic
from mlx_sam2.config.sam2 import SAM2Config
from mlx_sam2.sam2_video_predictor import SAM2VideoPredictor
from official import hydra_utils, omegaconf, torch

OFFICIAL = "sam2.sam2_video_predictor"
PREDICTOR_OPTIONS = ("fill_hole_area", "non_overlap_masks", "add_all_frames_to_correct_as_cond")
SCORE_BIAS = "sam_mask_decoder.pred_obj_score_head.layers.2.bias"
BIASES = {("nano", 1): -12.0, ("nano", 5): -5.0, ("nano20", 3): 6.0}  # so that object scores take both signs

Op = tuple[Any, ...]
Output = tuple[int, list[Any], np.ndarray | None]


class Result(NamedTuple):
    """What is kept of one object on one frame."""

    low_res: np.ndarray  # (4h, 4w)
    score: float
    pointer: np.ndarray  # (C,)
    memory: np.ndarray | None  # (h, w, M) float32


class _Namespace(types.SimpleNamespace):
    """A module with some names replaced."""

    def __init__(self, module: Any, **names: Any) -> None:
        super().__init__(**names)
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


@contextlib.contextmanager
def float32_memories() -> Iterator[None]:
    """Neither side rounds memories to bfloat16: what then differs by more than 1e-3 is a difference in the method.

    Ours has to keep its results in RAM, because the file stores 16 bits.
    """
    import sam2.sam2_video_predictor as official

    from mlx_sam2.model import sam2 as ours

    official.torch, ours.mx = _Namespace(torch, bfloat16=torch.float32), _Namespace(mx, bfloat16=mx.float32)
    try:
        yield
    finally:
        official.torch, ours.mx = torch, mx


def write_scene(folder: Path, count: int, height: int, width: int, seed: int) -> Path:
    """A folder of JPEGs: a camera that pans over a picture, in front of it a disc that comes and goes."""
    draw = np.random.RandomState(seed)
    wide = synthetic.picture(height + 40, width + 40, seed)
    y, x = np.mgrid[:height, :width]
    colour, radius = draw.randint(0, 256, 3), max(min(height, width) // 6, 2)
    path = draw.randint(0, 41, (2, 2)), draw.randint(-radius, width + radius, 2), draw.randint(0, height, 2)
    folder.mkdir(parents=True)
    for i in range(count):
        t = i / max(count - 1, 1)
        top, left = (path[0][0] * (1 - t) + path[0][1] * t).astype(int)
        frame = wide[top : top + height, left : left + width].copy()
        cx, cy = (p[0] * (1 - t) + p[1] * t for p in path[1:])
        frame[(x - cx) ** 2 + (y - cy) ** 2 < radius**2] = colour
        Image.fromarray(frame).save(folder / f"{i:05d}.jpg", quality=92)
    return folder


# ---------------------------------------------------------------------------------------------- the two sides


class Run:
    """One side of a comparison: ``do`` runs an operation of a script."""

    def __init__(self, predictor: Any, state: Any) -> None:
        self.predictor, self.state = predictor, state
        self._generator: Iterator[Any] | None = None

    def do(self, op: Op) -> Iterator[Output]:
        name, *rest = op
        p, s = self.predictor, self.state
        if name == "points":
            frame, obj, given = rest
            yield self._output(p.add_new_points_or_box(s, frame, obj, **given))
        elif name == "mask":
            yield self._output(p.add_new_mask(s, *rest))
        elif name == "clear":
            yield self._output(p.clear_all_prompts_in_frame(s, *rest))
        elif name == "remove":
            ids, updates = p.remove_object(s, *rest)
            yield -1, list(ids), None
            for frame, masks in sorted(updates, key=lambda update: update[0]):  # official: in the order of a set
                yield self._output((frame, ids, masks))
        elif name == "reset":
            p.reset_state(s)
        elif name == "preflight":
            p.propagate_in_video_preflight(s)
        elif name == "propagate":  # start, max, reverse, how many frames to take before something else happens
            *given, take = rest
            self._generator = p.propagate_in_video(s, *given)
            yield from self._take(take)
        elif name == "resume":
            yield from self._take(None)
        else:
            raise AssertionError(f"no operation is called {name!r}")

    def _take(self, count: int | None) -> Iterator[Output]:
        for i, output in enumerate(self._generator):
            yield self._output(output)
            if i + 1 == count:
                return

    def _output(self, output: Any) -> Output:
        frame, ids, masks = output
        return frame, list(ids), np.array(masks)


class OfficialRun(Run):
    """The official code.

    ``jitter`` adds noise of that size to the normalised frames, and tenfold to masks before they are encoded. It
    changes the predictor, which must not serve another run then.
    """

    def __init__(self, predictor: Any, folder: Path, jitter: float = 0.0) -> None:
        state = predictor.init_state(str(folder))
        if jitter:
            images = state["images"]
            generator = torch.Generator().manual_seed(0)
            state["images"] = images + jitter * torch.randn(images.shape, generator=generator)
            state["cached_features"] = {}
            encode = predictor._encode_new_memory

            def encode_jittered(**given: Any) -> Any:
                masks = given["pred_masks_high_res"]
                noise = 10 * jitter * torch.randn(masks.shape, generator=generator)
                return encode(**given | {"pred_masks_high_res": masks + noise})

            predictor._encode_new_memory = encode_jittered
        super().__init__(predictor, state)

    def keys(self) -> dict[Any, Any]:
        """What is stored of every object, and in which order; the order of tracked frames never matters."""
        s, found = self.state, {}
        for obj, i in s["obj_id_to_idx"].items():
            done, pending = s["output_dict_per_obj"][i], s["temp_output_dict_per_obj"][i]
            found[obj] = {
                "conditioning": list(done["cond_frame_outputs"]),
                "tracked": sorted(done["non_cond_frame_outputs"]),
                "pending": list(pending["cond_frame_outputs"]),
                "pending_tracked": list(pending["non_cond_frame_outputs"]),
                "directions": {t: d["reverse"] for t, d in s["frames_tracked_per_obj"][i].items()},
                "prompts": sorted([*s["point_inputs_per_obj"][i], *s["mask_inputs_per_obj"][i]]),
            }
        return found

    def results(self, obj: Any, frame: int) -> dict[str, Result]:
        s = self.state
        i = s["obj_id_to_idx"][obj]
        done, pending = s["output_dict_per_obj"][i], s["temp_output_dict_per_obj"][i]
        stores = {
            "conditioning": done["cond_frame_outputs"],
            "tracked": done["non_cond_frame_outputs"],
            "pending": pending["cond_frame_outputs"],
            "pending_tracked": pending["non_cond_frame_outputs"],
        }
        return {name: self._result(store[frame]) for name, store in stores.items() if frame in store}

    def _result(self, out: dict[str, Any]) -> Result:
        memory = out["maskmem_features"]
        return Result(
            out["pred_masks"][0, 0].numpy(),
            float(out["object_score_logits"]),
            out["obj_ptr"][0].numpy(),
            None if memory is None else memory[0].permute(1, 2, 0).float().numpy(),
        )


class OurRun(Run):
    def __init__(self, predictor: SAM2VideoPredictor, folder: Path, memory: str = "disk") -> None:
        super().__init__(predictor, predictor.init_state(folder, memory=memory))

    def keys(self) -> dict[Any, Any]:
        return {
            obj: {
                "conditioning": list(track.conditioning),
                "tracked": sorted(track.tracked),
                "pending": list(track.pending),
                "pending_tracked": list(track.pending_tracked),
                "directions": dict(track.directions),
                "prompts": sorted(track.prompts),
            }
            for obj, track in self.state.tracks.items()
        }

    def results(self, obj: Any, frame: int) -> dict[str, Result]:
        track = self.state.tracks[obj]
        names = ("conditioning", "tracked", "pending", "pending_tracked")
        return {name: self._result(getattr(track, name)[frame]) for name in names if frame in getattr(track, name)}

    def _result(self, result: Any) -> Result:
        memory = None if result.features is None else np.array(result.features.astype(mx.float32))
        return Result(result.low_res_mask, result.object_score, np.array(result.pointer), memory)


# ---------------------------------------------------------------------------------------------- models


def video_pair(name: str, seed: int, post: bool = True, **options: Any) -> tuple[Any, SAM2VideoPredictor]:
    """The official predictor and ours on the same weights; ``options`` are the official constructor's."""
    config = synthetic.config_dict(name)["model"]
    config = {**config, **{k: v for k, v in options.items() if k not in PREDICTOR_OPTIONS}}
    predictor_options = {k: options[k] for k in PREDICTOR_OPTIONS if k in options}
    official = deepcopy(config) | {"_target_": f"{OFFICIAL}.SAM2VideoPredictor", **predictor_options}
    del official["sam_mask_decoder_extra_args"]
    if post:  # what build_sam2_video_predictor adds
        official["sam_mask_decoder_extra_args"] = {
            "dynamic_multimask_via_stability": True,
            "dynamic_multimask_stability_delta": 0.05,
            "dynamic_multimask_stability_thresh": 0.98,
        }
        official["binarize_mask_from_pts_for_mem_enc"] = True
        official.setdefault("fill_hole_area", 8)
        predictor_options.setdefault("fill_hole_area", 8)
    model = hydra_utils.instantiate(omegaconf.OmegaConf.create(official), _recursive_=True)
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    state = _state(shapes, name, seed)
    model.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()}, strict=True)
    attend = model.memory_attention.forward  # without pointers the official code would fail on bfloat16
    model.memory_attention.forward = lambda **given: attend(**given | {"memory": given["memory"].float()})
    ours = SAM2Config.from_dict({"model": config}).with_postprocessing(post, video=True)
    return model.eval(), SAM2VideoPredictor(synthetic.build_model(ours, state), **predictor_options)


def _state(shapes: dict[str, tuple[int, ...]], name: str, seed: int) -> dict[str, np.ndarray]:
    overrides = {**synthetic.NANO_OVERRIDES, SCORE_BIAS: {"add": BIASES.get((name, seed), 0.0)}}
    return synthetic.make_state(shapes, seed, overrides)


# ---------------------------------------------------------------------------------------------- comparing


class Tolerance(NamedTuple):
    """(absolute, relative), and the share of logits that may lie outside."""

    logits: tuple[float, float]
    score: tuple[float, float]
    pointer: tuple[float, float]
    memory: tuple[float, float]
    outliers: float


EXACT = Tolerance((2e-3, 2e-4), (1e-3, 1e-4), (2e-4, 1e-4), (3e-3, 1e-3), 0.0)
ROUNDED = Tolerance((6e-2, 5e-3), (3e-2, 5e-3), (1e-2, 5e-3), (4e-2, 1e-2), 2e-3)  # golden/README.md


class Mismatch(AssertionError):
    """The two sides differ at an operation of the script."""

    def __init__(self, step: int, message: str) -> None:
        super().__init__(f"step {step}: {message}")
        self.step = step


class Comparison:
    """Drives two runs with one script, the official one first."""

    def __init__(self, tolerance: Tolerance) -> None:
        self.tolerance = tolerance
        self.worst: Counter[str] = Counter()
        self.records = 0

    def run(self, official: Run, ours: Run, ops: list[Op]) -> str:
        """Why it ended; Mismatch where the two differ."""
        for step, op in enumerate(ops):
            end = self._step(official, ours, step, op)
            if end is not None:
                return end
        return "completed"

    def _step(self, official: Run, ours: Run, step: int, op: Op) -> str | None:
        lost = _loses_mask(official, op)
        expected, error = _collect(official, op)
        found, our_error = _collect(ours, op)
        if isinstance(error, AssertionError) or lost:
            # nothing left to attend to, or a mask that propagation will not find: ours treats it as a first look
            if our_error is not None or not np.isfinite(found[-1][2]).all():
                raise Mismatch(step, f"official {error!r}, ours {our_error!r}")
            return "no conditioning frame left"
        if type(error) is not type(our_error):
            raise Mismatch(step, f"official {error!r}, ours {our_error!r}")
        if any(_scores_nan(official, output) for output in expected):  # a video of one frame: its time is 0 / 0
            if not all(np.isfinite(masks).all() for *_, masks in found if masks is not None):
                raise Mismatch(step, "neither is finite")
            return "official not finite"
        if len(expected) != len(found):
            raise Mismatch(step, f"{len(expected)} outputs, ours {len(found)}")
        for theirs, mine in zip(expected, found, strict=True):
            self._output(official, ours, step, theirs, mine)
        if official.keys() != ours.keys():
            if error is not None:  # ours has left its state as it was
                return f"both {type(error).__name__}, then apart"
            raise Mismatch(step, f"states differ: official {official.keys()}, ours {ours.keys()}")
        return None

    def _output(self, official: Run, ours: Run, step: int, theirs: Output, mine: Output) -> None:
        if theirs[:2] != mine[:2] or (theirs[2] is None) != (mine[2] is None):
            raise Mismatch(step, f"official frame and objects {theirs[:2]}, ours {mine[:2]}")
        frame, objects, masks = theirs
        if masks is None:
            return
        self._close(step, f"masks of frame {frame}", "logits", masks, mine[2])
        for obj in objects:
            expected, found = official.results(obj, frame), ours.results(obj, frame)
            for store, result in expected.items():
                self.records += 1
                self._result(step, f"{store} {obj!r} on {frame}", result, found[store])

    def _result(self, step: int, where: str, theirs: Result, mine: Result) -> None:
        self._close(step, f"{where} low_res", "logits", theirs.low_res, mine.low_res)
        self._close(step, f"{where} score", "score", np.array(theirs.score), np.array(mine.score))
        if (theirs.score > 0) != (mine.score > 0):
            raise Mismatch(step, f"{where}: score {theirs.score}, ours {mine.score}")
        self._close(step, f"{where} pointer", "pointer", theirs.pointer, mine.pointer)
        if mine.memory is not None:  # with num_maskmem=0 the official code encodes prompted frames, and uses none
            self._close(step, f"{where} memory", "memory", theirs.memory, mine.memory)

    def _close(self, step: int, where: str, kind: str, theirs: np.ndarray, mine: np.ndarray) -> None:
        if theirs.shape != mine.shape:
            raise Mismatch(step, f"{where}: {theirs.shape}, ours {mine.shape}")
        absolute, relative = getattr(self.tolerance, kind)
        difference = np.abs(theirs.astype(np.float64) - mine)
        if not difference.size:
            return
        outside = (difference > absolute + relative * np.abs(theirs)).mean()
        if outside > (self.tolerance.outliers if kind in ("logits", "memory") else 0) or np.isnan(outside):
            raise Mismatch(step, f"{where}: {outside:.3%} outside, worst {difference.max():.3g}")
        self.worst[kind] = max(self.worst[kind], float(difference.max()))


def _collect(run: Run, op: Op) -> tuple[list[Output], Exception | None]:
    outputs = []
    try:
        for output in run.do(op):
            outputs.append(output)  # what came before an error counts
    except (RuntimeError, ValueError, AssertionError) as error:  # deliberate ones, and an assert of the official code
        return outputs, error
    return outputs, None


def _scores_nan(official: Run, output: Output) -> bool:
    frame, objects, masks = output
    stored = [] if masks is None else [official.results(obj, frame).values() for obj in objects]
    return any(np.isnan(result.score) for results in stored for result in results)


def _loses_mask(official: Run, op: Op) -> bool:
    """A mask for a tracked frame of an object without conditioning frames: the official code never uses it."""
    if op[0] != "mask" or official.predictor.add_all_frames_to_correct_as_cond:
        return False
    state = official.keys().get(op[2])
    return state is not None and op[1] in state["directions"] and not state["conditioning"]
