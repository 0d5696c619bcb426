"""Exported files compute what the model computes, and one that does not is not left behind."""

import importlib.util
import json
import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from export_cases import save_model

from yolor_d2 import model_zoo
from yolor_d2.commands import execute
from yolor_d2.commands.shell import run
from yolor_d2.export import FORMATS, torchscript
from yolor_d2.export.graph import ExportedDetector, survivors
from yolor_d2.export.metadata import describe_padding
from yolor_d2.export.verify import (
    Batch,
    ExportMismatch,
    Tolerance,
    compare,
    compare_detections,
    prepare_case,
)
from yolor_d2.predictor import BatchPredictor, load_model

command = partial(execute, "export_model")


# Whether NMS is in the file; tracing for .pt2 and ONNX is the same.
@pytest.mark.heavy
@pytest.mark.parametrize(
    ("name", "suppress"),
    [("onnx", True), ("onnx", False), ("torchscript", True), ("torchscript", False), ("pt2", True)],
)
def test_files_of_every_format_are_equal_to_the_model(export, name, suppress):
    output = export(name, *([] if suppress else ["--no-nms"]))
    report = json.loads(Path(f"{output}.json").read_text())
    checks = report["checks"]
    assert report["format"] == name and report["bytes"] == output.stat().st_size
    assert len({tuple(x["shape"]) for x in checks}) >= 4 and len(checks) == 5
    assert {x["shape"][0] for x in checks} == {1, 3}  # batches too
    assert all(x["detections" if suppress else "rows"] > 0 for x in checks)
    assert max(x["largest_box_difference"] for x in checks) < 0.01
    described = FORMATS[name].load(output).metadata
    assert described == report["description"]
    assert described["classes"] == ["disc", "ring", "box"]
    assert described["suppression"]["in_graph"] is suppress


@pytest.mark.heavy
def test_the_example_gives_the_boxes_of_the_predictor(export, cfg, photos, capsys):
    output = export("onnx")
    files = sorted(map(str, photos.iterdir()))
    spec = importlib.util.spec_from_file_location(
        "onnx_predict", Path(__file__).parents[2] / "examples/onnx_predict.py"
    )
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    capsys.readouterr()
    example.main(str(output), *files)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert len(Path(example.__file__).read_text().splitlines()) < 180
    for file, found in zip(files, BatchPredictor(cfg, batch_size=1)(files)):
        mine = [line for line in lines if line[0] == file]
        assert len(mine) == len(found) > 10
        # In any order, as equal scores are; printed to 0.1 pixels and 0.0001.
        boxes = torch.tensor([[float(x) for x in line[3:]] for line in mine])
        scores = torch.tensor([float(line[2]) for line in mine])
        labels = torch.tensor([cfg.MODEL.YOLOR.CLASS_NAMES.index(line[1]) for line in mine])
        same = (boxes[:, None] - found.pred_boxes.tensor).abs().amax(dim=2) < 0.06
        same &= (scores[:, None] - found.scores).abs() < 1e-4
        same &= labels[:, None] == found.pred_classes
        # The file is folded: of boxes that overlap just about as much as allowed, rounding decides.
        assert min(same.any(dim=i).float().mean() for i in (0, 1)) > 0.95


@pytest.mark.heavy
@pytest.mark.parametrize("place", ["refine", "align"])
@pytest.mark.parametrize("suppress", [True, False])
def test_one_flipped_implicit_tensor_is_noticed(
    small, cfg, tmp_path, monkeypatch, capsys, place, suppress
):
    serialise = torchscript.serialise

    def serialise_wrongly(model, **kwargs):
        wrong = load_model(cfg)
        parts = wrong.head.refine if place == "refine" else wrong.backbone.neck.align
        with torch.no_grad():
            next(parts[1].parameters()).neg_()
        return serialise(wrong, **kwargs)

    monkeypatch.setattr(torchscript, "serialise", serialise_wrongly)
    output = tmp_path / "model.torchscript"
    output.write_text("an older file")
    options = ["--score-threshold", "0.001"] if suppress else ["--no-nms"]
    assert (
        run(
            command,
            [*small, "--output", str(output), *options],
            program="export",
        )
        == 1
    )
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("export: error: noise, shape (1, 3, ")
    assert [x.name for x in tmp_path.iterdir()] == [output.name]
    assert output.read_text() == "an older file"


