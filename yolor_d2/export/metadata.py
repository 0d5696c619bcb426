"""What someone needs to know who has an exported file and nothing else."""

from __future__ import annotations

import torch

from .. import __version__
from ..d2.config import CfgNode
from ..datasets.catalog import class_names
from ..modeling import YOLOR
from ..modeling.images import PAD_VALUE
from ..tasks import TASKS
from .graph import INPUT, FileOptions, output_names

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


def describe_padding(
    model: YOLOR, least_cells: int = 1, canvas: tuple[int, int] | None = None
) -> dict:
    """The canvas of an image, as `ops.padding` has it.

    Each of its sides is ceil(side / multiple_of + margin) * multiple_of, but `at_least` so long;
    or all have the size "canvas", (H, W), where that is given. "before" is the fraction of the
    border, rounded down, that lies above and left of the image.
    """
    centred = model.padding.place != "corner"
    return {
        "multiple_of": model.stride,
        "margin": model.padding.margin if centred else 0.0,
        "at_least": model.stride * least_cells,
        "before": 0.5 if centred else 0.0,
        "value": PAD_VALUE,
        **({} if canvas is None else {"canvas": list(canvas)}),
    }


def largest_image(model: YOLOR, canvas: tuple[int, int]) -> tuple[int, int]:
    """(H, W) of the largest image that has its margin on a canvas.

    Raises:
        ValueError: when the canvas is no size for the model.
    """
    pad = describe_padding(model)
    sides = [int(side - pad["margin"] * pad["multiple_of"]) for side in canvas]
    if any(side % pad["multiple_of"] or side < pad["multiple_of"] for side in canvas):
        raise ValueError(
            f"--size is {canvas[0]} {canvas[1]}, expected multiples of {pad['multiple_of']}, the "
            "greatest stride of the model"
        )
    return sides[0], sides[1]


def describe_resize(cfg: CfgNode, model: YOLOR, canvas: tuple[int, int] | None) -> dict:
    """The size of an image on its canvas.

    The shorter side becomes `shorter_side`, but the longer at most `longer_side`; on a canvas of a
    fixed size the image becomes as large as fits into "within", (H, W).
    """
    rule: dict = {
        "shorter_side": cfg.INPUT.MIN_SIZE_TEST,
        "longer_side": cfg.INPUT.MAX_SIZE_TEST,
    }
    if canvas is not None:
        rule = {"within": list(largest_image(model, canvas))}
    return {**rule, **RESIZES[cfg.INPUT.RESIZE_TEST]}


def describe_tasks(cfg: CfgNode, model: YOLOR) -> dict:
    """The outputs of every further task that is in the file, by its name."""
    described = {}
    for name, branch in model.tasks.items():
        if outputs := branch.file_outputs():
            named = {x.name: x.meaning for x in outputs}
            described[name] = {"outputs": named, **TASKS[name].describe_file(cfg, branch)}
    return described


def describe(
    cfg: CfgNode, model: YOLOR, *, file_format: str, options: FileOptions, least_cells: int
) -> dict:
    """The description that lies in every exported file, as plain data.

    Args:
        cfg: the configuration.
        model: the model that is exported.
        file_format: key of `export.FORMATS`.
        options: what is chosen of the file.
        least_cells: least side of an image in cells of the greatest stride.
    """
    tasks = describe_tasks(cfg, model)
    return {
        "format": file_format,
        **({"opset": options.opset} if file_format == "onnx" else {}),
        "weights": "float16" if options.half else "float32",
        "producer": f"yolor_d2 {__version__}, torch {torch.__version__}",
        "model": cfg.MODEL.YOLOR.VARIANT,
        "classes": class_names(cfg),
        "input": {
            "name": INPUT,
            "shape": ["N", len(cfg.MODEL.PIXEL_MEAN), *(options.canvas or ("H", "W"))],
            "type": "float32",
            "values": "0 to 255; they are normalised in the graph",
            "channel_order": cfg.INPUT.FORMAT,
            "resize": describe_resize(cfg, model, options.canvas),
            "pad": describe_padding(model, least_cells, options.canvas),
        },
        "outputs": output_names(model.tasks, suppress=options.suppress),
        "boxes": "xyxy in pixels of the canvas: subtract the image's place, then clip",
        "suppression": {
            "in_graph": options.suppress,
            "score_thresholds": model.class_score_thresholds or model.score_threshold,
            "iou_threshold": model.nms_threshold,
            "max_detections": model.max_detections,
            "class_agnostic": model.class_agnostic_nms,
            "multi_label": model.multi_label,
        },
        **({"tasks": tasks} if tasks else {}),
    }
