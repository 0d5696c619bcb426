"""What became of the tensors of a file, for the log and for errors."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

from ...wording import counted
from .advice import advise

logger = logging.getLogger(__name__)


@dataclass
class ConversionReport:
    """What became of every tensor of a file; names are those of the file.

    Attributes:
        source: the file.
        scheme: how its tensors are named: "yaml", "cfg", "darknet", "network" or "detectron2".
        averaged: the moving average of the weights was taken, as the file has one.
        used: names ours by theirs.
        constants: constants that belong to the configuration and not to the weights.
        unused: names without counterpart in the network.
        missing: names ours that the file has not.
        wrong_shape: shapes in the file and in the network, by name.
        classes_kept: names ours whose class rows keep their initial values, as the file has another
            number of classes.
        num_classes: classes of the file; None if its head has another layout.
        anchors: (L, A, 2) anchors in pixels that the file states; None if it states none.
        shapes: of all tensors of the file.
    """

    source: str
    scheme: str
    averaged: bool = False
    used: dict[str, str] = field(default_factory=dict)
    constants: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    wrong_shape: dict[str, tuple[list[int], list[int]]] = field(default_factory=dict)
    classes_kept: list[str] = field(default_factory=list)
    num_classes: int | None = None
    anchors: list | None = None
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def faults(self) -> str:
        """What keeps the file from fitting, with the first names; "" when it fits."""
        kinds = {
            "missing": self.missing,
            "unused": self.unused,
            "of another shape": [f"{k} {a} for {b}" for k, (a, b) in self.wrong_shape.items()],
        }
        return "; ".join(
            f"{len(names)} {kind} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
            for kind, names in kinds.items()
            if names
        )

    def check(self) -> None:
        """Raise a ValueError, with advice, unless every tensor has found its place."""
        if self.faults():
            advice = advise(self.scheme, self.shapes, self.missing, self.unused)
            raise ValueError(
                f"the weights in {self.source!r} do not fit: {self.faults()}"
                + (f". {advice}" if advice else "")
            )

    def summary(self) -> str:
        """One line of counts."""
        average = ", moving average" if self.averaged else ""
        kept = f", {len(self.classes_kept)} without their class rows" if self.classes_kept else ""
        used = counted(len(self.used), "tensor")
        return (
            f"{self.source} ({self.scheme} names{average}): {used} used{kept}, "
            f"{len(self.unused)} unused, {len(self.missing)} missing, {len(self.wrong_shape)} of "
            f"another shape, {counted(len(self.constants), 'constant')} left out"
        )

    def to_dict(self) -> dict:
        """Everything, for JSON."""
        return asdict(self)


def log_report(report: ConversionReport, num_classes: int) -> None:
    """Say what was used; names of everything else."""
    logger.info("%s", report.summary())
    if report.classes_kept:
        logger.warning(
            "%s is for %s, the model for %s: the class rows of the head start afresh, "
            "everything else is used",
            report.source,
            counted(report.num_classes, "class", "classes"),
            num_classes,
        )
    if report.faults():
        logger.warning("%s fits only in part: %s", report.source, report.faults())


def check_anchors(report: ConversionReport, anchors: Tensor) -> None:
    """Warn when the file states other anchors (L, A, 2) than those of the model."""
    if report.anchors is None:
        return
    stated = torch.tensor(report.anchors)
    if stated.shape != anchors.shape or not torch.allclose(stated, anchors.cpu().float()):
        logger.warning(
            "%s was trained with other anchors, boxes will come out wrong unless it is trained on; "
            "its own are MODEL.YOLOR.ANCHORS %s",
            report.source,
            report.anchors,
        )
