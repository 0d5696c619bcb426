"""What someone needs to know who has an exported file and nothing else."""

from __future__ import annotations

import torch

from .. import __version__
from ..d2.config import CfgNode
from ..data.loader import class_names
from ..modeling import YOLOR
from ..modeling.meta_arch import PAD_VALUE
from .graph import DETECTIONS, INPUT, ROWS


def describe(cfg: CfgNode, model: YOLOR, *, suppress: bool, least_cells: int) -> dict:
    """The description that lies in every exported file, as plain data.

    Args:
        cfg: the configuration.
        model: the model that is exported.
        suppress: whether suppression is in the file.
        least_cells: least side of an image in cells of the greatest stride.
    """
    return {
        "producer": f"yolor_d2 {__version__}, torch {torch.__version__}",
        "model": cfg.MODEL.YOLOR.VARIANT,
        "classes": class_names(cfg),
        "input": {
            "name": INPUT,
            "shape": ["N", len(cfg.MODEL.PIXEL_MEAN), "H", "W"],
            "type": "float32",
            "values": "0 to 255; they are normalised in the graph",
            "channel_order": cfg.INPUT.FORMAT,
            # The shorter side becomes `shorter_side`, but the longer at most `longer_side`.
            "resize": {
                "shorter_side": cfg.INPUT.MIN_SIZE_TEST,
                "longer_side": cfg.INPUT.MAX_SIZE_TEST,
                "filter": "bilinear, antialiased as in Pillow, to 8 bits",
            },
            "pad": {
                "multiple_of": model.backbone.size_divisibility,
                "at_least": model.backbone.size_divisibility * least_cells,
                "where": "right and bottom",
                "value": PAD_VALUE,
            },
        },
        "outputs": list(DETECTIONS if suppress else ROWS),
        "boxes": "xyxy in pixels of the resized image, not clipped to it",
        "suppression": {
            "in_graph": suppress,
            "score_thresholds": model.class_score_thresholds or model.score_threshold,
            "iou_threshold": model.nms_threshold,
            "max_detections": model.max_detections,
            "class_agnostic": model.class_agnostic_nms,
            "multi_label": model.multi_label,
        },
    }
