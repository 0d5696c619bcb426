"""Both runtimes train, resume, evaluate and predict with bit-equal results."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import processes
import pytest
import torch

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from yolor_d2.runtime import ENVIRONMENT_VARIABLE, RUNTIME, is_installed

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not is_installed(), reason="needs real Detectron2 beside the built-in one"),
]

REPOSITORY = Path(__file__).parents[2]
RUNTIMES = ("detectron2", "builtin")
ITERATIONS = 60
TIMING = {"time", "data_time", "rank_data_time", "eta_seconds"}


@pytest.fixture(scope="module")
def work(toy, toy_config, tmp_path_factory) -> Callable[..., Path]:
    """Runs a command of worker.py on a runtime; returns its OUTPUT_DIR."""
    root = tmp_path_factory.mktemp("runtimes")
    cfg = toy_config.clone()
    cfg.SOLVER.MAX_ITER = ITERATIONS
    cfg.SOLVER.CHECKPOINT_PERIOD = ITERATIONS // 2
    cfg.TEST.EVAL_PERIOD = ITERATIONS // 2
    # Something to evaluate, although the model has learned little.
    cfg.MODEL.YOLOR.SCORE_THRESHOLD = 1e-6

    def run(command: str, runtime: str, name: str, weights: Path | str = "") -> Path:
        folder = root / name
        folder.mkdir(exist_ok=True)
        cfg.OUTPUT_DIR, cfg.MODEL.WEIGHTS = str(folder), str(weights)
        (folder / "given.yaml").write_text(cfg.dump(), encoding="utf-8")
        worker = Path(__file__).with_name("worker.py")
        done = processes.run(
            [worker, command, folder / "given.yaml"],
            environment={ENVIRONMENT_VARIABLE: runtime},
            fresh=runtime != RUNTIME,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return folder

    return run


@pytest.fixture(scope="module")
def runs(work) -> dict[str, Path]:
    """OUTPUT_DIR of a whole training on each runtime."""
    return {runtime: work("train", runtime, f"train_{runtime}") for runtime in RUNTIMES}


def assert_same(left: object, right: object, where: str = "") -> None:
    """Bit for bit, through nested dicts and lists; NaN equals NaN."""
    assert type(left) is type(right), where
    if isinstance(left, dict):
        assert list(left) == list(right), where
        for key in left:
            assert_same(left[key], right[key], f"{where}/{key}")
    elif isinstance(left, list | tuple):
        assert len(left) == len(right), where
        for i, pair in enumerate(zip(left, right)):
            assert_same(*pair, f"{where}/{i}")
    elif isinstance(left, torch.Tensor):
        assert torch.equal(left, right), where
    else:
        assert left == right or (math.isnan(left) and math.isnan(right)), where


def load(path: Path) -> dict:
    return torch.load(path, weights_only=True)


def figures(run: Path) -> list[dict]:
    rows = map(json.loads, (run / "metrics.json").read_text().splitlines())
    return [{k: v for k, v in row.items() if k not in TIMING} for row in rows]


def test_training_is_the_same(runs):
    one, other = runs.values()
    names = sorted(path.name for path in one.glob("*.pth"))
    assert "model_final.pth" in names and f"model_{ITERATIONS // 2 - 1:07d}.pth" in names
    assert names == sorted(path.name for path in other.glob("*.pth"))
    for name in names:
        assert_same(load(one / name), load(other / name), name)


def test_files_and_figures_are_the_same(runs):
    one, other = runs.values()

    def files(run: Path) -> list[str]:
        # The names of event files contain time and process.
        paths = (path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file())
        return sorted(path.split(".tfevents")[0] for path in paths)

    assert files(one) == files(other)
    assert len(figures(one)) == len(figures(other)) >= 4
    for row, expected in zip(figures(other), figures(one)):
        assert row.keys() == expected.keys()
        for key, value in expected.items():
            assert row[key] == pytest.approx(value, rel=0, abs=1e-6, nan_ok=True), key
    results = "inference/coco_instances_results.json"
    assert (one / results).read_bytes() == (other / results).read_bytes()


@pytest.mark.parametrize(("first", "second"), [RUNTIMES, RUNTIMES[::-1]])
def test_a_run_goes_on_with_the_other_runtime(work, runs, first, second):
    name = f"{first}_then_{second}"
    checkpoint = f"model_{ITERATIONS // 2 - 1:07d}.pth"
    folder = runs[first].parent / name
    folder.mkdir()
    shutil.copy(runs[first] / checkpoint, folder)
    (folder / "last_checkpoint").write_text(checkpoint)
    work("train", second, name)
    # It begins with the evaluation of the last iteration before.
    assert figures(folder)[0]["iteration"] == ITERATIONS // 2 - 1
    last = (folder / "last_checkpoint").read_text()
    assert last == f"model_{ITERATIONS - 1:07d}.pth"
    assert_same(load(folder / last), load(runs[first] / last))


def test_evaluation_and_predictions_are_the_same(work, runs):
    weights = runs["detectron2"] / "model_final.pth"
    one, other = (
        json.loads(
            (work("predict", runtime, f"predict_{runtime}", weights) / "found.json").read_text()
        )
        for runtime in RUNTIMES
    )
    assert sum(len(scores) for _, scores, _ in one["found"].values()) > 100
    assert one["found"] == other["found"]
    assert one["figures"].keys() == other["figures"].keys()
    assert one["figures"]["AP"] > 0
    for name, value in one["figures"].items():
        assert other["figures"][name] == pytest.approx(value, rel=0, abs=1e-6, nan_ok=True), name


def test_the_runtime_is_in_the_log(work, runs):
    assert "built-in runtime" in (runs["builtin"] / "log.txt").read_text()
    assert "detectron2 " in (runs["detectron2"] / "log.txt").read_text()
