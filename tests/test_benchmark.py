"""The sub-commands of tools/benchmark.py, each run in this process."""

import json
import sys

import numpy as np
import pytest
import torch

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from yolor_d2 import model_zoo
from yolor_d2.arguments import benchmark
from yolor_d2.benchmark import border, nms, timing
from yolor_d2.benchmark.data import with_tasks
from yolor_d2.benchmark.timing import Clock, Samples, Stages, alternate
from yolor_d2.commands import execute
from yolor_d2.config import load_config
from yolor_d2.d2 import RUNTIME
from yolor_d2.d2.modeling import build_model
from yolor_d2.ops import detect

# A narrow network on small images.
QUICK = ["--config-file", model_zoo.get_config_file("quick/ssss_320_cpu.yaml")]
SMALL = [
    *("MODEL.YOLOR.WIDTH_FACTOR", 0.25, "MODEL.YOLOR.NUM_CLASSES", 4),
    *("INPUT.MIN_SIZE_TEST", 64, "INPUT.MAX_SIZE_TEST", 64),
]
CPU = torch.device("cpu")


def report(tmp_path, capsys, *argv) -> dict:
    """The JSON that a command writes; its table is printed too."""
    path = tmp_path / "report.json"
    command, *rest = map(str, argv)
    execute("benchmark", [command, "--json", str(path), *rest])
    content = json.loads(path.read_text())
    assert content["title"] in capsys.readouterr().out
    assert content["machine"]["torch_threads"] == 1
    keys = [list(row) for row in content["rows"]]
    assert all(names == keys[0] for names in keys)
    return content


# ---- timing


def test_functions_are_alternated_and_the_first_round_is_not_counted():
    calls = []
    functions = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    samples = alternate(functions, rounds=3, clock=Clock(CPU))
    assert calls == ["a", "b"] * 4
    assert [len(x.wall) for x in samples.values()] == [3, 3]


def test_a_ratio_is_the_median_of_the_ratios_of_rounds():
    """1/2, 9/3 and 4/4; medians of the times would give 4/3. On the CPU wall time is not asked."""
    a = Samples(CPU, wall=[7.0, 7.0, 7.0], cpu=[1.0, 9.0, 4.0])
    b = Samples(CPU, wall=[1.0, 1.0, 1.0], cpu=[2.0, 3.0, 4.0])
    assert a.ratio(b) == 1.0
    assert a.columns(2, "image") == {"ms / image": 3500.0, "CPU ms / image": 2000.0}


class Path:
    """An outer method that calls an inner one; a clock that ticks by hand."""

    def __init__(self):
        self.now = 0.0

    def outer(self):
        self.now += 1
        self.inner()
        self.now += 2
        self.inner()

    def inner(self):
        self.now += 10

    def clock(self, function, *args):
        start = self.now
        result = function(*args)
        return result, self.now - start, 2 * (self.now - start)


def test_the_time_of_an_inner_stage_is_its_own():
    path = Path()
    path.clock.__func__.device = CPU
    stages = Stages(path.clock, ["outer", "inner"])
    stages.wrap(path, "inner", "inner")
    stages.wrap(path, "outer", "outer")
    path.outer()
    stages.end_round(counted=False)
    path.outer()
    stages.end_round()
    outer, inner = stages.rows(per=10, unit="image")
    assert (outer["ms / image"], inner["ms / image"]) == pytest.approx((300, 2000))
    assert outer["CPU ms / image"] == pytest.approx(600)
    assert outer["% of all"] == pytest.approx(100 * 3 / 23)


# ---- commands


@pytest.mark.heavy
def test_model(tmp_path, capsys):
    variants = ["plain", "fused+channels_last"]
    content = report(
        *(tmp_path, capsys, "model", *QUICK, "--size", 64, "--batch", 1, 2, "--rounds", 2),
        *("--variants", *variants, *SMALL),
    )
    assert [(row["variant"], row["batch"]) for row in content["rows"]] == [
        (name, batch) for batch in (1, 2) for name in variants
    ]
    for row in content["rows"]:
        assert 0 < row["% of matrix peak"] < 1000
        seconds, flops = row["CPU ms / image"] / 1e3, content["settings"]["GFLOP / image"]
        assert row["GFLOP / s"] == pytest.approx(flops / seconds, rel=0.01)
        assert row["times plain"] == 1 or row["variant"] != "plain"
    assert content["settings"]["matrix peak float32, GFLOP / s"] > 0


@pytest.mark.heavy
def test_nms_keeps_the_boxes_of_torchvision(tmp_path, capsys):
    content = report(tmp_path, capsys, "nms", "--rows", 31_000, "--classes", 60, "--rounds", 1)
    kept = {(row["rows"], row["what"]): row for row in content["rows"]}
    assert kept["all", "yolor_d2"]["candidates"] == 31_000  # more than are compared
    for case in ("trained", "all"):
        assert kept[case, "torchvision"]["same boxes"] is True
        assert kept[case, "torchvision"]["boxes"] == kept[case, "yolor_d2"]["boxes"] == 300


