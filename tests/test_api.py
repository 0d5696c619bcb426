"""The interface of three lines: what it takes, what it gives, and what it says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("yolor_d2.d2.config")  # either runtime

import yolor_d2
from yolor_d2 import load
from yolor_d2.api import Detection, Result
from yolor_d2.checkpoint import YOLORCheckpointer
from yolor_d2.d2.modeling import build_model
from yolor_d2.files.images import read_image
from yolor_d2.predictor import BatchPredictor
from yolor_d2.visualize.boxes import draw_boxes

LOW = 0.002


@pytest.fixture(scope="module")
def run(toy_config, tmp_path_factory):
    """Folder of a run, its weights as they start."""
    cfg = toy_config.clone()
    cfg.OUTPUT_DIR = str(tmp_path_factory.mktemp("run"))
    cfg.MODEL.YOLOR.WIDTH_FACTOR = 0.25
    torch.manual_seed(0)
    model = build_model(cfg)
    with torch.no_grad():
        for conv in model.head.predict:  # so that anything is found
            conv.bias.view(3, -1)[:, 4:] += 4
    YOLORCheckpointer(model, cfg.OUTPUT_DIR).save("model_final")
    cfg.MODEL.DEVICE = "cuda"  # where it was trained
    folder = Path(cfg.OUTPUT_DIR)
    (folder / "config.yaml").write_text(cfg.dump(), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def model(run):
    return load(run, device="cpu", threshold=LOW)


@pytest.fixture(scope="module")
def photos(toy):
    return sorted(map(str, toy.val_images.iterdir()))


def same(one: Result, other: Result, tolerance: float = 0.0) -> bool:
    return len(one) == len(other) and np.allclose(one.boxes, other.boxes, atol=tolerance)


@pytest.mark.heavy
def test_a_file_is_detected_as_by_the_predictor(model, photos):
    found = model(photos[0])
    assert isinstance(found, Result) and len(found) > 0
    (expected,) = BatchPredictor(model.cfg)([photos[0]])
    expected = expected[expected.scores >= LOW]
    assert np.array_equal(found.boxes, expected.pred_boxes.tensor.numpy())
    assert np.array_equal(found.scores, expected.scores.numpy())
    assert np.array_equal(found.class_ids, expected.pred_classes.numpy())
    assert found.size == read_image(photos[0]).shape[:2] and found.path == photos[0]


def test_every_kind_of_source_gives_the_same(model, photos):
    expected = model(photos[0])
    rgb = read_image(photos[0])
    tensor = torch.from_numpy(rgb.copy()).permute(2, 0, 1)
    for source in (Path(photos[0]), rgb, Image.open(photos[0]), tensor, tensor / 255):
        found = model(source)
        assert same(found, expected)
        assert np.array_equal(found.image, rgb)
    bgr = model(rgb[:, :, ::-1], channel_order="BGR")
    assert same(bgr, expected) and np.array_equal(bgr.image, rgb)
    assert not same(model(rgb[:, :, ::-1]), expected)


def test_a_model_in_the_other_order_takes_the_same(run, photos):
    other = load(run, device="cpu", threshold=LOW, overrides=["INPUT.FORMAT", "BGR"])
    rgb = read_image(photos[0])
    expected = other(photos[0])
    for found in (other(rgb), other(rgb[:, :, ::-1], channel_order="BGR")):
        assert same(found, expected) and np.array_equal(found.image, rgb)


def test_several_sources_and_folders_keep_their_order(model, photos, toy):
    several = model(photos[:3])
    assert [x.path for x in several] == photos[:3]
    assert all(same(x, model(path), 1e-3) for x, path in zip(several, photos))
    assert [x.path for x in model.stream(toy.val_images)] == photos
    assert model([]) == []
    # An endless source is read no further than needed.
    endless = model.stream(iter(lambda: photos[0], None))
    assert same(next(endless), several[0], 1e-3)


def test_threshold_and_classes(model, photos):
    everything = model(photos[0])
    middle = float(np.median(everything.scores))
    few = model(photos[0], threshold=middle)
    assert 0 < len(few) < len(everything) and few.scores.min() >= middle
    name = everything[0].name
    number = model.names.index(name)
    for classes in ([name], [number]):
        found = model(photos[0], classes=classes)
        assert len(found) == (everything.class_ids == number).sum()
        assert set(found.names) == {name}
    assert len(model(photos[0], classes=[])) == 0


def test_a_result_is_a_sequence_of_detections(model, photos, toy):
    found = model(photos[0])
    first = found[0]
    assert isinstance(first, Detection)
    assert first.box == tuple(found.boxes[0].tolist())
    assert first.score == max(x.score for x in found)
    assert first.name == toy.classes[first.class_id] == found.names[0]
    assert list(found)[-1] == found[-1] and found[:2] == [found[0], found[1]]
    assert len(list(found)) == len(found)
    with pytest.raises(IndexError):
        found[len(found)]


def result(tmp_path: Path) -> Result:
    path = tmp_path / "grey.png"
    Image.new("RGB", (40, 30), (90, 90, 90)).save(path)
    return Result(
        boxes=np.array([[1.25, 2, 11, 22], [20, 5, 30, 15]], dtype=np.float32),
        scores=np.array([0.75, 0.5], dtype=np.float32),
        class_ids=np.array([1, 0]),
        class_names=("cat", "dog"),
        size=(30, 40),
        path=str(path),
    )


def test_plain_data_by_hand(tmp_path):
    found = result(tmp_path)
    records = [
        {"bbox": [1.25, 2, 9.75, 20], "score": 0.75, "class": "dog"},
        {"bbox": [20, 5, 10, 10], "score": 0.5, "class": "cat"},
    ]
    assert found.to_records() == records
    assert json.loads(found.to_json()) == {"file_name": found.path, "detections": records}
    assert found.to_coco(7) == [
        {"image_id": 7, "category_id": 2, "bbox": records[0]["bbox"], "score": 0.75},
        {"image_id": 7, "category_id": 1, "bbox": records[1]["bbox"], "score": 0.5},
    ]
    assert [x["category_id"] for x in found.to_coco("a", [17, 90])] == [90, 17]
    with pytest.raises(ValueError, match=r"3 numbers.*2 classes"):
        found.to_coco(7, [1, 2, 3])
    assert repr(found) == f"<Result: 1 dog, 1 cat in {found.path} (40 x 30)>"


def test_pictures(tmp_path):
    found = result(tmp_path)
    drawn = found.plot()
    expected = draw_boxes(found.image, found.boxes, [1, 0], ["cat", "dog"], [0.75, 0.5])
    assert np.array_equal(drawn, expected) and not np.array_equal(drawn, found.image)
    path = found.save(tmp_path / "new" / "found.png")
    assert np.array_equal(read_image(path), drawn)
    shown = tmp_path / "shown.png"
    shown.write_bytes(found._repr_png_())
    assert np.array_equal(read_image(shown), drawn)
    for name in ("found", "found.txt", "found.npy"):
        with pytest.raises(ValueError, match="no ending of an image"):
            found.save(tmp_path / name)


def test_a_notebook_gets_a_picture_of_bounded_size(tmp_path):
    large = Result(
        boxes=np.zeros((0, 4), dtype=np.float32),
        scores=np.zeros(0, dtype=np.float32),
        class_ids=np.zeros(0, dtype=np.int64),
        class_names=("cat",),
        size=(1000, 4000),
        _pixels=np.zeros((1000, 4000, 3), dtype=np.uint8),
    )
    (tmp_path / "shown.png").write_bytes(large._repr_png_())
    assert read_image(tmp_path / "shown.png").shape == (320, 1280, 3)


def test_supervision(tmp_path):
    supervision = pytest.importorskip("supervision")
    found = result(tmp_path)
    detections = found.to_supervision()
    assert isinstance(detections, supervision.Detections) and len(detections) == 2
    assert np.array_equal(detections.xyxy, found.boxes)
    assert detections.data["class_name"].tolist() == ["dog", "cat"]
    assert detections.class_id.tolist() == [1, 0]


def test_supervision_that_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ModuleNotFoundError, match="pip install supervision"):
        result(tmp_path).to_supervision()


# ---- What is loaded


@pytest.mark.heavy
def test_what_stands_for_a_model(run, photos, model):
    expected = model(photos[0])
    weights = run / "model_final.pth"
    for arguments in ((weights,), (run / "config.yaml", weights), (run, weights)):
        assert same(load(*arguments, device="cpu", threshold=LOW)(photos[0]), expected)
    assert model.device == torch.device("cpu")
    assert model.names == ["ring", "triangle", "cross", "striped_box"]
    assert repr(model).startswith("<Model: yolor_ssss_s2d on cpu, 4 classes (ring, triangle, ")


def test_the_best_weights_come_first_and_the_device_is_found(run, tmp_path, monkeypatch):
    for name in ("config.yaml", "model_final.pth"):
        (tmp_path / name).symlink_to(run / name)
    (tmp_path / "model_best.pth").symlink_to(run / "model_final.pth")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = load(tmp_path)  # the configuration has cuda
    weights = Path(found.cfg.MODEL.WEIGHTS)
    assert weights == tmp_path / "model_best.pth"
    assert found.device == torch.device("cpu")
    assert found.threshold == 0.25


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere",), "no such file or folder 'nowhere'"),
        ((".",), "is no run: it has no config.yaml"),
        (("mine.onnx",), "docs/export.md"),
        (("config.yaml",), "needs its weights too"),
        (("weights.pth",), "is no run"),
    ],
)
def test_what_stands_for_none(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("mine.onnx", "weights.pth"):
        Path(name).touch()
    if arguments == ("config.yaml",):
        Path("config.yaml").touch()
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        load(*arguments)


def test_a_run_without_a_checkpoint(run, tmp_path):
    (tmp_path / "config.yaml").symlink_to(run / "config.yaml")
    with pytest.raises(FileNotFoundError, match="no checkpoint yet"):
        load(tmp_path)


def test_the_block_of_the_documents(run, photos, tmp_path, monkeypatch):
    page = (Path(__file__).parents[1] / "docs" / "inference.md").read_text(encoding="utf-8")
    block = page.split("## In code", 1)[1].split("```python\n", 1)[1].split("```", 1)[0]
    monkeypatch.chdir(tmp_path)
    Path("output").mkdir()
    Path("output/mine").symlink_to(run)
    Path("photo.jpg").symlink_to(photos[0])
    names: dict = {}
    exec(block, names)
    assert read_image("found.jpg").shape == names["found"].image.shape


# ---- What is wrong


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("nowhere.jpg", {}, "nowhere.jpg"),
        ("https://example.org/a.jpg", {}, "download"),
        ("video.mp4", {}, "yolor-d2 predict"),
        (3.5, {}, "a source is float"),
        (np.zeros((4, 4), np.uint8), {}, r"\(4, 4\)"),
        (np.zeros((4, 4, 3), np.float32), {}, "float32"),
        (torch.zeros(3, 4), {}, r"\(3, 4\)"),
        (torch.full((3, 4, 4), 200.0), {}, "outside 0 to 1"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), {}, "torch.int64"),
        (np.zeros((4, 4, 3), np.uint8), {"channel_order": "GBR"}, "GBR"),
        (np.zeros((4, 4, 3), np.uint8), {"threshold": 25}, "score from 0 to 1"),
        (np.zeros((4, 4, 3), np.uint8), {"threshold": 0.0001}, "MODEL.YOLOR.SCORE_THRESHOLD"),
        (np.zeros((4, 4, 3), np.uint8), {"classes": ["rang"]}, "did you mean 'ring'"),
        (np.zeros((4, 4, 3), np.uint8), {"classes": [4]}, "no class 4; known are ring"),
    ],
)
def test_what_makes_no_sense_is_said(model, source, options, message):
    with pytest.raises((OSError, ValueError), match=message):
        model(source, **options)


def test_a_folder_and_what_cannot_be_read(model, toy, photos, tmp_path, caplog):
    with pytest.raises(ValueError, match=r"is a folder: model\.stream"):
        model(toy.val_images)
    with pytest.raises(FileNotFoundError, match="no image below"):
        model.stream(tmp_path)
    with pytest.raises(ValueError, match="score from 0 to 1"):
        model.stream([photos[0]], threshold=2)  # at once, not with the first result
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    sources = [photos[0], broken, photos[1]]
    with pytest.raises(ValueError, match=r"broken\.jpg"):
        list(model.stream(sources))
    found = list(model.stream(sources, skip_unreadable=True))
    assert [x.path for x in found] == photos[:2]
    assert "broken.jpg" in caplog.text


# ---- The package stays light


@pytest.mark.heavy
def test_asking_for_load_is_what_imports_torch():
    code = """
import sys, yolor_d2
assert "load" in dir(yolor_d2) and not {"torch", "numpy", "cv2"} & sys.modules.keys()
try:
    yolor_d2.laod
except AttributeError as error:
    assert "laod" in str(error)
assert "torch" not in sys.modules
"""
    folder = Path(yolor_d2.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (folder / "yolor_d2" / "py.typed").is_file()
