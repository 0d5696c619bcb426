"""The plots of the pages, and the classes that they show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from ..visualize.plots import NUM_COLOURS, Line, plot_heat, plot_lines

# A confusion matrix with more classes becomes a picture.
MOST_CELLS = 12
# Curves and that picture show at most so many classes, those with most objects.
MOST_SHOWN = 100
# Classes with a colour of their own in the curves; the first colour is that of all together.
MOST_LINES = NUM_COLOURS - 1
# What the last row and the last column of a confusion matrix are.
NOTHING = ("nothing", "missed")
# Losses that differ by a greater factor get a logarithmic axis.
LEAST_SPAN = 20


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
        ("precision", "Precision over score", "The fraction of detections that are correct."),
        ("recall", "Recall over score", "The fraction of objects that are detected."),
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
    """Each entry as a fraction of its row."""
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
            # Of two runs only curves that can be distinguished.
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
