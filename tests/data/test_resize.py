"""The resize of test images: Detectron2's (see test_loader.py) and that of the reference."""

import cv2
import numpy as np
import pytest

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from yolor_d2.data.resize import (
    ReferenceResize,
    ResizeForTest,
    build_test_resize,
    resize_for_test,
)


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize(
    ("size", "given", "expected"),
    [
        (640, (480, 640), (480, 640)),
        (640, (501, 1000), (320, 640)),  # 320.64
        (1280, (333, 500), (852, 1280)),  # 852.48
        (640, (426, 638), (427, 639)),  # 640 / 638 * 638 is 639.9999 in double precision
        (320, (20, 10000), (1, 320)),  # 0.64 is kept as one
    ],
)
def test_sides_are_rounded_down(size, given, expected):
    assert ReferenceResize(size).output_size(*given) == expected
    assert resize_for_test(ReferenceResize(size), noise(*given, 3)).shape == (*expected, 3)


def test_filters():
    """Area where it shrinks, bilinear where it enlarges, nothing where the size is right."""
    resize = ReferenceResize(64)
    large, small, same = noise(96, 128, 3), noise(24, 32, 3), noise(40, 64, 3)
    area = cv2.resize(large, (64, 48), interpolation=cv2.INTER_AREA)
    assert np.array_equal(resize_for_test(resize, large), area)
    bilinear = cv2.resize(small, (64, 48), interpolation=cv2.INTER_LINEAR)
    assert np.array_equal(resize_for_test(resize, small), bilinear)
    assert resize_for_test(resize, same) is same


def test_any_number_of_channels():
    image = noise(96, 128, 5)
    found = resize_for_test(ReferenceResize(64), image)
    for channel in range(5):
        one = cv2.resize(image[:, :, channel], (64, 48), interpolation=cv2.INTER_AREA)
        assert np.array_equal(found[:, :, channel], one)


def test_an_image_of_the_right_size_is_left_as_it_is():
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    assert resize_for_test(ResizeForTest([48, 48], 64), image) is image
    other = resize_for_test(ResizeForTest([32, 32], 64), image)
    assert other.shape == (32, 43, 3)


def test_what_makes_no_sense_is_named(cfg):
    cfg.INPUT.RESIZE_TEST = "reference"
    assert isinstance(build_test_resize(cfg), ReferenceResize)
    cfg.INPUT.MIN_SIZE_TEST = 32
    with pytest.raises(ValueError, match=r"INPUT\.MIN_SIZE_TEST is 32.*MAX_SIZE_TEST, 64"):
        build_test_resize(cfg)
    cfg.INPUT.RESIZE_TEST = "area"
    with pytest.raises(ValueError, match=r"INPUT\.RESIZE_TEST is 'area', expected 'detectron2'"):
        build_test_resize(cfg)
