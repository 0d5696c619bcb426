"""COCO's metrics beside pycocotools, and the evaluator with all that it leaves behind."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import json
import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from report_cases import read_case

from yolor_d2.d2 import RUNTIME
from yolor_d2.d2.data import DatasetCatalog, MetadataCatalog, register_coco_instances
from yolor_d2.d2.structures import Boxes, BoxMode, Instances
from yolor_d2.datasets import coco_file as dataset_file
from yolor_d2.datasets.prepared_copies import hash_file
from yolor_d2.evaluation import coco_evaluator
from yolor_d2.evaluation.coco_evaluator import COCOEvaluator
from yolor_d2.evaluation.coco_metrics import METRICS_NAME, evaluate_boxes, hash_content
from yolor_d2.report.collect import Source, build_report, source_of_run
from yolor_d2.report.files import inference_folder, to_json

SIZE = (240, 240)
CATEGORIES = (3, 8, 21, 40)


def reference(data: dict, results: list[dict], iou_type: str = "bbox") -> COCOeval:
    """pycocotools, of annotations that have all that it asks for."""
    coco = COCO()
    coco.dataset = copy.deepcopy(data)
    for x in coco.dataset["annotations"]:
        x.setdefault("area", x["bbox"][2] * x["bbox"][3])
        x.setdefault("iscrowd", 0)
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        found = coco.loadRes(copy.deepcopy(results)) if results else COCO()
        if not results:
            found.dataset = {**coco.dataset, "annotations": []}
            found.createIndex()
        done = COCOeval(coco, found, iou_type)
        done.evaluate()
        done.accumulate()
        done.summarize()
    return done


def assert_equal_to_reference(folder: Path, data: dict, results: list[dict]) -> None:
    figures = evaluate_boxes(*read_case(folder, data, results))
    expected = reference(data, results)
    for name in ("precision", "recall"):
        found = getattr(figures, name)
        np.testing.assert_allclose(found, expected.eval[name], rtol=0, atol=1e-9)
    np.testing.assert_allclose(figures.stats, expected.stats, rtol=0, atol=1e-9)


# ---- Metrics

# Few, so that many boxes and overlaps are equal or nearly so; areas on both sides of 32 and 96
# squared, where the ranges of area end, and of nothing.
BOXES = st.sampled_from(
    [
        *([0, 0, 32, 32], [0, 0, 32, 31.5], [0, 0, 32, 40], [4, 0, 32, 32], [8, 8, 32, 32]),
        *([0, 0, 96, 96], [0, 0, 96, 95], [16, 0, 96, 96], [0, 0, 160, 160], [5, 5, 0, 9]),
    ]
)
IMAGE_IDS = (-5, 0, 7, 2**40)
RECORDS = {"image_id": st.sampled_from(IMAGE_IDS[:2]), "bbox": BOXES}
OBJECTS = st.fixed_dictionaries(
    {**RECORDS, "category_id": st.sampled_from(CATEGORIES[:2])},
    optional={"area": st.sampled_from([0, 500, 1024, 9216, 9216.5]), "iscrowd": st.integers(0, 1)},
)
FOUND = st.fixed_dictionaries(
    {
        **RECORDS,
        "image_id": st.sampled_from(IMAGE_IDS[:3]),
        "category_id": st.sampled_from(CATEGORIES[:3]),
        # Few, so that many are equal.
        "score": st.sampled_from([0.0, 0.25, 0.25000001, 0.5, 1.0]),
    }
)


@pytest.mark.heavy
@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    objects=st.lists(OBJECTS, max_size=16),
    results=st.lists(FOUND, max_size=40),
    ids=st.permutations([0, -7, 2**33, *range(1, 14)]),
)
def test_figures_of_anything_are_those_of_pycocotools(tmp_path, objects, results, ids):
    data = {
        # Not in the order of their ids; the last one has no objects.
        "images": [{"id": i, "file_name": f"{i}", "width": 240, "height": 240} for i in IMAGE_IDS],
        "annotations": [{**x, "id": i} for x, i in zip(objects, ids)],
        "categories": [{"id": i, "name": f"class {i}"} for i in CATEGORIES[::-1]],
    }
    assert_equal_to_reference(tmp_path, data, results)


def random_case(seed: int, images: int = 12, most: int = 40) -> tuple[dict, list[dict]]:
    """Objects of three of four classes and detections around them."""
    rng = np.random.default_rng(seed)
    annotations, results = [], []
    for image in range(0, 10 * images, 10):
        for _ in range(rng.integers(0, 6)):
            box = [*rng.uniform(0, 100, 2).tolist(), *rng.uniform(4, 120, 2).tolist()]
            annotations.append(
                {
                    **{"id": len(annotations) + 1, "image_id": image, "bbox": box},
                    "category_id": int(rng.choice(CATEGORIES[:3])),
                    "area": box[2] * box[3] * 0.8,
                    "iscrowd": int(rng.random() < 0.1),
                }
            )
        about = [x for x in annotations if x["image_id"] == image]
        for _ in range(rng.integers(0, most)):
            box, label = [0.0, 0.0, 50.0, 50.0], int(rng.choice(CATEGORIES))
            if about:
                chosen = about[rng.integers(len(about))]
                label = chosen["category_id"] if rng.random() < 0.8 else label
                box = (np.array(chosen["bbox"]) * rng.uniform(0.8, 1.2, 4)).tolist()
            score = float(np.float32(rng.random()))
            results.append({"image_id": image, "category_id": label, "bbox": box, "score": score})
    data = {
        "images": [
            {"id": i * 10, "file_name": f"{i}.png", "height": SIZE[0], "width": SIZE[1]}
            for i in range(images)
        ],
        "annotations": annotations,
        "categories": [{"id": i, "name": f"class {i}"} for i in CATEGORIES],
    }
    return data, results


@pytest.mark.parametrize("first", [0, -7, 2**33])
@pytest.mark.parametrize("crowd", [0, 1])
def test_ids_are_those_of_pycocotools(tmp_path, first, crowd):
    """It takes an annotation of the id 0 for not found, and any other for what it is."""
    box = {"image_id": 7, "category_id": 3, "bbox": [0, 0, 40, 40]}
    other = {**box, "bbox": [50, 50, 20, 20]}
    data = {
        "images": [{"id": 7, "file_name": "7", "width": 240, "height": 240}],
        "annotations": [{**box, "id": first, "iscrowd": crowd}, {**other, "id": 5}],
        "categories": [{"id": i, "name": f"class {i}"} for i in CATEGORIES],
    }
    results = [{**box, "score": 0.9}, {**other, "score": 0.8}, {**box, "score": 0.7}]
    assert_equal_to_reference(tmp_path, data, results)


def test_more_detections_than_count(tmp_path):
    """Of 100 in an image and class, of equal scores among them, the first ones count."""
    data, _ = random_case(0, images=2, most=2)
    data["annotations"] = data["annotations"][:1]
    one = data["annotations"][0]
    ids = {"image_id": one["image_id"], "category_id": one["category_id"]}
    far = [{**ids, "bbox": [200, 200, 9, 9], "score": 0.5} for _ in range(100)]
    hit = {**ids, "bbox": one["bbox"], "score": 0.5}
    for place in (0, 9, 99, 100):
        assert_equal_to_reference(tmp_path, data, [*far[:place], hit, *far[place:]])


@pytest.mark.parametrize(
    ("annotations", "found"), [([], []), ([], [0]), ([0], []), ([0], [0])], ids=str
)
def test_next_to_nothing(tmp_path, annotations, found):
    data, results = random_case(1)
    data["annotations"] = [data["annotations"][i] for i in annotations]
    assert_equal_to_reference(tmp_path, data, [results[i] for i in found])


# ---- The evaluator


def register(folder: Path, data: dict) -> str:
    """Make a data set known, under a name of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "data.json").write_text(json.dumps(data))
    name = f"evaluator/{folder}"
    register_coco_instances(name, {}, str(folder / "data.json"), str(folder))
    DatasetCatalog.get(name)
    return name


