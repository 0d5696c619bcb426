"""Reports as pages: one file each, which needs nothing else and opens without a network.

The pages are templates of Jinja (templates/), which escapes every name that it is given. The one
script is named in the page's content security policy by its hash: nothing else can run.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import logging
import math
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ..evaluation.stages import STAGES
from ..files.images import ImageReadError, read_image
from .errors import KINDS
from .plots import NUM_COLOURS, Line, plot_heat, plot_lines
from .shapes import with_paths

logger = logging.getLogger(__name__)

# Longer side of the embedded pictures, in pixels, and their JPEG quality.
PICTURE_SIZE, PICTURE_QUALITY = 512, 80
# A confusion matrix with more classes becomes a picture.
MOST_CELLS = 12
# Curves and that picture show at most so many classes, those with most objects.
MOST_SHOWN = 100
# Classes with a colour of their own in the curves; the first colour is that of all together.
MOST_LINES = NUM_COLOURS - 1
# What the last row and the last column of a confusion matrix are.
NOTHING = ("nothing", "missed")
# Figures of tasks that are no merit of a model: what chance, or the class alone, would have.
REFERENCES = ("chance_", "class_")
# Tasks whose figures are COCO's, like those of boxes, for people.
SHAPES = {"segm": "masks", "keypoints": "keypoints"}
# Losses that differ by a greater factor get a logarithmic axis.
LEAST_SPAN = 20
# Images in either list of those that changed.
NUM_CHANGED = 10

MEANINGS = {
    "AP": "IoU 0.50 to 0.95, all sizes",
    "AP50": "IoU 0.50",
    "AP75": "IoU 0.75",
    "APs": "small objects, below 32² pixels",
    "APm": "medium objects",
    "APl": "large objects, above 96² pixels",
    "AR1": "recall with 1 detection per image",
    "AR10": "recall with 10 detections per image",
    "AR100": "recall with 100 detections per image",
    "ARs": "recall of small objects",
    "ARm": "recall of medium objects",
    "ARl": "recall of large objects",
}
# The kinds of errors, as report.json has them, for people.
ERROR_NAMES = {
    "class": "wrong class",
    "position": "wrong position",
    "both": "both wrong",
}
ERROR_MEANINGS = {
    "class": "right place, wrong class",
    "position": "right class, box too far off (IoU 0.1 to 0.5)",
    "both": "wrong class and box too far off",
    "duplicate": "an object that a better detection has found",
    "background": "nothing there (IoU up to 0.1)",
    "missed": "no detection accounts for the object",
    "false positives": "every detection that is not correct",
    "false negatives": "every object that is not found",
}


def number(value: float | None, digits: int = 1) -> str:
    """A number for people, a dash where there is none."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "\N{EN DASH}"
    if isinstance(value, int):
        return f"{value:,}"
    text = f"{value:,.{digits}f}"
    is_zero = float(text.replace(",", "")) == 0
    return text.lstrip("-") if is_zero else text.replace("-", "\N{MINUS SIGN}")


def error_name(kind: str) -> str:
    """A kind of error for people."""
    return ERROR_NAMES.get(kind, kind)


def verdict(values: Sequence[float | None], digits: int = 1, good: int = 1) -> str:
    """ "better" or "worse", as far as the difference can be seen; else nothing.

    Args:
        values: of the first and of the second run.
        digits: that are shown.
        good: 1 where more is better, -1 where less is, 0 where it is no merit.
    """
    change = difference(*values)
    if change is None or not math.isfinite(change):
        return ""
    change = round(change, digits) * good
    return "better" if change > 0 else "worse" if change < 0 else ""


def signed(value: float | None, digits: int = 1) -> str:
    """A difference for people."""
    text = number(value, digits)
    return f"+{text}" if value is not None and value > 0 and text.strip("0.") else text


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
    # Figures of single classes, as the evaluators name them.
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


# ---- One run


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


def largest(values: Sequence[float], count: int) -> list[int]:
    """Places of the largest values, in their order."""
    return sorted(sorted(range(len(values)), key=lambda i: -values[i])[:count])


