"""Everything that is drawn on images or as curves."""

from .pictures import draw_boxes, draw_results

__all__ = ["draw_boxes", "draw_results"]
