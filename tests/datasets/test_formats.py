"""Labels of YOLO's and Pascal VOC's formats, by hand, and the commands that take them."""

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from yolor_d2.commands import execute
from yolor_d2.commands.shell import run
from yolor_d2.data.options import use_data
from yolor_d2.datasets.formats import read_labelled
from yolor_d2.datasets.formats.yolo import points_of, read_line

convert = partial(execute, "convert_dataset")


def write_image(path: Path, size: tuple[int, int] = (100, 200)) -> None:
    """Noise of (H, W) pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = sum(str(path).encode())
    noise = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)


def boxes(data: dict) -> list[tuple]:
    return [(x["image_id"], x["category_id"], x["bbox"]) for x in data["annotations"]]


@pytest.fixture
def yolo(tmp_path) -> Path:
    """Two parts; in "train" a box, a polygon, an image without labels and one with none in it."""
    for name in ("a", "b", "c"):
        write_image(tmp_path / f"images/train/{name}.png")
    write_image(tmp_path / "images/val/d.png")
    labels = tmp_path / "labels/train"
    labels.mkdir(parents=True)
    (labels / "a.txt").write_text("1 0.5 0.5 0.2 0.4\n\n0 0.1 0.2 0.3 0.2 0.3 0.6 0.1 0.6\n")
    (labels / "b.txt").touch()
    (tmp_path / "data.yaml").write_text(
        "train: images/train\nval: images/val\nnc: 2\nnames: [cat, dog]\n"
    )
    return tmp_path


def test_yolo_boxes_and_polygons(yolo):
    labelled = read_labelled(yolo / "data.yaml", "train")
    data = labelled.data
    assert [x["name"] for x in data["categories"]] == ["cat", "dog"]
    assert len(data["images"]) == 3 and not labelled.faults
    assert {(x["height"], x["width"]) for x in data["images"]} == {(100, 200)}
    # Centre (100, 50), 40 wide, 40 high; and the box around the polygon.
    found = boxes(data)
    assert [x[:2] for x in found] == [(1, 2), (1, 1)]
    np.testing.assert_allclose([x[2] for x in found], [[80, 30, 40, 40], [20, 20, 40, 40]])
    assert "segmentation" not in data["annotations"][0]
    np.testing.assert_allclose(
        data["annotations"][1]["segmentation"], [[20, 20, 60, 20, 60, 60, 20, 60]]
    )
    assert len(read_labelled(yolo / "data.yaml", "val").data["images"]) == 1


def test_yolo_names_by_number_and_in_a_file(yolo):
    (yolo / "data.yaml").write_text("train: images/train\nnames: {0: cat, 1: dog}\n")
    assert [x["name"] for x in read_labelled(yolo, "train").data["categories"]] == ["cat", "dog"]
    (yolo / "data.yaml").unlink()
    (yolo / "classes.txt").write_text("cat\ndog\n")
    assert len(boxes(read_labelled(yolo, "train").data)) == 2


def test_yolo_areas_are_those_of_masks(yolo):
    lines = "0 0.1 0.1 0.5 0.1 0.1 0.9\n0 0.1 0.1 0.1 0.9 0.5 0.1\n1 0.5 0.5 0.5 0.5\n"
    (yolo / "labels/train/c.txt").write_text(lines)
    objects = read_labelled(yolo, "train").data["annotations"][-3:]
    # Half of 80 x 80 pixels, whichever way round, and 100 x 50.
    assert [x["area"] for x in objects] == pytest.approx([3200, 3200, 5000])
    assert objects[0]["segmentation"][0] == pytest.approx([20, 10, 100, 10, 20, 90])


POSE = """train: images/train
names: [cat, dog]
kpt_shape: [3, {}]
flip_idx: [0, 2, 1]
"""


@pytest.fixture
def pose(yolo) -> Path:
    """The labels of one image: a box and three points each, and a box alone."""
    (yolo / "data.yaml").write_text(POSE.format(3))
    line = "1 0.5 0.5 0.2 0.4 0.5 0.5 2 0.45 0.4 1 0.3 0.9 0\n"
    (yolo / "labels/train/a.txt").write_text(f"{line}0 0.5 0.5 0.1 0.1\n")
    return yolo


def test_yolo_keypoints(pose):
    labelled = read_labelled(pose, "train")
    assert not labelled.faults
    category = {"keypoints": ["kpt_0", "kpt_1", "kpt_2"], "skeleton": []}
    category["flip_pairs"] = [["kpt_1", "kpt_2"]]
    assert labelled.data["categories"] == [
        {"id": 1, "name": "cat", **category},
        {"id": 2, "name": "dog", **category},
    ]
    first, second = labelled.data["annotations"]
    assert first["bbox"] == pytest.approx([80, 30, 40, 40]) and first["area"] == pytest.approx(1600)
    assert first["keypoints"] == pytest.approx([100, 50, 2, 90, 40, 1, 0, 0, 0])
    assert all(type(x) is int for x in first["keypoints"][2::3])
    assert first["num_keypoints"] == 2 and "segmentation" not in first
    assert (second["keypoints"], second["num_keypoints"]) == ([0] * 9, 0)


def test_yolo_keypoints_without_visibility(pose):
    (pose / "data.yaml").write_text(POSE.format(2))
    lines = "1 0.5 0.5 0.2 0.4 0.5 0.5 0 0 -1 0.4\n0 0.5 0.5 0.1 0.1 0 0.5 0.5 0 0 0\n"
    (pose / "labels/train/a.txt").write_text(lines)
    first, second = read_labelled(pose, "train").data["annotations"]
    # The corner, and a number below 0, say that a point is not labelled; one at a border is.
    assert first["keypoints"] == pytest.approx([100, 50, 2] + [0] * 6)
    assert second["keypoints"] == pytest.approx([0, 50, 2, 100, 0, 2, 0, 0, 0])
    assert [x["num_keypoints"] for x in (first, second)] == [1, 2]


# Keys of data.yaml, names of the points of both classes, and the pairs.
NAMED = [
    ("kpt_names: [a, b, c]", [["a", "b", "c"]] * 2, None),
    ("kpt_names: {0: [a, b, c], 1: [d, e, f]}", [["a", "b", "c"], ["d", "e", "f"]], None),
    ("kpt_names: {1: [d, e, f]}", [["d", "e", "f"]] * 2, None),
    ("kpt_names: [a, 2, c]\nflip_idx: [2, 1, 0]", [["a", "2", "c"]] * 2, [["a", "c"]]),
    ("flip_idx: [0, 1, 2]", [["kpt_0", "kpt_1", "kpt_2"]] * 2, []),
]


@pytest.mark.parametrize(("keys", "names", "pairs"), NAMED)
def test_yolo_names_of_keypoints(pose, keys, names, pairs):
    (pose / "data.yaml").write_text(
        f"train: images/train\nnames: [a, b]\nkpt_shape: [3, 3]\n{keys}"
    )
    categories = read_labelled(pose, "train").data["categories"]
    assert [x["keypoints"] for x in categories] == names
    assert [x.get("flip_pairs") for x in categories] == [pairs] * 2


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("kpt_shape: 17", "'kpt_shape' is 17, expected the number of points, and 2"),
        ("kpt_shape: [17, 4]", r"'kpt_shape' is \[17, 4\], expected the number of points, and 2"),
        ("kpt_shape: [0, 3]", r"'kpt_shape' is \[0, 3\]"),
        ("kpt_shape: [1000000, 3]", r"'kpt_shape' is \[1000000, 3\]"),
        ("kpt_shape: [3, 3]\nflip_idx: [0, 1]", r"'flip_idx' is .*each number from 0 to 2 once"),
        ("kpt_shape: [3, 3]\nflip_idx: [0.0, 1, 2]", "each number from 0 to 2 once"),
        ("kpt_shape: [3, 3]\nflip_idx: [1, 2, 0]", "expected pairs of points that take"),
        ("kpt_shape: [3, 3]\nkpt_names: [a, b]", "'kpt_names' is .*expected 3 names that differ"),
        ("kpt_shape: [3, 3]\nkpt_names: [a, b, b]", "expected 3 names that differ"),
        ("kpt_shape: [3, 3]\nkpt_names: {5: [a, b, c]}", "expected 3 names that differ"),
        ("kpt_shape: [3, 3]\nkpt_names: {}", "expected 3 names that differ"),
        ("kpt_shape: [3, 3]\nkpt_names: [[a], [b], c]\nflip_idx: 5", "'flip_idx' is 5"),
    ],
)
def test_wrong_keys_of_keypoints_are_named(pose, keys, message):
    (pose / "data.yaml").write_text(f"train: images/train\nnames: [cat, dog]\n{keys}\n")
    with pytest.raises(ValueError, match=message):
        read_labelled(pose, "train")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.1 0.2 0.3 0.2 0.3 0.6", "has 7 numbers, expected class, cx, cy, w, h and 3 of each"),
        ("0 0.5 0.5 0.1 0.1" + " 0.5" * 8, "of 3 points ('kpt_shape' of data.yaml), 14 in all"),
        ("0 0.5 0.5 0.1 0.1" + " 0.5 0.5 3" * 3, "has the visibility 3, expected 0 (not labelled)"),
        ("0 0.5 0.5 0.1 0.1" + " 0.5 50 2" * 3, "is not normalised by the size of the image"),
        ("0 0.5 0.5 0.1 0.1" + " 0.5 nan 2" * 3, "is not normalised by the size of the image"),
        ("0 0.5 0.5 0.1 0.1" + " 0.5 0.5 nan" * 3, "has the visibility nan"),
    ],
)
def test_wrong_lines_of_keypoints_are_named(pose, line, message):
    (pose / "labels/train/c.txt").write_text(f"0 0.5 0.5 0.1 0.1\n{line}\n")
    (fault,) = read_labelled(pose, "train").faults
    assert fault.file.endswith("c.txt:2") and message in fault.message


shares = st.floats(-1, 2, width=16)


@given(st.lists(st.tuples(shares, shares, st.sampled_from([0, 1, 2])), min_size=1, max_size=6))
@settings(max_examples=40, deadline=None)
def test_keypoints_are_read_as_they_were_written(points):
    """What converters write of COCO's keypoints becomes these again."""
    form = points_of(Path("data.yaml"), {"kpt_shape": [len(points), 3]}, 1)
    words = " ".join(f"{x} {y} {v}" for x, y, v in points)
    line = read_line(f"0 0.5 0.5 0.25 0.25 {words}", 1, form)
    expected = [(x, y, v) if v else (0, 0, 0) for x, y, v in points]
    np.testing.assert_array_equal(line.points, expected)
    np.testing.assert_array_equal(line.box, [0.375, 0.375, 0.25, 0.25])


