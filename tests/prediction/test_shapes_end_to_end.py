"""A model with masks and keypoints from training to its files, by the commands that users have."""

import csv
import json
from pathlib import Path

import numpy as np
import processes
import pytest

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from yolor_d2.toy import write_toy_dataset

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def command(*words) -> str:
    done = processes.run(["-m", "yolor_d2", *words])
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout + done.stderr


def test_train_report_and_predict(tmp_path):
    mask = pytest.importorskip("faster_coco_eval.core.mask")
    size = (96, 128)
    data = write_toy_dataset(
        tmp_path / "toy", num_train=8, num_val=4, image_size=size, keypoints=True
    )
    tasks, run = "MODEL.YOLOR.TASKS", tmp_path / "run"
    sizes = ["INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MAX_SIZE_TRAIN", 64]
    sizes += ["INPUT.MIN_SIZE_TEST", 64, "INPUT.MAX_SIZE_TEST", 64]
    command(
        *("train", "--config-file", "quick/multi_task_cpu.yaml"),
        *("--train", data.train_json, data.train_images),
        *("--val", data.val_json, data.val_images),
        *(f"{tasks}.MASKS.ENABLED", True, f"{tasks}.KEYPOINTS.ENABLED", True),
        *("SOLVER.MAX_ITER", 4, "SOLVER.WARMUP_ITERS", 1, "SOLVER.IMS_PER_BATCH", 2, *sizes),
        *("DATALOADER.NUM_WORKERS", 0, "MODEL.YOLOR.SCORE_THRESHOLD", 0.0001, "OUTPUT_DIR", run),
    )
    report = json.loads((run / "report.json").read_text())
    assert list(report["tasks"]) == ["segm", "keypoints"]
    assert 'id="shape-table"' in (run / "report.html").read_text()

    out = tmp_path / "out"
    files = ["--output", out / "drawn", "--csv", out / "a.csv", "--json", out / "a.json"]
    files += ["--coco-json", out / "coco.json", "--coco-images", data.val_json]
    files += ["--yolo-txt", out / "labels", "--threshold", 0.0001]
    views = ["TEST.AUG.ENABLED", True, "TEST.DETECTIONS_PER_IMAGE", 20]
    command("predict", run, data.val_images, *files, "--tile", 80, "--tile-overlap", 24, *views)
    records = json.loads((out / "a.json").read_text())
    assert len(records) == 4 and sum(len(x["detections"]) for x in records) > 0
    for record in records:
        for found in record["detections"]:
            assert found["segmentation"]["size"] == [record["height"], record["width"]]
            assert np.shape(found["keypoints"]) == (3, 3)
            x, y, w, h = found["bbox"]
            rows, columns = mask.decode(found["segmentation"]).nonzero()
            if len(rows):
                assert x - 1 <= columns.min() and columns.max() <= x + w
                assert y - 1 <= rows.min() and rows.max() <= y + h
    with open(out / "a.csv", newline="") as file:
        assert {"polygons", "tip_x", "left_end_y", "right_end_score"} <= set(next(csv.reader(file)))
    results = json.loads((out / "coco.json").read_text())
    first, same = results[0], records[0]["detections"][0]
    assert first["keypoints"][0] == pytest.approx(same["keypoints"][0][0] - 0.5, abs=2e-3)
    assert (
        len(list((out / "labels").glob("*.txt"))) == len(list((out / "drawn").glob("*.jpg"))) == 4
    )
