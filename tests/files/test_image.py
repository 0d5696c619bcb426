"""Reading images of every usual kind, and files that are none."""

import io

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from yolor_d2.files import images as module
from yolor_d2.files.images import ImageReadError, read_image

# Two rows of three pixels; no two are alike, so that any mix-up of rows, columns or channels shows.
COLOUR = np.array(
    [[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[10, 20, 30], [40, 50, 60], [70, 80, 90]]], np.uint8
)
ORIENTATION = 0x0112  # the EXIF tag


def encode(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write(path, content: bytes):
    path.write_bytes(content)
    return path


def noise(height: int, width: int) -> Image.Image:
    """Noise, so that the file is long enough to be cut."""
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_colour(tmp_path):
    path = write(tmp_path / "colour.png", encode(Image.fromarray(COLOUR), "PNG"))
    image = read_image(path)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, COLOUR)
    np.testing.assert_array_equal(read_image(str(path)), COLOUR)


def test_channel_order(tmp_path):
    path = write(tmp_path / "colour.png", encode(Image.fromarray(COLOUR), "PNG"))
    image = read_image(path, "BGR")
    assert image[0].tolist() == [[0, 0, 255], [0, 255, 0], [255, 0, 0]]  # red is last now
    assert image.flags.c_contiguous
    with pytest.raises(ValueError, match=r"INPUT\.FORMAT is 'GRB'.*'RGB' or 'BGR'"):
        read_image(path, "GRB")


def test_grey_fills_three_channels(tmp_path):
    grey = np.array([[0, 100, 255]], np.uint8)
    path = write(tmp_path / "grey.png", encode(Image.fromarray(grey), "PNG"))
    assert read_image(path).tolist() == [[[0] * 3, [100] * 3, [255] * 3]]


def test_16_bit_grey_keeps_the_upper_byte(tmp_path):
    # 255 = 0 * 256 + 255, 256 = 1 * 256, 51400 = 200 * 256 + 200; PIL alone would clip to 255.
    grey = np.array([[0, 255, 256, 51400, 65535]], np.uint16)
    path = write(tmp_path / "grey16.png", encode(Image.fromarray(grey), "PNG"))
    assert read_image(path)[0].tolist() == [[0] * 3, [0] * 3, [1] * 3, [200] * 3, [255] * 3]


def test_transparency_is_dropped(tmp_path):
    alpha = np.array([[[0], [127], [255]], [[1], [2], [3]]], np.uint8)
    rgba = Image.fromarray(np.concatenate([COLOUR, alpha], axis=2))
    path = write(tmp_path / "rgba.png", encode(rgba, "PNG"))
    np.testing.assert_array_equal(read_image(path), COLOUR)


def palette_image() -> Image.Image:
    image = Image.new("P", (3, 1))
    image.putdata([1, 0, 1])
    image.putpalette([200, 100, 50, 1, 2, 3])
    return image


def test_palette(tmp_path):
    path = write(tmp_path / "palette.png", encode(palette_image(), "PNG"))
    assert read_image(path).tolist() == [[[1, 2, 3], [200, 100, 50], [1, 2, 3]]]


def test_palette_with_transparency_reads_without_a_warning(tmp_path):
    """One alpha byte for each colour; a warning would come once for every such image."""
    content = encode(palette_image(), "PNG", transparency=bytes([0, 128]))
    path = write(tmp_path / "palette.png", content)
    assert read_image(path).tolist() == [[[1, 2, 3], [200, 100, 50], [1, 2, 3]]]