@given(st.lists(st.tuples(shares, shares), min_size=3, max_size=9))
@settings(max_examples=40, deadline=None)
def test_outlines_are_read_as_they_were_written(points):
    line = read_line("0 " + " ".join(f"{x} {y}" for x, y in points), 1)
    np.testing.assert_array_equal(line.outline, points)
    low, high = np.min(points, axis=0), np.max(points, axis=0)
    np.testing.assert_array_equal(line.box, [*low, *(high - low)])


def test_labels_with_masks_and_points_are_checked_and_split(pose, tmp_path, capsys):
    options = ["--quiet", "--workers", "1"]
    assert execute("check_dataset", ["--train", str(pose), *options]) == 0
    out = capsys.readouterr().out
    assert "1 object with keypoints" in out and "keypoint_" not in out
    (pose / "data.yaml").write_text("train: images/train\nnames: [cat, dog]\n")
    (pose / "labels/train/a.txt").write_text("0 0.1 0.1 0.5 0.9 0.5 0.1 0.1 0.9\n")
    execute("check_dataset", ["--train", str(pose), *options])
    assert "warning: polygon_crosses_itself (1)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2 0.5 0.5 0.1 0.1", "class '2' is none of 0 to 1"),
        ("0 0.5 0.5 0.1", "has 4 numbers, expected class, cx, cy, w, h"),
        ("0 50 50 10 10", "is not normalised by the size of the image"),
        ("cat 0.5 0.5 0.1 0.1", "has a word that is no number"),
        ("nan 0.5 0.5 0.1 0.1", "class 'nan' is none of"),
    ],
)
def test_wrong_lines_are_named(yolo, line, message, tmp_path, capsys):
    (yolo / "labels/train/c.txt").write_text(f"0 0.5 0.5 0.1 0.1\n{line}\n")
    (fault,) = read_labelled(yolo / "data.yaml", "train").faults
    assert fault.file.endswith("c.txt:2") and message in fault.message
    output = tmp_path / "out.json"
    argv = [str(yolo / "data.yaml"), "--output", str(output)]
    assert run(convert, argv, program="convert") == 1
    assert "c.txt:2" in capsys.readouterr().err and not output.exists()
    assert run(convert, [*argv, "--skip"], program="convert") == 0
    assert len(json.loads(output.read_text())["annotations"]) == 3


