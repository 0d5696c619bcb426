"""Exported files hold masks, keypoints and embeddings, which are those of the model."""

import json
import logging
from pathlib import Path

import numpy as np
import processes
import pytest
import torch

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from yolor_d2.config import load_config
from yolor_d2.export import FORMATS
from yolor_d2.export.graph import ExportedDetector, output_names, survivors
from yolor_d2.export.metadata import describe_padding
from yolor_d2.export.runtimes import RUNTIMES
from yolor_d2.export.verify import Batch, ExportMismatch, Tolerance, compare, prepare_case
from yolor_d2.networks.branches import DetectedBoxes, FileOutput, TaskBranch, TaskBranches
from yolor_d2.ops.padding import ImageView
from yolor_d2.predictor import BatchPredictor, load_model

EXAMPLE = Path(__file__).parents[2] / "examples/onnx_predict.py"
BY_ROW = ["embeddings", "mask_coefficients", "keypoints", "keypoint_scores"]
OUTPUTS = [*BY_ROW[:2], "mask_prototypes", *BY_ROW[2:]]


@pytest.fixture(scope="module")
def cfg(joint):
    cfg = load_config(joint[1], joint[2:])
    cfg.MODEL.YOLOR.SCORE_THRESHOLD = 0.001
    return cfg


@pytest.fixture
def model(cfg):
    return load_model(cfg)


@pytest.fixture
def case(model):
    images = 255 * torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    return prepare_case(model, Batch("noise", images), describe_padding(model))


@torch.no_grad()
def run(model, case, *, suppress):
    detector = ExportedDetector(model, nms=survivors if suppress else None)
    return [x.numpy() for x in detector(case.pixels)]


def check_report(output: Path, *, suppress: bool) -> None:
    report = json.loads(Path(f"{output}.json").read_text())
    detected = ["boxes", "scores", "labels", "counts"] if suppress else ["rows"]
    about = report["description"]
    assert about["outputs"] == [*detected, *OUTPUTS]
    # Whether there are classes in the image depends on where it lies on the canvas.
    assert list(about["tasks"]) == ["embedding", "masks", "keypoints"]
    assert about["tasks"]["masks"]["stride"] == about["tasks"]["masks"]["coefficients"] == 4
    assert list(about["tasks"]["masks"]["outputs"]) == ["mask_coefficients", "mask_prototypes"]
    points = about["tasks"]["keypoints"]
    assert points["names"] == ["tip", "left", "right"]
    assert points["flip_pairs"] == [["left", "right"]] and points["skeleton"] == [["tip", "left"]]
    for found in (*report["checks"], *report["runtimes"]):
        if found.get("result", "equal") == "not installed":
            continue
        assert found.get("result", "equal") == "equal", found["reason"]
        apart = found["further_differences"]
        assert list(apart) == [*OUTPUTS, "masks, 1 - IoU"]
        assert all(0 <= x < 1e-3 for x in apart.values()), apart
        assert apart["keypoints"] > 0  # or nothing was compared


@pytest.mark.heavy
@pytest.mark.parametrize("suppress", [True, False])
def test_what_the_graph_computes_is_that_of_the_model(model, case, suppress):
    found = compare(model, case, run(model, case, suppress=suppress), suppress=suppress)
    assert list(found["further_differences"]) == [*OUTPUTS, "masks, 1 - IoU"]
    assert found["further_differences"]["masks, 1 - IoU"] == 0
    assert 0 < found["further_differences"]["keypoints"] < 0.001


@pytest.mark.heavy
def test_a_task_that_takes_part_in_the_boxes(cfg, case):
    """In the layout of the authors' pose network boxes lie among the channels of points."""
    cfg = cfg.clone()
    cfg.MODEL.YOLOR.TASKS.KEYPOINTS.LAYOUT = "yolov7"
    model = load_model(cfg)
    own = prepare_case(model, Batch("noise", case.pixels), describe_padding(model))
    found = run(model, own, suppress=False)
    compare(model, own, found, suppress=False)
    model.tasks["keypoints"].layout = ""
    with pytest.raises(ExportMismatch, match="rows differ, boxes by up to"):
        compare(model, own, run(model, own, suppress=False), suppress=False)


@pytest.mark.parametrize("suppress", [True, False])
@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("masks.refine.0", "mask_coefficients differ"),
        ("masks.project.norm", "mask_prototypes differ"),
        ("keypoints.implicit.1", "keypoints differ"),
        ("embedding.project.0", "embeddings differ"),
    ],
)
def test_one_flipped_tensor_is_noticed(cfg, model, case, part, message, suppress):
    wrong = load_model(cfg)
    with torch.no_grad():
        next(wrong.tasks.get_submodule(part).parameters()).neg_()
    with pytest.raises(ExportMismatch, match=rf"^noise, shape .*of {message}, by up to"):
        compare(model, case, run(wrong, case, suppress=suppress), suppress=suppress)


@pytest.mark.heavy
def test_masks_are_drawn_of_both(model, case):
    found = run(model, case, suppress=True)
    number = 4 + OUTPUTS.index("mask_prototypes")
    found[number] = -found[number]
    with pytest.raises(ExportMismatch, match="the masks drawn of the file and of the model have"):
        compare(model, case, found, suppress=True, tolerance=Tolerance(number=10))


