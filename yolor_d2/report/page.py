"""The page of a report: one file, which needs nothing else and opens without a network.

The pages are templates of Jinja (templates/), which escapes every name that it is given. The one
script is named in the page's content security policy by its hash: nothing else can run.
`comparison_page` makes that of two reports.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import logging
import math
from importlib import resources
from pathlib import Path

import cv2
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ..evaluation.stages import STAGES
from ..files.images import ImageReadError, read_image
from .errors import KINDS
from .page_plots import (
    MOST_SHOWN,
    NOTHING,
    chosen_classes,
    confusion_heat,
    plot_curves,
    plot_training,
    row_fractions,
)
from .page_text import ERROR_MEANINGS, MEANINGS, difference, error_name, number, signed, verdict
from .shapes import with_paths

logger = logging.getLogger(__name__)

# Longer side of the embedded pictures, in pixels, and their JPEG quality.
PICTURE_SIZE, PICTURE_QUALITY = 512, 80
# Metrics of tasks that are no merit of a model: what chance, or the class alone, would have.
REFERENCES = ("chance_", "class_")
# Tasks whose metrics are COCO's, like those of boxes, for people.
SHAPES = {"segm": "masks", "keypoints": "keypoints"}


@functools.cache
def environment() -> Environment:
    """Jinja with this package's templates and filters."""
    templates = Environment(
        loader=PackageLoader("yolor_d2.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters.update(number=number, signed=signed, error_name=error_name)
    templates.globals.update(verdict=verdict, difference=difference)
    # Metrics of single classes, as the evaluators name them.
    templates.tests["in_class"] = lambda name: name.startswith("AP-")
    templates.tests["reference"] = lambda name: name.startswith(REFERENCES)
    return templates


def read_asset(name: str) -> str:
    return resources.files("yolor_d2.report").joinpath("templates", name).read_text("utf-8")


def render(template: str, **values: object) -> str:
    """A page from its template, with style and script inside."""
    script = read_asset("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        environment()
        .get_template(template)
        .render(
            style=Markup(read_asset("style.css")),
            script=Markup(script),
            script_hash=f"sha256-{digest}",
            meanings=MEANINGS,
            error_meanings=ERROR_MEANINGS,
            kinds=list(KINDS.values()),
            stages=STAGES,
            **values,
        )
    )


def render_report(report: dict) -> str:
    """The page of a report.

    Args:
        report: what report.json holds, without NaN; the images that its pictures show are read from
            where it says.
    """
    shown = chosen_classes(report)
    fractions = row_fractions(report["confusion"]["matrix"])
    heat = confusion_heat(report["confusion"], fractions)
    root = report["dataset"]["image_root"]
    return render(
        "report.html.jinja",
        report=report,
        title=" - ".join(filter(None, [title_of(report), report["model"]["run"]])),
        shapes={name: report["tasks"][name] for name in SHAPES if name in report["tasks"]},
        shape_names=SHAPES,
        legend=[(place, name) for place, (_, name) in enumerate(shown, start=1)],
        curves=plot_curves(report, shown),
        heat=heat,
        nothing=NOTHING,
        most_shown=MOST_SHOWN,
        fractions=fractions.tolist() if heat is None else None,
        training=plot_training([("", report["training"])]),
        pictures={
            name: [embed_picture(picture, root, report) for picture in pictures]
            for name, pictures in report["pictures"].items()
        },
    )


def title_of(report: dict) -> str:
    """Model and data set."""
    return f"{report['model']['name']} on {report['dataset']['name']}"


def embed_picture(picture: dict, root: str | None, report: dict) -> dict:
    """A picture with its pixels, as far as the image can be read, and the size of its boxes."""
    data = None
    width, height = picture["width"], picture["height"]
    if root is not None:
        path = Path(root) / picture["file_name"]
        try:
            image = read_image(path)
        except (ImageReadError, OSError, ValueError) as error:
            logger.warning("The report shows no pixels of %s: %s", picture["file_name"], error)
        else:
            height, width = image.shape[:2]
            data = encode_picture(image)
    if not isinstance(width, int) or not isinstance(height, int) or min(width, height) < 1:
        # What is known of the image is its boxes.
        ends = [
            (x + w, y + h)
            for x, y, w, h in (b["box"] for b in (*picture["objects"], *picture["detections"]))
        ]
        width, height = (max(1, math.ceil(max(side))) for side in zip(*ends or [(1, 1)]))
    names = [entry["name"] for entry in report["classes"]]
    lines = report.get("skeleton", [])
    return {
        **picture,
        **{key: [with_paths(x, lines) for x in picture[key]] for key in ("objects", "detections")},
        "width": width,
        "height": height,
        "data": data,
        "names": names,
    }


def encode_picture(image: np.ndarray) -> str:
    """An RGB image as a small JPEG in a data URL."""
    scale = min(PICTURE_SIZE / max(image.shape[:2]), 1.0)
    size = tuple(max(round(side * scale), 1) for side in image.shape[1::-1])
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    _, code = cv2.imencode(".jpg", small[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, PICTURE_QUALITY])
    return f"data:image/jpeg;base64,{base64.b64encode(code.tobytes()).decode()}"