@pytest.mark.parametrize(
    "orientation, shown",
    [
        (1, [[1, 2, 3], [4, 5, 6]]),  # as stored
        (2, [[3, 2, 1], [6, 5, 4]]),  # mirrored
        (3, [[6, 5, 4], [3, 2, 1]]),  # upside down
        (6, [[4, 1], [5, 2], [6, 3]]),  # to be turned clockwise: the left column goes to the top
        (8, [[3, 6], [2, 5], [1, 4]]),  # to be turned the other way
    ],
)
def test_exif_orientation_is_applied(tmp_path, orientation, shown):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    stored = Image.fromarray(np.array([[1, 2, 3], [4, 5, 6]], np.uint8))
    path = write(tmp_path / "turned.png", encode(stored, "PNG", exif=exif))
    assert read_image(path)[:, :, 0].tolist() == shown


def test_damaged_exif_data_ends_in_an_image_or_in_our_error(tmp_path):
    """A text where the width (tag 256) should be, in an image that is to be turned."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    exif[270] = "hello"
    content = encode(Image.new("RGB", (8, 4)), "JPEG", exif=exif)
    damaged = content.replace(b"\x01\x0e\x00\x02", b"\x01\x00\x00\x02")  # text (2) in tag 0x010e
    assert damaged != content
    path = write(tmp_path / "damaged.jpg", damaged)
    try:
        assert read_image(path).shape == (8, 4, 3)
    except ImageReadError as error:
        assert "damaged.jpg" in str(error)


# ---- JPEG, of which OpenCV decodes the plain ones


def as_pil_reads_it(path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


@pytest.mark.parametrize("order", ["RGB", "BGR"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"quality": 30},
        {"quality": 100, "subsampling": 0},
        {"subsampling": 1},
        {"progressive": True},
        {"optimize": True, "restart_marker_blocks": 3},
    ],
)
@pytest.mark.parametrize("height, width", [(40, 50), (1, 1), (17, 33), (200, 3)])
def test_jpeg_is_read_as_pil_does(tmp_path, options, height, width, order):
    path = write(tmp_path / "image.jpg", encode(noise(height, width), "JPEG", **options))
    expected = as_pil_reads_it(path)
    np.testing.assert_array_equal(
        read_image(path, order), expected if order == "RGB" else expected[:, :, ::-1]
    )


@pytest.mark.parametrize("mode", ["L", "CMYK"])
@pytest.mark.parametrize("orientation", range(9))
def test_turned_grey_and_printed_jpeg(tmp_path, mode, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    content = encode(noise(20, 30).convert(mode), "JPEG", exif=exif)
    path = write(tmp_path / "image.jpg", content)
    np.testing.assert_array_equal(read_image(path), as_pil_reads_it(path))


def test_plain_jpeg_goes_to_opencv(tmp_path, monkeypatch):
    decoded = []
    original = module.decode_jpeg
    monkeypatch.setattr(module, "decode_jpeg", lambda *x: decoded.append(1) or original(*x))
    plain = encode(noise(20, 30), "JPEG")
    read_image(write(tmp_path / "image.jpg", plain))
    assert decoded == [1]
    read_image(write(tmp_path / "image.png", encode(noise(20, 30), "PNG")))
    read_image(write(tmp_path / "cmyk.jpg", encode(noise(20, 30).convert("CMYK"), "JPEG")))
    assert decoded == [1]


def test_bytes_after_the_end_of_a_jpeg_do_no_harm(tmp_path):
    path = write(tmp_path / "image.jpg", encode(noise(20, 30), "JPEG") + b"trailing")
    np.testing.assert_array_equal(read_image(path), as_pil_reads_it(path))


@pytest.mark.heavy
@settings(max_examples=150, deadline=None, database=None, derandomize=True)
@given(st.integers(2, 2000), st.binary(min_size=1, max_size=30))
@example(1217, b"\xff")  # OpenCV alone returns half of the picture for this one
def test_a_damaged_jpeg_is_read_as_pil_does(tmp_path_factory, place, wrong):
    """Wrong bytes anywhere: the same pixels, or an error from both."""
    content = bytearray(encode(noise(24, 24), "JPEG"))
    place %= len(content) - len(wrong)
    content[place : place + len(wrong)] = wrong
    path = write(tmp_path_factory.mktemp("damaged") / "image.jpg", bytes(content))
    try:
        expected = as_pil_reads_it(path)
    except Exception:
        expected = None
    try:
        found = read_image(path)
    except ImageReadError:
        found = None
    assert (found is None) == (expected is None)
    if found is not None:
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", ["png.jpg", "no_suffix", "ünï çode 図 .png", "100%d.png"])
def test_any_name_will_do(tmp_path, name):
    path = write(tmp_path / name, encode(Image.fromarray(COLOUR), "PNG"))
    np.testing.assert_array_equal(read_image(path), COLOUR)


def test_extreme_shapes(tmp_path):
    for width, height in [(1, 1), (10000, 20), (1, 500)]:
        path = write(tmp_path / "image.png", encode(Image.new("RGB", (width, height)), "PNG"))
        assert read_image(path).shape == (height, width, 3)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
@pytest.mark.filterwarnings("ignore::UserWarning")  # PIL remarks on the data that it misses
def test_truncated(tmp_path, kind, share):
    content = encode(noise(40, 50), kind)
    path = write(tmp_path / "cut ünïcode.img", content[: int(len(content) * share)])
    with pytest.raises(ImageReadError, match=r"cut ünïcode\.img"):
        read_image(path)


@pytest.mark.parametrize("content", [b"", b"no image at all\n", b"\xff\xd8\xff", b"\x89PNG\r\n"])
def test_no_image(tmp_path, content):
    path = write(tmp_path / "broken.jpg", content)
    with pytest.raises(ImageReadError, match=r"cannot read image .*broken\.jpg"):
        read_image(path)


def test_a_folder_is_no_image(tmp_path):
    with pytest.raises(ImageReadError, match=tmp_path.name):
        read_image(tmp_path)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
@pytest.mark.parametrize("limit", [899, 600, 400])  # Pillow remarks on 600, and refuses 400
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_an_image_of_absurd_size_is_refused(tmp_path, monkeypatch, kind, limit):
    """A small file may claim to hold billions of pixels."""
    path = write(tmp_path / "bomb.img", encode(Image.new("RGB", (30, 30)), kind))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)
    monkeypatch.setenv(module.MAX_PIXELS_VARIABLE, str(limit))
    with pytest.raises(ImageReadError, match=r"bomb\.img.* 900 pixels.*set INPUT\.MAX_PIXELS 900"):
        read_image(path)
    monkeypatch.setenv(module.MAX_PIXELS_VARIABLE, "900")
    assert read_image(path).shape == (30, 30, 3)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.jpg"):
        read_image(tmp_path / "nowhere.jpg")


@pytest.mark.real_data
def test_odd_and_broken_files(real_data):
    folder = real_data / "nasty" / "images"
    shapes = {
        "rgb_ok.jpg": (240, 320, 3),
        "gray_8bit.jpg": (240, 320, 3),
        "rgba.png": (240, 320, 3),
        "exif_rot6.jpg": (320, 240, 3),  # stored 320 wide and 240 high, shown turned
        "pano_10000x20.jpg": (20, 10000, 3),
        "one_pixel.png": (1, 1, 3),
        "png_named.jpg": (240, 320, 3),
        "space and ünïcode.jpg": (240, 320, 3),
    }
    for name, shape in shapes.items():
        assert read_image(folder / name).shape == shape, name
    for name in ("truncated.jpg", "zero_byte.jpg"):
        with pytest.raises(ImageReadError, match=name):
            read_image(folder / name)
    assert {path.name for path in folder.iterdir()} == {*shapes, "truncated.jpg", "zero_byte.jpg"}


@pytest.mark.heavy
@pytest.mark.real_data
def test_photographs_are_read_as_pil_does(real_data):
    paths = sorted((real_data / "coco_mini").rglob("*.jpg"))
    assert len(paths) > 40
    for path in paths:
        np.testing.assert_array_equal(read_image(path), as_pil_reads_it(path), err_msg=str(path))
