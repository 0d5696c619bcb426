"""Pictures: what is drawn where, and files that can be read again."""

import json

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip("yolor_d2.d2.config")  # either runtime  # for the toy data set of conftest.py

from yolor_d2.d2.structures import Boxes, Instances
from yolor_d2.files.images import read_image
from yolor_d2.runs import read_metrics
from yolor_d2.toy import write_toy_dataset
from yolor_d2.visualize.batches import draw_batches
from yolor_d2.visualize.boxes import PALETTE, draw_boxes, line_widths
from yolor_d2.visualize.curves import plot_curves
from yolor_d2.visualize.pictures import beside, enlarge, tile_images, write_image
from yolor_d2.visualize.results import coco_boxes, draw_results

NAMES = ["ring", "cross"]


def black(height=60, width=80) -> np.ndarray:
    return np.zeros((height, width, 3), np.uint8)


# ---- grids and batches


def test_a_grid_of_images_by_hand():
    """Three images of 1 x 2 pixels in rows of two, with a gap of one white pixel."""
    images = [np.full((1, 2, 3), value, np.uint8) for value in (1, 2, 3)]
    w = 255
    assert tile_images(images, gap=1)[:, :, 0].tolist() == [
        [1, 1, w, 2, 2],
        [w, w, w, w, w],
        [3, 3, w, w, w],
    ]
    assert tile_images(images[:1]).shape == (1, 2, 3)


@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_batches_are_drawn_in_their_colours(tmp_path, order):
    """A red image, its box without the pixels of the frame."""
    red = torch.zeros(3, 40, 40, dtype=torch.uint8)
    red[0 if order == "RGB" else 2] = 255
    truth = Instances((40, 40))
    truth.gt_boxes = Boxes(torch.tensor([[5.0, 20, 30, 36]]))
    truth.gt_classes = torch.tensor([1])
    batch = [{"image": red, "instances": truth}]
    paths = draw_batches(
        iter([batch] * 5), tmp_path, count=2, first=3, class_names=NAMES, channel_order=order
    )
    assert [path.name for path in paths] == ["batch_0000003.png", "batch_0000004.png"]
    drawn = read_image(paths[0])
    assert drawn[38, 38].tolist() == [255, 0, 0] and drawn[30, 20].tolist() == [255, 0, 0]
    assert drawn[28, 30].tolist() == list(PALETTE[1])


# ---- boxes


def test_input_stays_as_it_is():
    image = black()
    drawn = draw_boxes(image, np.array([[10, 20, 50, 50]]), [0], NAMES)
    assert (image == 0).all()
    assert drawn.shape == image.shape and drawn.dtype == np.uint8
    assert (drawn != 0).any()


@pytest.mark.parametrize("label", [0, 1])
def test_box_has_the_colour_of_its_class(label):
    drawn = draw_boxes(black(), np.array([[9.6, 30.2, 50.4, 50]]), [label], NAMES)
    # Middles of the lower, left and right side; the text stands at the upper one.
    for x, y in [(30, 50), (10, 40), (50, 40)]:
        assert tuple(drawn[y, x]) == PALETTE[label]
    assert (drawn[35:45, 20:45] == 0).all()  # the inside
    assert (drawn[54:] == 0).all()


def test_colours_start_over_after_the_last():
    names = [str(i) for i in range(len(PALETTE) + 1)]
    drawn = draw_boxes(black(), np.array([[10, 30, 50, 50]]), [len(PALETTE)], names)
    assert tuple(drawn[50, 30]) == PALETTE[0]
    assert len(set(PALETTE)) == len(PALETTE)


def test_name_stands_above_the_box():
    drawn = draw_boxes(black(), np.array([[10, 20, 60, 50]]), [1], NAMES)
    label = drawn[9:18, 10:25]
    assert (label == PALETTE[1]).all(axis=2).any()  # ground
    assert (label.min(axis=2) > 200).any()  # white letters
    without = draw_boxes(black(), np.array([[10, 20, 60, 50]]), [1], NAMES, labels=False)
    assert (without[:18] == 0).all() and (without[20, 10:60] == PALETTE[1]).all()


