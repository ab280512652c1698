"""What was learned of an object, to find it elsewhere: in another video, a stream, or photos.

A ``Reference`` holds the memories and pointers of the frames on which a user prompted the object. ``add`` puts them in
front of a session's first frame, as conditioning frames: tracking then is what it would be if those frames began the
video.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from ..config.sam2 import SAM2Config
from ..files import beside
from ..formats import safetensors_file, safetensors_writer
from ..formats.safetensors_writer import Tensor
from ..model.sam2 import SAM2
from ..text import dtype_name, shown
from .memory_bank import ObjectTrack
from .result_store import FrameResult
from .state import VideoState

FORMAT = "mlx_sam2 reference 1"
MAX_VIEWS = 64  # frames of one reference; each costs time on every frame that is tracked
SAME_WEIGHTS = 0.01  # of the largest value: what half precision may change
_SHAPING = (  # fields of a configuration without which a memory means something else
    *("trunk", "neck", "scalp", "memory_encoder", "memory_attention", "spatial_perceiver", "image_size"),
    *("backbone_stride", "num_maskmem", "use_obj_ptrs_in_encoder", "proj_tpos_enc_in_obj_ptrs", "no_obj_embed_spatial"),
)


class Maker(NamedTuple):
    """Which model made a reference."""

    config: str  # a hash of the fields that shape memories
    image_size: int
    times: mx.array  # (num_maskmem, M) float32, the learned encodings of time: they tell weights apart

    @classmethod
    def of(cls, model: SAM2) -> Maker:
        fields = {name: value for name, value in model.config.to_dict().items() if name in _SHAPING}
        text = json.dumps({name: value for name, value in fields.items() if value is not None}, sort_keys=True)
        times = model.maskmem_tpos_enc.astype(mx.float32).reshape(model.config.num_maskmem, -1)
        return cls(hashlib.sha256(text.encode()).hexdigest()[:16], model.config.image_size, times)

    def require(self, model: SAM2, name: str) -> None:
        """Raise a ValueError for a model whose memories are others."""
        here = Maker.of(model)
        if self.image_size != here.image_size:
            raise ValueError(
                f"{name} was made with image_size={self.image_size}, and this model has {here.image_size}: "
                "use that size, or make the reference again"
            )
        same = self.config == here.config and self.times.shape == here.times.shape
        if same and here.times.size:
            same = bool(mx.abs(self.times - here.times).max() <= SAME_WEIGHTS * mx.abs(here.times).max())
        if not same:
            raise ValueError(f"{name} was made by another model: use that one, or make the reference again")


@dataclass(frozen=True)
class Reference:
    """An object as a model remembers it from N frames.

    Attributes:
        features: (N, *config.memory_shape) bfloat16, memories as ``SAM2.remember`` makes them.
        pointers: (N, C) float32.
        scores: (N,) float32, object scores as logits.
        maker: which model made it.
    """

    features: mx.array
    pointers: mx.array
    scores: mx.array
    maker: Maker

    def __len__(self) -> int:
        return len(self.features)

    def save(self, path: str | os.PathLike[str], overwrite: bool = False) -> None:
        """Write a ``.safetensors`` file. FileExistsError if it exists, without ``overwrite``."""
        arrays = {**self._arrays(), "times": self.maker.times}
        tensors = [
            Tensor(name, tuple(array.shape), dtype_name(array.dtype), lambda array=array: array)
            for name, array in arrays.items()
        ]
        metadata = {"format": FORMAT, "config": self.maker.config, "image_size": str(self.maker.image_size)}
        with beside(Path(path), replace=overwrite) as part:
            safetensors_writer.write(part, tensors, metadata)

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: SAM2) -> Reference:
        """Read a file of ``save``; safe for files of strangers.

        What the file says of itself must fit the model before any tensor is read.

        Raises:
            ValueError: one line: it is no reference, is damaged, or was made by another model.
            OSError: it cannot be opened.
        """
        arrays, metadata = safetensors_file.read(path)
        if metadata.get("format") != FORMAT:
            raise ValueError(f"{path} is no reference of an object: --save-reference or Reference.save makes one")
        size = metadata.get("image_size", "")
        if not (size.isascii() and size.isdecimal() and len(size) < 6):
            raise ValueError(f"{path}: image_size {shown(size, 20)} is no size")
        _check_shapes(arrays, model.config, int(size), str(path))
        maker = Maker(metadata.get("config", ""), int(size), arrays.pop("times"))
        maker.require(model, str(path))
        mx.eval(arrays)
        if not all(bool(mx.isfinite(array).all()) for array in arrays.values()):
            raise ValueError(f"{path} holds values that are not finite numbers")
        return cls(**arrays, maker=maker)

    def _arrays(self) -> dict[str, mx.array]:
        return {"features": self.features, "pointers": self.pointers, "scores": self.scores}


def _check_shapes(arrays: dict[str, mx.array], config: SAM2Config, image_size: int, name: str) -> None:
    """Refuse tensors that a reference for this configuration has not. Nothing has been read yet."""
    if image_size != config.image_size:
        return  # the maker is refused in words of its own
    views = arrays["features"].shape[0] if "features" in arrays and arrays["features"].ndim else 0
    if not 1 <= views <= MAX_VIEWS:
        raise ValueError(f"{name} holds {views} views of an object: 1 to {MAX_VIEWS} are possible")
    expected = {
        "features": ((views, *config.memory_shape), mx.bfloat16),
        "pointers": ((views, config.neck.d_model), mx.float32),
        "scores": ((views,), mx.float32),
        "times": ((config.num_maskmem, config.memory_encoder.out_dim), mx.float32),
    }
    found = {key: (array.shape, array.dtype) for key, array in arrays.items()}
    if found != expected:
        raise ValueError(f"{name} was made by another model, or is damaged: its tensors have other names or shapes")


def learn(state: VideoState, obj_id: Any) -> Reference:
    """What the session has learned of an object: memories of the frames with prompts, edits in progress included.

    Raises:
        ValueError: for an object that does not exist or has no prompt, or a model without memory.
    """
    track = state.tracks.get(obj_id)
    if track is None:
        raise ValueError(f"object {obj_id!r} does not exist; the objects are {state.obj_ids}")
    if state.tracker.config.num_maskmem == 0:
        raise ValueError("this model has no memory, so nothing is learned of objects")
    results = {t: track.conditioning[t] for t in track.conditioning}
    results |= {t: state.tracker.commit(state.features(t), result) for t, result in track.pending.items()}
    if not results:
        raise ValueError(f"object {obj_id!r} has no prompt: there is nothing to learn from")
    if len(results) > MAX_VIEWS:
        raise ValueError(f"object {obj_id!r} has prompts on {len(results)} frames: a reference holds {MAX_VIEWS}")
    views = list(results.values())
    features, pointers = mx.stack([view.features for view in views]), mx.stack([view.pointer for view in views])
    scores = mx.array([view.object_score for view in views], mx.float32)
    mx.eval(features, pointers, scores)
    return Reference(features, pointers, scores, Maker.of(state.tracker.model))


def add(state: VideoState, obj_id: Any, reference: Reference | str | os.PathLike[str]) -> list[Any]:
    """Let a session look for an object that was learned elsewhere; a new id makes a new object.

    The views stand before the first frame, in the order of the reference; those of a further one before these.

    Args:
        reference: a value, or the path of a file of ``Reference.save``.

    Returns:
        The ids of all objects.

    Raises:
        ValueError: for a reference of another model or size, or a file that holds none.
    """
    state.store.require_open()
    model = state.tracker.model
    if isinstance(reference, Reference):
        reference.maker.require(model, "this reference")
    else:
        reference = Reference.load(reference, model)
    track = state.tracks.get(obj_id) or ObjectTrack.empty(state.store)
    first = min([0, *track.conditioning]) - len(reference)
    side = 4 * model.config.embedding_size
    unseen = np.zeros((side, side), np.float32)  # nobody asks for the mask of a frame that is not in the video
    for i, (features, pointer, score) in enumerate(
        zip(reference.features, reference.pointers, reference.scores.tolist(), strict=True)
    ):
        mx.eval(features, pointer)
        track.conditioning[first + i] = FrameResult(unseen, pointer, score, features)
    state.tracks[obj_id] = track
    return state.obj_ids
