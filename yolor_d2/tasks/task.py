"""The Detectron2 side of a task beside detection."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from ..networks.branches import TaskBranch, TaskInputs
from ..ops.padding import Placement

if TYPE_CHECKING:
    from ..d2.config import CfgNode
    from ..d2.evaluation import DatasetEvaluator
    from ..d2.structures import Instances
    from ..data.dataset import TrainingDataset
    from ..data.training_data import TrainingData


class Task:
    """What is to be known of a task beside its branch, see `networks.branches`.

    Attributes:
        name: of the branch (tasks.NAME in checkpoints); the node of its keys is
            MODEL.YOLOR.TASKS.NAME in capitals.
        ground_truth: what it needs of the data beyond boxes and classes: "polygons", "keypoints"
            or "identities".
        metrics: name of its metrics in the results of an evaluation.
        least_values: least value of keys of the node.
        toy_values: keys of the node for networks of a few minutes on a CPU.
    """

    name: ClassVar[str]
    ground_truth: ClassVar[Sequence[str]] = ()
    metrics: ClassVar[str] = ""
    least_values: ClassVar[Mapping[str, float]] = {}
    toy_values: ClassVar[Mapping[str, Any]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "figures" in vars(cls):  # the former name
            warnings.warn(
                f"`{cls.__name__}.figures` is `metrics` now; the former name goes with 1.0",
                DeprecationWarning,
                stacklevel=2,
            )
            cls.metrics = vars(cls)["figures"]

    def add_config(self, node: CfgNode) -> None:
        """Add the keys and their defaults to the node; "ENABLED" is one of them."""
        raise NotImplementedError

    def build(self, node: CfgNode, inputs: TaskInputs) -> TaskBranch:
        """The branch as the node wants it."""
        raise NotImplementedError

    def pack_truth(
        self,
        branch: TaskBranch,
        instances: Sequence[Instances],
        placements: Sequence[Placement],
        canvas: tuple[int, int],
    ) -> dict[str, Tensor]:
        """Ground truth for `TaskBranch.losses`: (M, ...) on the CPU by name, of all objects in the
        order of `instances`.

        Args:
            branch: of the model.
            instances: of each image, with the fields of Detectron2's mappers ("gt_...").
            placements: of the images on the canvas.
            canvas: its (H, W) in pixels.

        Raises:
            KeyError: when they lack a field that is needed.
        """
        return {}

    def add_results(self, result: dict[str, Any], decoded: Any) -> None:
        """Put what `TaskBranch.decode` gave into the output for an image, which has "instances"."""
        raise NotImplementedError

    def mirror(self, branch: TaskBranch, decoded: Any, size: tuple[int, int]) -> Any:
        """What `TaskBranch.decode` gave for the mirrored image, for the image itself; the same,
        unless there are places in it.

        Args:
            branch: of the model.
            decoded: of one image and its detections.
            size: (H, W) of the image, in the pixels of `decoded`.
        """
        return decoded

    def join_views(self, decoded: Sequence[Any], order: Tensor) -> Any:
        """What `TaskBranch.decode` gave for several augmented views of an image, as one for all of
        its
        detections: each has the row of its own view, unless a task does it otherwise.

        Args:
            decoded: of each view and the detections that come from there, which may be none.
            order: (D,) int64 numbers of the detections among those of all augmented views in turn.
        """
        parts = list(decoded)
        joined = torch.cat(parts) if isinstance(parts[0], Tensor) else type(parts[0]).cat(parts)
        return joined[order]

    def evaluators(self, cfg: CfgNode, dataset_name: str, folder: Path) -> list[DatasetEvaluator]:
        """What gives the metrics of this task on a data set.

        Args:
            cfg: the configuration.
            dataset_name: of a registered data set.
            folder: for what they write.
        """
        return []

    def describe_file(self, cfg: CfgNode, branch: TaskBranch) -> dict[str, Any]:
        """What is to be known of `TaskBranch.file_outputs` beyond their meaning, as plain data."""
        return {}

    def coco_options(self, cfg: CfgNode) -> dict[str, Any]:
        """What `COCOEvaluator` is to know for `metrics` of this task, see its `options`."""
        return {}

    # ---- What depends on the training data

    def settle(self, cfg: CfgNode, data: TrainingData) -> None:
        """Set keys that the training data decide, where they are not given.

        Raises:
            ValueError: when the data lack what the task learns from.
        """

    def forget_data(self, node: CfgNode) -> None:
        """Take back what `settle` has set, as the training data are others now."""

    def check_data(self, cfg: CfgNode, dataset: TrainingDataset) -> None:
        """Compare what is trained on with the keys.

        Raises:
            ValueError: when they do not fit.
        """
