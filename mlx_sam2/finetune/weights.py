"""The weights of a run: what is trained, in float32, and how it becomes the weights of the model."""

from __future__ import annotations

from collections.abc import Mapping

import mlx.core as mx
from mlx.utils import tree_flatten, tree_unflatten

from ..checkpoint.adapter import LORA_A, LORA_B, Adapter
from ..checkpoint.loading import KEPT_FLOAT32
from ..model.quantization import schemes_of
from ..model.sam2 import SAM2
from .arguments import ArgumentError, Arguments
from .optimizer import Arrays, Group
from .parameters import adapted_names, is_decayed, rate_factor, trained_names


class Weights:
    """Masters of the trained parameters and of adapters, and the frozen rest.

    Args:
        model: whose weights are the start. It is not changed.
        video: whether clips are trained on, so that memory attention gets adapters.

    Raises:
        ArgumentError: the preset does not fit the model.
    """

    def __init__(self, model: SAM2, arguments: Arguments, video: bool) -> None:
        if schemes_of(model):
            raise ArgumentError("a quantised model cannot be trained: give the one that it was made from")
        if "spatial_perceiver" in model and (arguments.preset != "decoder" or arguments.augments):
            raise ArgumentError("of EdgeTAM only the decoder can be trained: preset decoder, without augment")
        start = {name: value.astype(mx.float32) for name, value in tree_flatten(model.parameters())}
        if arguments.preset == "memory" and not (video and "maskmem_tpos_enc" in start):
            raise ArgumentError("preset memory trains on videos: this data set has photos; use decoder, lora or full")
        self.compute = mx.bfloat16 if arguments.compute == "bfloat16" else mx.float32
        self.scale = arguments.alpha / arguments.rank
        self.start = start
        self.masters: Arrays = {name: start[name] for name in trained_names(start, arguments.preset)}
        if arguments.preset == "lora":
            self._add_adapters(adapted_names(start, video), arguments)

    def _add_adapters(self, names: list[str], arguments: Arguments) -> None:
        """Pairs whose product is 0 at the start: ``a`` is drawn, ``b`` is 0."""
        key = mx.random.key(arguments.seed)
        for name in names:
            rows, columns = self.start[name].shape
            rank = min(arguments.rank, rows, columns)
            key, own = mx.random.split(key)
            bound = columns**-0.5
            self.masters[name + LORA_A] = mx.random.uniform(-bound, bound, (rank, columns), key=own)
            self.masters[name + LORA_B] = mx.zeros((rows, rank))

    def groups(self, arguments: Arguments, num_blocks: int) -> dict[str, Group]:
        """Rate and weight decay of every master. Adapters have the base rate, and no decay."""
        groups = {}
        for name in self.masters:
            if name.endswith((LORA_A, LORA_B)):
                groups[name] = Group(arguments.base_rate, 0.0)
                continue
            rate = arguments.encoder_rate if name.startswith("image_encoder.") else arguments.base_rate
            decay = arguments.weight_decay if is_decayed(name) else 0.0
            groups[name] = Group(rate * rate_factor(name, num_blocks, arguments.layer_decay), decay)
        return groups

    def put(self, model: SAM2, masters: Mapping[str, mx.array]) -> None:
        """Put masters into a model, in the dtype of the computation. Gradients run back to the masters."""
        adapter = Adapter(masters, self.scale)
        changed = {name: adapter.changed(name, self.start[name]) for name in adapter.names()}
        cast = [(n, v if n in KEPT_FLOAT32 else v.astype(self.compute)) for n, v in changed.items()]
        model.update(tree_unflatten(cast))

    def put_all(self, model: SAM2) -> None:
        """Put everything into a model, the frozen weights too."""
        cast = [(n, v if n in KEPT_FLOAT32 else v.astype(self.compute)) for n, v in self.start.items()]
        model.update(tree_unflatten(cast))
        self.put(model, self.masters)

    def adapter(self, masters: Mapping[str, mx.array], about: Mapping[str, str]) -> Adapter:
        """What a run changed, for ``write_adapter``."""
        return Adapter(dict(masters), self.scale, about)
