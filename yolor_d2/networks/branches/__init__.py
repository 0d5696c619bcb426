"""Branches of further tasks beside the detection head, on the same features: one file each.

A file holds the branch with its implicit knowledge, its targets, its loss and what its output
means. The other half of a task, fields of `Instances`, evaluator and keys of the configuration, is
in `yolor_d2.tasks`.
"""

from .branch import DetectedBoxes, FileOutput, TaskBranch, TaskBranches, TaskInputs
from .classification import ClassificationBranch
from .embedding import EmbeddingBranch
from .keypoints import KeypointBranch
from .masks import MaskBranch

__all__ = [
    "ClassificationBranch",
    "DetectedBoxes",
    "EmbeddingBranch",
    "FileOutput",
    "KeypointBranch",
    "MaskBranch",
    "TaskBranch",
    "TaskBranches",
    "TaskInputs",
]
