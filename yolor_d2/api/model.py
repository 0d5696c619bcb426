"""A trained detector, called with images."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..d2.structures import Instances
from ..datasets.catalog import class_names, class_numbers
from ..files.images import ImageReadError, check_channel_order
from ..inputs import IMAGE_SUFFIXES
from ..prediction.kinds import skeleton_of
from ..prediction.sources import kind_of
from ..predictor import BatchPredictor, FailedInput
from .results import Result

if TYPE_CHECKING:
    from ..d2.config import CfgNode

logger = logging.getLogger(__name__)

# One image: a path, an array (H, W, C) uint8, a picture of PIL, or a tensor (C, H, W).
Source = str | Path | np.ndarray | Image.Image | Tensor

# Least score to report, as in `yolor-d2 predict`.
THRESHOLD = 0.25


class Model:
    """A trained detector; `load` makes one.

    Args:
        cfg: the configuration, with MODEL.WEIGHTS and MODEL.DEVICE.
        threshold: least score of what is reported, unless a call says otherwise; None takes
            `THRESHOLD`, or where the model keeps higher scores alone, those.
        batch_size: most images that go through the network together.
    """

    def __init__(self, cfg: CfgNode, *, threshold: float | None = None, batch_size: int = 8):
        # Arrays come to it in its own order, see `prepare`.
        self._predictor = BatchPredictor(cfg, batch_size=batch_size, channel_order=cfg.INPUT.FORMAT)
        self.cfg = self._predictor.cfg
        self.names: list[str] = class_names(cfg)
        self._skeleton = skeleton_of(self.cfg)
        # Thresholds of classes are the model's own, whatever is reported of them.
        node = self.cfg.MODEL.YOLOR
        self._least = 0.0 if node.CLASS_SCORE_THRESHOLDS else float(node.SCORE_THRESHOLD)
        self.threshold = self._check_threshold(
            max(THRESHOLD, self._least) if threshold is None else threshold
        )

    @property
    def device(self) -> torch.device:
        """Where the network computes."""
        return next(self._predictor.model.parameters()).device

    def __repr__(self) -> str:
        names = ", ".join(self.names[:5]) + (", ..." if len(self.names) > 5 else "")
        return (
            f"<Model: {self.cfg.MODEL.YOLOR.VARIANT} on {self.device}, {len(self.names)} classes "
            f"({names}), weights {self.cfg.MODEL.WEIGHTS!r}>"
        )

    @overload
    def __call__(
        self,
        source: Source,
        *,
        threshold: float | None = None,
        classes: Sequence[str | int] | None = None,
        channel_order: str = "RGB",
    ) -> Result: ...
    @overload
    def __call__(
        self,
        source: Sequence[Source],
        *,
        threshold: float | None = None,
        classes: Sequence[str | int] | None = None,
        channel_order: str = "RGB",
    ) -> list[Result]: ...
    def __call__(
        self,
        source: Source | Sequence[Source],
        *,
        threshold: float | None = None,
        classes: Sequence[str | int] | None = None,
        channel_order: str = "RGB",
    ) -> Result | list[Result]:
        """What is in an image, or in each of several.

        Args:
            source: a path, an array (H, W, 3) uint8, a picture of PIL, a tensor (3, H, W) of uint8
                in 0-255 or of floats in 0-1; or a list or tuple of such. A model of another number
                of channels takes so many.
            threshold: least score, 0 to 1; None takes the model's.
            classes: report these alone, by name or number; None reports all.
            channel_order: of arrays: "RGB", as everywhere in Python but in OpenCV, or "BGR" for
                what `cv2.imread` gives.

        Returns:
            A `Result`, or a list of them in the order of the sources.

        Raises:
            OSError, ValueError: when a source is no image, or an argument makes no sense.
        """
        options: dict[str, Any] = {
            "threshold": threshold,
            "classes": classes,
            "channel_order": channel_order,
        }
        if isinstance(source, (list, tuple)):
            return list(self.stream(source, **options))
        if isinstance(source, (str, Path)) and Path(source).is_dir():
            raise ValueError(f"{str(source)!r} is a folder: model.stream({str(source)!r}) reads it")
        (result,) = self.stream([source], **options)  # type: ignore[list-item]
        return result

    def stream(
        self,
        sources: str | Path | Iterable[Source],
        *,
        threshold: float | None = None,
        classes: Sequence[str | int] | None = None,
        channel_order: str = "RGB",
        skip_unreadable: bool = False,
    ) -> Iterator[Result]:
        """Results one after the other, of any number of images; few are read ahead.

        Args:
            sources: anything that yields sources, see `__call__`, or a folder, whose images are
                taken in the order of their paths, those of folders inside it too.
            threshold: see `__call__`.
            classes: see `__call__`.
            channel_order: see `__call__`.
            skip_unreadable: name in the log what cannot be read, and go on.

        Raises:
            OSError, ValueError: see `__call__`.
        """
        least = self.threshold if threshold is None else self._check_threshold(threshold)
        wanted = None if classes is None else self._class_numbers(classes)
        check_channel_order(channel_order)
        if isinstance(sources, (str, Path)):
            sources = images_in(Path(sources))
        # A function of its own, so that wrong arguments are errors of the call.
        return self._results(iter(sources), least, wanted, channel_order, skip_unreadable)

    def _results(
        self,
        sources: Iterator[Source],
        threshold: float,
        classes: Tensor | None,
        channel_order: str,
        skip_unreadable: bool,
    ) -> Iterator[Result]:
        waiting: deque[str | np.ndarray] = deque()  # as few as are read ahead

        def prepared() -> Iterator[str | np.ndarray]:
            for source in sources:
                ready = self._prepare(source, channel_order)
                waiting.append(ready)
                yield ready

        for instances in self._predictor.stream(prepared()):
            source = waiting.popleft()
            if isinstance(instances, FailedInput):
                if not skip_unreadable:
                    raise ImageReadError(instances.message)
                logger.error("%s", instances.message)
                continue
            yield self._result(instances.to("cpu"), source, threshold, classes)

    def _prepare(self, source: Source, channel_order: str) -> str | np.ndarray:
        """A path, or pixels in the order of the model."""
        if isinstance(source, (str, Path)):
            text = str(source)
            if "://" in text:
                raise ValueError(f"{text!r} is an address: download the image first")
            if kind_of(Path(text), None) == "video":
                raise ValueError(f"{text!r} is a video: `yolor-d2 predict` reads those")
            return text
        if isinstance(source, Image.Image):
            if len(self.cfg.MODEL.PIXEL_MEAN) == 3:
                source = source.convert("RGB")
            pixels, channel_order = np.asarray(source), "RGB"
        elif isinstance(source, Tensor):
            pixels, channel_order = tensor_pixels(source), "RGB"
        elif isinstance(source, np.ndarray):
            pixels = source
        else:
            raise ValueError(
                f"a source is {type(source).__name__}, expected a path, an array, a picture of PIL "
                "or a tensor"
            )
        if pixels.ndim == 3 and pixels.shape[2] == 3 and channel_order != self.cfg.INPUT.FORMAT:
            pixels = pixels[:, :, ::-1]
        return pixels

    def _result(
        self,
        instances: Instances,
        source: str | np.ndarray,
        threshold: float,
        classes: Tensor | None,
    ) -> Result:
        keep = instances.scores >= threshold
        if classes is not None:
            keep &= torch.isin(instances.pred_classes, classes)
        instances = instances[keep]
        points = instances.pred_keypoints if instances.has("pred_keypoints") else None
        pixels = None
        if not isinstance(source, str):
            flipped = source.shape[2] == 3 and self.cfg.INPUT.FORMAT == "BGR"
            pixels = source[:, :, ::-1] if flipped else source
        height, width = instances.image_size
        return Result(
            boxes=instances.pred_boxes.tensor.float().numpy(),
            scores=instances.scores.float().numpy(),
            class_ids=instances.pred_classes.numpy(),
            class_names=tuple(self.names),
            size=(height, width),
            path=source if isinstance(source, str) else None,
            masks=instances.pred_masks if instances.has("pred_masks") else None,
            keypoints=None if points is None else points.float().numpy(),
            skeleton=self._skeleton,
            _pixels=pixels,
            _channels=len(self.cfg.MODEL.PIXEL_MEAN),
        )

    def _check_threshold(self, threshold: float) -> float:
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold is {threshold}, expected a score from 0 to 1")
        if threshold < self._least:
            raise ValueError(
                f"threshold is {threshold}, but the model keeps scores from {self._least} alone: "
                f'load(..., overrides=["MODEL.YOLOR.SCORE_THRESHOLD", "{threshold}"])'
            )
        return threshold

    def _class_numbers(self, classes: Sequence[str | int]) -> Tensor:
        """Classes by name or number as numbers."""
        given = [classes] if isinstance(classes, (str, int)) else classes
        numbers = class_numbers(given, self.names)
        return torch.tensor(numbers, dtype=torch.int64)


def tensor_pixels(image: Tensor) -> np.ndarray:
    """(H, W, C) uint8 of a tensor (C, H, W): uint8 in 0-255, or floats in 0-1, as torchvision has
    them.

    Raises:
        ValueError: when it is something else.
    """
    if image.dim() != 3:
        raise ValueError(f"a tensor has shape {tuple(image.shape)}, expected (C, H, W)")
    image = image.detach().cpu()
    if image.is_floating_point():
        if not bool(((image >= 0) & (image <= 1)).all()):
            raise ValueError(
                "a tensor of floats has values outside 0 to 1; values in 0 to 255 are uint8"
            )
        image = (image * 255).round().to(torch.uint8)
    if image.dtype is not torch.uint8:
        raise ValueError(f"a tensor is {image.dtype}, expected uint8 or floats")
    return image.permute(1, 2, 0).numpy()


def images_in(folder: Path) -> list[str]:
    """Paths of the images below a folder, in their order.

    Raises:
        FileNotFoundError: when it is no folder, or there are none.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {str(folder)!r}")
    files = [p for p in sorted(folder.rglob("*")) if p.suffix.lower() in IMAGE_SUFFIXES]
    if not files:
        raise FileNotFoundError(f"no image below {str(folder)!r}")
    return [str(path) for path in files]
