"""Pictures of what implicit knowledge has learned (paper section 5.5 and figure 9)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .layers import OPERATORS, FixedImplicit, Implicit

# The outputs of an anchor in front of its classes, as in figure 9.
GROUPS = ("x", "y", "w", "h", "objectness")
COLOURS = ("tab:blue", "tab:cyan", "tab:orange", "tab:red", "tab:green", "tab:gray")
DPI = 110


@dataclass(frozen=True)
class LearnedTensor:
    """The values of one implicit module.

    Attributes:
        place: list of modules that it belongs to, such as "head.refine".
        level: its place in that list, fine to coarse.
        operator: "add", "mul" or "concat".
        values: (C,) float32.
    """

    place: str
    level: int
    operator: str
    values: np.ndarray


def learned_tensors(model: nn.Module) -> list[LearnedTensor]:
    """All implicit tensors of a model, in its order."""
    found = []
    for name, module in model.named_modules():
        if isinstance(module, (Implicit, FixedImplicit)):
            parts = name.split(".")
            numbers = [i for i, part in enumerate(parts) if part.isdigit()]
            cut = numbers[-1] if numbers else len(parts)
            found.append(
                LearnedTensor(
                    place=".".join(parts[:cut]),
                    level=int(parts[cut]) if numbers else 0,
                    operator=module.operator,
                    values=module.value().detach().float().cpu().flatten().numpy(),
                )
            )
    return found


def new_figure(rows: int, columns: int, width: float, height: float):
    """A figure and its (rows, columns) axes, drawn without a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", dpi=DPI)
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def neutral_of(operator: str) -> float:
    return OPERATORS.lookup(operator).neutral


def draw_predictions(tensors: Sequence[LearnedTensor], num_anchors: int, classes: Sequence[str]):
    """Figure 9: a row for each level, a column for each anchor, a bar for each of its outputs.

    Args:
        tensors: those of one place on the outputs of a head, A * (5 + K) values each.
        num_anchors: anchors A per cell.
        classes: names of the K classes.
    """
    figure, axes = new_figure(
        len(tensors), num_anchors, 4.2 * num_anchors, 2.3 * len(tensors) + 0.6
    )
    few = len(classes) <= 12
    labels = [*GROUPS, *(classes if few else [])]
    for row, tensor in zip(axes, tensors):
        neutral = neutral_of(tensor.operator)
        by_anchor = tensor.values.reshape(num_anchors, -1)
        reach = max(np.abs(by_anchor - neutral).max() * 1.1, 1e-6)
        for anchor, (panel, values) in enumerate(zip(row, by_anchor)):
            colours = [COLOURS[min(i, len(GROUPS))] for i in range(len(values))]
            panel.bar(
                range(len(values)), values - neutral, bottom=neutral, color=colours, width=0.9
            )
            panel.axhline(neutral, color="black", lw=0.6)
            panel.set_ylim(neutral - reach, neutral + reach)
            panel.set_title(f"level {tensor.level}, anchor {anchor}", fontsize=9)
            ticks = range(len(labels))
            panel.set_xticks(ticks, labels, rotation=60, ha="right", fontsize=7)
            if not few:
                panel.set_xlabel(f"the {len(classes)} classes follow", fontsize=7)
    return figure


def draw_features(tensors: Sequence[LearnedTensor]):
    """A panel for each level: the values of all channels, sorted, and how they are spread."""
    figure, axes = new_figure(len(tensors), 2, 9, 2.2 * len(tensors) + 0.6)
    for (line, histogram), tensor in zip(axes, tensors):
        neutral = neutral_of(tensor.operator)
        line.plot(np.sort(tensor.values), lw=1)
        line.axhline(neutral, color="black", lw=0.6)
        line.set_title(f"level {tensor.level}: {len(tensor.values)} channels, sorted", fontsize=9)
        histogram.hist(tensor.values, bins=40)
        histogram.axvline(neutral, color="black", lw=0.6)
        mean, spread = tensor.values.mean(), tensor.values.std()
        histogram.set_title(f"mean {mean:.4f}, deviation {spread:.4f}", fontsize=9)
    return figure


