"""What a model finds in one image, to draw, to save and to convert."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from PIL import Image

from ..files.images import read_image
from ..inputs import IMAGE_SUFFIXES
from ..ops.masks import BoxMasks
from ..prediction.result import detection_records
from ..visualize.boxes import draw_boxes
from ..visualize.pictures import to_rgb, write_image
from ..visualize.shapes import Skeleton, coco_points, crops

if TYPE_CHECKING:
    import supervision

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
    """Detections of one image, best first: a sequence of `Detection`.

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
        counted = ", ".join(f"{count} {name}" for name, count in counts.items()) or "nothing"
        height, width = self.size
        return f"<Result: {counted} in {self.path or 'an image'} ({width} x {height})>"

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
