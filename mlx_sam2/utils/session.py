"""The session as scripts use the official ``inference_state``: a dict to read, and to keep things of their own in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ..video.state import VideoState
from .arrays import Device

# Official keys whose values are PyTorch's, or laid out as only the official code needs them.
_INSIDE = (
    "images", "cached_features", "constants", "output_dict_per_obj", "temp_output_dict_per_obj", "point_inputs_per_obj",
    "mask_inputs_per_obj", "frames_tracked_per_obj", "output_dict", "consolidated_frame_inds", "tracking_has_started",
)  # fmt: skip


@dataclass
class InferenceState(VideoState):
    """A session on one video, made by ``SAM2VideoPredictor.init_state``; scripts read it as a dict.

    Keys: num_frames, video_height, video_width, obj_ids, obj_id_to_idx, obj_idx_to_id, device, storage_device,
    offload_video_to_cpu, offload_state_to_cpu; and whatever a script puts there.
    """

    scratch: dict[str, Any] = field(default_factory=dict)

    def _facts(self) -> dict[str, Any]:
        return {
            "num_frames": self.num_frames,
            "video_height": self.source.height,
            "video_width": self.source.width,
            "obj_ids": self.obj_ids,
            "obj_id_to_idx": {obj_id: i for i, obj_id in enumerate(self.obj_ids)},
            "obj_idx_to_id": dict(enumerate(self.obj_ids)),
            "device": Device.current(),
            "storage_device": Device.current(),
            "offload_video_to_cpu": False,
            "offload_state_to_cpu": False,
        }

    def __getitem__(self, key: str) -> Any:
        facts = self._facts()
        if key in facts:
            return facts[key]
        if key in self.scratch:
            return self.scratch[key]
        if key in _INSIDE:
            raise KeyError(
                f"{key!r} is inside the official code, and a session here has no such thing; frames are in "
                "state.frame(t), results are what propagate_in_video yields"
            )
        raise KeyError(f"{key!r} is no part of a session here; there are {', '.join([*facts, *self.scratch])}")

    def __setitem__(self, key: str, value: Any) -> None:
        if key in _INSIDE or key in self._facts():
            raise KeyError(f"{key!r} belongs to the session; change it through the predictor's methods")
        self.scratch[key] = value

    def __delitem__(self, key: str) -> None:
        del self.scratch[key]

    def pop(self, key: str, *default: Any) -> Any:
        if key in self._facts():
            raise KeyError(f"{key!r} belongs to the session; change it through the predictor's methods")
        return self.scratch.pop(key, *default)

    def setdefault(self, key: str, default: Any = None) -> Any:
        if key not in self:
            self[key] = default
        return self[key]

    def update(self, *others: Any, **values: Any) -> None:
        for key, value in dict(*others, **values).items():
            self[key] = value

    def __contains__(self, key: object) -> bool:
        return key in self._facts() or key in self.scratch

    def __iter__(self) -> Iterator[str]:
        return iter([*self._facts(), *self.scratch])

    def __len__(self) -> int:
        return len(self._facts()) + len(self.scratch)

    def __bool__(self) -> bool:
        return True

    def keys(self) -> list[str]:
        return list(self)

    def values(self) -> list[Any]:
        return [self[key] for key in self]

    def items(self) -> list[tuple[str, Any]]:
        return [(key, self[key]) for key in self]

    def get(self, key: str, default: Any = None) -> Any:
        return self[key] if key in self else default  # noqa: SIM401  this is that get