def draw_tensors(model: nn.Module, classes: Sequence[str]) -> dict[str, object]:
    """A figure for each place with implicit knowledge, by its name in the model."""
    by_place: dict[str, list[LearnedTensor]] = {}
    for tensor in learned_tensors(model):
        by_place.setdefault(tensor.place, []).append(tensor)
    figures = {}
    for place, tensors in by_place.items():
        outputs = 5 + len(classes)
        if place.endswith("head.refine"):
            figure = draw_predictions(tensors, len(tensors[0].values) // outputs, classes)
        else:
            figure = draw_features(tensors)
        figure.suptitle(f"{place} ({tensors[0].operator})", fontsize=10)
        figures[place] = figure
    return figures


# ---- Alignment of feature spaces


class FeatureRecorder:
    """Inside this context, keeps what goes into implicit modules and what comes out.

    Args:
        modules: implicit modules by name.
        cells: vectors to keep of each map, drawn at random.
    """

    def __init__(self, modules: dict[str, nn.Module], cells: int = 500):
        self.modules = modules
        self.cells = cells
        self.before: dict[str, list[Tensor]] = {name: [] for name in modules}
        self.after: dict[str, list[Tensor]] = {name: [] for name in modules}
        self.generator = torch.Generator().manual_seed(0)

    def __enter__(self) -> FeatureRecorder:
        self.handles = [
            module.register_forward_hook(lambda m, x, y, name=name: self.keep(name, x[0], y))
            for name, module in self.modules.items()
        ]
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self.handles:
            handle.remove()

    def keep(self, name: str, before: Tensor, after: Tensor) -> None:
        count = before.shape[0] * before.shape[2] * before.shape[3]
        chosen = torch.randperm(count, generator=self.generator)[: self.cells]
        for store, x in ((self.before, before), (self.after, after)):
            rows = x.detach().float().cpu().movedim(1, -1).flatten(0, -2)  # (cells, C)
            store[name].append(rows[chosen, -before.shape[1] :])  # the explicit part of a concat


def draw_alignment(recorder: FeatureRecorder):
    """Feature spaces before and after their alignment, a row for each place and level.

    Left the mean of every channel; right the features of cells on the two axes along which they
    vary most (principal components of before and after together).
    """
    names = [name for name, rows in recorder.before.items() if rows]
    figure, axes = new_figure(max(len(names), 1), 2, 9.5, 3.2 * max(len(names), 1))
    for (means, plane), name in zip(axes, names):
        before, after = (torch.cat(store[name]) for store in (recorder.before, recorder.after))
        order = before.mean(dim=0).argsort()
        means.plot(before.mean(dim=0)[order], lw=1, label="before")
        means.plot(after.mean(dim=0)[order], lw=0.7, label="after")
        means.set_title(f"{name}: mean of each channel", fontsize=9)
        means.legend(fontsize=8)
        both = torch.cat([before, after])
        centred = both - both.mean(dim=0)
        _, _, basis = torch.pca_lowrank(centred, q=min(2, *centred.shape), center=False)
        points = centred @ basis
        for part, label in ((points[: len(before)], "before"), (points[len(before) :], "after")):
            plane.scatter(*part.T[:2], s=3, alpha=0.4, label=label)
        shift = (after - before).mean(dim=0).norm() / before.std(dim=0).norm()
        plane.set_title(f"shift of the mean: {shift:.3f} of the features' deviation", fontsize=9)
        plane.legend(fontsize=8)
    return figure


# ---- Where figures go


def save_figure(figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def to_image(figure) -> Tensor:
    """(3, H, W) uint8 RGB of a figure."""
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3]
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)