def chosen_classes(report: dict) -> list[tuple[int, str]]:
    """Number and name of the classes that get a colour: those with most objects."""
    known = [
        (i, entry)
        for i, entry in enumerate(report["classes"])
        if report["curves"]["classes"][i] is not None
    ]
    chosen = largest([entry["objects"] for _, entry in known], MOST_LINES)
    return [(known[i][0], known[i][1]["name"]) for i in chosen]


def plot_curves(report: dict, shown: Sequence[tuple[int, str]]) -> list[tuple[str, str, Markup]]:
    """Title, explanation and plot of each kind of curve; none where there is no object."""
    curves = report["curves"]
    if curves["all"] is None:
        return []
    places = {number: place for place, (number, _) in enumerate(shown, start=1)}
    drawn = largest([entry["objects"] for entry in report["classes"]], MOST_SHOWN)
    plots = []
    for key, title, text in (
        ("precision_by_recall", "Precision over recall", "COCO's, at IoU 0.5: the area is AP50."),
        ("f1", "F1 over score", "The dot is the best threshold of all classes together."),
        ("precision", "Precision over score", "The share of detections that is correct."),
        ("recall", "Recall over score", "The share of objects that is found."),
    ):
        axis = curves["recall"] if key == "precision_by_recall" else curves["score"]
        lines: list[Line] = [
            (axis, curve[key], places.get(i))
            for i, curve in ((i, curves["classes"][i]) for i in drawn)
            if curve is not None and len(curves["classes"]) > 1
        ]
        lines.append((axis, curves["all"][key], 0))
        best = report["threshold"]
        marks = [(best["threshold"], best["f1"], 0)] if key == "f1" and best["threshold"] else []
        plots.append((title, text, plot_lines(lines, title=title, marks=marks, **axes_of(key))))
    return plots


def axes_of(curve: str) -> dict[str, Any]:
    """Labels and ends of the axes of a kind of curve."""
    name = {"f1": "F1", "precision_by_recall": "precision"}.get(curve, curve)
    over_recall = curve == "precision_by_recall"
    return {
        "x_label": "recall, %" if over_recall else "score",
        "y_label": f"{name}, %",
        "ends": (100, 100) if over_recall else (1, 100),
    }


def row_fractions(matrix: Sequence[Sequence[int]]) -> np.ndarray:
    """Each entry as a share of its row."""
    counts = np.array(matrix, dtype=np.float64)
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def confusion_heat(confusion: dict, fractions: np.ndarray) -> Markup | None:
    """The matrix as a picture, where a table of it would be too large."""
    labels = [*confusion["labels"], "background"]
    if len(labels) <= MOST_CELLS + 1:
        return None
    objects = [sum(row) for row in confusion["matrix"][:-1]]
    shown = [*largest(objects, MOST_SHOWN), len(labels) - 1]
    names = [labels[i] for i in shown]
    return plot_heat(fractions[np.ix_(shown, shown)], names, "Confusion", NOTHING)


def plot_training(runs: Sequence[tuple[str, dict | None]]) -> list[tuple[str, list, Markup]]:
    """Title, legend (place among the colours, name) and plot of each kind of curve.

    Args:
        runs: name and curves of each, see `collect.training_curves`.
    """
    plots = []
    for key, title, y_label, log in (
        ("losses", "Loss", "loss", True),
        ("precisions", "AP on the validation set", "AP, %", False),
        ("rates", "Learning rate", "learning rate", False),
    ):
        series = [
            (f"{run}: {name}" if run else name, points)
            for run, training in runs
            if training is not None
            for name, points in training[key].items()
            # Of two runs only what can be told apart.
            if len(runs) == 1 or name in ("total_loss", "lr", "bbox/AP")
        ][:NUM_COLOURS]
        if not series:
            continue
        lines: list[Line] = [(*zip(*points), i) for i, (_, points) in enumerate(series)]
        values = [value for _, points in series for _, value in points]
        log = log and min(values) > 0 and max(values) > LEAST_SPAN * min(values)
        plot = plot_lines(lines, title=title, x_label="iteration", y_label=y_label, log=log)
        plots.append((title, [(i, name) for i, (name, _) in enumerate(series)], plot))
    return plots


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


# ---- Two runs