@pytest.mark.heavy
def test_nothing_detected_is_no_proof(small, tmp_path, capsys):
    argv = [*small, "MODEL.YOLOR.SCORE_THRESHOLD", "0.999999"]
    output = tmp_path / "model.torchscript"
    assert run(command, [*argv, "--output", str(output)], program="export") == 1
    assert "nothing is detected in any of the images" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--output", "model.tflite"], "expected a name in .onnx, .torchscript, .pt2, .xml"),
        (["--output", "model.onnx", "--count", "0"], "--count is 0, expected at least 1"),
        (["--output", "m.onnx", "--size", "1", "2", "3"], "--size is '1 2 3', expected one or two"),
        (["--output", "m.onnx", "--size", "0"], "--size is '0', expected one or two numbers"),
        (["--output", "m.onnx", "--score-threshold", "1"], "expected a score from 0 to below 1"),
        (["--output", "m.onnx", "--opset", "11"], "--opset is 11, expected 18 to 23"),
        (["--output", "m.pt2", "--opset", "19"], "--opset is for ONNX files; the format is 'pt2'"),
        (["--output", "m.onnx", "--require", "tflite"], "--require is 'tflite', expected some of"),
        (["--output", "m.ov", "--format", "openvino"], "expected .xml for OpenVINO"),
    ],
)
def test_wrong_arguments(small, argv, message, capsys):
    with pytest.raises(SystemExit):
        command([*small, *argv])
    assert message in capsys.readouterr().err


def test_missing_images_and_weights_are_named(small, tmp_path):
    argv = [*small, "--output", str(tmp_path / "model.pt2")]
    with pytest.raises(FileNotFoundError, match="no such file or folder 'nowhere'"):
        command([*argv, "--images", "nowhere"])
    with pytest.raises(FileNotFoundError, match="no image in"):
        command([*argv, "--images", str(tmp_path)])
    with pytest.raises(FileNotFoundError, match=r"MODEL\.WEIGHTS is ''"):
        command([*small[:2], "--output", str(tmp_path / "model.pt2")])


@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("thresholds", [[], [0.2, 0.5, 0.3]])
def test_suppression_in_the_graph_is_that_of_the_model(cfg, agnostic, multi_label, thresholds):
    model = load_model(cfg)
    model.class_agnostic_nms, model.multi_label = agnostic, multi_label
    model.class_score_thresholds = thresholds
    model.max_detections, model.score_threshold = 40, 0.25
    generator = torch.Generator().manual_seed(0)
    rows = torch.rand(2, 300, 8, generator=generator)
    rows[..., :4] *= 100
    rows[..., 2:4] += rows[..., :2]
    boxes, scores, labels, counts = ExportedDetector(model, nms=survivors).detect(rows)
    for i, one in enumerate(rows):
        expected = model.detect(one)
        assert counts[i] == len(expected.scores) > 3
        assert torch.equal(scores[i, : counts[i]], expected.scores)
        assert torch.equal(boxes[i, : counts[i]], expected.boxes)
        assert torch.equal(labels[i, : counts[i]], expected.labels)
        assert not scores[i, counts[i] :].any()


