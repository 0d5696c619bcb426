"""COCO's metrics of keypoints beside pycocotools and Detectron2's evaluator."""

from __future__ import annotations

import copy
import json
import math

import numpy as np
import pytest
import torch

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from evaluation.test_coco_evaluator import SIZE, outputs_of, random_case, register, run
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from yolor_d2.config import load_config
from yolor_d2.d2 import RUNTIME
from yolor_d2.d2.structures import Boxes, Instances
from yolor_d2.evaluation.coco_evaluator import COCOEvaluator
from yolor_d2.networks.branches.keypoint_losses import COCO_SIGMAS, sigmas_of
from yolor_d2.tasks import coco_options

METRICS = ("AP", "AP50", "AP75", "APm", "APl")


def keypoint_case(seed: int, points: int = 17) -> tuple[dict, list[dict], list[torch.Tensor]]:
    """Objects with keypoints, some of which are not labelled, and detections near them; a tensor of
    each image as a model gives it."""
    rng = np.random.default_rng(seed)
    data, results = random_case(seed)
    for x in data["annotations"]:
        left, top, width, height = x["bbox"]
        found = rng.uniform([left, top], [left + width, top + height], (points, 2)).round(1)
        visibility = rng.integers(0, 3, (points, 1)) * (rng.random() > 0.15)
        found = np.concatenate([found * (visibility > 0), visibility], axis=1)
        x["keypoints"] = found.ravel().tolist()
        x["num_keypoints"] = int((visibility > 0).sum())
    by_image = []
    for image in data["images"]:
        rows = []
        for x in (x for x in results if x["image_id"] == image["id"]):
            left, top, width, height = x["bbox"]
            near = [
                y["keypoints"]
                for y in data["annotations"]
                if y["image_id"] == image["id"] and abs(y["bbox"][0] - left) < y["bbox"][2] / 4
            ]
            xy = rng.uniform([left, top], [left + width, top + height], (points, 2))
            if near:
                chosen = np.array(near[0]).reshape(points, 3)
                xy = chosen[:, :2] + rng.normal(0, 0.1 * rng.random() * width, (points, 2))
            rows.append(np.concatenate([xy + 0.5, rng.random((points, 1))], axis=1))
        rows = np.array(rows, dtype=np.float32).reshape(-1, points, 3)
        by_image.append(torch.from_numpy(rows))
    return data, results, by_image


def with_points(data: dict, results: list[dict], points: list) -> tuple[list[dict], list[dict]]:
    """Inputs and outputs; Detectron2's evaluator changes the tensors that it is given."""
    inputs, outputs = outputs_of(data, results)
    for output, found in zip(outputs, points):
        output["instances"].pred_keypoints = found.clone()
    return inputs, outputs


def reference(data: dict, results: list[dict], sigmas=COCO_SIGMAS) -> COCOeval:
    """pycocotools, with objects and detections of which it knows all that it asks for."""
    coco = COCO()
    coco.dataset = copy.deepcopy(data)
    coco.createIndex()
    done = COCOeval(coco, coco.loadRes(copy.deepcopy(results)), "keypoints")
    done.params.kpt_oks_sigmas = np.array(sigmas)
    done.evaluate()
    done.accumulate()
    done.summarize()
    return done


@pytest.mark.parametrize(("seed", "points"), [(0, 17), (1, 17), (2, 4)])
def test_figures_are_those_of_pycocotools(tmp_path, seed, points):
    data, results, found = keypoint_case(seed, points)
    name, folder = register(tmp_path / "data", data), tmp_path / "inference"
    ours = run(COCOEvaluator(name, output_dir=str(folder)), *with_points(data, results, found))
    assert list(ours) == ["bbox", "keypoints"]
    alone = run(COCOEvaluator(name), *outputs_of(data, results))
    assert ours["bbox"] == pytest.approx(alone["bbox"], rel=0, abs=0, nan_ok=True)

    written = json.loads((folder / "coco_instances_results.json").read_bytes())
    assert list(written[0]) == ["image_id", "category_id", "bbox", "score", "keypoints"]
    expected = reference(data, written, sigmas_of(points))
    percent = [100 * x if x > -1 else math.nan for x in expected.stats]
    # Sums in another order.
    assert [ours["keypoints"][x] for x in METRICS] == pytest.approx(
        percent[:5], rel=0, abs=1e-12, nan_ok=True
    )
    assert 1 < ours["keypoints"]["AP"] < 95 and ours["keypoints"]["AP"] != ours["bbox"]["AP"]
    other = COCOEvaluator(name, options={"keypoints": {"kpt_oks_sigmas": [0.2] * points}})
    figures = run(other, *with_points(data, results, found))["keypoints"]
    percent = 100 * reference(data, written, [0.2] * points).stats[0]
    assert figures["AP"] == pytest.approx(percent, rel=0, abs=1e-12)
    assert figures["AP"] > ours["keypoints"]["AP"]