def test_numbers_that_are_none_and_outputs_that_lack(model, case):
    found = run(model, case, suppress=True)
    with pytest.raises(ExportMismatch, match="the file gives 8 outputs, expected"):
        compare(model, case, found[:-1], suppress=True)
    found[-1] = found[-1] * np.nan
    with pytest.raises(ExportMismatch, match="keypoint_scores differ"):
        compare(model, case, found, suppress=True)


def test_rows_of_the_file_mean_what_is_decoded(model, case):
    """Of any rows, in every task."""
    _, (height, width) = case.pixels.shape[:2], case.pixels.shape[2:]
    rows = case.computed.rows
    numbers = torch.randperm(rows.shape[1], generator=torch.Generator().manual_seed(0))[:40]
    view = ImageView((0.0, 0.0), (1.0, 1.0), (height, width))
    found = DetectedBoxes(numbers, rows[1, numbers, :4].clamp(min=0), view)
    about = model.tasks.file_outputs()
    tensors = {
        x.name: tensor[1, numbers] if x.by_row else tensor[1]
        for x, tensor in zip(about, model.tasks.export(case.computed.outputs))
    }
    assert [x.name for x in about if x.by_row] == BY_ROW
    decoded = {
        name: branch.decode(case.computed.outputs[name], 1, found)
        for name, branch in model.tasks.items()
    }
    assert torch.equal(tensors["embeddings"], decoded["embedding"])
    points = torch.cat([tensors["keypoints"], tensors["keypoint_scores"][..., None]], dim=2)
    torch.testing.assert_close(points, decoded["keypoints"], atol=1e-4, rtol=1e-6)
    masks = model.tasks["masks"].masks_of(tensors, found)
    assert torch.equal(masks.tensor, decoded["masks"].tensor) and masks.tensor.any()


def test_a_task_that_no_file_holds_takes_part_in_what_it_shares():
    class Sharing(TaskBranch):
        def share(self, levels, output):
            return levels, output

    branches = TaskBranches({"plain": TaskBranch(), "sharing": Sharing()})
    assert list(branches.for_file()) == ["sharing"] and not branches.file_outputs()


def test_two_outputs_of_one_name():
    class Boxes(TaskBranch):
        def file_outputs(self):
            return [FileOutput("boxes", True, "pixels", "others")]

    with pytest.raises(ValueError, match=r"tasks name their outputs \['boxes'\], expected names"):
        output_names(TaskBranches({"boxes": Boxes()}), suppress=False)


@pytest.mark.heavy
@pytest.mark.slow  # tracing
def test_the_example_gives_masks_and_points_of_the_predictor(export_joint, cfg, photos, tmp_path):
    output = export_joint("onnx", "--count", "1")
    check_report(output, suppress=True)
    asked = json.loads(Path(f"{output}.json").read_text())["runtimes"]
    assert sum(x["result"] == "equal" for x in asked) == 1 + sum(
        x.installed for x in RUNTIMES.values()
    )
    files = sorted(map(str, photos.iterdir()))
    words = [str(output), *files, "--json", str(tmp_path / "f.json"), "--draw", str(tmp_path / "d")]
    done = processes.run([EXAMPLE, *words], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    entries = json.loads((tmp_path / "f.json").read_text())
    assert [x["image"] for x in entries] == files
    assert sorted(x.name for x in (tmp_path / "d").iterdir()) == ["0.png", "1.png"]
    for entry, found in zip(entries, BatchPredictor(cfg, batch_size=1)(files)):
        theirs = entry["detections"]
        assert len(theirs) == len(found) > 10
        boxes = torch.tensor([x["bbox"] for x in theirs])
        boxes[:, 2:] += boxes[:, :2]
        scores = torch.tensor([x["score"] for x in theirs])
        same = (boxes[:, None] - found.pred_boxes.tensor).abs().amax(dim=2) < 0.01
        same &= (scores[:, None] - found.scores).abs() < 1e-5
        shared = either = pairs = 0
        for record, row in zip(theirs, same):
            for i in row.nonzero()[:, 0].tolist()[:1]:
                pairs += 1
                points = torch.tensor(record["keypoints"])
                assert (points - found.pred_keypoints[i]).abs().max() < 0.05
                mask, other = unpack(record["segmentation"]), found.pred_masks[i].numpy()
                shared += (mask & other).sum()
                either += (mask | other).sum()
        assert pairs > 0.95 * len(theirs)
        assert either > 1000 and shared / either > 0.99


def unpack(run_lengths):
    """COCO's run lengths to (H, W) bool, by pycocotools' rule: down the columns, outside first."""
    inside = np.arange(len(run_lengths["counts"])) % 2 == 1
    height, width = run_lengths["size"]
    return np.repeat(inside, run_lengths["counts"]).reshape(width, height).T


# For .pt2 the tracing is that of ONNX.
@pytest.mark.heavy
@pytest.mark.parametrize("options", [[], pytest.param(["--no-nms"], marks=pytest.mark.slow)])
def test_torchscript_files(export_joint, options, caplog):
    logging.getLogger("yolor_d2.export").addHandler(caplog.handler)  # it does not propagate
    output = export_joint("torchscript", *options)
    assert "leaves out the task 'classification'" in caplog.text
    check_report(output, suppress=not options)
    described = FORMATS["torchscript"].load(output).metadata
    assert described == json.loads(Path(f"{output}.json").read_text())["description"]
