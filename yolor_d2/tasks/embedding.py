"""Embeddings that tell individuals apart, see `networks.branches.embedding`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from ..networks.branches import EmbeddingBranch, TaskBranch, TaskInputs
from ..ops.padding import Placement
from .task import Task

if TYPE_CHECKING:
    from ..d2.config import CfgNode
    from ..d2.structures import Instances
    from ..data.dataset import TrainingDataset
    from ..data.training_data import TrainingData


class EmbeddingTask(Task):
    """In: gt_identities, (M,) int64, -1 where unknown. Out: pred_embeddings, (D, dimension)."""

    name: ClassVar = "embedding"
    metrics: ClassVar = "embedding"
    ground_truth: ClassVar = ("identities",)
    least_values: ClassVar = {"CHANNELS": 1, "DIMENSION": 1, "NUM_IDENTITIES": 0, "GAIN": 0}
    # Four times the gain: a few individuals are to be distinguished within a few hundred
    # iterations.
    toy_values: ClassVar = {"CHANNELS": 64, "DIMENSION": 64, "GAIN": 0.2}

    def add_config(self, node: CfgNode) -> None:
        # A vector for each object that tells which individual it is (the paper's JDE).
        node.ENABLED = False
        # Implicit operator in the branch, "none" or, as in the paper's iJDE, "add".
        node.IMPLICIT = "none"
        # Width of the 3x3 convolution on each level.
        node.CHANNELS = 128
        # Length of the vector.
        node.DIMENSION = 128
        # Individuals in the training set; 0 lets yolor-d2 train count them.
        node.NUM_IDENTITIES = 0
        # Weight of the loss.
        node.GAIN = 0.05

    def build(self, node: CfgNode, inputs: TaskInputs) -> EmbeddingBranch:
        return EmbeddingBranch(
            inputs.channels,
            dimension=node.DIMENSION,
            num_identities=node.NUM_IDENTITIES,
            channels=node.CHANNELS,
            implicit=node.IMPLICIT,
            options=inputs.options,
            gain=node.GAIN,
            form=inputs.form,
            num_anchors=inputs.num_anchors,
        )

    def pack_truth(
        self,
        branch: TaskBranch,
        instances: Sequence[Instances],
        placements: Sequence[Placement],
        canvas: tuple[int, int],
    ) -> dict[str, Tensor]:
        assert isinstance(branch, EmbeddingBranch)
        if not all(x.has("gt_identities") for x in instances):
            raise KeyError(
                "the embedding task needs 'gt_identities' in the instances of every input; "
                "annotations give them by 'instance_id'"
            )
        identities = torch.cat([x.gt_identities.cpu() for x in instances])
        known = len(branch.prototypes)
        if len(identities) and int(identities.max()) >= known:
            raise ValueError(
                f"an object has identity {int(identities.max())}, but "
                f"MODEL.YOLOR.TASKS.EMBEDDING.NUM_IDENTITIES is {known}"
            )
        return {"identities": identities.clamp(min=-1)}

    def add_results(self, result: dict[str, Any], decoded: Tensor) -> None:
        result["instances"].pred_embeddings = decoded

    def evaluators(self, cfg: CfgNode, dataset_name: str, folder: Path) -> list:
        from ..evaluation.embedding import EmbeddingEvaluator

        return [EmbeddingEvaluator.from_dataset(dataset_name)]

    def settle(self, cfg: CfgNode, data: TrainingData) -> None:
        from ..datasets.annotations import IDENTITY_KEY
        from ..datasets.ground_truth import known_identities

        node = cfg.MODEL.YOLOR.TASKS.EMBEDDING
        if node.NUM_IDENTITIES:
            return
        node.NUM_IDENTITIES = len(known_identities(data.read().identities))
        if node.NUM_IDENTITIES == 0:
            raise ValueError(
                f"MODEL.YOLOR.TASKS.EMBEDDING.ENABLED is True, but no object of DATASETS.TRAIN "
                f"{list(cfg.DATASETS.TRAIN)} says which individual it is: its annotation needs the "
                f"key {IDENTITY_KEY!r}"
            )

    def forget_data(self, node: CfgNode) -> None:
        node.NUM_IDENTITIES = 0

    def check_data(self, cfg: CfgNode, dataset: TrainingDataset) -> None:
        node = cfg.MODEL.YOLOR.TASKS.EMBEDDING
        if dataset.num_identities != node.NUM_IDENTITIES:
            raise ValueError(
                f"MODEL.YOLOR.TASKS.EMBEDDING.NUM_IDENTITIES is {node.NUM_IDENTITIES}, but the "
                f"objects of DATASETS.TRAIN {list(cfg.DATASETS.TRAIN)} have "
                f"{dataset.num_identities} identities"
            )