def test_images_without_any_label_file(yolo, tmp_path, capsys):
    shutil.rmtree(yolo / "labels")
    (fault,) = read_labelled(yolo, "train").faults
    assert fault.kind == "labels_missing" and "labels/train" in fault.file
    argv = [str(yolo), "--output", str(tmp_path / "out.json")]
    assert run(convert, argv, program="convert") == 1
    assert "has a label file" in capsys.readouterr().err
    assert run(convert, [*argv, "--skip"], program="convert") == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: [cat]\nnc: 2\ntrain: images", "'nc' is 2, but 'names' has 1"),
        ("names: 3\ntrain: images", "expected a list of names"),
        ("names: [cat]\ntrain: nowhere", "no such file or folder"),
        ("names: [cat]", "'train' is None, expected a folder"),
        ("names: !!python/object:os.system", "cannot be read as YAML"),
    ],
)
def test_wrong_data_files_are_named(yolo, text, message):
    (yolo / "data.yaml").write_text(text)
    with pytest.raises((ValueError, OSError), match=message):
        read_labelled(yolo / "data.yaml", "train")


VOC = """<annotation><filename>a.png</filename><size><width>200</width><height>100</height></size>
<object><name>dog</name><difficult>0</difficult><bndbox>
<xmin>11</xmin><ymin>21</ymin><xmax>50</xmax><ymax>60</ymax></bndbox></object></annotation>"""


