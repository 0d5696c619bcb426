"""Images of one rectangle, to see whether boxes follow what they surround."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from yolor_d2.data.augmentation.image import Sample
from yolor_d2.data.augmentation.warp import Tile


def sample_of(height, width, *boxes) -> Sample:
    """A black image with boxes, of classes 0, 1, 2, ..."""
    image = np.zeros((height, width, 3), np.uint8)
    labels = np.arange(len(boxes), dtype=np.int64)
    return Sample(image, np.array(boxes, float).reshape(-1, 4), labels)


@st.composite
def red_rectangles(draw, longest=80, shortest=16, least=5) -> Sample:
    """A red rectangle on black and its box; sides of the rectangle are at least `least` pixels."""
    height, width = draw(st.integers(shortest, longest)), draw(st.integers(shortest, longest))
    x1, y1 = draw(st.integers(0, width - least)), draw(st.integers(0, height - least))
    x2, y2 = draw(st.integers(x1 + least, width)), draw(st.integers(y1 + least, height))
    sample = sample_of(height, width, (x1, y1, x2, y2))
    sample.image[y1:y2, x1:x2, 0] = 255
    return sample


def tile_of(sample: Sample, left: int = 0, top: int = 0) -> Tile:
    """The sample at a place of a canvas."""
    return Tile(left, top, *sample.image.shape[:2], lambda: sample)


def red_bounds(image: np.ndarray) -> list[int]:
    """xyxy of the red pixels: red over both black and grey by more than a half."""
    red = image[:, :, 0].astype(int) - image[:, :, 1] > 127
    rows, columns = np.nonzero(red)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def assert_box_bounds_red(sample: Sample, tolerance: float) -> None:
    """The only box is that of the red pixels."""
    np.testing.assert_allclose(sample.boxes, [red_bounds(sample.image)], rtol=0, atol=tolerance)