@pytest.mark.skipif(RUNTIME != "detectron2", reason="beside Detectron2's")
def test_files_and_figures_are_those_of_detectron2(tmp_path):
    from detectron2.evaluation import COCOEvaluator as StockEvaluator

    data, results, found = keypoint_case(4)
    name = register(tmp_path / "data", data)
    folders = (tmp_path / "ours", tmp_path / "stock")
    ours = run(COCOEvaluator(name, output_dir=str(folders[0])), *with_points(data, results, found))
    stock = run(
        StockEvaluator(name, output_dir=str(folders[1])), *with_points(data, results, found)
    )
    assert list(ours) == list(stock) == ["bbox", "keypoints"]
    for kind in ours:
        assert list(ours[kind]) == list(stock[kind])
        assert ours[kind] == pytest.approx(stock[kind], rel=0, abs=1e-9, nan_ok=True)
    texts = [json.loads((x / "coco_instances_results.json").read_bytes()) for x in folders]
    assert texts[0] == texts[1]


def one_object(points: list | None, found: list, **more) -> tuple[dict, list[dict], list]:
    """An object of 100 x 100 pixels that is found, with its keypoints there."""
    box = {"image_id": 1, "category_id": 1, "bbox": [50, 50, 100, 100]}
    annotation = {**box, "id": 1, "iscrowd": 0, "area": 5000.0, **more}
    if points is not None:
        annotation["keypoints"] = points
    data = {
        "images": [{"id": 1, "file_name": "1.png", "height": SIZE[0], "width": SIZE[1]}],
        "annotations": [annotation],
        "categories": [{"id": 1, "name": "thing"}],
    }
    return data, [{**box, "score": 0.5}], [torch.tensor(found).view(1, -1, 3)]


def ap(folder, case) -> dict:
    return run(COCOEvaluator(register(folder, case[0])), *with_points(*case))["keypoints"]


def test_pixels_have_whole_numbers_at_their_centres(tmp_path):
    """One point, at 0.1: OKS = exp(-d^2 / (8 * 5000 * 0.01)) of a distance d."""
    for number, (distance, expected) in enumerate([(0.0, 100.0), (10.0, 60.0), (18.0, 0.0)]):
        # exp(-100 / 400) = 0.779 passes the thresholds up to 0.75, six of ten; exp(-324 / 400) =
        # 0.445 none.
        case = one_object([70, 80, 2], [70.5 + distance, 80.5, 1.0])
        assert ap(tmp_path / str(number), case)["AP"] == pytest.approx(expected)


def test_objects_without_labelled_points_do_not_count(tmp_path):
    for number, points in enumerate([None, [], [0, 0, 0]]):
        figures = ap(tmp_path / str(number), one_object(points, [70.5, 80.5, 1.0]))
        assert math.isnan(figures["AP"])
    # A count in the file is believed, as by pycocotools; else it is counted.
    kept = one_object([70, 80, 2], [70.5, 80.5, 1.0], num_keypoints=0)
    assert math.isnan(ap(tmp_path / "told", kept)["AP"])


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([1.0, 2.0], r"data\.json'?: annotation 1 has the keypoints \[1\.0, 2\.0\], expected x, y"),
        ([1, 2, None], "annotation 1 has the keypoints"),
        ([1, 2, 2, 3, 4, 2], "the model has 1 keypoints, the objects of the data set 2"),
    ],
)
def test_points_that_do_not_fit_are_named(tmp_path, points, message):
    with pytest.raises(ValueError, match=message):
        ap(tmp_path, one_object(points, [70.5, 80.5, 1.0]))


def test_the_task_hands_its_sigmas_on():
    node = "MODEL.YOLOR.TASKS.KEYPOINTS"
    opts = [f"{node}.ENABLED", "True", f"{node}.NUM_KEYPOINTS", "2"]
    options = coco_options(load_config("yolor_ssss_s2d.yaml", opts))
    assert options == {"keypoints": {"kpt_oks_sigmas": [0.1, 0.1]}}
    options = coco_options(load_config("yolor_ssss_s2d.yaml", [*opts, f"{node}.SIGMAS", "[1, 2]"]))
    assert options == {"keypoints": {"kpt_oks_sigmas": [1.0, 2.0]}}
    assert coco_options(load_config("yolor_ssss_s2d.yaml", [])) == {}


def test_nothing_found(tmp_path):
    data, _, _ = keypoint_case(7)
    inputs = [{"image_id": image["id"]} for image in data["images"]]
    nothing = Instances(SIZE, pred_boxes=Boxes(torch.zeros(0, 4)))
    nothing.scores, nothing.pred_classes = torch.zeros(0), torch.zeros(0, dtype=torch.int64)
    nothing.pred_keypoints = torch.zeros(0, 17, 3)
    figures = run(
        COCOEvaluator(register(tmp_path, data)), inputs, [{"instances": nothing}] * len(inputs)
    )
    assert list(figures["keypoints"]) == list(METRICS)
    assert all(map(math.isnan, figures["keypoints"].values()))
