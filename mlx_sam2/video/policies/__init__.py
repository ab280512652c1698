"""Memory policies: which mask is taken on a frame, and which frames are remembered and recalled.

``official`` is SAM 2 as published. ``samurai`` and ``dam4sam`` change nothing of the model, need no training, and stay
on the object where look-alikes and occlusion lead the official rules astray. docs/video.md says which is for what.
"""

from __future__ import annotations

from ...config.sam2 import SAM2Config
from .dam4sam import Dam4Sam
from .official import Official
from .samurai import Samurai

NAMES = ("official", "samurai", "dam4sam")


def memory_policy(given: str | Official, config: SAM2Config) -> Official:
    """A policy by its name, with the published settings for a model; or a policy as it was made.

    Raises:
        ValueError: for anything else, or a policy that a model without memory cannot follow.
    """
    if isinstance(given, Official):
        policy = given
    elif given == "official":
        policy = Official()
    elif given == "samurai":
        policy = Samurai.published(config)
    elif given == "dam4sam":
        policy = Dam4Sam()
    else:
        raise ValueError(f"memory_policy={given!r} is not known; there are {', '.join(NAMES)}")
    if policy.name != "official" and config.num_maskmem < 2:
        raise ValueError(f"memory_policy={policy.name!r} chooses among memories, and this model keeps none")
    return policy
