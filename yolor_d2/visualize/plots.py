"""Plots for pages: SVG that takes its colours and letters from the page around it."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Sequence
from xml.sax.saxutils import escape

import numpy as np
from markupsafe import Markup

# Lines that differ in colour; the page has as many (--series-1 ...).
NUM_COLOURS = 8
# And by dashes, for readers who cannot distinguish the colours; the legends of the page have the
# same.
DASHES = ("-", (0, (5, 1.8)), (0, (1.2, 1.6)))
# Stand-ins that become variables of the page.
INK, GRID, FAINT = "#0b0b01", "#0b0b02", "#0b0b03"
SERIES = tuple(f"#0a0a{i:02x}" for i in range(1, NUM_COLOURS + 1))
VARIABLES = {
    INK: "--muted",
    GRID: "--line",
    FAINT: "--faint",
    **{colour: f"--series-{i}" for i, colour in enumerate(SERIES, start=1)},
}
SETTINGS = {
    "svg.fonttype": "none",  # letters stay letters
    "svg.hashsalt": "yolor_d2",  # the same page for the same numbers
    "text.parse_math": False,  # a class may be called "$x$"
    "font.size": 9,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": GRID,
}
_numbers = itertools.count(1)

# A line: its points, and its place among the colours, or None for a faint one.
Line = tuple[Sequence[float], Sequence[float], int | None]


def new_axes(width: float, height: float, layout: str | None = None):
    """A chart and its axes.

    Args:
        width: in inches.
        height: in inches.
        layout: how matplotlib makes room for labels, which takes as long as the drawing; None
            leaves room for numbers.
    """
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout=layout)
    if layout is None:
        figure.subplots_adjust(left=0.125, right=0.965, bottom=0.145, top=0.975)
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    figure.patch.set_alpha(0)
    axes.patch.set_alpha(0)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0)
    axes.tick_params(axis="x", pad=6)  # so that the zeros of both axes are apart
    return figure, axes


def to_svg(figure, description: str) -> Markup:
    """A chart as an element of a page.

    Args:
        `figure`: the chart, with stand-ins for colours.
        description: for those who cannot see it.
    """
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    text = re.sub(r"font: ([\d.]+)px [^;\"]+", r"font-size: \1px", text)
    # Several plots on one page: their names must not meet.
    prefix = f"plot{next(_numbers)}-"
    text = re.sub(r'\bid="', f'id="{prefix}', text)
    text = re.sub(r'(xlink:href="#|href="#|url\(#)', lambda m: m.group(1) + prefix, text)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    label = escape(description, {'"': "&quot;"})
    return Markup(text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1))


def plot_lines(
    lines: Sequence[Line],
    *,
    title: str,
    x_label: str,
    y_label: str,
    ends: tuple[float, float] | None = None,
    marks: Sequence[tuple[float, float, int]] = (),
    log: bool = False,
) -> Markup:
    """Lines over a common axis.

    Args:
        lines: drawn in this order; the first colour is thicker among more than two.
        title: what they show, for the description.
        x_label: below the axis, with its unit.
        y_label: beside the axis, with its unit.
        ends: where both axes end that begin at 0; None: as the lines need it.
        marks: points to stress, with their place among the colours.
        log: logarithmic values.
    """
    import matplotlib

    with matplotlib.rc_context(SETTINGS):
        figure, axes = new_axes(4.9, 3.1, None if ends is not None else "constrained")
        for x, y, place in lines:
            values = np.array([np.nan if v is None else v for v in y], dtype=float)
            colour = FAINT if place is None else SERIES[place % NUM_COLOURS]
            width = 0.8 if place is None else 2.2 if place == 0 and len(lines) > 2 else 1.4
            few = len(values) < 30
            marker = {"marker": "o", "markersize": 3} if few and place is not None else {}
            order = 1 if place is None else 4 if place == 0 else 3
            dashes = "-" if place is None else DASHES[place % len(DASHES)]
            axes.plot(x, values, color=colour, lw=width, ls=dashes, zorder=order, **marker)
        for x, y, place in marks:
            axes.plot([x], [y], "o", color=SERIES[place % NUM_COLOURS], ms=6, zorder=5)
        axes.grid(lw=0.6)
        axes.set_axisbelow(True)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        if ends is not None:
            axes.set_xlim(0, ends[0])
            axes.set_ylim(0, 1.02 * ends[1])
        elif log:
            axes.set_yscale("log")
            # Matplotlib's own labels are formulas.
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.yaxis.set_minor_formatter(lambda value, _: "")
        else:
            axes.set_ylim(bottom=0)
        return to_svg(figure, f"{title}: {y_label} over {x_label}")


def plot_heat(
    matrix: np.ndarray, labels: Sequence[str], title: str, nothing: tuple[str, str]
) -> Markup:
    """A square table of shares in 0-1, rows true and columns detected; NaN stays empty.

    Args:
        matrix: the last row and the last column are those of nothing.
        labels: of the classes, and anything for nothing.
        title: for the description.
        nothing: what to call the last row and the last column.
    """
    import matplotlib

    size = max(5.0, 0.13 * len(labels) + 1.2)
    with matplotlib.rc_context({**SETTINGS, "font.size": 6.5}):
        figure, axes = new_axes(size, size, "constrained")
        image = np.zeros((*matrix.shape, 4))
        # Right ones blue, wrong ones orange, which the dark page shows too.
        image[..., :3] = np.array([213, 94, 0]) / 255
        diagonal = np.arange(len(labels))
        image[diagonal, diagonal, :3] = np.array([37, 99, 235]) / 255
        # Small shares must be seen too.
        image[..., 3] = np.sqrt(np.nan_to_num(matrix))
        axes.imshow(image, interpolation="nearest", aspect="equal")
        short = [name if len(name) <= 18 else f"{name[:17]}…" for name in labels[:-1]]
        axes.set_xticks(range(len(labels)), [*short, nothing[1]], rotation=90)
        axes.set_yticks(range(len(labels)), [*short, nothing[0]])
        axes.set_xlabel("detected")
        axes.set_ylabel("true")
        return to_svg(figure, title)
