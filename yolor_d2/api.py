"""Detection in three lines: a trained model from a folder, and results that show themselves.

from yolor_d2 import load

model = load("output/mine")
model("photo.jpg").save("found.jpg")
"""

from __future__ import annotations

import io
import json
import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .config import load_config
from .d2.structures import Instances
from .datasets.catalog import class_names, class_numbers
from .files.images import ImageReadError, check_channel_order, read_image
from .inputs import IMAGE_SUFFIXES
from .ops.masks import BoxMasks
from .prediction.kinds import skeleton_of
from .prediction.result import detection_records
from .prediction.sources import kind_of
from .predictor import BatchPredictor, FailedInput
from .runs import CONFIG_NAME, find_run
from .visualize.boxes import draw_boxes
from .visualize.pictures import to_rgb, write_image
from .visualize.shapes import Skeleton, coco_points, crops

if TYPE_CHECKING:
    import supervision

    from .d2.config import CfgNode

logger = logging.getLogger(__name__)

# One image: a path, an array (H, W, C) uint8, a picture of PIL, or a tensor (C, H, W).
Source = str | Path | np.ndarray | Image.Image | Tensor

# Least score to report, as in `yolor-d2 predict`.
THRESHOLD = 0.25
# A notebook gets a picture of at most so many pixels a side.
DISPLAY_SIDE = 1280


@dataclass(frozen=True)
class Detection:
    """One object.

    Attributes:
        box: x1, y1, x2, y2 in pixels of the image.
        score: 0 to 1.
        class_id: from 0.
        name: of the class.
    """

    box: tuple[float, float, float, float]
    score: float
    class_id: int
    name: str


