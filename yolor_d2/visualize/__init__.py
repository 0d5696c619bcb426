"""Everything that is drawn, on images or as curves.

`boxes`, `shapes` (masks, keypoints) and `labels` draw on images, `marks` draws annotations beyond
them too; `pictures` has whole pictures. `batches` and `results` draw what a training sees and what
it detects; `curves`, `plots` and `implicit` plot.
"""

from .boxes import draw_boxes
from .results import draw_results

__all__ = ["draw_boxes", "draw_results"]
