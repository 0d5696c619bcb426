"""Annotation files as arrays: equal to Detectron2's reader, read once, found again by content."""

import json
import logging
import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from yolor_d2.arguments.train_net import parse_args
from yolor_d2.commands import train_net
from yolor_d2.d2.data import load_coco_json
from yolor_d2.data import loader
from yolor_d2.datasets import catalog, open_files, prepared_copies
from yolor_d2.datasets.annotations import Strings
from yolor_d2.datasets.ground_truth import GroundTruth
from yolor_d2.datasets.open_files import open_annotations, read_annotations, read_large
from yolor_d2.datasets.prepared_copies import keep_copies_in
from yolor_d2.datasets.source import AnnotationFileError
from yolor_d2.doctor import quick
from yolor_d2.engine import Trainer

IMAGE = {"id": 4, "file_name": "a.png", "height": 30, "width": 40}
CATEGORY = {"id": 7, "name": "ring"}
OBJECT = {"id": 1, "image_id": 4, "category_id": 7, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0}


def content(*objects, images=(IMAGE,), categories=(CATEGORY,)) -> dict:
    return {"images": [*images], "annotations": [*objects], "categories": [*categories]}


@pytest.fixture
def write(tmp_path):
    def write_file(data, name="file.json") -> Path:
        path = tmp_path / name
        path.write_text(json.dumps(data))
        return path

    return write_file


@pytest.fixture
def copies(tmp_path, monkeypatch):
    """A folder for prepared copies, of files of any size."""
    monkeypatch.setattr(prepared_copies, "SMALL_FILE", 0)
    folder = tmp_path / "copies"
    keep_copies_in(folder)
    yield folder
    keep_copies_in(None)


def assert_same(one, other) -> None:
    for name, value in vars(one).items():
        found = getattr(other, name)
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(found, value, err_msg=name)
            assert found.dtype == value.dtype, name
        elif value is None or isinstance(value, int):
            assert found == value, name
        else:
            assert [*found] == [*value], name


# ---- What is read

IDS = st.lists(st.integers(0, 40), min_size=1, max_size=6, unique=True)
NUMBER = st.integers(-20, 60) | st.floats(-20, 60, allow_subnormal=False)


@st.composite
def coco_files(draw) -> dict:
    image_ids, category_ids = draw(IDS), draw(IDS)
    objects = st.fixed_dictionaries(
        {
            "image_id": st.sampled_from([*image_ids, 99]),  # 99 is of no image
            "category_id": st.sampled_from(category_ids),
            "bbox": st.lists(NUMBER, min_size=4, max_size=4),
            "area": NUMBER,
            "iscrowd": st.sampled_from([0, 0, 0, 1]),
        },
        optional={
            "instance_id": st.integers(-1, 2**40),
            "segmentation": st.just([[1, 2, 3, 4, 5, 6]]),
            "note": st.text(max_size=3),
        },
    )
    found = draw(st.lists(objects, max_size=12))
    numbers = draw(st.permutations(range(1, len(found) + 1)))
    return {
        "images": [
            {"id": i, "file_name": f"{i}é.png", "height": 30 + i, "width": 40} for i in image_ids
        ],
        "annotations": [{**x, "id": i} for x, i in zip(found, numbers)],
        "categories": [{"id": i, "name": f"class {i}"} for i in category_ids],
        "info": {"year": 2017},
    }


@pytest.mark.heavy
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(coco_files())
def test_equal_to_detectron2s_reader(tmp_path, data):
    path = tmp_path / "random.json"
    path.write_text(json.dumps(data))
    items = load_coco_json(str(path), "folder", None, extra_annotation_keys=["instance_id"])
    numbers = {number: i for i, number in enumerate(sorted(x["id"] for x in data["categories"]))}
    for item in items:
        for annotation in item["annotations"]:
            annotation["category_id"] = numbers[annotation["category_id"]]
    expected = GroundTruth.from_items(items)
    file = open_files.AnnotationFile(path)
    assert_same(GroundTruth.from_annotations(file.annotations, "folder"), expected)
    # A large file is read in another way, to the same arrays.
    assert_same(read_large(path), file.annotations)


