"""From image files to boxes, and from image files to training batches, beside what a step takes.

Files are generated JPEGs of about the size of COCO's images. Weights are random, so that
NMS has next to nothing to do; `suppression` measures that.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from pathlib import Path

from ...config import load_config
from ...data.options import use_data
from ...datasets.catalog import register_datasets
from ...predictor import BatchPredictor
from ...toy import ToyDataset, write_toy_dataset
from ..data import measure_loader
from ..predict import measure_stages, use_random_weights
from ..timing import alternate
from .common import Findings, Setting, config_on, free_memory, set_size

MODELS = (("yolor_p6.yaml", 1280), ("yolor_ssss_s2d.yaml", 640))
DRY_MODELS = (("yolor_ssss_s2d.yaml", 64),)
FILES = 48
REPEATS = 4  # of the list of files, so that the reading threads get going
BATCH = 16
WORKERS = min(os.cpu_count() or 1, 16)
ROUNDS = 2
STAGE_FILES = 16


def generate(setting: Setting) -> ToyDataset:
    """JPEG files, unless they are there."""
    count, sides = (4, (96, 128)) if setting.dry else (FILES, (480, 640))
    folder = setting.output / f"files_{count}"
    return write_toy_dataset(folder, num_train=count, num_val=1, image_size=sides)


def row_of(model: str, size: int, what: str, images_per_second: float) -> dict:
    """A row of the table."""
    return {
        "model": model,
        "size": size,
        "what": what,
        "images / s": images_per_second,
        "ms / image": 1000 / images_per_second,
    }


def measure_predictor(
    setting: Setting, findings: Findings, config: str, size: int, files: list[Path]
) -> None:
    """Rows for a predictor over all files, and for its stages with one file after the other."""
    cfg = load_config(
        config,
        config_on(
            setting,
            *("MODEL.INFERENCE.FUSE", True, "MODEL.INFERENCE.CHANNELS_LAST", True),
            *("MODEL.INFERENCE.DTYPE", "bfloat16"),
        ),
    )
    set_size(cfg, size)
    name = cfg.MODEL.YOLOR.VARIANT
    batch, workers = (2, 1) if setting.dry else (BATCH, WORKERS)
    with tempfile.TemporaryDirectory() as folder:
        use_random_weights(cfg, Path(folder))
        predictor = BatchPredictor(cfg, batch_size=batch, workers=workers)
    sources = files if setting.dry else files * REPEATS
    rounds = 1 if setting.dry else ROUNDS
    calls = {"all": lambda: predictor(sources)}
    samples = alternate(calls, rounds=rounds, clock=setting.clock)["all"]
    what = f"files to boxes, batch {batch}, {workers} reading threads"
    speed = len(sources) / statistics.median(samples.wall)
    findings.rows.append(row_of(name, size, what, speed))
    if not findings.has_time(f"stages of {name}"):
        return
    chosen = files[:STAGE_FILES]
    for row in measure_stages(predictor, chosen, 1).rows(len(chosen), "image"):
        if row["ms / image"]:
            what = f"of it, one by one: {row['stage']}"
            findings.rows.append(row_of(name, size, what, 1000 / row["ms / image"]))


def measure_training_data(
    setting: Setting, findings: Findings, config: str, size: int, data: ToyDataset
) -> None:
    """A row for the loader of the published recipe."""
    batch, images, workers = (2, 4, 0) if setting.dry else (BATCH, 256, WORKERS)
    # The model is not built: the loader is the same on any device.
    cfg = load_config(config, ["MODEL.DEVICE", "cpu", "SOLVER.IMS_PER_BATCH", str(batch)])
    set_size(cfg, size)
    use_data(cfg, (str(data.train_json), str(data.train_images)), None)
    register_datasets(cfg)
    rounds = 1 if setting.dry else ROUNDS
    row = measure_loader(cfg, workers=workers, images=images, rounds=rounds)
    what = f"files to training batches, {workers} workers"
    findings.rows.append(row_of(cfg.MODEL.YOLOR.VARIANT, size, what, row["images / s"]))


def add_step(setting: Setting, findings: Findings) -> None:
    """A row for what a training step takes, from the part that measured it."""
    rows = [x for x in setting.earlier.get("step", []) if x["type"] == "bfloat16"]
    if not rows:
        findings.leave_out("what a training step takes", "the part 'step' has no row")
        return
    best = max(rows, key=lambda row: row["images / s"])
    what = f"a training step takes, batch {best['batch']}"
    findings.rows.append(row_of(best["model"], best["size"], what, best["images / s"]))


def measure(setting: Setting, findings: Findings) -> None:
    """Measure predictors, then the training data of the first model."""
    data = generate(setting)
    files = sorted(data.train_images.iterdir())
    models = DRY_MODELS if setting.dry else MODELS
    # The files are read more than once: what counts is decoding, not the disk.
    (config, size), *others = models
    measure_predictor(setting, findings, config, size, files)
    free_memory()
    if findings.has_time("training data"):
        measure_training_data(setting, findings, config, size, data)
        add_step(setting, findings)
    for config, size in findings.while_time(others):
        measure_predictor(setting, findings, config, size, files)
        free_memory()
