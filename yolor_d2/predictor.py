"""From files, arrays or tensors to detections: in batches, over endless streams, and in tiles."""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .checkpoint import YOLORCheckpointer
from .d2.config import CfgNode
from .d2.modeling import build_model
from .d2.structures import Instances
from .data.resize import build_test_resize, resize_for_test, to_pixels
from .files.images import check_channel_order, limit_pixels, most_pixels_in_memory, read_image
from .inputs import require_weights
from .modeling import YOLOR
from .modeling.inference import prepare_for_inference
from .tiles import describe_views, join_pieces, take_from_tile, tile_windows

__all__ = ["BatchPredictor", "FailedInput", "Source", "load_model", "to_array"]

logger = logging.getLogger(__name__)

# Batches that are read ahead of the network.
BATCHES_AHEAD = 4

Source = str | Path | np.ndarray | Tensor


@dataclass(frozen=True)
class FailedInput:
    """Stands in the results for an input that could not be read.

    Attributes:
        index: its place in the input, from 0.
        message: what is wrong with it.
    """

    index: int
    message: str


def to_array(
    source: Source,
    channel_order: str,
    wanted: str,
    channels: int = 3,
    *,
    limit: int | None = None,
) -> np.ndarray:
    """(H, W, C) uint8; three channels in the wanted order.

    Args:
        source: a path; (H, W, C) uint8 array; or (C, H, W) tensor with values 0-255.
        channel_order: "RGB" or "BGR", that of arrays and tensors.
        wanted: that of the result.
        channels: C, see `images.read_image`.
        limit: most pixels of a file, see `images.read_image`.

    Raises:
        OSError, ValueError: when it is no image.
    """
    if isinstance(source, (str, Path)):
        return read_image(source, wanted, channels, limit=limit)
    pixels = source
    if isinstance(pixels, Tensor):
        if pixels.dim() != 3:
            raise ValueError(
                f"a tensor has shape {tuple(pixels.shape)}, expected ({channels}, H, W)"
            )
        pixels = pixels.permute(1, 2, 0).cpu().round().to(torch.uint8).numpy()
    if not isinstance(pixels, np.ndarray):
        raise ValueError(f"an input is {type(source).__name__}, expected path, array or tensor")
    fits = pixels.ndim == 3 and pixels.shape[2] == channels and 0 not in pixels.shape
    if not fits or pixels.dtype != np.uint8:
        raise ValueError(
            f"an image has shape {pixels.shape} and type {pixels.dtype}, expected (H, W, "
            f"{channels}) uint8"
        )
    return pixels if channel_order == wanted or channels != 3 else pixels[:, :, ::-1]


def load_model(cfg: CfgNode) -> YOLOR:
    """The model of a config in evaluation mode, with MODEL.WEIGHTS; nothing of it stays random.

    Raises:
        ValueError: when the weights do not fit.
        FileNotFoundError: when MODEL.WEIGHTS is no file.
    """
    require_weights(cfg.MODEL.WEIGHTS)
    model = build_model(cfg).eval()
    YOLORCheckpointer(model, strict=True).load(cfg.MODEL.WEIGHTS)
    return model