def test_by_hand(write):
    crowd = {**OBJECT, "id": 2, "iscrowd": 1, "bbox": None, "instance_id": "of a crowd"}
    other = {**IMAGE, "id": 2, "file_name": "b.png", "height": 2.5}
    path = write(content(crowd, {**OBJECT, "id": 3, "image_id": 2}, OBJECT, images=[IMAGE, other]))
    found = read_annotations(path)
    assert found.image_ids.tolist() == [2, 4] and [*found.file_names] == ["b.png", "a.png"]
    assert found.sizes.tolist() == [[-1, 40], [30, 40]]
    assert found.starts.tolist() == [0, 1, 3] and found.ids.tolist() == [3, 2, 1]
    assert found.image_rows.tolist() == [0, 1, 1]
    assert np.isnan(found.boxes[1]).all() and found.boxes[2].tolist() == [1, 2, 3, 4]
    assert found.crowd.tolist() == [False, True, False]
    again = found.as_coco([1])
    assert np.isnan(again["annotations"].pop(0)["bbox"]).all()
    assert again == content(OBJECT)


def test_numbers_that_json_does_not_know(write):
    """Python writes and reads them; the area of a box decides nothing in training."""
    path = write(content({**OBJECT, "area": math.nan}))
    assert np.isnan(read_large(path).areas).all()
    assert read_large(path).boxes.tolist() == [[1, 2, 3, 4]]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (content({**OBJECT, "category_id": 8}), r"annotation 1 is of category 8"),
        (content({**OBJECT, "ignore": 1}), r"annotation 1 has 'ignore' 1, expected 'iscrowd'"),
        (content({**OBJECT, "bbox": None}), r"annotation 1 has no 'bbox'"),
        (content({**OBJECT, "bbox": [1, 2, 3]}), r"annotations\[0\]\.bbox: .*length 4"),
        (content({**OBJECT, "bbox": [1, 2, 3, "4"]}), r"annotations\[0\]\.bbox\[3\]: .*`float`"),
        (content({**OBJECT, "id": 1.5}), r"annotations\[0\]\.id: .*`int`"),
        (content({**OBJECT, "image_id": 2**70}), r"'image_id' is 1180.*below 2\*\*63"),
        (content({**OBJECT, "instance_id": -2}), r"annotation 1 has 'instance_id' -2"),
        (content(OBJECT, OBJECT), r"ids of annotations are not unique"),
        (content(categories=[CATEGORY, CATEGORY]), r"ids of categories are not unique"),
        (content(images=[{"id": 1}]), r"images\[0\]: .*`file_name`"),
        (content(images=[]), r"has no images"),
        ([1], r"is a list, expected an object"),
    ],
)
@pytest.mark.parametrize("large", [False, True])
def test_what_cannot_be_meant_is_named(write, data, message, large):
    path = write(data)
    with pytest.raises(AnnotationFileError, match=rf"file\.json.*{message}"):
        read_large(path) if large else read_annotations(path)


@given(st.lists(st.text(st.characters(codec=None), max_size=5)))
def test_packed_texts(texts):
    packed = Strings.pack(texts)
    assert [*packed] == texts and [packed[i] for i in range(len(texts))] == texts
    assert len(packed) == len(texts) and packed[1:3] == texts[1:3]
    with pytest.raises(IndexError):
        packed[len(texts)]


# ---- Prepared copies


def test_a_copy_is_found_by_content(write, copies, monkeypatch):
    first = read_annotations(write(content(OBJECT)))
    (copy,) = copies.iterdir()
    monkeypatch.setattr(open_files, "decode", None)  # nobody may read the JSON again
    assert_same(read_annotations(write(content(OBJECT), "moved.json")), first)
    monkeypatch.undo()
    monkeypatch.setattr(prepared_copies, "SMALL_FILE", 0)
    other = read_annotations(write(content({**OBJECT, "area": 13})))
    assert other.areas.tolist() == [13]
    assert len([*copies.iterdir()]) == 2 and copy.exists()


@pytest.mark.parametrize("damage", [b"", b"garbage", "cut", "version"])
def test_a_damaged_copy_is_made_again(write, copies, damage, caplog):
    path = write(content(OBJECT))
    expected = read_annotations(path)
    (copy,) = copies.iterdir()
    whole = copy.read_bytes()  # whose header has its names in any order
    if damage == "cut":
        damage = whole[:-5]
    if damage == "version":
        damage = whole.replace(prepared_copies.FORMAT.encode(), b"yolor_d2 annotations 0")
    copy.write_bytes(damage)
    assert_same(read_large(path), expected)
    assert len(copy.read_bytes()) == len(whole)
    assert_same(prepared_copies.read_copy(copy), expected)


