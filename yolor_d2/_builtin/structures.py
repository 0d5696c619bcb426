"""Boxes, masks, keypoints, and the instances of an image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import Any

import numpy as np
import torch
from torch import Tensor


class BoxMode(IntEnum):
    """What four numbers of a box mean; the values are those of Detectron2."""

    XYXY_ABS = 0
    XYWH_ABS = 1

    @staticmethod
    def convert(box: Any, from_mode: BoxMode, to_mode: BoxMode) -> Any:
        """Convert boxes.

        Args:
            box: (..., 4) tensor or array, or one list or tuple of four numbers.
            from_mode: the mode of `box`.
            to_mode: the wanted mode.

        Returns:
            A new object of the type of `box`.
        """
        values = torch.as_tensor(np.asarray(box)) if isinstance(box, np.ndarray) else box
        # Numbers outside of arrays take torch's usual type.
        values = torch.as_tensor(values).clone()
        modes = (BoxMode(from_mode), BoxMode(to_mode))
        if modes == (BoxMode.XYWH_ABS, BoxMode.XYXY_ABS):
            values[..., 2:] += values[..., :2]
        elif modes == (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS):
            values[..., 2:] -= values[..., :2]
        if isinstance(box, list | tuple):
            return type(box)(values.tolist())
        return values.numpy() if isinstance(box, np.ndarray) else values


class Boxes:
    """M boxes as xyxy.

    Args:
        tensor: (M, 4); becomes float32.

    Raises:
        AssertionError: when the shape is another one.
    """

    def __init__(self, tensor: Tensor | Sequence):
        tensor = torch.as_tensor(tensor).to(torch.float32)
        if tensor.numel() == 0:
            tensor = tensor.reshape(-1, 4)
        if tensor.dim() != 2 or tensor.shape[1] != 4:
            raise AssertionError(f"boxes have shape {tuple(tensor.shape)}, expected (M, 4)")
        self.tensor = tensor

    def clone(self) -> Boxes:
        return Boxes(self.tensor.clone())

    def to(self, *args: Any, **kwargs: Any) -> Boxes:
        return Boxes(self.tensor.to(*args, **kwargs))

    @property
    def device(self) -> torch.device:
        return self.tensor.device

    def area(self) -> Tensor:
        """(M,) widths times heights."""
        return (self.tensor[:, 2:] - self.tensor[:, :2]).prod(dim=1)

    def clip(self, box_size: tuple[int, int]) -> None:
        """Cut at the border of an image of (H, W), in place.

        Raises:
            AssertionError: when a coordinate is not finite.
        """
        if not self.tensor.isfinite().all():
            raise AssertionError("boxes have infinite or NaN coordinates")
        height, width = box_size
        x, y = self.tensor[:, 0::2].clamp(0, width), self.tensor[:, 1::2].clamp(0, height)
        self.tensor = torch.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], dim=1)

    def nonempty(self, threshold: float = 0.0) -> Tensor:
        """(M,) whether both sides are longer than the threshold."""
        return (self.tensor[:, 2:] - self.tensor[:, :2] > threshold).all(dim=1)

    def scale(self, scale_x: float, scale_y: float) -> None:
        """Multiply the coordinates, in place."""
        self.tensor[:, 0::2] *= scale_x
        self.tensor[:, 1::2] *= scale_y

    @classmethod
    def cat(cls, boxes_list: Sequence[Boxes]) -> Boxes:
        tensors = [boxes.tensor for boxes in boxes_list]
        return cls(torch.cat(tensors) if tensors else torch.empty(0))

    def __getitem__(self, item: int | slice | Tensor) -> Boxes:
        chosen = self.tensor[item]
        return Boxes(chosen.view(1, 4) if isinstance(item, int) else chosen)

    def __len__(self) -> int:
        return len(self.tensor)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.tensor)

    def __repr__(self) -> str:
        return f"Boxes({self.tensor})"


class Instances:
    """Fields of equal length that describe the instances of one image.

    Args:
        image_size: (H, W).
        **kwargs: first fields.
    """

    def __init__(self, image_size: tuple[int, int], **kwargs: Any):
        self._image_size = image_size
        self._fields: dict[str, Any] = {}
        for name, value in kwargs.items():
            self.set(name, value)

    @property
    def image_size(self) -> tuple[int, int]:
        return self._image_size

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            super().__setattr__(name, value)
        else:
            self.set(name, value)

    def __getattr__(self, name: str) -> Any:
        if name == "_fields" or name not in self._fields:
            raise AttributeError(f"these Instances have no field {name!r}")
        return self._fields[name]

    def set(self, name: str, value: Any) -> None:
        if self._fields and len(value) != len(self):
            raise AssertionError(f"field {name!r} has length {len(value)}, others {len(self)}")
        self._fields[name] = value

    def has(self, name: str) -> bool:
        return name in self._fields

    def get(self, name: str) -> Any:
        return self._fields[name]

    def remove(self, name: str) -> None:
        del self._fields[name]

    def get_fields(self) -> dict[str, Any]:
        return self._fields

    def to(self, *args: Any, **kwargs: Any) -> Instances:
        """With all fields that can be moved on another device."""
        moved = {
            name: value.to(*args, **kwargs) if hasattr(value, "to") else value
            for name, value in self._fields.items()
        }
        return Instances(self._image_size, **moved)

    def __getitem__(self, item: int | slice | Tensor) -> Instances:
        if isinstance(item, int):
            if not -len(self) <= item < len(self):
                raise IndexError(f"no instance {item} among {len(self)}")
            item = slice(item, item + 1 or None)
        chosen = Instances(self._image_size)
        for name, value in self._fields.items():
            chosen.set(name, value[item])
        return chosen

    def __len__(self) -> int:
        for value in self._fields.values():
            return len(value)
        raise NotImplementedError("Instances without fields have no length")

    def __iter__(self) -> Iterator:
        raise NotImplementedError("Instances cannot be iterated over; use indices")

    @staticmethod
    def cat(instance_lists: Sequence[Instances]) -> Instances:
        """One after the other; all of images of the same size, with the same fields."""
        first = instance_lists[0]
        if len(instance_lists) == 1:
            return first
        if any(x.image_size != first.image_size for x in instance_lists):
            raise AssertionError(f"image sizes differ: {[x.image_size for x in instance_lists]}")
        joined = Instances(first.image_size)
        for name, value in first.get_fields().items():
            values = [x.get(name) for x in instance_lists]
            if isinstance(value, Tensor):
                joined.set(name, torch.cat(values))
            elif isinstance(value, list):
                joined.set(name, [item for part in values for item in part])
            else:
                joined.set(name, type(value).cat(values))
        return joined

    def __repr__(self) -> str:
        return f"Instances((H, W) = {self._image_size}, {self._fields})"


class BitMasks:
    """Masks of M objects as pixels.

    Args:
        tensor: (M, H, W); becomes bool.

    Raises:
        AssertionError: when the shape is another one.
    """

    def __init__(self, tensor: Tensor | np.ndarray):
        self.tensor = torch.as_tensor(tensor).to(torch.bool)
        if self.tensor.dim() != 3:
            raise AssertionError(f"masks have shape {tuple(self.tensor.shape)}, expected (M, H, W)")
        self.image_size = self.tensor.shape[1:]

    def to(self, *args: Any, **kwargs: Any) -> BitMasks:
        return BitMasks(self.tensor.to(*args, **kwargs))

    @property
    def device(self) -> torch.device:
        return self.tensor.device

    def nonempty(self) -> Tensor:
        """(M,) whether there is a pixel."""
        return self.tensor.flatten(1).any(dim=1)

    def get_bounding_boxes(self) -> Boxes:
        """Around the pixels; zeros where there are none."""
        boxes = torch.zeros(len(self), 4)
        for axis, first in ((1, 0), (2, 1)):  # columns, then rows
            seen = self.tensor.any(dim=axis).int().cpu()
            low, high = seen.argmax(dim=1), seen.shape[1] - seen.flip(1).argmax(dim=1)
            known = seen.any(dim=1)
            boxes[known, first], boxes[known, first + 2] = low[known].float(), high[known].float()
        return Boxes(boxes)

    @staticmethod
    def from_polygon_masks(
        polygon_masks: PolygonMasks | list[list[np.ndarray]], height: int, width: int
    ) -> BitMasks:
        """The pixels of polygons, as COCO's tools have them."""
        from faster_coco_eval.core import mask as coco_mask  # evaluation and all

        if isinstance(polygon_masks, PolygonMasks):
            polygon_masks = polygon_masks.polygons
        masks = torch.zeros(len(polygon_masks), height, width, dtype=torch.bool)
        for i, polygons in enumerate(polygon_masks):
            if polygons:
                outlines = [np.asarray(x, dtype=np.float64).tolist() for x in polygons]
                merged = coco_mask.merge(coco_mask.frPyObjects(outlines, height, width))
                masks[i] = torch.from_numpy(coco_mask.decode(merged).astype(bool))
        return BitMasks(masks)

    @staticmethod
    def cat(bitmasks_list: Sequence[BitMasks]) -> BitMasks:
        return BitMasks(torch.cat([masks.tensor for masks in bitmasks_list]))

    def __getitem__(self, item: int | slice | Tensor) -> BitMasks:
        chosen = self.tensor[item]
        return BitMasks(chosen[None] if isinstance(item, int) else chosen)

    def __len__(self) -> int:
        return len(self.tensor)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.tensor)

    def __repr__(self) -> str:
        return f"BitMasks(num_instances={len(self)})"