class BatchPredictor:
    """`DefaultPredictor` over many inputs: the same boxes, up to rounding in batches of several.

    Worker threads read and resize while the network computes. Only images whose canvas
    has the same size share a batch, so that none sees a border that it would not have alone.

    Args:
        cfg: the configuration; MODEL.INFERENCE and TEST.AUG apply.
        batch_size: most images that go through the network together; 1 for a camera, which
            otherwise waits for the next frames.
        workers: threads that read and resize.
        channel_order: "RGB" or "BGR", that of arrays and tensors; files need none.

    Raises:
        ValueError: when an argument is out of range, or the weights do not fit.
        FileNotFoundError: when MODEL.WEIGHTS is no file.
    """

    def __init__(
        self, cfg: CfgNode, *, batch_size: int = 8, workers: int = 2, channel_order: str = "BGR"
    ):
        check_channel_order(channel_order)
        if batch_size < 1 or workers < 1:
            raise ValueError(
                f"batch_size is {batch_size} and workers {workers}, expected at least 1"
            )
        limit_pixels(cfg.INPUT.MAX_PIXELS)
        self.cfg = cfg.clone()
        model = load_model(self.cfg)
        self.canvas_size = model.canvas_size
        self.model = prepare_for_inference(model, self.cfg)
        self.resize = build_test_resize(cfg)
        self.input_format = cfg.INPUT.FORMAT
        self.channels = len(cfg.MODEL.PIXEL_MEAN)
        self.batch_size = batch_size
        self.workers = workers
        self.channel_order = channel_order

    def __call__(self, sources: Sequence[Source]) -> list[Instances | FailedInput]:
        """Detections of every input, in pixels of that image, in the order of the inputs."""
        return list(self.stream(sources))

    def prepare(self, source: Source) -> dict:
        """What the model takes of one input; runs in a worker thread."""
        return self.to_input(self.read(source))

    def read(self, source: Source) -> np.ndarray:
        """The image in the model's channel order, see `to_array`."""
        return to_array(source, self.channel_order, self.input_format, self.channels)

    def to_input(self, image: np.ndarray) -> dict:
        """What the model takes of an image."""
        height, width = image.shape[:2]
        image = resize_for_test(self.resize, image)
        return {"image": to_pixels(image), "height": height, "width": width}

    def stream(self, sources: Iterable[Source]) -> Iterator[Instances | FailedInput]:
        """The same over any iterable, also an endless one; few batches are read ahead."""
        upcoming = enumerate(sources)
        pending: deque[tuple[int, Future]] = deque()
        finished: dict[int, Instances | FailedInput] = {}
        wanted = 0  # next in the order of the inputs
        # Of several batches one size fills a batch, also where images differ.
        ahead = BATCHES_AHEAD * self.batch_size if self.batch_size > 1 else 2
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="yolor_d2-read")
        try:
            while True:
                for index, source in itertools.islice(upcoming, ahead - len(pending)):
                    pending.append((index, pool.submit(self.prepare, source)))
                if not pending:
                    return
                finished.update(self.detect_next(pending))
                while wanted in finished:
                    yield finished.pop(wanted)
                    wanted += 1
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def detect_next(self, pending: deque[tuple[int, Future]]) -> dict[int, Instances | FailedInput]:
        """Results by number of the first pending input and of those that fit into its batch.

        They are taken from `pending`. Which ones depends on the inputs alone, not on how fast they
        are read, so that the results can be repeated.
        """
        results: dict[int, Instances | FailedInput] = {}
        batch: dict[int, dict] = {}
        size = None
        for _ in range(len(pending)):
            index, future = pending.popleft()
            if len(batch) < self.batch_size:
                try:
                    inputs = future.result()
                except (OSError, ValueError) as error:
                    results[index] = FailedInput(index, str(error))
                    continue
                own = self.canvas_size(inputs)
                size = size or own
                if own == size:
                    batch[index] = inputs
                    continue
            pending.append((index, future))  # once around: the order stays
        if batch:
            with torch.no_grad():
                outputs = self.model(list(batch.values()))
            results.update(zip(batch, (output["instances"] for output in outputs)))
        return results

    def detect_tiled(
        self,
        source: Source,
        *,
        tile: int,
        overlap: int,
        whole: bool = False,
        iou_threshold: float = 0.5,
    ) -> Instances:
        """Detections of a large image, tile by tile.

        A box that ends at a tile's inner border is dropped where it fits into the overlap, as the
        neighbour sees that object whole; of larger objects each tile finds its piece. Where masks
        are found too, pieces become one object, see `tiles.join_pieces`.

        Args:
            source: see `to_array`. A file may have more pixels than INPUT.MAX_PIXELS, up to what
                this machine's memory can decode: who asks for tiles expects a large image.
            tile: side of a tile in pixels; the test size of the config is then that of a tile.
            overlap: pixels that neighbours share, at least the size of the objects.
            whole: also look at the whole image, for objects larger than the overlap. It shows all
                objects smaller than the tiles do; a model that never saw them so small finds
                things in it that are not there.
            iou_threshold: of two boxes of a class that overlap more, the better stays.

        Raises:
            OSError, ValueError: when the source is no image, or the overlap is not below the tile.
        """
        # Here, as it takes a second.
        from torchvision.ops import batched_nms

        order = self.channel_order
        limit = most_pixels_in_memory()
        image = to_array(source, order, order, self.channels, limit=limit)
        height, width = image.shape[:2]
        windows = tile_windows(height, width, tile, overlap)
        whole = whole and len(windows) > 1
        if isinstance(source, (str, Path)):
            logger.info("%s: %s", source, describe_views(windows, tile, whole))
        views = (image[top:bottom, left:right] for left, top, right, bottom in windows)
        parts = []
        for window, instances in zip(windows, self.stream(views)):
            if isinstance(instances, FailedInput):
                raise ValueError(instances.message)
            parts.append(take_from_tile(instances, window, (height, width), overlap))
        if len(parts) > 1:
            parts = [join_pieces(parts, windows)]
        if whole:
            (instances,) = self([image])
            if isinstance(instances, FailedInput):
                raise ValueError(instances.message)
            parts.append(Instances((height, width), **instances.get_fields()))
        if len(windows) == 1:
            return parts[0]  # nothing to suppress
        joined = Instances.cat(parts)
        boxes, scores, labels = joined.pred_boxes.tensor, joined.scores, joined.pred_classes
        return joined[batched_nms(boxes, scores, labels, iou_threshold)]
