"""Methods of a ``torch.nn.Module`` that scripts call on the model and on the predictors."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from ..checkpoint import key_map
from ..checkpoint.build import set_device
from ..config.sam2 import SAM2Config
from ..model.sam2 import SAM2
from ..text import some
from ..video.video_masks import without_overlap
from .arrays import Device, ResultArray, to_numpy

TRAINING = (
    "this model only predicts: fine-tune with the official code on PyTorch and load its checkpoint here; "
    "docs/differences.md says more"
)
MODEL_OPTIONS = {f.name for f in dataclasses.fields(SAM2Config) if f.type in ("int", "float", "bool")}
_DTYPES = {
    "float32": mx.float32,
    "float16": mx.float16,
    "bfloat16": mx.bfloat16,
    "float": mx.float32,
    "half": mx.float16,
}


class LoadedKeys(NamedTuple):
    """What ``load_state_dict`` found: names that the state lacks, and names that the model has not."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class Parameter(ResultArray):
    """A weight, under its official axes. torch's optimisers refuse it by the name of its class, which says why."""


Parameter.__qualname__ = f"Parameter ({TRAINING})"


class Parameters(dict):
    """The parameters of the model as MLX has them, a tree; iterating gives arrays, as scripts for torch expect."""

    def __iter__(self) -> Iterator[Any]:
        yield from (Parameter.of(value) for value in _official(tree_flatten(dict(self.items()))).values())

    def __next__(self) -> Any:
        """The first one, for ``next(model.parameters()).device``."""
        return next(iter(self))


class ModuleMethods:
    """The methods themselves, for classes that give their ``_module()``."""

    def _module(self) -> OfficialSAM2:
        raise TypeError(f"{type(self).__name__} has no model")

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """Cast to a dtype, and make a device the default one, where they are given; returns the same object."""
        for value in (*args, *kwargs.values()):
            name = str(getattr(value, "type", value)) if hasattr(value, "index") else str(value)
            dtype = _DTYPES.get(name.removeprefix("torch.").removeprefix("mlx.core."))
            if dtype is not None:
                _cast(self._module(), dtype)
            elif isinstance(value, (mx.Device, mx.DeviceType)) or name.split(":")[0] in ("cpu", "cuda", "mps", "gpu"):
                set_device(value if isinstance(value, (mx.Device, mx.DeviceType)) else name)
        return self

    def cuda(self, device: Any = None) -> Any:
        return self.to("cuda")

    def cpu(self) -> Any:
        return self.to("cpu")

    def float(self) -> Any:
        return self.to("float32")

    def half(self) -> Any:
        return self.to("float16")

    def bfloat16(self) -> Any:
        return self.to("bfloat16")

    def eval(self) -> Any:
        return self

    def train(self, mode: bool = True) -> Any:
        if mode:
            raise RuntimeError(TRAINING)
        return self

    def requires_grad_(self, requires_grad: bool = True) -> Any:
        return self.train(requires_grad)

    @property
    def device(self) -> Device:
        """MLX's default device, on which everything runs, as torch names it: "mps" or "cpu"."""
        return Device.current()

    def parameters(self) -> Any:
        """The weights under their official axes, one by one."""
        return iter(self._module().parameters())

    def named_parameters(self) -> Iterator[tuple[str, Any]]:
        """Official names, and the weights under their official axes."""
        return ((name, value.view(Parameter)) for name, value in self.state_dict().items())

    def state_dict(self) -> dict[str, ResultArray]:
        """Official names and axes, float32 as in the official checkpoints."""
        return _state(self._module())

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> LoadedKeys:
        """Take weights under official names, of numpy, torch or MLX.

        Raises:
            RuntimeError: names are missing or unexpected (with ``strict``), or a shape differs; nothing is changed.
        """
        return _load(self._module(), state_dict, strict)


class OfficialSAM2(ModuleMethods, SAM2):
    """The model with a module's methods; options of its configuration can be read under their official names."""

    def _module(self) -> OfficialSAM2:
        return self

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)  # first: no_obj_embed_spatial is a weight and an option
        except AttributeError:
            if name in MODEL_OPTIONS:
                return getattr(self.config, name)
            raise AttributeError(
                f"the model has no {name!r}: docs/differences.md says what scripts for the official package find here"
            ) from None

    def _apply_non_overlapping_constraints(self, pred_masks: Any) -> ResultArray:
        """(N, 1, H, W) logits: the highest takes a pixel, the others fall to -10 or below."""
        return ResultArray.of(without_overlap(to_numpy(pred_masks)))

    def parameters(self) -> Parameters:
        return Parameters(SAM2.parameters(self))

    def update(self, parameters: Any, strict: bool = True) -> Any:
        # MLX iterates over the names of what it is given
        return super().update(dict(parameters.items()) if isinstance(parameters, Parameters) else parameters, strict)


def as_official(model: Any) -> Any:
    """The same model, as an ``OfficialSAM2``: weights, caches and identity stay, methods are added."""
    if type(model) is SAM2:
        model.__class__ = OfficialSAM2
    return model


def _cast(model: SAM2, dtype: mx.Dtype) -> None:
    cast = [
        (key, value.astype(mx.float32 if key_map.kept_float32(key) else dtype))
        for key, value in tree_flatten(SAM2.parameters(model))
        if mx.issubdtype(value.dtype, mx.floating)
    ]
    model.load_weights(cast, strict=False)


def _state(model: SAM2) -> dict[str, ResultArray]:
    found = _official(tree_flatten(SAM2.parameters(model)))
    return {key: ResultArray.of(value) for key, value in found.items()}


def _official(weights: list[tuple[str, mx.array]]) -> dict[str, np.ndarray]:
    """Weights under their official names and axes, as numpy has them."""
    found = key_map.to_official({key: to_numpy(value) for key, value in weights})
    return {key: np.ascontiguousarray(value) for key, value in found.items()}


def _load(model: SAM2, state: Mapping[str, Any], strict: bool) -> LoadedKeys:
    ours = dict(tree_flatten(SAM2.parameters(model)))
    given = {key: value for key, value in state.items() if key_map.ignored(key) is None}
    missing, unexpected = sorted(ours.keys() - given.keys()), sorted(given.keys() - ours.keys())
    if strict and (missing or unexpected):
        parts = ((missing, "missing"), (unexpected, "unexpected"))
        problems = [f"{len(names)} {what} ({some(names)})" for names, what in parts if names]
        raise RuntimeError(f"load_state_dict: its names are not the {len(ours)} of this model: {'; '.join(problems)}")
    taken = key_map.from_official({key: to_numpy(given[key]) for key in ours.keys() & given.keys()})
    for key, value in taken.items():
        if value.shape != ours[key].shape:
            raise RuntimeError(f"load_state_dict: {key} has shape {given[key].shape}, which does not fit this model")
    model.load_weights([(key, mx.array(value).astype(ours[key].dtype)) for key, value in taken.items()], strict=False)
    return LoadedKeys(missing, unexpected)