class PolygonMasks:
    """Masks of M objects as polygons; they stay on the CPU.

    Args:
        polygons: of each object a list of its polygons, x1, y1, x2, y2, ... of three points at
            least, in pixels.

    Raises:
        ValueError: when they are something else.
    """

    def __init__(self, polygons: list[list[Tensor | np.ndarray]]):
        if not isinstance(polygons, list) or not all(isinstance(x, list) for x in polygons):
            raise ValueError(f"polygons are {type(polygons)}, expected a list of lists of arrays")
        self.polygons = [[self._to_array(x) for x in parts] for parts in polygons]

    @staticmethod
    def _to_array(points: Tensor | np.ndarray) -> np.ndarray:
        if isinstance(points, Tensor):
            points = points.cpu().numpy()
        array = np.asarray(points).astype(np.float64)
        if len(array) < 6 or len(array) % 2:
            raise ValueError(f"a polygon has {len(array)} coordinates, expected 6, 8, 10, ...")
        return array

    def to(self, *args: Any, **kwargs: Any) -> PolygonMasks:
        return self

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def nonempty(self) -> Tensor:
        """(M,) whether there is a polygon."""
        return torch.tensor([len(parts) > 0 for parts in self.polygons], dtype=torch.bool)

    def get_bounding_boxes(self) -> Boxes:
        """Around the polygons; (inf, inf, 0, 0) where there are none, as in Detectron2."""
        boxes = torch.tensor([[torch.inf, torch.inf, 0.0, 0.0]]).repeat(len(self), 1)
        for i, parts in enumerate(self.polygons):
            if parts:
                points = torch.from_numpy(np.concatenate(parts).reshape(-1, 2)).float()
                boxes[i, :2] = points.amin(dim=0)
                boxes[i, 2:] = points.amax(dim=0).clamp(min=0)
        return Boxes(boxes)

    def area(self) -> Tensor:
        """(M,) the areas of the polygons, added up."""
        areas = []
        for parts in self.polygons:
            pairs = [(x[0::2], x[1::2]) for x in parts]
            areas.append(sum(abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2 for x, y in pairs))
        return torch.tensor(areas)

    @staticmethod
    def cat(polymasks_list: Sequence[PolygonMasks]) -> PolygonMasks:
        return PolygonMasks([parts for masks in polymasks_list for parts in masks.polygons])

    def __getitem__(self, item: int | slice | list[int] | Tensor) -> PolygonMasks:
        if isinstance(item, slice):
            return PolygonMasks(self.polygons[item])
        if isinstance(item, Tensor) and item.dtype == torch.bool:
            item = item.nonzero().squeeze(1)
        places = [item] if isinstance(item, int) else [int(i) for i in item]
        return PolygonMasks([self.polygons[i] for i in places])

    def __len__(self) -> int:
        return len(self.polygons)

    def __iter__(self) -> Iterator[list[np.ndarray]]:
        return iter(self.polygons)

    def __repr__(self) -> str:
        return f"PolygonMasks(num_instances={len(self)})"


