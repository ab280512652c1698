"""All settings of a fine-tuning run, as one dataclass that is written to and read from YAML."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from .. import cli
from ..text import brief, some
from .parameters import PRESETS

PROG = cli.program("finetune")
MAX_YAML_BYTES = 1 << 16
SOURCE = ("model", "revision", "weights_key")  # settings of the command
RATES = {"decoder": 1e-4, "lora": 1e-4, "memory": 1e-5, "full": 5e-6}  # the last one is the official rate


class ArgumentError(ValueError):
    """A setting that cannot be met. One line."""


class LossSettings(NamedTuple):
    """Settings of the losses, under the official names (``MultiStepMultiMasksAndIous`` and its ``weight_dict``)."""

    loss_mask: float = 20.0  # weights of the four terms: focal,
    loss_dice: float = 1.0
    loss_iou: float = 1.0
    loss_class: float = 1.0  # and presence
    focal_alpha: float = 0.25  # weight of object pixels, the others get the rest of 1; negative: all weigh 1
    focal_gamma: float = 2.0
    supervise_all_iou: bool = True  # the IoU loss is the mean of all masks, not that of the best one
    iou_use_l1_loss: bool = True  # else the square
    pred_obj_scores: bool = True  # the presence loss; without it absent objects count as any others
    focal_alpha_obj_score: float = -1.0
    focal_gamma_obj_score: float = 0.0


@dataclass(frozen=True)
class Arguments:
    """Settings of a run. The defaults are those of the official recipe where it has them.

    Attributes:
        model, revision, weights_key: what the command started from, so that it can go on; not read by ``Trainer``.
        preset: what is trained: decoder, lora, memory or full.
        steps: updates of the weights.
        batch: photos (or clips) of a step that are computed together; their objects count as one batch.
        accumulate: batches whose gradients are added before an update.
        rate: learning rate; None for that of the preset.
        vision_rate: of the image encoder; None for 0.6 of ``rate``, as officially; that of adapters is ``rate``.
        final_share: the share of the rates that the cosine ends at.
        weight_decay: of all but biases and LayerNorms; layer_decay: of the rate, per block of the trunk.
        clip: largest norm of all gradients together; 0 for any.
        ema: decay of the average of the weights that is kept in their stead; 0 for none.
        rank, alpha: of adapters, which are scaled by alpha / rank.
        num_frames, max_objects: of a clip; max_objects of a photo, too.
        point_share, box_share, first_frames, corrected_frames, corrections, from_target: the sampling of prompts
            (TRAINING.md 2; docs/finetune.md).
        loss_mask, loss_dice, loss_iou, loss_class, focal_alpha, focal_gamma, supervise_all_iou, iou_use_l1_loss,
            pred_obj_scores, focal_alpha_obj_score, focal_gamma_obj_score: of the losses (``LossSettings``).
        augment: flips, rotations, colours. None: unless features are cached.
        dropout, drop_path: in memory attention and in the trunk.
        compute: dtype of the computation; weights and losses are float32.
        checkpoint: compute activations again in the backward pass instead of keeping them.
        held_out: share of the items that is held out for the evaluation, if none are given; 0 for none.
        evaluate_every: steps between two evaluations; 0 for one at the end.
        evaluated: the most objects that an evaluation asks for.
        patience: evaluations without a better one after which the run stops; 0 for no end before its time.
        save_every: steps between two states from which a run can go on.
        seed: of everything that is drawn.
    """

    model: str | None = None
    revision: str | None = None
    weights_key: str | None = None
    preset: str = "decoder"
    steps: int = 500
    batch: int = 1
    accumulate: int = 1
    rate: float | None = None
    vision_rate: float | None = None
    final_share: float = 0.1
    weight_decay: float = 0.1
    layer_decay: float = 0.9
    clip: float = 0.1
    ema: float = 0.0
    rank: int = 8
    alpha: float = 16.0
    num_frames: int = 8
    max_objects: int = 3
    point_share: float = 0.5
    box_share: float = 0.5
    first_frames: int = 2
    corrected_frames: int = 2
    corrections: int = 7
    from_target: float = 0.1
    loss_mask: float = 20.0
    loss_dice: float = 1.0
    loss_iou: float = 1.0
    loss_class: float = 1.0
    focal_alpha: float = 0.25
    focal_gamma: float = 2.0
    supervise_all_iou: bool = True
    iou_use_l1_loss: bool = True
    pred_obj_scores: bool = True
    focal_alpha_obj_score: float = -1.0
    focal_gamma_obj_score: float = 0.0
    augment: bool | None = None
    dropout: float = 0.1
    drop_path: float = 0.1
    compute: str = "float32"
    checkpoint: bool = False
    held_out: float = 0.1
    evaluate_every: int = 100
    evaluated: int = 100
    patience: int = 0
    save_every: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check_type(field.name, getattr(self, field.name), _HINTS[field.name])
        _one_of("preset", self.preset, PRESETS)
        if self.compute == "float16":
            raise ArgumentError(
                "compute=float16: its gradients underflow without loss scaling; give bfloat16 or float32"
            )
        _one_of("compute", self.compute, ("float32", "bfloat16"))
        for name in ("point_share", "box_share", "from_target", "final_share", "held_out", "ema"):
            _between(name, getattr(self, name), 0, 1)
        for name in ("dropout", "drop_path", "layer_decay", "ema", "held_out"):
            _between(name, getattr(self, name), 0, 1 if name == "layer_decay" else 0.999999)
        for name in ("steps", "batch", "accumulate", "rank", "num_frames", "max_objects", "first_frames",
                     "corrected_frames", "evaluated", "save_every"):  # fmt: skip
            _between(name, getattr(self, name), 1, 1 << 31)
        for name in ("corrections", "evaluate_every", "patience", "seed", "weight_decay", "alpha", "clip", "loss_mask",
                     "loss_dice", "loss_iou", "loss_class", "focal_gamma", "focal_gamma_obj_score"):  # fmt: skip
            _between(name, getattr(self, name), 0, 1 << 31)
        for name in ("focal_alpha", "focal_alpha_obj_score"):
            _between(name, getattr(self, name), -1, 1)
        for name in ("rate", "vision_rate"):
            _between(name, getattr(self, name) or 0, 0, 1)
        if self.corrected_frames < self.first_frames:
            raise ArgumentError(f"corrected_frames={self.corrected_frames}: at least first_frames={self.first_frames}")

    @property
    def base_rate(self) -> float:
        return RATES[self.preset] if self.rate is None else self.rate

    @property
    def encoder_rate(self) -> float:
        """The rate of the image encoder's own weights."""
        return 0.6 * self.base_rate if self.vision_rate is None else self.vision_rate

    @property
    def augments(self) -> bool:
        """Whether photos are augmented: then their features cannot be cached."""
        return self.preset != "decoder" if self.augment is None else self.augment

    @property
    def losses(self) -> LossSettings:
        return LossSettings(*(getattr(self, name) for name in LossSettings._fields))

    def to_yaml(self) -> str:
        """The settings, one a line."""
        return "".join(f"{name}: {_yaml(value)}\n" for name, value in dataclasses.asdict(self).items())

    @classmethod
    def from_yaml(cls, path: Path) -> Arguments:
        """Settings from a file; those that it leaves out have their defaults.

        Raises:
            ArgumentError: the file cannot be read, or a setting is unknown or cannot be met.
        """
        try:
            import yaml

            with path.open("rb") as file:
                data = file.read(MAX_YAML_BYTES + 1)
            values = yaml.safe_load(data.decode()) or {} if len(data) <= MAX_YAML_BYTES else None
        except ImportError:
            raise ArgumentError("reading YAML needs PyYAML (pip install pyyaml)") from None
        except OSError as error:
            raise ArgumentError(f"cannot read {path}: {error.strerror}") from None
        except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date or a number that is none
            raise ArgumentError(f"{path} is not valid YAML ({brief(str(error))})") from None
        if values is None:
            raise ArgumentError(f"{path} is longer than {MAX_YAML_BYTES} bytes, which settings never are")
        try:
            return cls.from_dict(values)
        except ArgumentError as error:
            raise ArgumentError(f"{path}: {error}") from None

    @classmethod
    def from_dict(cls, values: Any) -> Arguments:
        """Settings by name. ArgumentError for one that is unknown or cannot be met."""
        if not isinstance(values, dict):
            raise ArgumentError(f"settings are names and values, not {brief(values)}")
        unknown = sorted({str(name) for name in values} - {*_HINTS})
        if unknown:
            raise ArgumentError(f"there is no setting {some(unknown)}; there are {', '.join(_HINTS)}")
        exact = {
            name: float(value) if _HINTS[name] in (float, float | None) and type(value) is int else value
            for name, value in values.items()
        }
        return cls(**exact)


_PLAIN = (*PRESETS, "float32", "bfloat16")  # words that need no quotes in YAML
_HINTS: dict[str, Any] = typing.get_type_hints(Arguments)


def _yaml(value: Any) -> str:
    """A number, a word, true, false or null as YAML has it: a float needs a dot there, 3.0e-05."""
    if isinstance(value, float):
        mantissa, e, exponent = repr(value).partition("e")
        return mantissa + ".0" * ("." not in mantissa) + e + exponent
    if isinstance(value, str):
        return value if value in _PLAIN else json.dumps(value, ensure_ascii=False)
    return "null" if value is None else str(value).lower()


def _check_type(name: str, value: Any, hint: Any) -> None:
    allowed = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if type(value) not in allowed:
        wanted = " or ".join("none" if kind is type(None) else kind.__name__ for kind in allowed)
        raise ArgumentError(f"{name}={brief(value)}: it must be {wanted}")


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ArgumentError(f"{name}={brief(value)}: one of {', '.join(allowed)}")


def _between(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:  # NaN is not either
        raise ArgumentError(f"{name}={value}: it must be from {least:g} to {most:g}")