def render_comparison(
    reports: Sequence[dict], names: Sequence[str], notes: Sequence[str] = ()
) -> str:
    """The page that compares two reports.

    Args:
        reports: the earlier one and the later one, as in `render_report`, about the same images;
            see `report_compare.align_reports`.
        names: what to call them.
        notes: what a reader should know first.
    """
    first, second = reports
    return render(
        "comparison.html.jinja",
        title=f"{names[0]} and {names[1]}: comparison",
        reports=reports,
        names=names,
        notes=[*notes, *differences_of_data(reports)],
        # A run that finds less also makes fewer errors, which is no gain.
        cost_counts=verdict([report["figures"]["AP50"] for report in reports]) != "worse",
        classes=compare_classes(first, second),
        curves=compare_curves(reports),
        legend=list(enumerate(names)),
        changed=changed_images(first, second),
        settings=changed_settings(first, second),
        training=plot_training(list(zip(names, (x["training"] for x in reports)))),
    )


def difference(first: float | None, second: float | None) -> float | None:
    """None where either is missing."""
    return None if first is None or second is None else second - first


def differences_of_data(reports: Sequence[dict]) -> list[str]:
    """Why the numbers of two reports may not be comparable."""
    notes = []
    for key, what in (("images", "images"), ("objects", "objects")):
        counts = [report["counts"][key] for report in reports]
        if counts[0] != counts[1]:
            notes.append(f"The runs were evaluated on {counts[0]:,} and {counts[1]:,} {what}.")
    files = [{image["file_name"] for image in report["images"]} for report in reports]
    if not notes and files[0] != files[1]:
        notes.append("The runs were evaluated on different images.")
    labels = [[entry["name"] for entry in report["classes"]] for report in reports]
    if labels[0] != labels[1]:
        only = sorted(set(labels[0]) ^ set(labels[1]))
        text = f": {', '.join(only[:10])}" if only else " order"
        notes.append(f"The classes of the runs differ{text}.")
    return notes


def compare_classes(first: dict, second: dict) -> list[dict]:
    """Classes that both have, by name."""
    others = {entry["name"]: entry for entry in second["classes"]}
    keys = ("AP", "AP50", "f1")
    return [
        {
            "name": entry["name"],
            "objects": entry["objects"],
            **{key: (entry[key], others[entry["name"]][key]) for key in keys},
        }
        for entry in first["classes"]
        if entry["name"] in others
    ]


def compare_curves(reports: Sequence[dict]) -> list[tuple[str, Markup]]:
    """Title and plot of curves of all classes together."""
    curves = [report["curves"] for report in reports]
    if any(x["all"] is None for x in curves):
        return []
    plots = []
    for key, axis, title in (
        ("precision_by_recall", "recall", "Precision over recall"),
        ("f1", "score", "F1 over score"),
    ):
        lines: list[Line] = [(x[axis], x["all"][key], i) for i, x in enumerate(curves)]
        plots.append((title, plot_lines(lines, title=title, **axes_of(key))))
    return plots


def changed_images(first: dict, second: dict) -> dict[str, list[dict]]:
    """The images whose F1 changed most, "better" and "worse"."""
    others = {image["file_name"]: image for image in second["images"]}
    pairs = [
        {
            "file_name": image["file_name"],
            "first": image,
            "second": others[image["file_name"]],
            "change": others[image["file_name"]]["f1"] - image["f1"],
        }
        for image in first["images"]
        if image["f1"] is not None
        and others.get(image["file_name"], {"f1": None})["f1"] is not None
    ]
    pairs.sort(key=lambda pair: -abs(pair["change"]))
    return {
        "better": [pair for pair in pairs if pair["change"] > 0][:NUM_CHANGED],
        "worse": [pair for pair in pairs if pair["change"] < 0][:NUM_CHANGED],
    }


def changed_settings(first: dict, second: dict) -> list[tuple[str, str, str]]:
    """Keys of the configurations that differ, with both values."""
    changed = [(report["config"] or {"changed": {}})["changed"] for report in (first, second)]
    keys = sorted({*changed[0], *changed[1]})
    values = [(key, *(x.get(key, "default") for x in changed)) for key in keys]
    return [x for x in values if x[1] != x[2]]