def outputs_of(data: dict, results: list[dict]) -> tuple[list[dict], list[dict]]:
    """Inputs and outputs of a model that finds the results."""
    labels = {x["id"]: number for number, x in enumerate(data["categories"])}
    inputs, outputs = [], []
    for image in data["images"]:
        some = [x for x in results if x["image_id"] == image["id"]]
        boxes = torch.tensor([x["bbox"] for x in some]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        found = Instances(SIZE, pred_boxes=Boxes(boxes))
        found.scores = torch.tensor([x["score"] for x in some])
        found.pred_classes = torch.tensor([labels[x["category_id"]] for x in some]).long()
        inputs.append({"image_id": image["id"]})
        outputs.append({"instances": found})
    return inputs, outputs


def run(evaluator, inputs: list[dict], outputs: list[dict], batch: int = 5) -> dict:
    evaluator.reset()
    for i in range(0, len(inputs), batch):
        evaluator.process(inputs[i : i + batch], outputs[i : i + batch])
    return evaluator.evaluate()


@pytest.fixture
def case(tmp_path):
    data, results = random_case(2)
    return register(tmp_path / "data", data), data, results, outputs_of(data, results)


def test_what_an_evaluation_leaves(case, tmp_path, caplog):
    name, data, _, found = case
    folder = tmp_path / "inference"
    with caplog.at_level(logging.INFO, "yolor_d2"):
        figures = run(COCOEvaluator(name, output_dir=str(folder)), *found)["bbox"]
    assert "| category" in caplog.text and "Average Precision" in caplog.text

    written = json.loads((folder / "coco_instances_results.json").read_bytes())
    assert all(list(x) == ["image_id", "category_id", "bbox", "score"] for x in written)
    stats = reference(data, written).stats
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl")
    expected = {key: 100 * x if x > -1 else math.nan for key, x in zip(names, stats)}
    assert list(figures) == [*names, *(f"AP-class {i}" for i in CATEGORIES)]
    assert {x: figures[x] for x in names} == pytest.approx(expected, abs=1e-9, nan_ok=True)
    assert figures["AP"] > 10 and math.isnan(figures["AP-class 40"])

    kept = torch.load(folder / "instances_predictions.pth", weights_only=True)
    assert [x["image_id"] for x in kept] == [x["id"] for x in data["images"]]
    rows = [x for image in kept for x in image["instances"]]
    assert [CATEGORIES[x["category_id"]] for x in rows] == [x["category_id"] for x in written]
    assert [x["bbox"] for x in rows] == [x["bbox"] for x in written]
    assert not list(folder.glob("*.tmp"))


def test_without_a_folder_nothing_is_written(case, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    assert run(COCOEvaluator(case[0]), *case[3])["bbox"]["AP"] > 10
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(RUNTIME != "detectron2", reason="beside Detectron2's")
def test_files_and_figures_are_those_of_detectron2(case, tmp_path):
    from detectron2.evaluation import COCOEvaluator as StockEvaluator

    name, _, _, found = case
    folders = (tmp_path / "ours", tmp_path / "stock")
    ours = run(COCOEvaluator(name, output_dir=str(folders[0])), *found)
    stock = run(StockEvaluator(name, output_dir=str(folders[1])), *found)
    assert list(ours) == list(stock) == ["bbox"]
    assert list(ours["bbox"]) == list(stock["bbox"])
    assert ours["bbox"] == pytest.approx(stock["bbox"], rel=0, abs=1e-9, nan_ok=True)
    texts = [json.loads((x / "coco_instances_results.json").read_bytes()) for x in folders]
    assert texts[0] == texts[1]
    kept = [torch.load(x / "instances_predictions.pth", weights_only=True) for x in folders]
    assert kept[0] == kept[1]


def test_an_image_counts_once(case, tmp_path, monkeypatch):
    """Samplers may give it to two processes, or twice to one."""
    name, _, _, (inputs, outputs) = case
    once = run(COCOEvaluator(name, output_dir=str(tmp_path / "once")), inputs, outputs)["bbox"]
    twice = COCOEvaluator(name, output_dir=str(tmp_path / "twice"))
    again = run(twice, [*inputs, *inputs[:3]], [*outputs, *outputs[:3]])["bbox"]
    assert again == pytest.approx(once, nan_ok=True)
    first = twice.images
    # As of three processes, one of which had nothing to do.
    gathered = [first[:7], first[5:], []]
    monkeypatch.setattr(coco_evaluator.comm, "gather", lambda data: gathered)
    assert run(twice, [], [])["bbox"] == pytest.approx(once, nan_ok=True)
    texts = [(tmp_path / x / "coco_instances_results.json").read_bytes() for x in ("once", "twice")]
    assert texts[0] == texts[1]


def test_other_processes_read_and_write_nothing(case, tmp_path, monkeypatch):
    monkeypatch.setattr(coco_evaluator.comm, "is_main_process", lambda: False)
    monkeypatch.setattr(coco_evaluator.comm, "gather", lambda data: [])
    evaluator = COCOEvaluator(case[0], output_dir=str(tmp_path / "other"))
    assert run(evaluator, *case[3]) == {}
    assert not (tmp_path / "other").exists()


def test_without_detections_images_or_annotations(case, tmp_path):
    name, data, _, _ = case
    evaluator = COCOEvaluator(name, output_dir=str(tmp_path / "none"))
    assert run(evaluator, [], []) == {}
    assert not (tmp_path / "none").exists()
    silent = run(evaluator, *outputs_of(data, []))["bbox"]
    assert list(silent) == ["AP", "AP50", "AP75", "APs", "APm", "APl"]
    assert all(map(math.isnan, silent.values()))
    assert (tmp_path / "none" / "coco_instances_results.json").read_bytes() == b"[]"

    del data["annotations"]
    name = register(tmp_path / "unlabelled", data)
    evaluator = COCOEvaluator(name, output_dir=str(tmp_path / "results"))
    assert run(evaluator, *case[3]) == {}
    assert len(json.loads((tmp_path / "results" / "coco_instances_results.json").read_bytes())) > 9


def test_what_cannot_be_evaluated(case, tmp_path):
    name, data, _, (inputs, outputs) = case
    masks = copy.deepcopy(outputs[0])
    masks["instances"].pred_masks = torch.zeros(len(masks["instances"]), *SIZE)
    with pytest.raises(ValueError, match=r"pred_masks.*cannot be evaluated together"):
        run(COCOEvaluator(name), inputs, [masks, *outputs[1:]])
    with pytest.raises(ValueError, match="image_id 5 is not in the annotations"):
        run(COCOEvaluator(name), [{"image_id": 5}, *inputs[1:]], outputs)
    outputs[0]["instances"].pred_classes += 9
    with pytest.raises(ValueError, match=r"class (9|1\d) is not in the annotations"):
        run(COCOEvaluator(name), inputs, outputs)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        register_coco_instances(f"missing/{tmp_path}", {}, "nowhere.json", "")
        COCOEvaluator(f"missing/{tmp_path}")
    data["annotations"][1]["bbox"] = [1, 2]
    broken = f"broken/{tmp_path}"
    (tmp_path / "broken.json").write_text(json.dumps(data))
    register_coco_instances(broken, {}, str(tmp_path / "broken.json"), "")
    with pytest.raises(ValueError, match=r"broken\.json.*annotations\[1\]"):
        COCOEvaluator(broken)


# ---- Data sets without a file


@pytest.fixture
def by_function(tmp_path):
    """A data set that a function gives, with its content."""
    data, results = random_case(3)
    labels = {x: number for number, x in enumerate(CATEGORIES)}
    items = []
    for image in data["images"]:
        entries = []
        for x in (x for x in data["annotations"] if x["image_id"] == image["id"]):
            box, mode = x["bbox"], BoxMode.XYWH_ABS
            if len(entries) % 2:
                box = [box[0], box[1], box[0] + box[2], box[1] + box[3]]
                mode = BoxMode.XYXY_ABS
            entry = {"bbox": box, "bbox_mode": mode, "category_id": labels[x["category_id"]]}
            entries.append({**entry, "iscrowd": x["iscrowd"]})
        if entries:
            entries[0]["segmentation"] = [[0.0, 0.0, 40.0, 0.0, 40.0, 30.5]]
            entries[-1]["bbox"] = np.array(entries[-1]["bbox"])
            entries[-1]["keypoints"] = [10.5, 20.5, 2, 0.5, 0.5, 0]
        item = {"file_name": str(tmp_path / image["file_name"]), "annotations": entries}
        items.append({**item, "image_id": image["id"], "height": SIZE[0], "width": SIZE[1]})
    name = f"function_{tmp_path.name}"
    DatasetCatalog.register(name, lambda: copy.deepcopy(items))
    MetadataCatalog.get(name).set(
        thing_classes=[x["name"] for x in data["categories"]],
        thing_dataset_id_to_contiguous_id=labels,
    )
    yield name, data, outputs_of(data, results)
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def test_a_data_set_by_a_function_gets_a_file(by_function, cfg):
    name, data, found = by_function
    cfg.DATASETS.TEST = (name,)
    folder = inference_folder(cfg, name)
    figures = run(COCOEvaluator(name, output_dir=str(folder)), *found)["bbox"]
    path = Path(MetadataCatalog.get(name).json_file)
    assert path.parent == folder
    written = json.loads(path.read_bytes())
    assert [x["bbox"] for x in written["annotations"]] == [
        pytest.approx(x["bbox"], abs=1e-3) for x in data["annotations"]
    ]
    assert written["annotations"][0]["area"] == 610
    assert written["categories"] == data["categories"]
    # The report finds it, and so does the next evaluation.
    found_again = build_report(source_of_run(cfg, name))["figures"]
    assert found_again["AP"] == pytest.approx(figures["AP"], abs=1e-9)
    assert run(COCOEvaluator(name), *found)["bbox"] == pytest.approx(figures, nan_ok=True)


@pytest.mark.skipif(RUNTIME != "detectron2", reason="beside Detectron2's")
def test_the_file_is_that_of_detectron2(by_function):
    from detectron2.data.datasets.coco import convert_to_coco_dict

    ours, stock = dataset_file.to_coco(by_function[0]), convert_to_coco_dict(by_function[0])
    for key in ("images", "categories"):
        assert ours[key] == stock[key]
    for one, other in zip(ours["annotations"], stock["annotations"], strict=True):
        assert one == {key: other[key] for key in one}


def test_masks_and_keypoints_are_in_the_file(by_function):
    """As COCO has them: run lengths as text, points by numbers of pixels."""
    name = by_function[0]
    items = DatasetCatalog.get(name)
    entry = next(item["annotations"] for item in items if item["annotations"])[0]
    entry |= {"segmentation": {"size": [9, 9], "counts": b"1"}, "keypoints": [3, 4.5, 1]}
    DatasetCatalog.remove(name)
    DatasetCatalog.register(name, lambda: items)
    metadata = MetadataCatalog.get(name)
    metadata.set(keypoint_names=("a", "b"), keypoint_flip_map=(("a", "b"),))
    metadata.set(keypoint_connection_rules=[("b", "a", (0, 0, 0)), ("b", "c", (0, 0, 0))])
    dataset_file.mask_area, area = lambda *_: 1.0, dataset_file.mask_area
    try:
        written = dataset_file.to_coco(name)
    finally:
        dataset_file.mask_area = area
    points = {"keypoints": ["a", "b"], "skeleton": [[2, 1]], "flip_pairs": [["a", "b"]]}
    assert all(x.items() >= points.items() for x in written["categories"])
    first = written["annotations"][0]
    assert first["segmentation"] == {"size": [9, 9], "counts": "1"}
    assert (first["keypoints"], first["num_keypoints"]) == ([2.5, 4, 1], 1)
    entry["keypoints"] = [1, 2]
    with pytest.raises(ValueError, match="expected x, y and visibility"):
        dataset_file.to_coco(name)


def test_the_file_is_whole_or_not_there(by_function, tmp_path, monkeypatch):
    name = by_function[0]

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="cannot write"):
        COCOEvaluator(name, output_dir=str(tmp_path / "full"))
    assert not list((tmp_path / "full").iterdir())
    assert MetadataCatalog.get(name).get("json_file") is None
    with pytest.raises(ValueError, match="no annotation file, and there is no output_dir"):
        COCOEvaluator(name)


def test_data_sets_that_cannot_be_written(by_function):
    name = by_function[0]
    for change, message in (
        ({"image_id": "a"}, "image_id 'a': expected whole numbers"),
        ({"annotations": [{"category_id": 9}]}, "category_id 9 is none of"),
        (
            {"annotations": [{"category_id": 0, "bbox": [1, 2, 3, 4, 5], "bbox_mode": 4}]},
            "four numbers of the mode XYXY_ABS or XYWH_ABS",
        ),
    ):
        items = DatasetCatalog.get(name)
        items[0].update(change)
        DatasetCatalog.remove(name)
        DatasetCatalog.register(name, lambda items=items: items)
        with pytest.raises(ValueError, match=message):
            dataset_file.to_coco(name)
        items[0].update(DatasetCatalog.get(name)[1], image_id=77)


# ---- What the report takes


@pytest.fixture
def evaluated(case, tmp_path) -> Source:
    """The files of an evaluation."""
    run(COCOEvaluator(case[0], output_dir=str(tmp_path / "inference")), *case[3])
    results = tmp_path / "inference" / "coco_instances_results.json"
    return Source(case[0], tmp_path / "data" / "data.json", None, results)


@pytest.fixture
def computed(monkeypatch) -> list:
    """What has been computed again for a report."""
    calls = []
    monkeypatch.setattr(
        "yolor_d2.report.collect.evaluate_boxes",
        lambda *x: calls.append(x) or evaluate_boxes(*x),
    )
    return calls


def without_time(source: Source) -> dict:
    made = to_json(build_report(source))
    return {key: value for key, value in made.items() if key != "created"}


def test_the_report_takes_the_figures_that_exist(evaluated, computed):
    kept = without_time(evaluated)
    assert not computed
    (evaluated.results.parent / METRICS_NAME).unlink()
    assert without_time(evaluated) == kept
    assert len(computed) == 1


@pytest.mark.parametrize("changed", ["results", "annotations"])
def test_figures_of_other_files_are_not_taken(evaluated, computed, changed):
    path = getattr(evaluated, changed)
    data = json.loads(path.read_bytes())
    del (data if changed == "results" else data["annotations"])[0]
    path.write_text(json.dumps(data))
    build_report(evaluated)
    assert len(computed) == 1


def test_damaged_figures_are_computed_again(evaluated, computed, caplog):
    kept = without_time(evaluated)
    path = evaluated.results.parent / METRICS_NAME
    content = path.read_bytes()
    for damaged in (b"", content[:-9], b"\xff" * 99):
        path.write_bytes(damaged)
        assert without_time(evaluated) == kept
    assert len(computed) == 3
    assert "cannot be read, so the metrics are computed again" in caplog.text


def test_the_hash_is_that_of_the_file(evaluated):
    content = evaluated.results.read_bytes()
    assert hash_content(content) == hashlib.sha256(content).hexdigest()
    assert hash_file(evaluated.results) == hashlib.sha256(content).hexdigest()