class Keypoints:
    """Keypoints of M objects.

    Args:
        keypoints: (M, K, 3) x, y and visibility; becomes float32.

    Raises:
        AssertionError: when the shape is another one.
    """

    def __init__(self, keypoints: Tensor | np.ndarray | Sequence):
        self.tensor = torch.as_tensor(keypoints, dtype=torch.float32)
        if self.tensor.dim() != 3 or self.tensor.shape[2] != 3:
            raise AssertionError(
                f"keypoints have shape {tuple(self.tensor.shape)}, expected (M, K, 3)"
            )

    def to(self, *args: Any, **kwargs: Any) -> Keypoints:
        return Keypoints(self.tensor.to(*args, **kwargs))

    @property
    def device(self) -> torch.device:
        return self.tensor.device

    @staticmethod
    def cat(keypoints_list: Sequence[Keypoints]) -> Keypoints:
        return Keypoints(torch.cat([keypoints.tensor for keypoints in keypoints_list]))

    def __getitem__(self, item: int | slice | Tensor) -> Keypoints:
        chosen = self.tensor[item]
        return Keypoints(chosen[None] if isinstance(item, int) else chosen)

    def __len__(self) -> int:
        return len(self.tensor)

    def __repr__(self) -> str:
        return f"Keypoints(num_instances={len(self)})"
