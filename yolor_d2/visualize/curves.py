"""Curves of a run: losses, AP and learning rate."""

from __future__ import annotations

from pathlib import Path

from ..runs import read_metrics


def plot_curves(metrics_file: Path, output: Path) -> None:
    """Plot losses, AP and learning rate of a run over its iterations, to a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = read_metrics(metrics_file)
    # A resumed run repeats no iteration in the curve: the newest line of each counts.
    by_iteration = {row["iteration"]: row for row in rows if "iteration" in row}
    rows = [by_iteration[i] for i in sorted(by_iteration)]
    terms = sorted({key for row in rows for key in row if key.startswith("loss_")})
    panels = [
        ("loss", ["total_loss", *terms]),
        ("AP (%)", ["bbox/AP50", "bbox/AP", "segm/AP", "keypoints/AP"]),
        ("learning rate", ["lr"]),
    ]
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, keys) in zip(figure.subplots(1, len(panels)), panels):
        for key in keys:
            points = [(row["iteration"], row[key]) for row in rows if key in row]
            if points:
                axes.plot(*zip(*points), label=key, marker="o" if len(points) < 30 else None, ms=3)
        axes.set_title(title)
        axes.set_xlabel("iteration")
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.set_ylim(bottom=0)
            axes.legend(fontsize=8)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=120)
