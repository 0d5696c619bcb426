"""The page that compares the reports of two runs."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from ..visualize.plots import Line, plot_lines
from .page import render
from .page_plots import axes_of, plot_training
from .page_text import verdict

# Images in either list of those that changed.
NUM_CHANGED = 10


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


def differences_of_data(reports: Sequence[dict]) -> list[str]:
    """Why the numbers of two reports may not be comparable."""
    lines = []
    for key, what in (("images", "images"), ("objects", "objects")):
        counts = [report["counts"][key] for report in reports]
        if counts[0] != counts[1]:
            lines.append(f"The runs were evaluated on {counts[0]:,} and {counts[1]:,} {what}.")
    files = [{image["file_name"] for image in report["images"]} for report in reports]
    if not lines and files[0] != files[1]:
        lines.append("The runs were evaluated on different images.")
    labels = [[entry["name"] for entry in report["classes"]] for report in reports]
    if labels[0] != labels[1]:
        only = sorted(set(labels[0]) ^ set(labels[1]))
        text = f": {', '.join(only[:10])}" if only else " order"
        lines.append(f"The classes of the runs differ{text}.")
    return lines


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
