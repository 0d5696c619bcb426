"""Does an exported file compute what the model computes?

Rows without NMS must be equal up to rounding. After NMS two right answers may
differ, see `detections`. What a file holds of further tasks must be that of the model too: of the
same rows, and of the images. Masks are drawn from both besides.

`tolerance` says what rounding may do, `cases` has what the model itself computes; `outputs`
compares a batch, with `detections` and `tasks`.
"""

from .cases import Batch, prepare_case, run_on_images
from .detections import compare_detections
from .outputs import compare
from .tasks import merge
from .tolerance import HALF_TOLERANCE, ExportMismatch, Tolerance

__all__ = [
    "HALF_TOLERANCE",
    "Batch",
    "ExportMismatch",
    "Tolerance",
    "compare",
    "compare_detections",
    "merge",
    "prepare_case",
    "run_on_images",
]