def test_the_comparison_of_boxes_can_fail():
    rows = nms.passing_rows(50, 2)
    found = detect(rows, score_threshold=0.001, iou_threshold=0.65)
    assert nms.same_boxes(found, nms.torchvision_detect(rows, 0.001, 0.65))
    assert not nms.same_boxes(found, nms.torchvision_detect(rows, 0.5, 0.65))


@pytest.mark.heavy
def test_predict(tmp_path, capsys, toy):
    options = ["--images", toy.val_images, "--count", 3, "--batch", 2, "--rounds", 1]
    content = report(tmp_path, capsys, "predict", *QUICK, *options, *SMALL)
    names = [row["stage"] for row in content["rows"]]
    assert names[0] == "read and decode file" and names[-1] == "BatchPredictor"
    stages = [row for row in content["rows"] if row["% of all"] is not None]
    assert len(stages) == len(names) - 2
    assert sum(row["% of all"] for row in stages) == pytest.approx(100)
    (network,) = (row["% of all"] for row in stages if row["stage"] == "network")
    assert content["settings"]["% outside the network"] == pytest.approx(100 - network, abs=0.01)
    assert content["settings"]["times the files / s of DefaultPredictor"] > 0
    assert content["settings"]["files"] == 3


@pytest.mark.heavy
def test_evaluation(tmp_path, capsys, toy):
    options = ["--test", toy.val_json, toy.val_images]
    low = ["MODEL.YOLOR.SCORE_THRESHOLD", 1e-6]
    content = report(tmp_path, capsys, "evaluation", *QUICK, *options, *SMALL, *low)
    times = {row["stage"]: row["CPU ms / image"] for row in content["rows"]}
    assert len(times) == 5 and min(times.values()) > 0
    assert content["settings"]["images"] == 8
    assert 0 <= content["settings"]["AP"] < 100


