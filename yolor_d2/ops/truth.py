"""The ground truth of a batch, as assignment and losses take it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from torch import Tensor


class Truth(NamedTuple):
    """The ground truth of a batch, M rows, a few of which may be no object.

    Attributes:
        image: (M,) int64 index of the image.
        boxes: (M, 4) float32 cxcywh in pixels of the canvas; without size where `valid` is not.
        labels: (M,) int64 classes.
        valid: (M,) bool; the rows that are no object come last.
        by_image: (N, T) int64 rows of the objects of each image, M where an image has fewer.
        fields: (M, ...) what further tasks need, by name; zeros where `valid` is not.
    """

    image: Tensor
    boxes: Tensor
    labels: Tensor
    valid: Tensor
    by_image: Tensor
    fields: Mapping[str, Tensor] = {}

    def tensors(self) -> list[Tensor]:
        """All that it holds."""
        return [*self[:5], *self.fields.values()]

    def map(self, function: Callable[[Tensor], Tensor]) -> Truth:
        """The same with every tensor put through a function."""
        image, boxes, labels, valid, by_image = map(function, self[:5])
        fields = {name: function(x) for name, x in self.fields.items()}
        return Truth(image, boxes, labels, valid, by_image, fields)