def test_a_copy_that_cannot_be_written_is_none(write, copies, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with caplog.at_level(logging.WARNING, "yolor_d2"):
        assert len(read_large(write(content(OBJECT))).ids) == 1
    assert "No space left" in caplog.text
    assert [*copies.iterdir()] == []


def test_a_file_that_changes_is_read_again(write):
    path = write(content(OBJECT))
    assert read_annotations(path) is read_annotations(path)
    assert len(read_annotations(write(content(OBJECT, {**OBJECT, "id": 2}))).ids) == 2


# ---- One start


@pytest.mark.parametrize("large", [False, True])
def test_a_file_is_read_once(cfg, toy, tmp_path, monkeypatch, large):
    """For class names, checks, lengths in epochs, training and resuming."""
    if large:
        monkeypatch.setattr(prepared_copies, "SMALL_FILE", 0)
    reads = []
    for name in ("read_coco", "decode"):
        function = getattr(open_files, name)

        def counted(path, *args, function=function, **options):
            reads.append(Path(path).name)
            return function(path, *args, **options)

        monkeypatch.setattr(open_files, name, counted)
    monkeypatch.setattr(open_files, "_read", {})
    # Nothing that leaves files open.
    monkeypatch.setattr(train_net, "default_setup", lambda *_: None)
    monkeypatch.setattr(train_net, "setup_logger", lambda *_, **__: logging.getLogger("yolor_d2"))
    monkeypatch.setattr(Trainer, "build_writers", lambda self: [])
    config = tmp_path / "config.yaml"
    cfg.SOLVER.MAX_EPOCHS = 1
    cfg.DATASETS.CHECK = True
    config.write_text(cfg.dump())
    args = parse_args(["--config-file", str(config), "OUTPUT_DIR", str(tmp_path / "run")])
    made = train_net.read_settings(args)
    train_net.setup(made, args)
    assert all(file.content is None for _, file in open_files._read.values())
    trainer = Trainer(made)
    trainer.load_from(3)
    loader.build_test_loader(made, made.DATASETS.TEST[0])
    assert sorted(reads) == sorted({*reads}) and len(reads) == 2  # training and test set
    assert trainer._trainer.data_loader.training_set is trainer.training_set


def test_of_a_large_file_some_images_are_checked(write, copies, tmp_path, monkeypatch):
    monkeypatch.setattr(quick, "FROM_LARGE", 10)
    images = [{**IMAGE, "id": i, "file_name": f"{i}.png"} for i in range(100)]
    path = write(content({**OBJECT, "image_id": 0}, images=images))
    with pytest.raises(ValueError, match=r"'set'.*\.png.*\(10 such findings\).*yolor-d2 check"):
        quick.quick_check("set", str(path), str(tmp_path), train=True)


def test_a_function_of_ones_own_is_asked(cfg, write):
    """It may choose among the entries of the file that its metadata name."""
    from yolor_d2.d2.data import DatasetCatalog, MetadataCatalog

    path = write(content(OBJECT))
    chosen = [{"file_name": "b.png", "image_id": "x", "height": 5, "width": 5, "annotations": []}]
    DatasetCatalog.register("chosen/own", lambda: chosen)
    MetadataCatalog.get("chosen/own").set(json_file=str(path), image_root="folder")
    try:
        assert catalog.annotation_file_of("chosen/own") is None
        truth = catalog.load_ground_truth("chosen/own")
        assert [*truth.file_names] == ["b.png"] and truth.image_id(0) == "x"
    finally:
        DatasetCatalog.remove("chosen/own")
        MetadataCatalog.remove("chosen/own")


def test_content_is_not_kept(write):
    path = write(content(OBJECT))
    assert open_annotations(path).take_content() == content(OBJECT)
    assert open_annotations(path).take_content() is None
    assert len(open_annotations(path).annotations.ids) == 1
    other = write(content(OBJECT), "other.json")
    assert open_annotations(other).content is not None
    open_files.drop_contents()
    assert open_annotations(other).take_content() is None
