"""One answer for an image that was looked at through several windows; numpy alone.

Every method takes boxes in pixels of the image, scores and class indices, in any order, and answers best first. A box
without area overlaps nothing. Equal scores are ordered by the boxes themselves: larger first, then by corners and
class, so that no result depends on the order in which the boxes arrive.
"""

from lightning_automl_vision.merging.answers import one_answer
from lightning_automl_vision.merging.candidates import Merged, joined
from lightning_automl_vision.merging.fusion import weighted_fusion
from lightning_automl_vision.merging.growing import greedy_merging
from lightning_automl_vision.merging.methods import METHODS, Merge
from lightning_automl_vision.merging.overlaps import Overlap
from lightning_automl_vision.merging.streaming import StreamingMerge
from lightning_automl_vision.merging.suppression import ios_nms, nms, soft_nms

__all__ = [
    "METHODS",
    "Merge",
    "Merged",
    "Overlap",
    "StreamingMerge",
    "greedy_merging",
    "ios_nms",
    "joined",
    "nms",
    "one_answer",
    "soft_nms",
    "weighted_fusion",
]
