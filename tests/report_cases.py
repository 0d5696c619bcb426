"""Small evaluations to report on, with names that would harm a careless page."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from yolor_d2.datasets.annotations import Annotations
from yolor_d2.evaluation.coco_files import Detections, read_results, read_truth
from yolor_d2.report.collect import Source
from yolor_d2.visualize.pictures import write_image

SIZE = (60, 80)
HOSTILE = ["<script>alert(1)</script>", '$x_2$ "quoted" & more', "_hidden", "plain"]
HOSTILE_FILE = "<img src=x onerror=alert(2)>.png"


def write_case(
    folder: Path, names=("cat", "dog"), *, images: int = 4, shift: float = 3.0, seed: int = 0
) -> Source:
    """Images with two objects each, in files, and a detection beside most objects; the first class
    is the most frequent, the last one has no object."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    records, annotations, results = [], [], []
    for i in range(1, images + 1):
        file_name = HOSTILE_FILE if i == 1 else f"image_{i}.png"
        write_image(folder / file_name, rng.integers(0, 255, (*SIZE, 3), dtype=np.uint8))
        records.append({"id": i, "file_name": file_name, "width": SIZE[1], "height": SIZE[0]})
        for place, category in enumerate((1, max(1, i % (len(names) - 1) + 1 if i % 2 else 1))):
            box = [5.0 + 35 * place, 8.0, 30.0, 24.0]
            annotations.append(
                {
                    **{"id": len(annotations) + 1, "image_id": i, "category_id": category},
                    **{"bbox": box, "area": box[2] * box[3], "iscrowd": 0},
                }
            )
            for score in rng.uniform(0.05, 0.95, 2):
                moved = (np.array(box) + rng.normal(0, shift, 4)).tolist()
                label = category if score > 0.2 else int(rng.integers(1, len(names) + 1))
                results.append(
                    {"image_id": i, "category_id": label, "bbox": moved, "score": float(score)}
                )
    data = {
        "images": records,
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in enumerate(names, start=1)],
    }
    (folder / "val.json").write_text(json.dumps(data), encoding="utf-8")
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    return Source("some/data", folder / "val.json", folder, folder / "results.json")


def read_case(folder: Path, data: dict, results: list[dict]) -> tuple[Annotations, Detections]:
    """Content of an annotation and a result file, written and read."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "data.json").write_text(json.dumps(data), encoding="utf-8")
    (folder / "found.json").write_text(json.dumps(results), encoding="utf-8")
    truth = read_truth(folder / "data.json")
    return truth, read_results(folder / "found.json", truth)