def test_identities_choose_colours_and_are_written():
    box, names = np.array([[10, 20, 70, 50]]), ["a"]
    drawn = [
        draw_boxes(black(), box, [0], names, identities=[number])[:, :, :] for number in (1, 8, -1)
    ]
    assert tuple(drawn[0][50, 30]) == tuple(drawn[1][50, 30]) == PALETTE[1]
    assert (drawn[0] != drawn[1]).any()  # the number
    np.testing.assert_array_equal(drawn[2], draw_boxes(black(), box, [0], names))


@pytest.mark.parametrize("width", [1, 3, 5])
def test_width_of_lines_can_be_given(width):
    box = np.array([[20, 20, 60, 50]])
    drawn = draw_boxes(black(), box, [0], NAMES, labels=False, line_width=width)
    assert (drawn[35, :40] != 0).any(axis=1).sum() == width
    with pytest.raises(ValueError, match="line_width is 0"):
        draw_boxes(black(), box, [0], NAMES, line_width=0)


def test_lines_are_a_small_share_of_their_box():
    """60 pixels in a picture of 12 million have lines of 3, large boxes more."""
    sides = np.array([[0, 0, 60, 60], [0, 0, 2000, 1000], [5, 5, 6, 6]])
    assert line_widths(sides, 3000, 4000).tolist() == [3, 7, 1]
    assert line_widths(sides[1:2], 480, 640).tolist() == [2]


def test_the_better_of_two_boxes_lies_on_top():
    boxes = np.array([[10, 10, 50, 50], [10, 10, 50, 50]])
    for scores, top in (([0.9, 0.2], 0), ([0.2, 0.9], 1)):
        drawn = draw_boxes(black(), boxes, [0, 1], NAMES, scores, labels=False)
        assert tuple(drawn[30, 10]) == PALETTE[top]


def test_a_box_that_is_not_finite_is_named():
    with pytest.raises(ValueError, match="not finite"):
        draw_boxes(black(), np.array([[0, 0, np.nan, 5]]), [0], NAMES)
    draw_boxes(black(), np.array([[-1e12, -1e12, 1e12, 1e12]]), [0], NAMES)


# What of red and green light eyes without the third kind of cones see (Machado 2009, severity 1).
COLOUR_VISION = {
    "all cones": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
}


@pytest.mark.parametrize("vision", COLOUR_VISION)
def test_colours_of_few_classes_can_be_told_apart(vision):
    """In CIE's L*a*b*, where a distance of 2.3 is just noticeable."""
    linear = (np.array(PALETTE) / 255) ** 2.2
    seen = (linear @ COLOUR_VISION[vision].T).clip(0, 1) ** (1 / 2.2)
    lab = cv2.cvtColor(seen[None].astype(np.float32), cv2.COLOR_RGB2LAB)[0]
    apart = np.linalg.norm(lab[:, None] - lab[None], axis=2)
    apart[np.diag_indices(len(apart))] = np.inf
    assert apart.min() > 10 and apart[:3, :3].min() > 30


def test_scores_are_written():
    box = np.array([[10, 30, 50, 50]])
    without, low, high = (
        draw_boxes(black(), box, [0], NAMES, scores) for scores in (None, [0.12], [0.98])
    )
    assert (without != low).any() and (low != high).any()
    np.testing.assert_array_equal(draw_boxes(black(), box, [0], NAMES, [0.121]), low)


def test_no_boxes():
    np.testing.assert_array_equal(draw_boxes(black(), np.zeros((0, 4)), [], NAMES), black())


def test_boxes_beyond_the_border_and_images_of_one_pixel():
    draw_boxes(black(), np.array([[-50, -50, 500, 500], [100, 100, 120, 120]]), [0, 1], NAMES)
    assert draw_boxes(black(1, 1), np.array([[0, 0, 1, 1]]), [0], NAMES).shape == (1, 1, 3)


