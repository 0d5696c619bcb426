"""Which assignment a model is trained with: MODEL.YOLOR.ASSIGN."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..d2.config import CfgNode
from ..ops import Assignment, assign, assign_ota
from ..ops.assign import REACH
from ..ops.truth import Truth

KINDS = ("anchors", "ota")
GUIDES = ("lead", "auxiliary")


@dataclass(frozen=True)
class Assigner:
    """The assignments of lead and auxiliary heads.

    Attributes:
        kind: "anchors" takes all candidates, as YOLOR does; "ota" chooses among them by what is
            predicted (`ops.ota`), as YOLOv7 does.
        max_ratio: see `ops.assign.assign`.
        candidates: of a box for the lead heads, 3 or 5, see there.
        auxiliary_candidates: the same for the auxiliary heads; more of them than of the lead heads
            is "coarse to fine".
        top_ious, iou_weight: of "ota", see `ops.ota.assign_ota`.
        auxiliary_by: whose predictions choose for the auxiliary heads with "ota": "lead" (lead
            guided) or "auxiliary" (their own).
    """

    kind: str = "anchors"
    max_ratio: float = 4.0
    candidates: int = 3
    auxiliary_candidates: int = 5
    top_ious: int = 10
    iou_weight: float = 3.0
    auxiliary_by: str = "lead"

    def __post_init__(self):
        for key, known in (
            ("kind", KINDS),
            ("candidates", REACH),
            ("auxiliary_candidates", REACH),
            ("auxiliary_by", GUIDES),
        ):
            if getattr(self, key) not in known:
                raise ValueError(
                    f"MODEL.YOLOR.ASSIGN.{key.upper()} is {getattr(self, key)!r}, expected one of "
                    f"{list(known)}"
                )
        if self.top_ious < 1:
            raise ValueError(f"MODEL.YOLOR.ASSIGN.TOP_IOUS is {self.top_ious}, expected at least 1")
        if self.iou_weight < 0:
            raise ValueError(
                f"MODEL.YOLOR.ASSIGN.IOU_WEIGHT is {self.iou_weight}, expected at least 0"
            )

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Assigner:
        """The keys of MODEL.YOLOR.ASSIGN, and MODEL.YOLOR.ASSIGN_MAX_RATIO."""
        node = cfg.MODEL.YOLOR
        keys = {key.lower(): value for key, value in node.ASSIGN.items()}
        return cls(max_ratio=node.ASSIGN_MAX_RATIO, **keys)

    def __call__(
        self,
        levels: Sequence[Tensor],
        auxiliary: Sequence[Tensor],
        truth: Truth,
        anchors: Tensor,
        strides: Sequence[int],
    ) -> tuple[Assignment, Assignment | None]:
        """Assign a batch.

        Args:
            levels: L logits (N, A, H, W, 5 + K) of the lead heads.
            auxiliary: those of the auxiliary heads, if there are any.
            truth: ground truth of the batch.
            anchors: (L, A, 2) in input pixels.
            strides: L strides.

        Returns:
            Positives of the lead heads, and of the auxiliary heads.
        """
        lead = self.assign(levels, truth, anchors, strides, self.candidates)
        if not auxiliary:
            return lead, None
        guide = levels if self.auxiliary_by == "lead" or self.kind == "anchors" else auxiliary
        if guide is levels and self.auxiliary_candidates == self.candidates:
            return lead, lead
        return lead, self.assign(guide, truth, anchors, strides, self.auxiliary_candidates)

    def assign(
        self,
        levels: Sequence[Tensor],
        truth: Truth,
        anchors: Tensor,
        strides: Sequence[int],
        candidates: int,
    ) -> Assignment:
        """One assignment, by the predictions of `levels` where they count."""
        assignment = assign(
            truth.image,
            truth.boxes,
            truth.labels,
            anchors,
            strides,
            [(x.shape[2], x.shape[3]) for x in levels],
            self.max_ratio,
            candidates=candidates,
        )
        if self.kind == "anchors":
            return assignment
        return assign_ota(
            assignment,
            levels,
            truth.boxes,
            truth.labels,
            anchors,
            strides,
            by_image=truth.by_image,
            top_ious=self.top_ious,
            iou_weight=self.iou_weight,
        )
