"""Images of many pixels: refused before they are decoded, with a word on how to read them."""

import multiprocessing
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from yolor_d2.arguments.predict import parse_args
from yolor_d2.config import apply_overrides, get_yolor_cfg
from yolor_d2.files import images as module
from yolor_d2.files.images import ImageReadError, limit_pixels, max_pixels, read_image
from yolor_d2.files.inspection import inspect_image
from yolor_d2.predictor import to_array

# Above what Pillow itself lets through, 178,956,970 pixels, and above our default.
WIDTH, HEIGHT = 16_000, 16_000


@pytest.fixture(autouse=True)
def default_limit(monkeypatch):
    """Tests set the limit for their process, which others share."""
    monkeypatch.setenv(module.MAX_PIXELS_VARIABLE, "")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)


def chunk(name: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
    )


def one_colour(width: int, height: int) -> bytes:
    """A white PNG of one bit a pixel, without the pixels in memory."""
    row = b"\x00" + b"\xff" * (width // 8)
    packer = zlib.compressobj(1)
    lines = packer.compress(row * height) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", lines) + chunk(b"IEND", b"")
    )


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    path = tmp_path_factory.mktemp("large") / "scene.png"
    path.write_bytes(one_colour(WIDTH, HEIGHT))
    return path


def test_the_limit_follows_the_configuration(large):
    """Everywhere in the same words, and before anything is decoded."""
    started = time.process_time()
    wanted = r"256,000,000 pixels.*3\.6 GB.*250,000,000 \(INPUT\.MAX_PIXELS\).*--tile"
    with pytest.raises(ImageReadError, match=rf"scene\.png.*{wanted}"):
        read_image(large)
    for decode in (True, False):  # the doctor, and the quick check before training
        fact = inspect_image(str(large), decode=decode)
        assert fact.fault == "image_unreadable"
        assert "256,000,000 pixels" in fact.message and "INPUT.MAX_PIXELS" in fact.message
    assert time.process_time() - started < 0.5

    apply_overrides(get_yolor_cfg(), ["INPUT.MAX_PIXELS", "256000000", "MODEL.DEVICE", "cpu"])
    assert max_pixels() == WIDTH * HEIGHT
    assert inspect_image(str(large), decode=False).size == (HEIGHT, WIDTH)
    with pytest.raises(ValueError, match=r"INPUT\.MAX_PIXELS is 0, expected at least 1"):
        apply_overrides(get_yolor_cfg(), ["INPUT.MAX_PIXELS", "0"])


@pytest.mark.heavy
def test_worker_processes_have_the_limit():
    limit_pixels(1234)
    for method in multiprocessing.get_all_start_methods():
        if method == "forkserver":  # is kept between tests, with the environment of its start
            continue
        with multiprocessing.get_context(method).Pool(1) as pool:
            assert pool.apply(max_pixels) == 1234


def test_a_limit_that_is_no_number_is_named(monkeypatch):
    monkeypatch.setenv(module.MAX_PIXELS_VARIABLE, "many")
    with pytest.raises(ValueError, match="YOLOR_D2_MAX_PIXELS is 'many'"):
        max_pixels()


def test_who_asks_for_tiles_gets_large_images(tmp_path, monkeypatch):
    """Beyond the limit of the configuration and of Pillow, up to the memory of the machine."""
    path = tmp_path / "image.png"
    path.write_bytes(one_colour(80, 50))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)
    limit_pixels(1000)
    image = to_array(path, "RGB", "RGB", limit=module.most_pixels_in_memory())
    assert image.shape == (50, 80, 3) and np.all(image == 255)
    with pytest.raises(ImageReadError, match=r"4,000 pixels.*more than this machine has"):
        read_image(path, limit=3999)


@pytest.mark.slow
def test_a_scene_is_decoded(large):
    """About 2 GB of memory."""
    image = read_image(large, limit=WIDTH * HEIGHT)
    assert image.shape == (HEIGHT, WIDTH, 3) and image[-1, -1].tolist() == [255] * 3


@pytest.mark.parametrize(
    "options, whole", [([], False), (["--tile-whole"], True), (["--no-tile-whole"], False)]
)
def test_the_whole_image_beside_tiles_is_a_switch(options, whole):
    given = ["--config-file", "quick/fast_start.yaml", "--input", "a.png", "--output", "found"]
    assert parse_args([*given, "--tile", "100", *options]).tile_whole is whole