@pytest.fixture
def voc(tmp_path) -> Path:
    write_image(tmp_path / "JPEGImages/a.png")
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations/a.xml").write_text(VOC)
    return tmp_path


def test_voc_corners_count_from_one_and_are_inside(voc):
    labelled = read_labelled(voc, "train")
    assert not labelled.faults
    # Columns 11 to 50 are 40 of them, the first with its left edge at 10.
    assert boxes(labelled.data) == [(1, 1, [10, 20, 40, 40])]
    zero = read_labelled(voc, "train", one_based=False)
    assert boxes(zero.data)[0][2][:2] == [11, 21]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("annotation>", "html>", "its root is <html>, expected <annotation>"),
        ("<name>dog</name>", "", "object 1: it has no <name>"),
        ("<xmin>11", "<xmin>eleven", "xmin is 'eleven', expected a number"),
    ],
)
def test_what_is_wrong_in_xml_is_named(voc, old, new, message):
    (voc / "Annotations/a.xml").write_text(VOC.replace(old, new))
    (fault,) = read_labelled(voc, "train").faults
    assert fault.file.endswith("a.xml") and message in fault.message


def test_entities_are_refused(voc):
    bomb = '<!DOCTYPE a [<!ENTITY b "c"><!ENTITY d "&b;&b;">]>' + VOC.replace("dog", "&d;")
    (voc / "Annotations/a.xml").write_text(bomb)
    try:
        faults = [x.message for x in read_labelled(voc, "train").faults]
    except ValueError as error:
        faults = [str(error)]
    assert faults and "declares a document type or entities" in faults[0]


def test_what_is_converted_is_checked_without_errors(yolo, voc, tmp_path, capsys):
    output = tmp_path / "train.json"
    assert not convert([str(yolo / "data.yaml"), "--output", str(output)])
    assert "3 images, 2 boxes, 1 outline and 2 categories" in capsys.readouterr().out
    folder = read_labelled(yolo / "data.yaml", "train").image_root
    options = ["--quiet", "--workers", "1"]
    assert execute("check_dataset", ["--train", str(output), str(folder), *options]) == 0
    # Its own validation part, which has no labels, is checked too.
    assert execute("check_dataset", ["--train", str(yolo / "data.yaml"), *options]) == 1
    out = capsys.readouterr().out
    assert "2 boxes to train on" in out and "none of 1 images has a label file" in out


