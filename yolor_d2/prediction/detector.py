"""The detector of `predict`: a predictor, and which of its detections count."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from ..d2.structures import Instances
from ..files.images import ImageReadError, most_pixels_in_memory, read_image
from ..predictor import BatchPredictor, FailedInput
from ..visualize.pictures import to_rgb
from ..visualize.shapes import Skeleton


class Prediction:
    """A predictor, and which of its detections count.

    Args:
        predictor: takes RGB arrays.
        names: of the classes.
        threshold: least score to report.
        classes: numbers of the classes to report; None reports all.
        tile: side of tiles in pixels; None looks at whole images alone.
        overlap: pixels that neighbouring tiles share.
        whole: with tiles, also look at whole images.
        least: least score of what is looked at, which is less where a tracker uses it.
        skeleton: what keypoints are, if the model finds some.
    """

    def __init__(
        self,
        predictor: BatchPredictor,
        names: list[str],
        threshold: float,
        *,
        classes: list[int] | None = None,
        tile: int | None = None,
        overlap: int = 0,
        whole: bool = False,
        least: float | None = None,
        skeleton: Skeleton | None = None,
    ):
        self.predictor = predictor
        self.names = names
        self.threshold = threshold
        self.classes = classes
        self.tile = tile
        self.overlap = overlap
        self.whole = whole
        self.least = threshold if least is None else least
        self.skeleton = skeleton

    def detect(self, sources: Iterable) -> Iterator[Instances | FailedInput]:
        """Detections on the CPU that count."""
        if self.tile is None:
            results = self.predictor.stream(sources)
        else:
            results = (self.detect_tiled(i, source) for i, source in enumerate(sources))
        for instances in results:
            if not isinstance(instances, FailedInput):
                instances = instances.to("cpu")
                keep = instances.scores >= self.least
                if self.classes is not None:
                    labels = instances.pred_classes
                    keep &= (labels[:, None] == labels.new_tensor(self.classes)).any(1)
                instances = instances[keep]
            yield instances

    def detect_tiled(self, index: int, source) -> Instances | FailedInput:
        try:
            return self.predictor.detect_tiled(
                source, tile=self.tile, overlap=self.overlap, whole=self.whole
            )
        except (ImageReadError, OSError) as error:
            return FailedInput(index, str(error))

    def read(self, path: str) -> np.ndarray:
        """An image to draw on."""
        # As large as what was looked at.
        limit = None if self.tile is None else most_pixels_in_memory()
        return to_rgb(read_image(path, channels=self.predictor.channels, limit=limit))
