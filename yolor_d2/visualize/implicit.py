"""Pictures of what implicit knowledge has learned (paper section 5.5 and figure 9)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..layers import OPERATORS, FixedImplicit, Implicit

# The outputs of an anchor in front of its classes, as in figure 9.
GROUPS = ("x", "y", "width", "height", "objectness")
# Of the groups, and of the classes last; Okabe and Ito's, which people tell apart who see no red or
# no green.
COLOURS = ("#0072b2", "#56b4e9", "#e69f00", "#d55e00", "#009e73", "#7f7f7f")
# More classes are identified by the legend alone: their names would lie over each other.
MOST_NAMED = 12
# Letters of a name of a class below its bar.
LONGEST_NAME = 14
# What an operator's values are.
QUANTITIES = {"add": "summand", "mul": "multiplier", "concat": "value"}
DPI = 110


@dataclass(frozen=True)
class LearnedTensor:
    """The values of one implicit module.

    Attributes:
        place: list of modules that it belongs to, such as "head.refine".
        level: its place in that list, fine to coarse.
        stride: input pixels per cell of the map that it is for; None where the model does not say.
        operator: "add", "mul" or "concat".
        neutral: the value that changes nothing.
        values: (C,) float32.
    """

    place: str
    level: int
    stride: int | None
    operator: str
    neutral: float
    values: np.ndarray

    @property
    def title(self) -> str:
        return f"level {self.level}" if self.stride is None else f"stride {self.stride}"

    @property
    def quantity(self) -> str:
        return QUANTITIES.get(self.operator, "value")


def split_name(name: str) -> tuple[str, int]:
    """The list that a module lies in, and its place there, of its name in a model."""
    parts = name.split(".")
    numbers = [i for i, part in enumerate(parts) if part.isdigit()]
    return (".".join(parts[: numbers[-1]]), int(parts[numbers[-1]])) if numbers else (name, 0)


def stride_of(model: nn.Module, name: str) -> int | None:
    """Input pixels per cell of the map that a module in a list over levels works on, as the nearest
    module around it says that knows its strides; None where none does."""
    place, level = split_name(name)
    parts = place.split(".")
    for end in range(len(parts) - 1, -1, -1):
        around = model.get_submodule(".".join(parts[:end]))
        strides = getattr(around, "strides", None)
        if isinstance(strides, list | tuple) and level < len(strides):
            return int(strides[level])
    return None


def learned_tensors(model: nn.Module) -> list[LearnedTensor]:
    """All implicit tensors of a model, in its order."""
    tensors = []
    for name, module in model.named_modules():
        if isinstance(module, (Implicit, FixedImplicit)):
            place, level = split_name(name)
            tensors.append(
                LearnedTensor(
                    place=place,
                    level=level,
                    stride=stride_of(model, name),
                    operator=module.operator,
                    neutral=OPERATORS.lookup(module.operator).neutral,
                    values=module.value().detach().float().cpu().flatten().numpy(),
                )
            )
    return tensors


def new_figure(rows: int, columns: int, width: float, height: float, **shared):
    """A chart and its (rows, columns) axes, drawn without a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", dpi=DPI)
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **shared)


def shorten(name: str) -> str:
    """A name without its middle, as names that are alike often differ at their ends."""
    end = LONGEST_NAME // 2
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1 - end]}…{name[-end:]}"


def common_reach(tensors: Sequence[LearnedTensor]) -> float:
    """How far from neutral the axes of all panels go, so that panels can be compared."""
    return max(*(float(np.abs(t.values - t.neutral).max()) * 1.1 for t in tensors), 1e-6)


def draw_predictions(
    tensors: Sequence[LearnedTensor],
    num_anchors: int,
    classes: Sequence[str],
    anchors: Tensor | None = None,
):
    """Figure 9: a row for each stride, a column for each anchor, a bar for each of its outputs.

    Args:
        tensors: those of one place on the outputs of a head, A * (5 + K) values each.
        num_anchors: anchors A per cell.
        classes: names of the K classes.
        anchors: (L, A, 2) widths and heights in input pixels, for the titles; None: not known.
    """
    from matplotlib.patches import Patch

    figure, axes = new_figure(
        *(len(tensors), num_anchors, 4.2 * num_anchors, 2.3 * len(tensors) + 0.9),
        sharex=True,
        sharey=True,
    )
    reach = common_reach(tensors)
    few = len(classes) <= MOST_NAMED
    for row, tensor in zip(axes, tensors):
        for anchor, (panel, values) in enumerate(
            zip(row, tensor.values.reshape(num_anchors, -1) - tensor.neutral)
        ):
            colours = [COLOURS[min(i, len(GROUPS))] for i in range(len(values))]
            places = range(len(values))
            panel.bar(places, values, bottom=tensor.neutral, color=colours, width=0.9)
            panel.axhline(tensor.neutral, color="black", lw=0.6)
            panel.set_ylim(tensor.neutral - reach, tensor.neutral + reach)
            title = f"{tensor.title}, anchor {anchor + 1}"
            if anchors is not None and tensor.level < len(anchors):
                width, height = anchors[tensor.level, anchor].tolist()
                title += f" ({width:.0f} x {height:.0f} px)"
            panel.set_title(title, fontsize=9)
        row[0].set_ylabel(tensor.quantity)
    for panel in axes[-1]:
        if few:
            labels = [*GROUPS, *map(shorten, classes)]
            panel.set_xticks(range(len(labels)), labels, rotation=60, ha="right", fontsize=8)
            panel.set_xlabel("output of the anchor")
        else:
            panel.set_xticks([])
            panel.set_xlabel(f"outputs of the anchor; the last {len(classes)} are classes")
    if not few:
        names = [*GROUPS, f"{len(classes)} classes"]
        patches = [Patch(color=x, label=name) for x, name in zip(COLOURS, names)]
        figure.legend(handles=patches, loc="outside lower center", ncols=len(names), fontsize=9)
    return figure