# ---- Without a step between


def config_for(output: Path):
    from yolor_d2.config import get_yolor_cfg

    cfg = get_yolor_cfg()
    cfg.OUTPUT_DIR = str(output)
    return cfg


def test_labels_are_trained_on_directly(yolo, tmp_path):
    """`--train data.yaml` is both parts, as one file names both."""
    labels = yolo / "labels" / "val"
    labels.mkdir(parents=True)
    (labels / "d.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    cfg = config_for(tmp_path / "run")
    use_data(cfg, [str(yolo / "data.yaml")], None)
    assert (cfg.MODEL.YOLOR.NUM_CLASSES, cfg.MODEL.YOLOR.CLASS_NAMES) == (2, ["cat", "dog"])
    names = [entry[0] for entry in cfg.DATASETS.REGISTER]
    assert names == [f"{yolo.name}/train", f"{yolo.name}/val"]
    assert [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST] == names
    for (_, file, folder), count in zip(cfg.DATASETS.REGISTER, (3, 1)):
        assert Path(file).parent == tmp_path / "run" / "annotations"
        images = json.loads(Path(file).read_bytes())["images"]
        assert len(images) == count
        assert all((Path(folder) / image["file_name"]).is_file() for image in images)


def test_a_set_without_a_validation_part_evaluates_nothing(yolo, tmp_path):
    file = yolo / "train_only.yaml"
    file.write_text(
        "\n".join(x for x in (yolo / "data.yaml").read_text().splitlines() if "val" not in x)
    )
    cfg = config_for(tmp_path)
    use_data(cfg, [str(file)], None)
    assert cfg.DATASETS.TEST == () and cfg.DATASETS.TRAIN


def test_a_part_that_lacks_a_class_has_the_classes_of_training(voc, tmp_path):
    """VOC names its classes by what occurs, and a part has a list of its images."""
    write_image(voc / "JPEGImages/b.png")
    (voc / "Annotations/b.xml").write_text(VOC.replace("dog", "cat").replace("a.png", "b.png"))
    lists = voc / "ImageSets/Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\nb\n")
    (lists / "val.txt").write_text("a\n")
    cfg = config_for(tmp_path)
    use_data(cfg, [str(voc)], None)
    assert cfg.MODEL.YOLOR.CLASS_NAMES == ["cat", "dog"] and cfg.DATASETS.TEST
    (val,) = (x for x in cfg.DATASETS.REGISTER if x[0] == cfg.DATASETS.TEST[0])
    content = json.loads(Path(val[1]).read_bytes())
    assert [x["name"] for x in content["categories"]] == ["cat", "dog"]
    assert [x["category_id"] for x in content["annotations"]] == [2]


def test_labels_that_cannot_be_read_are_said_before_training(yolo, tmp_path):
    (yolo / "labels" / "train" / "a.txt").write_text("7 0.5 0.5 0.5 0.5\n")
    with pytest.raises(ValueError, match=r"a.txt:1: class '7'.*yolor-d2 check --train .*data.yaml"):
        use_data(config_for(tmp_path), [str(yolo / "data.yaml")], None)
    assert not (tmp_path / "annotations").exists()


def test_a_part_that_is_not_there_is_no_reason_to_take_all(yolo, voc):
    (yolo / "data.yaml").unlink()
    (yolo / "classes.txt").write_text("cat\ndog\n")
    with pytest.raises(ValueError, match=r"no part 'trian'; it has train, val"):
        read_labelled(yolo / "images", "trian", names=["cat", "dog"])
    lists = voc / "ImageSets/Main"
    lists.mkdir(parents=True)
    for name in ("train", "trainval"):
        (lists / f"{name}.txt").write_text("a\n")
    with pytest.raises(ValueError, match=r"no part 'val'; it has train, trainval"):
        read_labelled(voc, "val")
