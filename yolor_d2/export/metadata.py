"""What someone needs to know who has an exported file and nothing else."""

from __future__ import annotations

import torch

from .. import __version__
from ..d2.config import CfgNode
from ..data.catalog import class_names
from ..modeling import YOLOR
from ..modeling.images import PAD_VALUE
from .graph import DETECTIONS, INPUT, ROWS

# Values of INPUT.RESIZE_TEST. "rounding" is added to the new sides, which are then rounded down.
RESIZES = {
    "detectron2": {
        "filter": "bilinear, antialiased as in Pillow, to 8 bits",
        "rounding": 0.5,
    },
    "reference": {
        "filter": "OpenCV's INTER_AREA to shrink, INTER_LINEAR to enlarge",
        "rounding": 0.0,
    },
}


def describe_padding(model: YOLOR, least_cells: int = 1) -> dict:
    """The canvas of an image, as `ops.padding` has it.

    Each of its sides is ceil(side / multiple_of + margin) * multiple_of, but `at_least` so long;
    "before" is the share of the border, rounded down, that lies above and left of the image.
    """
    centred = model.padding.place != "corner"
    return {
        "multiple_of": model.stride,
        "margin": model.padding.margin if centred else 0.0,
        "at_least": model.stride * least_cells,
        "before": 0.5 if centred else 0.0,
        "value": PAD_VALUE,
    }


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
                **RESIZES[cfg.INPUT.RESIZE_TEST],
            },
            "pad": describe_padding(model, least_cells),
        },
        "outputs": list(DETECTIONS if suppress else ROWS),
        "boxes": "xyxy in pixels of the canvas: subtract the image's place, then clip",
        "suppression": {
            "in_graph": suppress,
            "score_thresholds": model.class_score_thresholds or model.score_threshold,
            "iou_threshold": model.nms_threshold,
            "max_detections": model.max_detections,
            "class_agnostic": model.class_agnostic_nms,
            "multi_label": model.multi_label,
        },
    }