def test_read_only_and_flipped_images_can_be_drawn_on():
    image = black()[:, ::-1]
    image.flags.writeable = False
    assert draw_boxes(image, np.array([[10, 20, 50, 50]]), [0], NAMES).any()


# ---- files


@pytest.mark.parametrize("name", ["ünï.png", "no_suffix", "a/b/c.png"])
def test_image_survives_its_file(tmp_path, name):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    write_image(tmp_path / name, image)
    np.testing.assert_array_equal(read_image(tmp_path / name), image)


def test_two_images_beside_each_other():
    left, right = black(10, 20) + np.uint8(50), black(10, 20) + np.uint8(90)
    row = beside(left, right, ("", ""))
    assert row.shape == (28 + 10, 20 + 6 + 20, 3)  # a bar for the title, a gap between
    assert (row[28:, :20] == 50).all() and (row[28:, 26:] == 90).all()
    assert (row[:28] == 255).all() and (row[:, 20:26] == 255).all()


def test_coco_boxes():
    assert coco_boxes([{"bbox": [1, 2, 3, 4]}]).tolist() == [[1, 2, 4, 6]]
    assert coco_boxes([]).shape == (0, 4)


# ---- results


@pytest.fixture
def truth(toy) -> dict:
    return json.loads(toy.val_json.read_text())


def draw(toy, tmp_path, results, **options):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results))
    return draw_results(toy.val_json, toy.val_images, path, tmp_path / "pictures", **options)


def results_of(truth, score) -> list[dict]:
    """Its own ground truth as results, without crowd regions."""
    return [
        {key: x[key] for key in ("image_id", "category_id", "bbox")} | {"score": score}
        for x in truth["annotations"]
        if not x["iscrowd"]
    ]


def test_ground_truth_as_results(toy, tmp_path, truth):
    paths = draw(toy, tmp_path, results_of(truth, 1.0))
    assert [path.name for path in paths] == [
        image["file_name"].replace(".jpg", ".png") for image in truth["images"]
    ]
    index = {2: 0, 5: 1, 7: 2, 11: 3}  # category ids of the toy data set
    for path, image in zip(paths, truth["images"]):
        found = [
            x for x in truth["annotations"] if x["image_id"] == image["id"] and not x["iscrowd"]
        ]
        larger, factor = enlarge(read_image(toy.val_images / image["file_name"]))
        assert factor == 4  # of at most 128 pixels
        given = larger, coco_boxes(found) * factor
        labels = [index[x["category_id"]] for x in found]
        picture = read_image(path)[28:]  # below the titles
        width = factor * image["width"]
        left, right = picture[:, :width], picture[:, width + 6 :]
        np.testing.assert_array_equal(left, draw_boxes(*given, labels, toy.classes))
        scores = [1.0] * len(found)
        np.testing.assert_array_equal(right, draw_boxes(*given, labels, toy.classes, scores))


def test_masks_and_keypoints_of_results(tmp_path):
    toy = write_toy_dataset(
        tmp_path, num_train=1, num_val=2, image_size=(96, 128), keypoints=True, objects=(4, 6)
    )
    truth = json.loads(toy.val_json.read_text())
    results = results_of(truth, 1.0)
    (plain, *_) = map(read_image, draw(toy, tmp_path, results))
    objects = [x for x in truth["annotations"] if not x["iscrowd"]]
    for result, entry in zip(results, objects):
        result["segmentation"] = entry["segmentation"]
        result["keypoints"] = entry["keypoints"]
    (drawn, *_) = map(read_image, draw(toy, tmp_path, results))
    assert drawn.shape == plain.shape
    # Of the ground truth, on the left, and of the results.
    half = drawn.shape[1] // 2
    for side in (slice(None, half), slice(half, None)):
        assert (drawn[:, side] != plain[:, side]).any(axis=2).mean() > 0.01


