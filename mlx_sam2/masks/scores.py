"""How sure the model is of a mask in a video."""

from __future__ import annotations

from typing import NamedTuple


class ObjectScores(NamedTuple):
    """Scores of one object on one frame: sort by them to look at the doubtful frames first."""

    object_score: float  # a logit, above 0 where the object is seen
    predicted_iou: float  # of its mask with the true one, 0..1; 1 for a mask that the user gave
