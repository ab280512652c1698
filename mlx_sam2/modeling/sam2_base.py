"""The official module of this name: ``SAM2Base`` and the score of what is not there."""

from ..model.sam2 import NO_OBJECT_LOGIT as NO_OBJ_SCORE
from ..utils.module import OfficialSAM2 as SAM2Base

__all__ = ["NO_OBJ_SCORE", "SAM2Base"]