@pytest.mark.heavy
def test_evaluation_of_generated_detections(tmp_path, capsys):
    content = report(tmp_path, capsys, "evaluation", "--generated", 6, "--detections", 12)
    ours, made, pycocotools, *stock = content["rows"]
    assert (ours[""], made[""], pycocotools[""]) == (
        *("figures", "report with the metrics kept", "pycocotools"),
    )
    assert len(stock) == (RUNTIME == "detectron2")
    assert all(row["equal to 1e-9"] and row["CPU s"] > 0 for row in content["rows"])
    assert len({round(row["AP"], 6) for row in content["rows"]}) == 1


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory):
    """A file that takes images and gives their means: the command only takes its time."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("GlobalAveragePool", ["images"], ["rows"])],
        "means",
        [helper.make_tensor_value_info("images", kind, ["N", 3, "H", "W"])],
        [helper.make_tensor_value_info("rows", kind, ["N", 3, 1, 1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path = tmp_path_factory.mktemp("onnx") / "means.onnx"
    onnx.save(model, str(path))
    return path


def test_export(tmp_path, capsys, onnx_file):
    options = ["--onnx", onnx_file, "--batch", 1, 2, "--rounds", 3]
    content = report(tmp_path, capsys, "export", *QUICK, *options, *SMALL)
    ratios = {(row["what"], row["batch"]): row["times eager"] for row in content["rows"]}
    assert ratios["eager", 1] == ratios["eager", 2] == 1
    assert ratios["onnxruntime", 1] < 0.5 and ratios["onnxruntime", 2] < 0.5


# ---- wrong arguments


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["model", *QUICK, "--variants", "fast"], "--variants has 'fast', expected words of"),
        (["model", *QUICK, "--batch", "1", "0"], r"--batch is \[1, 0\], expected at least 1"),
        (["model", *QUICK, "--variants", "float16"], "float16 needs a GPU"),
        (["nms", "--rounds", "0"], "--rounds is 0, expected at least 1"),
        (["nms", "--iou", "2"], "--iou is 2.0, expected 0 to 1"),
        (["nms", "INPUT.FORMAT", "RGB"], "nms takes no KEY VALUE pairs"),
        (["predict", *QUICK, "--images", "."], "has no files ending in"),
        (["predict", *QUICK, "--threads", "0"], "--threads is 0"),
        (["evaluation", *QUICK, "DATASETS.TEST", "()"], "DATASETS.TEST is empty"),
        (["export", *QUICK, "--onnx", "missing.onnx"], "no such file 'missing.onnx'"),
    ],
)
def test_wrong_arguments_are_named(argv, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        execute("benchmark", list(map(str, argv)))


def test_a_file_that_is_no_onnx_is_named(tmp_path):
    path = tmp_path / "text.onnx"
    path.write_text("text")
    with pytest.raises(ValueError, match=r"cannot read .*text\.onnx"):
        execute("benchmark", ["export", *map(str, QUICK), "--onnx", str(path)])


def test_a_size_that_does_not_fit_is_named(onnx_file):
    argv = ["export", *QUICK, "--onnx", onnx_file, "--size", 65]
    with pytest.raises(ValueError, match="--size is 65, expected a multiple of 32"):
        execute("benchmark", list(map(str, argv)))


def test_a_missing_onnxruntime_is_named(monkeypatch, onnx_file):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r"pip install 'yolor_d2\[export\]'"):
        execute("benchmark", ["export", *map(str, QUICK), "--onnx", str(onnx_file)])


def test_numbers_of_at_least_one_are_asked_for():
    parser = benchmark.parse_args(["nms", "--rows", "0"])
    with pytest.raises(ValueError, match="--rows is 0"):
        timing.prepare(parser, "rows")


# ---- border


def test_squares_around_objects_by_hand():
    box = np.array([30.0, 40, 50, 52])
    # 10 pixels from the left; centred down: (40 + 52 - 32) / 2.
    assert border.window_of(box, (100, 120), "left", 10, 32) == (20, 30)
    assert border.window_of(box, (100, 120), "bottom", 0, 32) == (24, 20)
    assert border.window_of(box, (100, 120), "right", 90, 32) is None  # beyond the image
    assert border.window_of(box, (100, 120), "left", 13, 32) is None  # the box does not fit
    assert border.window_of(box, (45, 120), "left", 10, 32) is None  # it ends below the image
    # At the border of the image the square cannot be centred.
    assert border.window_of(np.array([30.0, 0, 50, 12]), (100, 120), "left", 0, 32) == (30, 0)


def test_an_object_is_found_by_a_box_of_its_class_that_covers_half():
    cutout = border.Cutout(np.zeros((32, 32, 3)), np.array([0.0, 0, 10, 10]), 1, "left", 0)
    half, less = torch.tensor([[0.0, 0, 10, 5]]), torch.tensor([[0.0, 0, 10, 4.9]])
    assert border.is_found(cutout, half, torch.tensor([1]))  # IoU 50 / 100
    assert not border.is_found(cutout, less, torch.tensor([1]))
    assert not border.is_found(cutout, half, torch.tensor([0]))
    assert not border.is_found(cutout, half[:0], torch.tensor([], dtype=torch.int64))


@pytest.mark.heavy
def test_recall_by_distance_to_the_border(tmp_path, capsys, toy, monkeypatch):
    """A stand-in misses the objects that touch the border."""
    weights = tmp_path / "model.pth"
    cfg = load_config(QUICK[1], list(map(str, [*SMALL, "MODEL.DEVICE", "cpu"])))
    torch.save({"model": build_model(cfg).state_dict()}, weights)
    data = "--test", toy.val_json, toy.val_images
    picture = tmp_path / "recall.png"
    seen = []

    def finds(cutout, boxes, labels):
        seen.append(cutout)
        return cutout.distance > 0

    monkeypatch.setattr(border, "is_found", finds)
    options = "--size", 32, "--distances", 0, 4, "--picture", picture
    found = report(
        tmp_path, capsys, "border", *QUICK, *data, *options, "MODEL.WEIGHTS", weights, *SMALL
    )
    whole = [row for row in found["rows"] if row["side"] == "all"]
    assert [row["recall, centre, %"] for row in whole] == [0.0, 100.0]
    assert sum(row["objects"] for row in whole) * 2 == len(seen) > 20
    assert {x.image.shape for x in seen} == {(32, 32, 3)}
    assert all((x.box >= 0).all() and (x.box <= 32).all() for x in seen)
    assert picture.read_bytes().startswith(b"\x89PNG")


# ---- samples of tasks


def test_samples_of_tasks_in_turn(tmp_path, capsys, toy):
    data = "--train", toy.train_json, toy.train_images
    found = report(tmp_path, capsys, "data", *QUICK, *data, "--count", 2, "--tasks", "masks")
    assert [row["tasks"] for row in found["rows"]] == ["none", "masks"]
    assert found["rows"][0]["of none"] == 1 and found["rows"][1]["CPU ms / sample"] > 0
    with pytest.raises(ValueError, match=r"--tasks: no task 'mask', there are .*masks"):
        with_tasks(load_config(QUICK[1], []), ["mask"])


# ---- start


@pytest.mark.slow
def test_start(tmp_path, capsys):
    """One iteration each; the second command resumes the run of the first."""
    sizes = ["--images", 12, "--boxes", 30, "--polygons", "--folder", tmp_path / "data"]
    content = report(tmp_path, capsys, "start", *sizes, "MODEL.YOLOR.WIDTH_FACTOR", "0.25")
    rows = {row["start"]: row for row in content["rows"]}
    assert {"yolor_d2", "yolor_d2 --resume"} <= rows.keys()
    assert all(row["CPU s"] > 0 and row["peak MiB"] > 100 for row in rows.values())
    data = json.loads((tmp_path / "data" / "instances_12_30_polygons.json").read_text())
    assert len(data["images"]) == 12 and len(data["annotations"]) == 30
    assert all(len(x["segmentation"][0]) == 48 for x in data["annotations"])