def test_weak_results_are_left_out(toy, tmp_path, truth):
    for path, image in zip(draw(toy, tmp_path, results_of(truth, 0.29)), truth["images"]):
        right = cv2.imread(str(path))[28:, 4 * image["width"] + 6 :]
        original, _ = enlarge(read_image(toy.val_images / image["file_name"]))
        np.testing.assert_array_equal(right, original[:, :, ::-1])


@pytest.mark.parametrize(
    "side, factor", [(1, 4), (160, 3), (240, 2), (320, 2), (480, 1), (4000, 1)]
)
def test_small_images_are_enlarged(side, factor):
    image, times = enlarge(black(1, side))
    assert times == factor and image.shape == (factor, side * factor, 3)


@pytest.mark.parametrize("count, indices", [(2, [0, 7]), (4, [0, 2, 5, 7]), (100, range(8))])
def test_number_of_pictures(toy, tmp_path, truth, count, indices):
    paths = draw(toy, tmp_path, [], count=count)
    assert [path.stem for path in paths] == [
        truth["images"][i]["file_name"].removesuffix(".jpg") for i in indices
    ]


def test_images_of_one_name_in_two_folders(tmp_path):
    names = ["day/0.png", "night/0.png"]
    for name in names:
        write_image(tmp_path / name, black())
    images = [{"id": i, "file_name": name} for i, name in enumerate(names)]
    truth = {"images": images, "annotations": [], "categories": []}
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "results.json").write_text("[]")
    paths = draw_results(
        tmp_path / "truth.json", tmp_path, tmp_path / "results.json", tmp_path / "pictures"
    )
    assert len(set(paths)) == 2 and all(path.is_file() for path in paths)


# ---- curves


LINES = [
    {"iteration": 0, "total_loss": 5.0, "lr": 0.0},
    {"iteration": 1, "total_loss": 4.0, "lr": 0.01},
    {"iteration": 2, "total_loss": 9.0, "bbox/AP": 1.0},
    {"iteration": 2, "total_loss": 3.0, "bbox/AP": 2.0},  # a resumed run writes it again
]


def write_metrics(path, lines, tail=""):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + tail)
    return path


def test_a_torn_line_is_left_out(tmp_path):
    path = write_metrics(tmp_path / "metrics.json", LINES, '{"iteration": 3, "total_l')
    assert read_metrics(path) == LINES
    torn_between = path.read_text() + "\n" + json.dumps(LINES[0]) + "\n"
    path.write_text(torn_between)
    assert read_metrics(path) == [*LINES, LINES[0]]


@pytest.mark.heavy
def test_curves(tmp_path):
    path = write_metrics(tmp_path / "metrics.json", LINES, '{"iteration": 3, "total_l')
    plot_curves(path, tmp_path / "new" / "curves.png")
    picture = cv2.imread(str(tmp_path / "new" / "curves.png"))
    assert picture.shape[1] > picture.shape[0] > 300
    assert (picture != 255).any()


@pytest.mark.heavy
def test_the_newest_line_of_an_iteration_counts(tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    drawn = {}
    original = Axes.plot

    def record(self, x, y, **options):
        drawn[options["label"]] = list(zip(x, y))
        return original(self, x, y, **options)

    monkeypatch.setattr(Axes, "plot", record)
    plot_curves(write_metrics(tmp_path / "metrics.json", LINES), tmp_path / "curves.png")
    assert drawn == {
        "total_loss": [(0, 5.0), (1, 4.0), (2, 3.0)],
        "bbox/AP": [(2, 2.0)],
        "lr": [(0, 0.0), (1, 0.01)],
    }


@pytest.mark.heavy
@pytest.mark.parametrize(
    "lines", [[], [{"iteration": 0}], [{"iteration": 5, "bbox/AP": float("nan"), "lr": 0.0}]]
)
def test_curves_of_little(tmp_path, lines):
    plot_curves(write_metrics(tmp_path / "metrics.json", lines), tmp_path / "curves.png")
    assert cv2.imread(str(tmp_path / "curves.png")) is not None