class TestDifferences:
    """Detections of one image beside the model's, all by hand."""

    # Two objects of class 0, one of class 1; the second row is suppressed by the first.
    ROWS = torch.tensor(
        [
            [0.0, 0.0, 10.0, 10.0, 1.0, 0.9, 0.0],
            [0.0, 0.0, 10.0, 9.0, 1.0, 0.8, 0.0],
            [50.0, 50.0, 60.0, 60.0, 1.0, 0.7, 0.0],
            [0.0, 0.0, 10.0, 10.0, 1.0, 0.0, 0.6],
        ]
    )

    @pytest.fixture
    def model(self, cfg):
        model = load_model(cfg)
        model.score_threshold, model.nms_threshold = 0.5, 0.65
        return model

    def found(self, *rows_and_labels):
        rows = self.ROWS[[row for row, _ in rows_and_labels]]
        labels = torch.tensor([label for _, label in rows_and_labels])
        return rows[:, :4], rows[torch.arange(len(rows)), 5 + labels], labels

    def test_equal(self, model):
        report = compare_detections(
            model, self.ROWS, self.found((0, 0), (2, 0), (3, 1)), Tolerance()
        )
        assert report["detections"] == 3 and report["decided_by_rounding"] == 0

    def test_another_winner_among_equals_is_right(self, model):
        rows = self.ROWS.clone()
        rows[1, 5] = 0.9 - 1e-6  # rounding decides which of the first two stays
        found = rows[[1, 2, 3], :4], torch.tensor([0.9, 0.7, 0.6]), torch.tensor([0, 0, 1])
        assert compare_detections(model, rows, found, Tolerance())["decided_by_rounding"] == 1

    @pytest.mark.parametrize(
        ("picked", "message"),
        [
            ([(0, 0), (3, 1)], "1 of 3 detections are missing"),
            ([(0, 0), (1, 0), (2, 0), (3, 1)], "1 pairs of boxes overlap by more than allowed"),
            ([(2, 0), (0, 0), (3, 1)], "not in falling score"),
            ([(1, 0), (2, 0), (3, 1)], "1 of 3 detections are missing"),
        ],
    )
    def test_wrong(self, model, picked, message):
        with pytest.raises(ExportMismatch, match=message):
            compare_detections(model, self.ROWS, self.found(*picked), Tolerance())

    def test_a_box_from_nowhere(self, model):
        boxes, scores, labels = self.found((0, 0), (2, 0), (3, 1))
        with pytest.raises(ExportMismatch, match="comes from no row"):
            compare_detections(model, self.ROWS, (boxes + 0.1, scores, labels), Tolerance())

    def test_rows_that_are_no_numbers(self, model):
        batch = Batch("noise", torch.rand(1, 3, 64, 64) * 255)
        case = prepare_case(model, batch, describe_padding(model))

        def broken(images):
            rows = ExportedDetector(model, nms=None)(torch.from_numpy(images))
            return (rows.detach().numpy() * np.nan,)

        with pytest.raises(ExportMismatch, match="rows differ"):
            compare(model, case, broken(case.pixels.numpy()), suppress=False)


def write_row(folder, variant):
    """A narrow network of a row, at 128 px."""
    base = model_zoo.get_config_file("yolor_ssss_s2d.yaml")
    path = folder / f"{variant}.yaml"
    path.write_text(
        f'_BASE_: "{base}"\n'
        "MODEL:\n  YOLOR:\n    NUM_CLASSES: 3\n    WIDTH_FACTOR: 0.125\n    DEPTH_FACTOR: 0.25\n"
        f'    VARIANT: "{variant}"\n'
        "INPUT:\n  MIN_SIZE_TEST: 128\n  MAX_SIZE_TEST: 128\n"
    )
    return str(path)


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("variant", "suffix"),
    [
        ("yolov7_w6", ".torchscript"),
        pytest.param("yolov5_s_implicit", ".torchscript", marks=pytest.mark.slow),
        pytest.param("yolov7", ".onnx", marks=pytest.mark.slow),
    ],
)
def test_networks_of_yolov7_and_yolov5_are_exported_without_what_training_alone_needs(
    variant, suffix, tmp_path, photos
):
    if suffix == ".onnx":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(package)
    argv = [*save_model(write_row(tmp_path, variant), tmp_path), "--images", str(photos)]
    output = tmp_path / f"model{suffix}"
    assert not command([*argv, "--output", str(output), "--score-threshold", "0.05"])
    report = json.loads(Path(f"{output}.json").read_text())
    assert sum(x["detections"] for x in report["checks"]) > 10
    if suffix == ".onnx":
        import onnx

        names = [x.name for x in onnx.load(output).graph.initializer]
        assert len(names) > 20
        training_only = ("auxiliary", "align", "refine", "running_mean", "pointwise")
        assert not [name for name in names if any(word in name for word in training_only)]


ZOO = [name for name in model_zoo.list_configs() if "/" not in name and name != "Base-YOLOR.yaml"]


@pytest.mark.skipif(
    "YOLOR_D2_EXPORT_ZOO" not in os.environ, reason="takes hours: YOLOR_D2_EXPORT_ZOO=1 runs it"
)
@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--no-nms"]], ids=["detections", "rows"])
@pytest.mark.parametrize("name", ZOO)
def test_every_model_of_the_zoo(name, options, tmp_path):
    size = ["INPUT.MIN_SIZE_TEST", "256", "INPUT.MAX_SIZE_TEST", "256"]
    argv = [*save_model(name, tmp_path, size), "--score-threshold", "0.001"]
    output = tmp_path / "model.onnx"
    assert not command([*argv, "--output", str(output), "--count", "1", *options])
    report = json.loads(Path(f"{output}.json").read_text())
    print(name, *options, report["checks"])
