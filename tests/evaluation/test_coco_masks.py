"""COCO's metrics of masks beside pycocotools and Detectron2's evaluator."""

from __future__ import annotations

import copy
import hashlib
import json
import math

import numpy as np
import pycocotools.mask
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from evaluation.test_coco_evaluator import outputs_of, random_case, reference, register, run
from faster_coco_eval.core import mask as coco_mask

from yolor_d2.d2 import RUNTIME
from yolor_d2.evaluation.coco_evaluator import COCOEvaluator
from yolor_d2.evaluation.coco_metrics import read_kept_metrics
from yolor_d2.evaluation.iou_types import run_lengths
from yolor_d2.ops.masks import BoxMasks, MaskPiece, encode_mask

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
SIZE = (240, 240)


def outline(box: list[float], rng: np.random.Generator) -> list[float]:
    """A polygon of five to nine points within a box."""
    x, y, width, height = box
    turns = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(5, 10)))
    points = np.stack([np.cos(turns), np.sin(turns)], axis=1) / 2 + 0.5
    return (points * [width, height] + [x, y]).ravel().tolist()


def mask_case(seed: int) -> tuple[dict, list[dict], list[BoxMasks]]:
    """Objects with polygons, several parts and run lengths, and detections near them."""
    rng = np.random.default_rng(seed)
    data, results = random_case(seed)
    results = [x for x in results if x["bbox"][0] < SIZE[1] and x["bbox"][1] < SIZE[0]]
    for number, x in enumerate(data["annotations"]):
        x["segmentation"] = [outline(x["bbox"], rng) for _ in range(rng.integers(1, 3))]
        if x["iscrowd"] or number % 5 == 0:
            mask = coco_mask.decode(
                coco_mask.merge(coco_mask.frPyObjects(x["segmentation"], *SIZE))
            )
            runs = np.flatnonzero(np.diff(mask.ravel(order="F"), prepend=0, append=2))
            x["segmentation"] = {"size": list(SIZE), "counts": np.diff(runs, prepend=0).tolist()}
    masks = []
    for image in data["images"]:
        pieces = []
        for x in (x for x in results if x["image_id"] == image["id"]):
            left, top, width, height = x["bbox"]
            box = (left, top, left + width, top + height)
            near = np.add.outer(np.linspace(-1, 1, 9) ** 2, np.linspace(-1, 1, 9) ** 2)
            logits = torch.from_numpy(rng.uniform(0.8, 1.6) - near).float()
            pieces.append([MaskPiece(logits, box, box)])
        masks.append(BoxMasks(pieces, SIZE))
    return data, results, masks


def with_masks(data: dict, results: list[dict], masks: list) -> tuple[list[dict], list[dict]]:
    inputs, outputs = outputs_of(data, results)
    for output, found in zip(outputs, masks):
        output["instances"].pred_masks = found
    return inputs, outputs


@pytest.mark.parametrize("seed", range(3))
def test_figures_are_those_of_pycocotools(tmp_path, seed):
    data, results, masks = mask_case(seed)
    folder = tmp_path / "inference"
    name = register(tmp_path / "data", data)
    evaluator = COCOEvaluator(name, output_dir=str(folder))
    found = run(evaluator, *with_masks(data, results, masks))
    assert list(found) == ["bbox", "segm"]
    alone = run(COCOEvaluator(name), *outputs_of(data, results))
    assert found["bbox"] == pytest.approx(alone["bbox"], rel=0, abs=0, nan_ok=True)

    written = json.loads((folder / "coco_instances_results.json").read_bytes())
    assert list(written[0]) == ["image_id", "category_id", "bbox", "score", "segmentation"]
    for x in written:
        x.pop("bbox")
    expected = reference(data, written, "segm")
    percent = [100 * x if x > -1 else math.nan for x in expected.stats]
    # Sums in another order.
    assert [found["segm"][x] for x in METRICS] == pytest.approx(
        percent[:6], rel=0, abs=1e-12, nan_ok=True
    )
    assert 1 < found["segm"]["AP"] < 95 and found["segm"]["AP"] != found["bbox"]["AP"]

    hashes = [
        hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (tmp_path / "data" / "data.json", folder / "coco_instances_results.json")
    ]
    kept = read_kept_metrics(
        folder / "coco_figures_segm.safetensors",
        **{"annotations": hashes[0], "results": hashes[1], "iou_type": "segm"},
    )
    # pycocotools adds 2e-16 to what it divides by.
    for array in ("precision", "recall"):
        expected_array = expected.eval[array]
        np.testing.assert_allclose(getattr(kept, array), expected_array, rtol=0, atol=1e-12)