def draw_features(tensors: Sequence[LearnedTensor]):
    """A panel for each stride: the values of all channels, sorted, and how they are spread."""
    figure, axes = new_figure(len(tensors), 2, 9, 2.4 * len(tensors) + 0.6)
    reach = common_reach(tensors)
    most = max(len(tensor.values) for tensor in tensors)
    highest = 0.0
    for (line, histogram), tensor in zip(axes, tensors):
        neutral = tensor.neutral
        ends = (neutral - reach, neutral + reach)
        channels = np.arange(1, len(tensor.values) + 1)
        line.plot(channels, np.sort(tensor.values), lw=1, color=COLOURS[0])
        line.axhline(neutral, color="black", lw=0.6)
        line.set(xlim=(0, most + 1), ylim=ends, ylabel=tensor.quantity)
        line.set_title(f"{tensor.title}: {len(tensor.values)} channels", fontsize=9)
        weights = np.full(len(tensor.values), 100 / len(tensor.values))
        heights, _, _ = histogram.hist(
            tensor.values, bins=40, range=ends, weights=weights, color=COLOURS[0]
        )
        highest = max(highest, float(heights.max()))
        histogram.axvline(neutral, color="black", lw=0.6)
        mean, spread = tensor.values.mean(), tensor.values.std()
        histogram.set(xlim=ends, ylabel="channels, %")
        histogram.set_title(
            f"{tensor.title}: mean {mean:.4f}, standard deviation {spread:.4f}", fontsize=9
        )
    for _, histogram in axes:
        histogram.set_ylim(0, 1.05 * highest)
    axes[-1][0].set_xlabel("channel, sorted by its value")
    axes[-1][1].set_xlabel(tensors[-1].quantity)
    return figure


def draw_tensors(model: nn.Module, classes: Sequence[str]) -> dict[str, object]:
    """A chart for each place with implicit knowledge, by its name in the model."""
    by_place: dict[str, list[LearnedTensor]] = {}
    for tensor in learned_tensors(model):
        by_place.setdefault(tensor.place, []).append(tensor)
    figures = {}
    for place, tensors in by_place.items():
        outputs = 5 + len(classes)
        if place.endswith("head.refine"):
            num_anchors = len(tensors[0].values) // outputs
            anchors = getattr(model, "anchors", None)
            figure = draw_predictions(tensors, num_anchors, classes, anchors)
        else:
            figure = draw_features(tensors)
        figure.suptitle(
            f"{place} ({', '.join(sorted({t.operator for t in tensors}))})", fontsize=10
        )
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


def draw_alignment(recorder: FeatureRecorder, strides: Mapping[str, int | None] | None = None):
    """Feature spaces before and after their alignment, a row for each place and stride.

    Left the mean of every channel; right the features of cells on the two axes along which they
    vary most (principal components of before and after together).

    Args:
        recorder: what it has kept.
        strides: input pixels per cell at each module, by name; None where that is not known.
    """
    names = [name for name, rows in recorder.before.items() if rows]
    figure, axes = new_figure(max(len(names), 1), 2, 9.5, 3.4 * max(len(names), 1))
    limits = []
    for (means, plane), name in zip(axes, names):
        before, after = (torch.cat(store[name]) for store in (recorder.before, recorder.after))
        place, level = split_name(name)
        stride = (strides or {}).get(name)
        where = f"level {level}" if stride is None else f"stride {stride}"
        order = before.mean(dim=0).argsort()
        channels = torch.arange(1, len(order) + 1)
        # That before is the smooth one, and stays in sight above the other.
        line = {"color": COLOURS[0], "lw": 1.8, "zorder": 3, "label": "before"}
        means.plot(channels, before.mean(dim=0)[order], **line)
        line = {"color": COLOURS[3], "lw": 0.8, "ls": "--", "label": "after"}
        means.plot(channels, after.mean(dim=0)[order], **line)
        means.set_title(f"{place}, {where}: mean of each channel", fontsize=9)
        means.set(xlabel="channel, sorted by its mean before", ylabel="mean")
        means.legend(fontsize=8)
        limits.append(means.get_ylim())
        both = torch.cat([before, after])
        centred = both - both.mean(dim=0)
        _, directions = torch.linalg.eigh(centred.T @ centred)  # by rising variance
        points = centred @ directions[:, -2:].flip(1)
        parts = (points[: len(before)], points[len(before) :])
        for part, label, colour in zip(parts, ("before", "after"), (COLOURS[0], COLOURS[3])):
            marker = "o" if label == "before" else "x"
            plane.scatter(*part.T[:2], s=6, lw=0.6, alpha=0.4, c=colour, marker=marker, label=label)
        shift = (after - before).mean(dim=0).norm() / before.std(dim=0).norm()
        plane.set_title(f"{where}: the mean moves by {shift:.3f} deviations", fontsize=9)
        plane.set(xlabel="first principal component", ylabel="second principal component")
        plane.locator_params(nbins=6)  # so that the numbers are apart
        plane.legend(fontsize=8)
    for means, _ in axes[: len(names)]:  # one range, so that strides can be compared
        means.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
    return figure


# ---- Writing charts


def save_figure(figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def to_image(figure) -> Tensor:
    """(3, H, W) uint8 RGB of a chart."""
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3]
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)
