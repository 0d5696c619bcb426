"""Masks and keypoints in a report: metrics, classes, pictures."""

import copy
import dataclasses
import json

import numpy as np
import pytest

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from report_cases import write_case

from yolor_d2.evaluation.coco_metrics import METRICS
from yolor_d2.report.collect import Source, build_report
from yolor_d2.report.comparison_page import render_comparison
from yolor_d2.report.files import RECORD_NAME, to_json, write_record
from yolor_d2.report.page import render_report
from yolor_d2.report.shapes import path_of_lines, path_of_points, path_of_polygons

NAMES = ["tip", "left_foot", "right_foot"]


def triangle(box, drift=0.0) -> tuple[list[float], list[float]]:
    """A polygon in a box, and its corners as COCO's keypoints."""
    x, y, w, h = box
    corners = [(x + w / 2 + drift, y), (x + drift, y + h), (x + w, y + h)]
    flat = [float(v) for corner in corners for v in corner]
    return flat, [v for a, b in corners for v in (a - 0.5, b - 0.5, 2)]


@pytest.fixture
def source(tmp_path) -> Source:
    """A case with a triangle in every box; the points of detections are a little off."""
    case = write_case(tmp_path, ("cat", "dog", "none"), images=5)
    data = json.loads(case.annotations.read_text())
    for category in data["categories"]:
        category |= {"keypoints": NAMES, "skeleton": [[1, 2], [1, 3]]}
    for entry in data["annotations"]:
        polygon, points = triangle(entry["bbox"])
        entry |= {"segmentation": [polygon], "keypoints": points, "num_keypoints": 3}
    case.annotations.write_text(json.dumps(data))
    results = json.loads(case.results.read_text())
    mask = pytest.importorskip("faster_coco_eval.core.mask")
    for entry in results:
        polygon, points = triangle(entry["bbox"], drift=1.0)
        encoded = mask.merge(mask.frPyObjects([polygon], 60, 80))
        counts = encoded["counts"]
        counts = counts.decode() if isinstance(counts, bytes) else counts
        entry["segmentation"] = {"size": [60, 80], "counts": counts}
        entry["keypoints"] = [*points[:2], 0.9, *points[3:5], 0.8, *points[6:8], 0.1]
    case.results.write_text(json.dumps(results))
    return case


def reference(source: Source, kind: str) -> np.ndarray:
    """pycocotools as everybody uses it."""
    coco = COCO(str(source.annotations))
    results = json.loads(source.results.read_text())
    if kind == "segm":  # as the area of a detection is that of its mask
        results = [{k: v for k, v in x.items() if k not in ("bbox", "keypoints")} for x in results]
    done = COCOeval(coco, coco.loadRes(copy.deepcopy(results)), kind)
    if kind == "keypoints":
        done.params.kpt_oks_sigmas = np.full(3, 0.1)
    done.evaluate()
    done.accumulate()
    done.summarize()
    return 100 * done.stats


def test_figures_of_results_of_any_origin_are_those_of_pycocotools(source):
    report = to_json(build_report(source))
    assert list(report["tasks"]) == ["segm", "keypoints"]
    for kind, figures in report["tasks"].items():
        names = METRICS[kind]
        expected = [None if x < 0 else x for x in reference(source, kind)[: len(names)]]
        found = [figures[name] for name in names]
        assert found == [None if x is None else pytest.approx(x, abs=1e-9) for x in expected]
        assert [name for name in figures if name not in names] == ["AP-cat", "AP-dog", "AP-none"]
    assert report["tasks"]["segm"]["AP"] != report["figures"]["AP"]


def test_what_the_evaluation_found_is_taken(source, tmp_path):
    write_record(tmp_path, figures={"bbox": {"AP": 1.0}, "segm": {"AP": 12.5, "AP-cat": 3.0}})
    report = build_report(dataclasses.replace(source, record=tmp_path / RECORD_NAME))
    assert report["tasks"]["segm"] == {"AP": 12.5, "AP-cat": 3.0}
    assert "keypoints" in report["tasks"]  # which it has not evaluated


@pytest.mark.heavy
def test_the_page_shows_them(source):
    report = to_json(build_report(source))
    picture = report["pictures"]["best"][0]
    (polygon,) = picture["objects"][0]["polygons"]
    x, y, w, h = picture["objects"][0]["box"]
    assert sorted(zip(polygon[::2], polygon[1::2])) == [(x, y + h), (x + w / 2, y), (x + w, y + h)]
    assert picture["objects"][0]["keypoints"][0] == [x + w / 2, y, 2]
    assert picture["detections"][0]["keypoints"][0][2] == 0.9
    for shown in (*report["pictures"]["best"], *report["pictures"]["worst"]):
        for found in shown["detections"]:  # each has its own shape
            x, y, w, h = found["box"]
            tip_x, tip_y, _ = found["keypoints"][0]
            assert (tip_x, tip_y) == (
                pytest.approx(x + w / 2 + 1, abs=0.2),
                pytest.approx(y, abs=0.2),
            )
            columns = found["polygons"][0][::2]
            assert x - 2 < min(columns) and max(columns) < x + w + 2
    assert all("row" not in entry for entry in picture["objects"] + picture["detections"])
    assert report["skeleton"] == [[0, 1], [0, 2]]
    page = render_report(report)
    assert 'id="shape-table"' in page and "<h2>Masks and keypoints</h2>" in page
    assert page.count('class="outline"') == sum(
        bool(entry["polygons"])
        for pictures in report["pictures"].values()
        for picture in pictures
        for entry in picture["objects"] + picture["detections"]
    )
    compared = render_comparison([report, report], ["a", "b"])
    assert "segm: AP50" in compared and "keypoints: AP" in compared


def test_a_report_of_boxes_has_none_of_it(tmp_path):
    report = to_json(build_report(write_case(tmp_path)))
    assert report["tasks"] == {} and "skeleton" not in report
    picture = report["pictures"]["best"][0]
    assert set(picture["objects"][0]) == {"box", "class", "state"}
    assert set(picture["detections"][0]) == {"box", "class", "score", "kind"}
    page = render_report(report)
    assert "shape-table" not in page and 'class="outline"' not in page


def test_masks_that_cannot_be_evaluated_do_not_end_a_report(tmp_path, caplog):
    """As of another program, on annotations that have boxes alone."""
    case = write_case(tmp_path)
    results = json.loads(case.results.read_text())
    results[0]["segmentation"] = {"size": [60, 80], "counts": "0"}
    case.results.write_text(json.dumps(results))
    report = build_report(case)
    assert report["tasks"] == {} and "no metrics" in caplog.text


def test_paths_by_hand():
    points = [[1, 2, 0.9], [3.5, 4, 0.6], [5, 6, 0.4]]
    assert path_of_polygons([[1, 2, 3.5, 4, 5, 6], [0, 0, 1, 0, 1, 1]]) == (
        "M1 2 3.5 4 5 6ZM0 0 1 0 1 1Z"
    )
    assert path_of_lines(points, [(0, 1), (1, 2), (0, 7)]) == "M1 2L3.5 4"
    assert path_of_points(points) == "M1 2h0M3.5 4h0"