@pytest.mark.skipif(RUNTIME != "detectron2", reason="beside Detectron2's")
@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools
def test_files_and_figures_are_those_of_detectron2(tmp_path, dense):
    from detectron2.evaluation import COCOEvaluator as StockEvaluator

    data, results, masks = mask_case(4)
    name = register(tmp_path / "data", data)
    found = with_masks(data, results, [x.tensor for x in masks] if dense else masks)
    folders = (tmp_path / "ours", tmp_path / "stock")
    ours = run(COCOEvaluator(name, output_dir=str(folders[0])), *found)
    stock = run(StockEvaluator(name, output_dir=str(folders[1])), *found)
    assert list(ours) == list(stock) == ["bbox", "segm"]
    for kind in ours:
        assert list(ours[kind]) == list(stock[kind])
        assert ours[kind] == pytest.approx(stock[kind], rel=0, abs=1e-9, nan_ok=True)
    texts = [json.loads((x / "coco_instances_results.json").read_bytes()) for x in folders]
    assert texts[0] == texts[1]
    kept = [torch.load(x / "instances_predictions.pth", weights_only=True) for x in folders]
    assert kept[0] == kept[1]


def test_objects_without_an_outline_do_not_count(tmp_path, caplog):
    data, results, masks = mask_case(5)
    found = with_masks(data, results, masks)
    without = copy.deepcopy(data)
    lost = [i for i, x in enumerate(data["annotations"]) if i % 3 == 0 and not x["iscrowd"]]
    for number, i in enumerate(lost):
        without["annotations"][i]["segmentation"] = [[], [[1.0, 2.0, 3.0, 4.0]], None][number % 3]
    figures = run(COCOEvaluator(register(tmp_path / "some", without)), *found)["segm"]
    assert f"{len(lost)} objects without an outline" in caplog.text
    data["annotations"] = [x for i, x in enumerate(data["annotations"]) if i not in lost]
    rest = run(COCOEvaluator(register(tmp_path / "rest", data)), *found)["segm"]
    assert figures == pytest.approx(rest, nan_ok=True)


def test_without_an_area_it_is_that_of_the_mask(tmp_path):
    data, results, masks = mask_case(6)
    for x in data["annotations"]:
        encoded = run_lengths(x["segmentation"], SIZE)
        x["area"] = float(coco_mask.area(encoded))
    found = with_masks(data, results, masks)
    expected = run(COCOEvaluator(register(tmp_path / "with", data)), *found)["segm"]
    for x in data["annotations"]:
        del x["area"]
    figures = run(COCOEvaluator(register(tmp_path / "without", data)), *found)["segm"]
    assert figures == pytest.approx(expected, rel=0, abs=0, nan_ok=True)


def test_nothing_found_and_images_without_size(tmp_path):
    data, results, masks = mask_case(7)
    name = register(tmp_path / "data", data)
    none = with_masks(data, [], [BoxMasks([], SIZE) for _ in masks])
    silent = run(COCOEvaluator(name), *none)
    assert list(silent) == ["bbox", "segm"] and all(map(math.isnan, silent["segm"].values()))
    data["images"][3]["height"] = 0
    name = register(tmp_path / "unknown", data)
    with pytest.raises(ValueError, match=r"data\.json.*image 30 needs 'height'"):
        run(COCOEvaluator(name), *with_masks(data, results, masks))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_run_lengths_are_those_of_pycocotools(height, width, seed):
    mask = np.random.default_rng(seed).random((height, width)) < 0.5
    expected = pycocotools.mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    expected["counts"] = expected["counts"].decode()
    assert encode_mask(mask) == expected