@dataclass(frozen=True, eq=False)
class Result(Sequence[Detection]):
    """What was found in one image, best first: a sequence of `Detection`.

    Attributes:
        boxes: (N, 4) float32 x1 y1 x2 y2 in pixels of the image.
        scores: (N,) float32.
        class_ids: (N,) int64, from 0.
        class_names: names of all classes of the model.
        size: (height, width) of the image.
        path: of the image; None where it was none.
        masks: `BoxMasks` of the N objects, of which `masks[i]` is an (H, W) bool tensor; None where
            the model finds none.
        keypoints: (N, K, 3) float32 x, y in pixels and score; None where the model finds none.
        skeleton: names of the K points, and the lines between them.
    """

    boxes: np.ndarray
    scores: np.ndarray
    class_ids: np.ndarray
    class_names: tuple[str, ...]
    size: tuple[int, int]
    path: str | None = None
    masks: BoxMasks | None = None
    keypoints: np.ndarray | None = None
    skeleton: Skeleton | None = None
    # RGB pixels, or None to read them from the path when they are wanted.
    _pixels: np.ndarray | None = field(default=None, repr=False)
    _channels: int = field(default=3, repr=False)

    @property
    def names(self) -> list[str]:
        """Names of the classes of the N objects."""
        return [self.class_names[i] for i in self.class_ids]

    @property
    def image(self) -> np.ndarray:
        """(H, W, 3) uint8 RGB pixels; those of a path are read anew each time."""
        if self._pixels is not None:
            return to_rgb(self._pixels)
        assert self.path is not None
        return to_rgb(read_image(self.path, channels=self._channels))

    def __len__(self) -> int:
        return len(self.scores)

    @overload
    def __getitem__(self, index: int) -> Detection: ...
    @overload
    def __getitem__(self, index: slice) -> list[Detection]: ...
    def __getitem__(self, index: int | slice) -> Detection | list[Detection]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        x1, y1, x2, y2 = self.boxes[index].tolist()
        label = int(self.class_ids[index])
        return Detection(
            (x1, y1, x2, y2), float(self.scores[index]), label, self.class_names[label]
        )

    def __repr__(self) -> str:
        counts: dict[str, int] = {}
        for name in self.names:
            counts[name] = counts.get(name, 0) + 1
        found = ", ".join(f"{count} {name}" for name, count in counts.items()) or "nothing"
        height, width = self.size
        return f"<Result: {found} in {self.path or 'an image'} ({width} x {height})>"

    def plot(self, *, labels: bool = True, line_width: int | None = None) -> np.ndarray:
        """(H, W, 3) uint8 RGB copy of the image with boxes, classes and scores, and with masks and
        keypoints where there are some.

        Args:
            labels: write classes and scores.
            line_width: in pixels; None chooses one that suits the boxes.
        """
        options: dict[str, Any] = {}
        if not labels:
            options["labels"] = False
        if line_width is not None:
            options["line_width"] = line_width
        if self.masks is not None:
            options["masks"] = crops(self.masks)
        if self.keypoints is not None:
            options |= {"keypoints": self.keypoints, "skeleton": self.skeleton}
        return draw_boxes(
            self.image,
            self.boxes,
            self.class_ids.tolist(),
            self.class_names,
            self.scores.tolist(),
            **options,
        )

    def save(self, path: str | Path, *, labels: bool = True, line_width: int | None = None) -> Path:
        """Write `plot()` in the format of the path's ending; folders are made.

        Returns:
            The path.

        Raises:
            ValueError: when the ending is that of no image.
            OSError: when the file cannot be written.
        """
        path = Path(path)
        if path.suffix.lower() not in IMAGE_SUFFIXES - {".npy"}:
            raise ValueError(f"{str(path)!r} has no ending of an image, such as .jpg or .png")
        write_image(path, self.plot(labels=labels, line_width=line_width))
        return path

    def to_records(self) -> list[dict[str, Any]]:
        """Plain data as `yolor-d2 predict --json` writes them: bbox is x, y, width, height."""
        return detection_records(
            self.boxes, self.scores.tolist(), self.names, self.masks, self.keypoints
        )

    def to_json(self) -> str:
        """`to_records` with the file's name, as text."""
        return json.dumps({"file_name": self.path, "detections": self.to_records()})

    def to_coco(
        self, image_id: int | str, category_ids: Sequence[int] | None = None
    ) -> list[dict[str, Any]]:
        """COCO results.

        Args:
            image_id: of the image in the annotation file.
            category_ids: that of each class of the model; None counts them from 1, as
                `yolor-d2 predict --coco-json` does.
        """
        if category_ids is not None and len(category_ids) != len(self.class_names):
            raise ValueError(
                f"category_ids has {len(category_ids)} numbers, expected one for each of the "
                f"{len(self.class_names)} classes"
            )
        results = []
        for label, record in zip(self.class_ids.tolist(), self.to_records()):
            del record["class"]
            if "keypoints" in record:
                record["keypoints"] = coco_points(record["keypoints"])
            category = label + 1 if category_ids is None else category_ids[label]
            results.append({"image_id": image_id, "category_id": category, **record})
        return results

    def to_supervision(self) -> supervision.Detections:
        """`supervision.Detections`, with the names as `data["class_name"]`, all masks at once (N x
        H x W bytes), and keypoints as `data["keypoints"]`.

        Raises:
            ModuleNotFoundError: when the package supervision is not installed.
        """
        try:
            import supervision
        except ImportError as error:
            raise ModuleNotFoundError(
                f"to_supervision() needs the package supervision ({error}): "
                "`pip install supervision`"
            ) from error
        points = {} if self.keypoints is None else {"keypoints": self.keypoints.copy()}
        return supervision.Detections(
            xyxy=self.boxes.copy(),
            mask=None if self.masks is None else np.asarray(self.masks),
            confidence=self.scores.copy(),
            class_id=self.class_ids.copy(),
            data={"class_name": np.array(self.names, dtype=str), **points},
        )

    def _repr_png_(self) -> bytes:
        """What a notebook shows."""
        picture = Image.fromarray(self.plot())
        picture.thumbnail((DISPLAY_SIDE, DISPLAY_SIDE))
        file = io.BytesIO()
        picture.save(file, "PNG")
        return file.getvalue()


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

        for found in self._predictor.stream(prepared()):
            source = waiting.popleft()
            if isinstance(found, FailedInput):
                if not skip_unreadable:
                    raise ImageReadError(found.message)
                logger.error("%s", found.message)
                continue
            yield self._result(found.to("cpu"), source, threshold, classes)

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
        found: Instances,
        source: str | np.ndarray,
        threshold: float,
        classes: Tensor | None,
    ) -> Result:
        keep = found.scores >= threshold
        if classes is not None:
            keep &= torch.isin(found.pred_classes, classes)
        found = found[keep]
        pixels = None
        if not isinstance(source, str):
            flipped = source.shape[2] == 3 and self.cfg.INPUT.FORMAT == "BGR"
            pixels = source[:, :, ::-1] if flipped else source
        height, width = found.image_size
        return Result(
            boxes=found.pred_boxes.tensor.float().numpy(),
            scores=found.scores.float().numpy(),
            class_ids=found.pred_classes.numpy(),
            class_names=tuple(self.names),
            size=(height, width),
            path=source if isinstance(source, str) else None,
            masks=found.pred_masks if found.has("pred_masks") else None,
            keypoints=(
                found.pred_keypoints.float().numpy() if found.has("pred_keypoints") else None
            ),
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
    found = [p for p in sorted(folder.rglob("*")) if p.suffix.lower() in IMAGE_SUFFIXES]
    if not found:
        raise FileNotFoundError(f"no image below {str(folder)!r}")
    return [str(path) for path in found]


def find_run_files(source: Path) -> tuple[Path, Path]:
    """Configuration and weights that a run's folder, or a checkpoint in it, stands for.

    Raises:
        FileNotFoundError: when something is missing.
    """
    run = find_run(source)
    if run is None:
        folder = source if source.is_dir() else source.parent
        raise FileNotFoundError(
            f"{str(folder)!r} is no run: it has no {CONFIG_NAME}; give a configuration and its "
            "weights, load(config, weights)"
        )
    if run.weights is None:
        raise FileNotFoundError(f"the run {str(run.folder)!r} has no checkpoint yet")
    return run.config, run.weights


def load(
    source: str | Path,
    weights: str | Path | None = None,
    *,
    device: str | torch.device | None = None,
    threshold: float | None = None,
    batch_size: int = 8,
    overrides: Sequence[str] = (),
) -> Model:
    """A trained model.

    Args:
        source: the folder of a run, of which the best weights are taken, else the final or last
            ones; a checkpoint in such a folder; or, with `weights`, a configuration file or a name
            of the model zoo.
        weights: a file of weights, see MODEL.WEIGHTS; None finds those of the run.
        device: such as "cpu" or "cuda:1"; None takes a GPU where there is one.
        threshold: least score to report; None takes 0.25.
        batch_size: most images that go through the network together.
        overrides: KEY, VALUE, KEY, VALUE ... of the configuration.

    Raises:
        FileNotFoundError: when something is missing.
        ValueError: when the weights do not fit, or an argument makes no sense.
    """
    config: str | Path = source
    path = Path(source)
    if path.suffix.lower() in (".onnx", ".pt2", ".torchscript"):
        raise ValueError(
            f"{str(source)!r} is an exported file, for other runtimes (docs/export.md); load() "
            "takes the run that it came from"
        )
    if weights is None or path.is_dir():
        if not path.exists():
            raise FileNotFoundError(f"no such file or folder {str(source)!r}")
        if weights is None and path.suffix.lower() in (".yaml", ".yml"):
            raise ValueError(f"{str(source)!r} is a configuration: load() needs its weights too")
        config, found = find_run_files(path)
        weights = found if weights is None else weights
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    given = ["MODEL.DEVICE", str(device), "MODEL.WEIGHTS", str(weights), *overrides]
    return Model(load_config(config, given), threshold=threshold, batch_size=batch_size)
